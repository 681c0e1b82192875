"""What every step owes, and that the seam carries steps which are not in the house: one without state, one with, one with time."""

import textwrap

import pytest
from shaping import NOON, Event, Out, S, batches, mistakes, program, run

import pipelines
from gateway import plugin
from gateway.metrics import SERIES
from gateway.plugin import load, names

SCHEMA = {"v": "float", "ts": "time"}
EXAMPLES = {
    "set": {"w": "v * 2"},
    "filter": "v > 1",
    "window": {"tumbling": "10s", "agg": {"n": "count()", "p": "p95(v)"}, "late": "side"},
    "emit": {"v": "v", "at": "ts"},
    "deadband": {"field": "v", "delta": 3, "heartbeat": "20s"},
    "throttle": {"every": "5s", "n": 2},
    "dedupe": {"by": ["v", "topic_part(0)"], "within": "6s"},
    "alarm": {
        "name": "high",
        "raise_when": "v > 4",
        "clear_when": "v < 2",
        "hold": "2s",
        "to": "alarms",
        "with": ["v"],
    },
    "route": [{"when": "v > 4", "to": ["high", "all"]}, {"when": "v > 1", "to": "all"}],
}
EVENTS = [
    Event(f"k{i % 3}", b"junk" if i % 11 == 5 else f'{{"v":{i % 7},"ts":{NOON // S + i}}}'.encode(), NOON + i * S)
    for i in range(100)
]

CHANGED = '''
"""`changed: field`: only records whose field differs from the one before of the same key."""

import msgspec

from gateway.plugin import Plugin
from pipelines.language import Code, Expression


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: Expression


class Last:
    def __init__(self):
        self.values = {}

    def save(self):
        return self.values

    def load(self, saved):
        self.values = saved

    def stats(self):
        return {"keys": len(self.values)}


class Changed:
    def __init__(self, options):
        self.field = options.body

    def write(self, code: Code):
        value = code.assign(code.value(self.field))
        state, key = code.state(Last()), code.key
        with code.block(f"if {state}.values.get({key}) == {value.code}:"):
            code.count("unchanged")
            code.write("continue")
        code.write(f"{state}.values[{key}] = {value.code}")


plugin = Plugin(Options, Changed)
'''

SESSION = '''
"""`session: {gap: 5s}`: a row per key and stretch of records without a gap."""

import msgspec

from gateway.plugin import Plugin
from gateway.quantity import Duration
from pipelines.language import INT, NEVER, STR, TIME, Code, Scope, Stage, Value


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gap: Duration


class Sessions:
    def __init__(self, gap):
        self.gap, self.open, self.due = gap, {}, NEVER

    def seen(self, key, time):
        session = self.open.setdefault(key, [time, time, 0])
        session[1] = max(session[1], time)
        session[2] += 1
        self.due = min(self.due, session[1] + self.gap)

    def fire(self, out):
        now = self.due
        done = [(key, session) for key, session in self.open.items() if session[1] + self.gap <= now]
        for key, _ in done:
            del self.open[key]
        self.due = min([session[1] + self.gap for session in self.open.values()], default=NEVER)
        self.rows(out, done)

    def save(self):
        return self.open

    def load(self, saved):
        self.open = saved
        self.due = min([session[1] + self.gap for session in saved.values()], default=NEVER)

    def stats(self):
        return {"keys": len(self.open)}


class Session:
    def __init__(self, options):
        self.gap = options.gap.ns

    def write(self, code: Code):
        sessions = Sessions(self.gap)
        state, key = code.state(sessions), code.key
        code.timed(sessions)
        code.write(f"{state}.seen({key}, {code.time})")
        code.reschedule()
        built_in = {"key": Value("key", STR, True), "start": Value("s[0]", TIME, True), "end": Value("s[1]", TIME, True)}
        stage = Stage(Scope({}, built_in, "in a session"), each="key, s", given=(), event="s[1]", stamp="s[1]", touch="s[1]")
        code.rows(sessions, stage)
        code.define("n", Value("s[2]", INT, True))


plugin = Plugin(Options, Session)
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder for a user's own steps."""
    folder = tmp_path / "steps"
    folder.mkdir()
    monkeypatch.setattr(plugin, "SITE_PLUGINS", tmp_path)
    return folder


def emitted(made, size, restart_at=None):
    """What comes out of EVENTS in batches of `size`; with a restart before the batch that holds `restart_at`."""
    out, twin = Out(), made()
    for batch in batches(EVENTS, size):
        if restart_at is not None and batch.first <= restart_at < batch.next:
            state = twin.snapshot()
            twin = made()
            twin.restore(state)
        twin.run(batch, out)
    twin.tick(twin.due() or 0, out)
    return out.emitted


def same_bytes(made):
    whole = emitted(made, 1000)
    assert whole
    assert (
        whole
        == emitted(made, 1)
        == emitted(made, 7)
        == emitted(made, 7, restart_at=50)
        == emitted(made, 1, restart_at=33)
    )
    return whole


def test_every_step_has_an_example_here():
    assert names("steps") == sorted(EXAMPLES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_step_is_a_plugin_with_strict_options_and_says_what_it_does(name):
    found = load("steps", name)
    assert found.options.__struct_config__.forbid_unknown_fields
    assert found.options.__struct_config__.frozen
    module = __import__(f"pipelines.{name}", fromlist=["plugin"])
    assert module.__doc__.startswith(f"`{name}: ")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_step_gives_the_same_bytes_from_any_batches_and_across_a_restart(name):
    same_bytes(lambda: program([{name: EXAMPLES[name]}], schema=SCHEMA, time={"event": "ts", "lateness": "1s"}))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_step_says_where_its_options_are_wrong(name):
    wrong = {
        "filter": "v +",
        "set": {"x": "v +"},
        "emit": {"x": "v +"},
        "route": [{**EXAMPLES["route"][0], "wen": "v > 1"}],
    }.get(name, {**EXAMPLES[name], "wrong": "10s"} if isinstance(EXAMPLES[name], dict) else None)
    (found,) = mistakes([{name: wrong}], schema=SCHEMA)
    assert found.path[:3] == ("steps", 0, name)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_what_a_step_counts_is_a_series_of_its_own(name):
    assert {
        f"pipeline_{counter}" for counter in program([{name: EXAMPLES[name]}], schema=SCHEMA).stats()
    } <= SERIES.keys()


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"window"}))
def test_a_step_works_on_the_rows_of_a_window_too(name):
    window = {"window": {"tumbling": "2s", "agg": {"v": "max(v)", "ts": "last(ts)"}}}
    same_bytes(lambda: program([window, {name: EXAMPLES[name]}], schema=SCHEMA, time={"event": "ts", "lateness": "1s"}))


def test_the_step_in_the_manual_works(site):
    _, manual = pipelines.__doc__.split("used as `- scale: {field: v, by: 0.1}`):\n")
    text = manual.split("`write(code)` is all of it.")[0]
    (site / "scale.py").write_text(textwrap.dedent(text))
    made = program([{"scale": {"field": "v", "by": 0.1}}, {"emit": {"v": "v"}}], schema=SCHEMA)
    assert run(made, [Event("k", b'{"v":20}')]).rows() == [{"v": 2.0}]
    (found,) = mistakes([{"scale": {"field": "v", "by": "q"}}], schema=SCHEMA)
    assert found.path == ("steps", 0, "scale", "by")


def test_a_users_step_with_state_per_key_is_saved_and_restored_with_the_pipeline(site):
    (site / "changed.py").write_text(CHANGED)
    whole = same_bytes(lambda: program([{"changed": "v > 3"}, {"emit": {"v": "v"}}], schema=SCHEMA))
    assert 10 < sum(stream == "out" for stream, *_ in whole) < 90


def test_a_users_step_that_waits_for_time_closes_sessions_by_the_watermark(site):
    (site / "session.py").write_text(SESSION)

    def made():
        return program([{"session": {"gap": "5s"}}], schema=SCHEMA, time={"event": "ts", "lateness": "1s"})

    same_bytes(made)
    seconds = [0, 2, 6, 20, 21, 40]
    events = [Event("k", f'{{"v":1,"ts":{NOON // S + second}}}'.encode(), NOON + second * S) for second in seconds]
    assert [(row["start"][-3:-1], row["end"][-3:-1], row["n"]) for row in run(made(), events).rows()] == [
        ("00", "06", 3),
        ("20", "21", 2),
    ]
