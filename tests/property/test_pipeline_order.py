"""Results depend on the order of records and ticks alone; and windows are what a plain reading of the rules says."""

import math
import random
from datetime import datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shaping import NOON, Event, Out, S, batches, program

AGG = {
    "n": "count()",
    "s": "sum(v)",
    "m": "mean(v)",
    "hi": "max(v)",
    "sd": "stddev(v)",
    "p95": "p95(v)",
    "l": "last(v)",
}


def windowed(**more):
    return program(
        [
            {"filter": "v != 13"},
            {"set": {"w": "v * 2"}},
            {"window": {"tumbling": "10s", "agg": AGG | {"w": "sum(w)"}, "late": "side"}},
            {"set": {"odd": "1 / (n - 5)"}},
            {
                "window": {
                    "tumbling": "30s",
                    "agg": {"n": "sum(n)", "rows": "count()", "hi": "max(hi)", "odd": "min(odd)"},
                }
            },
        ],
        **{"from": ["a", "b"]}
        | {"schema": {"ts": "time", "v": "float"}, "time": {"event": "ts", "lateness": "2s", "idle": "20s"}}
        | more,
    )


class Twins:
    """Two programs of one definition, compiled once. Each is emptied by restoring the state it was born with."""

    def __init__(self, make=windowed, **more):
        self.pair = make(**more), make(**more)
        self.empty = self.pair[0].snapshot()

    def other(self, made=None):
        return self.pair[made is self.pair[0]]

    def fresh(self):
        self.pair[0].restore(self.empty)
        return self.pair[0]


class Tick(int):
    """The time at which the house ticks."""


def feed(twins, items, cuts, restarts):
    """Run records and ticks in order: batches end at `cuts`, and the program is replaced at `restarts`."""
    made, out, part = twins.fresh(), Out(), []

    def flush():
        for batch in offset_batches(part, seen):
            made.run(batch, out)
        part.clear()

    seen = {}
    for i, item in enumerate(items):
        if i in cuts:
            flush()
        if i in restarts:
            flush()
            state = made.snapshot()
            made = twins.other(made)
            made.restore(state)
        if isinstance(item, Tick):
            flush()
            made.tick(item, out)
        else:
            part.append(item)
    flush()
    return out.emitted, made.snapshot()


def offset_batches(events, seen):
    for batch in batches(events, 1000):
        first = seen.get(batch.stream, 0)
        seen[batch.stream] = first + len(batch)
        yield msgspec.structs.replace(batch, first=first)


@st.composite
def histories(draw):
    """Readings of two inputs with gaps, disorder, junk, ticks, and a clock that is sometimes set back."""
    arrival, items = NOON, []
    for _ in range(draw(st.integers(1, 60))):
        arrival += draw(st.sampled_from((0, 1, 1, 3, 7, 18, 25, 60, -1, -30))) * S
        kind = draw(st.integers(0, 9))
        if kind == 0:
            items.append(Tick(arrival))
            continue
        second = (arrival - NOON) // S + draw(st.sampled_from((0, 0, 0, -1, -3, -12, -40, 5, 90)))
        value = draw(st.sampled_from((1, 2, 5, 13, 0.5, -4)))
        payload = b"junk" if kind == 1 else f'{{"ts":{NOON // S + second},"v":{value}}}'.encode()
        items.append(Event(draw(st.sampled_from("xyz")), payload, arrival, draw(st.sampled_from("aab"))))
    return items


TWINS = Twins(), Twins(max_keys=2), Twins(time={"lateness": "2s"})


@settings(max_examples=150, deadline=None)
@given(items=histories(), data=st.data())
def test_neither_batches_nor_restarts_change_a_byte(items, data):
    positions = st.sets(st.integers(0, len(items)), max_size=len(items))
    for twins in TWINS:
        whole = feed(twins, items, (), ())
        each = feed(twins, items, range(len(items)), ())
        some = feed(twins, items, data.draw(positions), data.draw(positions))
        assert whole == each == some


@settings(max_examples=150, deadline=None)
@given(items=histories())
def test_a_tick_only_makes_prompt_what_the_next_record_would_do(items):
    """Event time: ticks that come as soon as they are due give the same rows in the same order as no ticks at all."""
    records = [item for item in items if isinstance(item, Event)]
    silent, _ = feed(TWINS[0], records, (), ())
    made, out, offsets = TWINS[0].fresh(), Out(), {}
    for record in records:
        while (due := made.due()) is not None and due <= record.time:
            made.tick(due, out)
        for batch in offset_batches([record], offsets):
            made.run(batch, out)
    assert out.emitted == silent


class Plain:
    """The rules of docs/language.md for a window, in the plainest words: everything is looked at for every record."""

    def __init__(self, inputs, width, lateness, patience):
        self.width, self.lateness, self.patience = width, lateness, patience
        self.top = dict.fromkeys(inputs, -1)
        self.heard = dict.fromkeys(inputs)
        self.idle = dict.fromkeys(inputs, False)
        self.mark = 0
        self.open, self.rows, self.late = {}, [], 0

    def close(self, until):
        last = 0
        for start in sorted(self.open):
            if start + self.width <= until:
                last = start + self.width
                self.rows += [(last, key, values) for key, values in self.open.pop(start).items()]
        return last

    def time_passes(self, now):
        if None in self.heard.values():
            return
        for name in sorted(self.heard, key=self.heard.get):
            self.event_time_passes()
            if now - self.heard[name] >= self.patience:
                self.idle[name] = True
        if all(self.idle.values()):
            told = [self.top[n] + now - self.heard[n] for n in self.top if self.top[n] >= 0]
            self.mark = max(self.mark, self.close(max(told, default=0) - self.lateness))
        else:
            self.event_time_passes()

    def event_time_passes(self):
        awake = [top for name, top in self.top.items() if not self.idle[name]]
        self.mark = max(self.mark, min(awake, default=0) - self.lateness)
        self.close(self.mark)

    def record(self, event):
        if None in self.heard.values():
            self.heard = dict.fromkeys(self.heard, event.time)
        if self.heard[event.stream] > event.time + self.patience:
            self.heard = {name: min(heard, event.time) for name, heard in self.heard.items()}
        self.time_passes(event.time)
        try:
            reading = msgspec.json.decode(event.value)
        except msgspec.DecodeError:
            return
        moment = reading["ts"] * S
        if moment > self.top[event.stream] and moment > event.time + 60 * S:
            return
        self.top[event.stream] = max(self.top[event.stream], moment)
        self.heard[event.stream] = max(self.heard[event.stream], event.time)
        self.idle[event.stream] = False
        self.event_time_passes()
        self.see(event.key, moment, reading["v"])

    def waits(self):
        return bool(self.open)

    def see(self, key, moment, v):
        start = moment - moment % self.width
        if start + self.width <= self.mark:
            self.late += 1
        else:
            self.open.setdefault(start, {}).setdefault(key, []).append(v)


@settings(max_examples=200, deadline=None)
@given(items=histories())
def test_windows_are_what_the_rules_say(items):
    made = program(
        [{"window": {"tumbling": "10s", "agg": AGG}}],
        **{"from": ["a", "b"]},
        schema={"ts": "time", "v": "float"},
        time={"event": "ts", "lateness": "2s", "idle": "20s"},
    )
    out, plain, offsets = Out(), Plain("ab", 10 * S, 2 * S, 20 * S), {}
    for item in items:
        if isinstance(item, Tick):
            made.tick(item, out)
            if plain.waits():
                plain.time_passes(item)
        else:
            plain.record(item)
            for batch in offset_batches([item], offsets):
                made.run(batch, out)
    rows = [(time, key, msgspec.json.decode(value)) for stream, time, key, value in out.emitted if stream == "out"]
    assert [(time, key, row["n"]) for time, key, row in rows] == [(end, key, len(vs)) for end, key, vs in plain.rows]
    assert made.stats()["late"] == plain.late
    for (_, _, row), (_, _, values) in zip(rows, plain.rows, strict=True):
        mean = math.fsum(values) / len(values)
        spread = math.fsum((value - mean) ** 2 for value in values)
        assert math.isclose(row["s"], math.fsum(values), abs_tol=1e-9)
        assert math.isclose(row["m"], mean, abs_tol=1e-9)
        assert math.isclose(row["sd"], math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else 0, abs_tol=1e-6)
        assert (row["hi"], row["l"]) == (max(values), values[-1])
        assert row["p95"] == sorted(values)[math.ceil(0.95 * len(values)) - 1]


ALARM = {
    "name": "warm",
    "raise_when": "v > 4",
    "clear_when": "v < 2",
    "hold": "12s",
    "remind": "40s",
    "with": ["v"],
    "to": ["alarms", "all"],
}


def remembering(**more):
    """One pipeline with every step that keeps something, before a window and on its rows."""
    rows = {
        **ALARM,
        "name": "rows",
        "raise_when": "n > 1",
        "clear_when": "n == 1",
        "hold": "15s",
        "with": ["n", "start"],
    }
    return program(
        [
            {"alarm": ALARM},
            {"dedupe": {"by": ["v", "ts"], "within": "20s"}},
            {"deadband": {"field": "v", "percent": 30, "heartbeat": "30s"}},
            {"throttle": {"every": "3s", "n": 2}},
            {"route": [{"when": "v > 12", "to": "high"}]},
            {"window": {"tumbling": "10s", "agg": {"n": "count()", "hi": "max(v)"}}},
            {"alarm": rows},
            {"deadband": {"field": "hi", "delta": 1}},
            {"throttle": {"every": "20s"}},
            {"dedupe": {"by": "n", "within": "1m"}},
            {"emit": {"n": "n"}},
            {"route": [{"when": "n > 2", "to": "busy"}]},
        ],
        **{"from": ["a", "b"]}
        | {"schema": {"ts": "time", "v": "float"}, "time": {"event": "ts", "lateness": "2s", "idle": "20s"}}
        | more,
    )


REMEMBERING = (
    Twins(remembering),
    Twins(remembering, max_keys=2),
    Twins(remembering, time={"lateness": "2s"}),
    Twins(remembering, time={}, **{"from": "a"}),
)


@settings(max_examples=150, deadline=None)
@given(items=histories(), data=st.data())
def test_neither_batches_nor_restarts_change_what_steps_remember(items, data):
    positions = st.sets(st.integers(0, len(items)), max_size=len(items))
    for twins in REMEMBERING:
        mine = [item for item in items if isinstance(item, Tick) or item.stream in twins.pair[0].inputs]
        whole = feed(twins, mine, (), ())
        each = feed(twins, mine, range(len(mine)), ())
        some = feed(twins, mine, data.draw(positions), data.draw(positions))
        always = feed(twins, mine, range(len(mine)), range(len(mine)))
        assert whole == each == some == always


class PlainAlarm(Plain):
    """The rules of pipelines/alarm.py in the plainest words; how time passes is told above."""

    HOLD, REMIND = 12 * S, 40 * S

    def __init__(self, inputs, lateness, patience):
        super().__init__(inputs, 1, lateness, patience)
        self.keys, self.told = {}, []

    def waits(self):
        return any(one["due"] for one in self.keys.values())

    def close(self, until):
        last = 0
        for last, key in sorted((one["due"], key) for key, one in self.keys.items() if one["due"]):
            if last > until:
                break
            self.lasted(key)
        return max([due for due in [last] if due <= until], default=0)

    def lasted(self, key):
        one = self.keys[key]
        one.update(due=0, told=one["since"] + self.HOLD)
        self.told.append(("raised", one["told"], key, one["since"], one["v"]))

    def see(self, key, moment, v):
        one = self.keys.setdefault(key, {"newest": moment, "since": None, "told": None, "due": 0, "v": None})
        if moment < one["newest"]:
            return
        one["newest"] = moment
        if one["due"] and moment > one["since"] + self.HOLD:
            self.lasted(key)  # whatever this record says
        holds = v > 4 if one["told"] is None else v >= 2
        if holds and one["since"] is None:
            one.update(since=moment, due=max(moment, self.mark) + self.HOLD + 1, v=v)
        elif holds and one["told"] is None:
            one["v"] = v
            if moment == one["since"] + self.HOLD:
                self.lasted(key)
        elif holds and moment >= one["told"] + self.REMIND:
            one["told"] = moment
            self.told.append(("reminder", moment, key, one["since"], v))
        elif not holds and one["since"] is not None:
            if one["told"] is not None:
                self.told.append(("cleared", moment, key, one["since"], v))
            one.update(since=None, told=None, due=0)


@settings(max_examples=300, deadline=None)
@given(items=histories())
def test_alarms_are_what_the_rules_say(items):
    made = program(
        [{"alarm": {**ALARM, "to": "alarms"}}],
        **{"from": ["a", "b"]},
        schema={"ts": "time", "v": "float"},
        time={"event": "ts", "lateness": "2s", "idle": "20s"},
    )
    out, plain, offsets = Out(), PlainAlarm("ab", 2 * S, 20 * S), {}
    for item in items:
        if isinstance(item, Tick):
            made.tick(item, out)
            if plain.waits():
                plain.time_passes(item)
        else:
            plain.record(item)
            for batch in offset_batches([item], offsets):
                made.run(batch, out)
    found = []
    for stream, time, key, value in out.emitted:
        if stream == "alarms":
            told = msgspec.json.decode(value)
            since = int(datetime.fromisoformat(told["since"]).timestamp()) * S
            found.append(("reminder" if "reminder" in told else told["state"], time, key, since, told["v"]))
    assert found == plain.told
    assert made.stats()["alarms"] == sum(state == "raised" for state, *_ in plain.told)
    assert made.stats()["raised"] == sum(one["told"] is not None for one in plain.keys.values())


@settings(max_examples=150, deadline=None)
@given(items=histories(), lateness=st.sampled_from([0, 3, 12, 60]))
def test_how_long_an_alarm_waits_for_late_records_changes_when_it_is_told_and_nothing_else(items, lateness):
    """One key in order and no silence: by the watermark or by the record that shows it, the alarms are the same."""
    seconds = sorted({(item.time - NOON) // S for item in items if isinstance(item, Event)})
    events = [Event("k", b'{"ts":%d,"v":%d}' % (NOON // S + s, 3 * (s % 7 % 3)), NOON + s * S, "a") for s in seconds]
    told = []
    for patience in (0, lateness):
        time = {"event": "ts", "lateness": f"{patience}s", "idle": "1d"}
        made = program(
            [{"alarm": {**ALARM, "to": "alarms"}}], **{"from": "a"}, schema={"ts": "time", "v": "int"}, time=time
        )
        out = Out()
        for batch in offset_batches(events, {}):
            made.run(batch, out)
        told.append([emitted for emitted in out.emitted if emitted[0] == "alarms"])
    assert told[0] == told[1]


def twenty_thousand():
    """20,000 readings of 10,000 keys from two inputs: disorder, late ones, junk, silences, and ticks between them."""
    rng, arrival, items = random.Random(20_000), NOON, []
    for i in range(20_000):
        if i % 4000 == 3999:
            arrival += 45 * S
            items.append(Tick(arrival))
        arrival += rng.choice((0, 0, 0, 1_000_000, 8_000_000))
        jitter = rng.choice((0, 0, 0, -1, -2, -5, -30))
        moment = (arrival + jitter * S) / S
        value = 13 if i % 50 == 0 else rng.gauss(20, 5)
        payload = b'{"ts":1' if i % 997 == 0 else f'{{"ts":{moment:.3f},"v":{value:.3f}}}'.encode()
        items.append(Event(f"site/{rng.randrange(10_000)}", payload, arrival, "b" if i % 7 == 0 else "a"))
    items.append(Tick(arrival + 300 * S))
    return items


@pytest.mark.parametrize(
    "more", [{}, {"max_keys": 500}, {"time": {"lateness": "1s"}}], ids=["event", "few keys", "arrival"]
)
def test_twenty_thousand_records_give_the_same_bytes_in_any_batches_and_across_restarts(more):
    items = twenty_thousand()
    twins = Twins(**more)
    one = feed(twins, items, range(len(items)), ())
    by_37 = feed(twins, items, range(0, len(items), 37), ())
    by_1000 = feed(twins, items, range(0, len(items), 1000), ())
    restarted = feed(twins, items, range(0, len(items), 1000), (3_333, 10_000, 15_999, 16_000, 16_001))
    assert one == by_37 == by_1000 == restarted
    streams = {stream for stream, *_ in one[0]}
    assert streams == {"out", "_dead", "p.late"} if "time" not in more else streams == {"out", "_dead"}
    assert len(one[0]) > 5_000
