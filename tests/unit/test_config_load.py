"""From files to a Config: every problem of every file in one run, each at its own line and column."""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import plugin
from gateway.config import Start, load
from gateway.decode import JSON
from gateway.errors import ConfigError
from gateway.plugin import Decoding, MissingExtra, Mistake, Plugin, UnknownPlugin
from gateway.quantity import Duration, Secret, Size

frozen: dict[str, Any] = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}


class Route(msgspec.Struct, **frozen):
    filter: str
    stream: str | None = None


class TapOptions(msgspec.Struct, **frozen):
    """Reads a tap.

    stream: where it goes.
    """

    stream: str
    routes: list[str | Route] = []
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    gain: float = 1.0
    wait: Annotated[Duration, msgspec.Meta(extra={"ge": Duration(1)})] = Duration(5)
    most: Size = Size(1024)
    mode: Literal["fast", "slow"] = "fast"
    secure: bool = False
    user: str | None = None
    password_file: Secret | None = None
    labels: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.password_file is not None and self.user is None:
            raise ValueError("password_file needs a user")
        for i, route in enumerate(self.routes):
            if isinstance(route, str) and " " in route:
                raise Mistake(("routes", i), "a route has no blanks; remove them", route.index(" "))

    def streams(self) -> list[str]:
        return [self.stream, *(route.stream for route in self.routes if isinstance(route, Route) and route.stream)]


class BucketOptions(msgspec.Struct, **frozen):
    path: str
    token_file: Secret | None = None


class Compiled:
    start, signature, tests, doubts = "earliest", "", (), ()

    def __init__(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.name, self.inputs, self.outputs = name, tuple(inputs), (*outputs, "_dead")


class Plugins:
    """Two plugins, one without its library, one that breaks, and a compiler that dislikes the word `wrong`."""

    def __init__(self) -> None:
        self.decoders: dict[str, str] = {}

    def names(self, family: str) -> list[str]:
        return {"drivers": ["broken", "tap"], "sinks": ["bucket", "lake"], "steps": []}[family]

    def load(self, family: str, name: str) -> Plugin[Any]:
        if name == "lake":
            raise MissingExtra("lake needs the library boto: pip install 'tidegate[lake]'")
        if name == "broken":
            raise SyntaxError("invalid syntax")
        if name not in self.names(family):
            raise UnknownPlugin(family, name, self.names(family))
        return Plugin(TapOptions if family == "drivers" else BucketOptions, object)

    def compiler(self) -> Any:
        def compile_pipeline(name, definition, decoders):
            self.decoders = dict(decoders)
            mistakes = []
            for i, step in enumerate(definition.get("steps", ())):
                text = step["filter"]
                if "wrong" in text:
                    mistakes.append(Mistake(("steps", i, "filter"), "this is wrong; write right", text.index("wrong")))
            if mistakes:
                return mistakes
            inputs, outputs = ([v] if isinstance(v, str) else v for v in (definition["from"], definition["to"]))
            return Compiled(name, inputs, outputs)

        return compile_pipeline

    def definition(self) -> type[msgspec.Struct]:
        raise NotImplementedError


class RealCompiler(Plugins):
    def compiler(self) -> Any:
        return plugin.compiler()


TAP = "drivers:\n  t: {driver: tap, stream: s}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, file: str = "c.yaml") -> None:
        os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
        with open(file, "w") as opened:
            opened.write(text)

    return write


@pytest.fixture
def problems(write):
    def problems(text: str, gateway: str = "gateway: {id: g}\n", **environ: str) -> list[str]:
        write(gateway + text)
        with pytest.raises(ConfigError) as caught:
            load("c.yaml", environ=environ, plugins=Plugins())
        return [str(problem) for problem in caught.value.problems]

    return problems


@pytest.fixture
def good(write):
    def good(text: str, **environ: str) -> Any:
        write("gateway: {id: g}\n" + text)
        return load("c.yaml", environ=environ, plugins=Plugins())

    return good


def test_a_file_that_is_missing_is_a_problem_like_any_other(tmp_path):
    with pytest.raises(ConfigError, match="there is no file .*; create it, or correct the path"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load(tmp_path)


def test_the_smallest_configuration_has_every_default(good):
    config = good("")
    assert (config.gateway.status, config.log.turn, config.log.commit) == ("127.0.0.1:8765", 0.25, 1.0)
    assert (config.log.size, config.log.memory, config.log.journal) == (2 << 30, 16 << 20, 8 << 20)
    assert list(config.streams) == ["_dead"]
    assert config.files == ("c.yaml",)


def test_every_stream_there_is_is_listed(good):
    config = good(
        "streams: {said: , other: {keep: {size: 1MiB}, priority: urgent}}\n"
        "drivers: {t: {driver: tap, stream: s, routes: [{filter: f, stream: r}], decode: key=value}}\n"
        "pipelines: {p: {from: s, to: out}}\n"
        "sinks: {b: {sink: bucket, path: x, streams: [s, out, _dead]}}\n"
    )
    assert set(config.streams) == {"said", "other", "s", "r", "out", "_dead"}
    assert config.streams["other"].keep.size == 1 << 20
    assert config.streams["other"].priority == "urgent"
    assert (config.streams["s"].decode, config.streams["out"].decode) == (Decoding("keyvalue"), JSON)
    assert config.drivers["t"].streams == ("s", "r")
    sink = config.sinks["b"]
    assert (sink.batch.records, sink.batch.bytes, sink.batch.age) == (500, 100 << 10, 10.0)
    assert (sink.format, sink.in_flight, sink.start) == ("ndjson", 4, "earliest")


def test_every_field_that_is_wrong_is_reported_at_its_own_place(problems):
    assert problems(
        "drivers:\n"
        "  t:\n"
        "    driver: tap\n"
        "    port: 99999\n"
        "    gain: .inf\n"
        "    wait: 10\n"
        "    most: 1 pound\n"
        "    mode: fsat\n"
        "    secure: yes\n"
        "    user: 12\n"
        "    labels: {a: 1, b: x}\n"
        "    routes: [{filtre: a}, {filter: 1}, 5]\n"
        "    stream: s\n"
        "    stteam: s\n"
    ) == [
        "c.yaml:5:11: drivers.t.port: 99999 is out of range; write at most 65535",
        "c.yaml:6:11: drivers.t.gain: .inf is no finite number; write another",
        "c.yaml:7:11: drivers.t.wait: 10 has no unit; write 10s, 10m, as you mean it",
        "c.yaml:8:11: drivers.t.most: '1 pound' is no size; write a number and a unit: 100KiB, 512MiB, 2GiB",
        "c.yaml:9:11: drivers.t.mode: 'fsat' is none of its values; did you mean fast?",
        "c.yaml:10:13: drivers.t.secure: expected true or false, got 'yes'; write true",
        'c.yaml:11:11: drivers.t.user: expected text, got 12; put quotes around it: "12"',
        'c.yaml:12:17: drivers.t.labels.a: expected text, got 1; put quotes around it: "1"',
        "c.yaml:13:14: drivers.t.routes[0].filter: missing; add `filter: …`, text",
        "c.yaml:13:15: drivers.t.routes[0].filtre: unknown option; did you mean filter?",
        'c.yaml:13:36: drivers.t.routes[1].filter: expected text, got 1; put quotes around it: "1"',
        'c.yaml:13:40: drivers.t.routes[2]: expected text, got 5; put quotes around it: "5"',
        "c.yaml:15:5: drivers.t.stteam: unknown option; did you mean stream?",
    ]


def test_what_is_missing_names_the_place_of_what_it_is_missing_from(problems):
    assert problems("drivers:\n  t: {driver: tap}\n  u: {stream: s}\n  v:\n", gateway="gateway:\n") == [
        "c.yaml:1:1: gateway: missing; add `gateway: {id: NAME}`",
        "c.yaml:3:3: drivers.t.stream: missing; add `stream: …`, text",
        "c.yaml:4:3: drivers.u.driver: missing; add `driver: …`, text",
        "c.yaml:5:3: drivers.v: expected a map, got nothing; write `name: …` lines below it",
    ]


def test_what_a_plugin_itself_refuses_is_shown_at_the_option_it_speaks_of(problems, write):
    write("x", "secret")
    assert problems("drivers:\n  t:\n    driver: tap\n    stream: s\n    password_file: secret\n") == [
        "c.yaml:6:20: drivers.t.password_file: password_file needs a user"
    ]
    assert problems("drivers:\n  t: {driver: tap, stream: s, routes: [ok, 'a b']}\n") == [
        "c.yaml:3:46: drivers.t.routes[1]: a route has no blanks; remove them"
    ]


def test_plugins_that_are_unknown_not_installed_or_broken_are_explained(problems):
    assert problems(
        "drivers:\n  a: {driver: tpa}\n  b: {driver: broken}\n"
        "sinks:\n  c: {sink: lake, streams: [_dead]}\n  d: {sink: zzz, streams: [_dead]}\n"
    ) == [
        "c.yaml:3:15: drivers.a.driver: no driver is called 'tpa'; did you mean tap?",
        "c.yaml:4:15: drivers.b.driver: the driver 'broken' cannot be loaded: SyntaxError: invalid syntax; correct its file",
        "c.yaml:6:13: sinks.c.sink: lake needs the library boto: pip install 'tidegate[lake]'",
        "c.yaml:7:13: sinks.d.sink: no sink is called 'zzz'; choose from bucket, lake",
    ]


def test_secrets_are_files_that_can_be_read_and_never_inline(problems, write):
    write("", "empty")
    text = """\
drivers:
  a: {driver: tap, stream: s, user: u, password: hunter2}
  b: {driver: tap, stream: s, user: u, password_file: none}
  c: {driver: tap, stream: s, user: u, password_file: empty}
  d: {driver: tap, stream: s, user: u, password_credential: broker}
  e: {driver: tap, stream: s, user: "mqtt://u:hunter2@h"}
sinks:
  f: {sink: bucket, path: p, streams: [s], api_key: hunter2}
  g: {sink: bucket, path: p, streams: [s], token_file: 5}
  h: {sink: bucket, path: p, streams: [s], token_file: empty, token_credential: x}
"""
    found = problems(text)
    assert "hunter2" not in "\n".join(found)
    assert found == [
        "c.yaml:3:40: drivers.a.password: a secret is never written inline; put it in a file and write password_file: PATH",
        "c.yaml:4:55: drivers.b.password_file: there is no file none; create it, or correct the path",
        "c.yaml:5:55: drivers.c.password_file: empty is empty; write the secret into it",
        "c.yaml:6:61: drivers.d.password_credential: there are no credentials here; start by systemd with LoadCredential=broker:PATH, or use password_file",
        "c.yaml:7:37: drivers.e.user: a password inside a url; take it out and use username: and password_file:",
        "c.yaml:9:44: sinks.f.api_key: a secret is never written inline; put it in a file and name that with token_file",
        "c.yaml:10:56: sinks.g.token_file: expected the path of a file that holds the secret; write a path",
        "c.yaml:11:81: sinks.h.token_credential: the same secret is given by token_file; remove one of them",
    ]


def test_a_secret_that_may_not_be_read_says_who_may(problems, write, monkeypatch):
    write("x", "secret")
    real = Secret.read

    def denied(self):
        raise PermissionError(13, "Permission denied", self.path)

    monkeypatch.setattr(Secret, "read", denied)
    (found,) = problems("drivers:\n  t: {driver: tap, stream: s, user: u, password_file: secret}\n")
    assert found.startswith("c.yaml:3:55: drivers.t.password_file: ")
    assert "may not read secret (it belongs to " in found
    assert "; try: chown " in found
    monkeypatch.setattr(Secret, "read", real)


def test_secrets_are_found_beside_the_file_that_names_them_or_among_the_credentials(good, write, tmp_path):
    write("from a file\n", "parts/secret")
    write("from systemd", "credentials/broker")
    write("drivers: {a: {driver: tap, stream: s, user: u, password_file: secret}}", "parts/a.yaml")
    config = good(
        "include: [parts/*.yaml]\ndrivers: {b: {driver: tap, stream: s, user: u, password_credential: broker}}",
        CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"),
    )
    assert config.drivers["a"].options.password_file.read() == b"from a file"
    assert config.drivers["b"].options.password_file.read() == b"from systemd"


def test_a_value_from_the_environment_is_what_its_option_needs(good, problems):
    text = "drivers: {t: {driver: tap, stream: '${NUMBER}', port: '${NUMBER}', secure: '${TRUE}', wait: '${TIME:-7s}'}}"
    options = good(text, NUMBER="1234", TRUE="true").drivers["t"].options
    assert (options.stream, options.port, options.secure, options.wait) == ("1234", 1234, True, 7.0)
    assert problems(text, TRUE="true") == [
        "c.yaml:2:37: drivers.t.stream: the environment has no NUMBER; set it, or write ${NUMBER:-default}",
        "c.yaml:2:56: drivers.t.port: the environment has no NUMBER; set it, or write ${NUMBER:-default}",
    ]


def test_the_host_name_is_always_there(write):
    write("gateway: {id: 'pi-${HOSTNAME}'}")
    assert load("c.yaml", environ={}, plugins=Plugins()).gateway.id == f"pi-{os.uname().nodename}"


def test_mistakes_of_a_pipeline_are_shown_inside_its_texts(problems):
    assert problems(
        TAP + "pipelines:\n"
        "  p:\n"
        "    from: s\n"
        "    to: o\n"
        "    steps:\n"
        "      - filter: a wrong b\n"
        '      - {filter: "it\'s wrong"}\n'
        "      - filter: |\n"
        "          one\n"
        "          two wrong\n"
        "      - filter: >-\n"
        "          one ${X}\n"
        "          wrong\n",
        X="and very much more",
    ) == [
        f"c.yaml:{line}:{column}: pipelines.p.steps[{i}].filter: this is wrong; write right"
        for i, (line, column) in enumerate([(9, 19), (10, 24), (13, 15), (16, 11)])
    ]


def test_pipelines_come_after_all_they_read_from(good):
    config = good(
        TAP + "pipelines: {c: {from: b, to: x}, a: {from: s, to: a}, d: {from: s, to: d}, b: {from: [d, a], to: b}}"
    )
    assert list(config.pipelines) == ["a", "d", "b", "c"]


def test_a_circle_of_pipelines_is_drawn(problems):
    assert problems(
        TAP
        + "pipelines:\n  x: {from: s, to: x}\n  a: {from: [x, c], to: a}\n  b: {from: a, to: b}\n  c: {from: b, to: c}\n"
    ) == [
        "c.yaml:6:7: pipelines.a.from: pipelines feed each other: a -> b -> c -> a; let one of them read something else"
    ]


def test_streams_nothing_feeds_are_unknown(problems):
    assert problems(
        TAP
        + "pipelines:\n  p: {from: [s, ss], to: out}\nsinks:\n  b: {sink: bucket, path: p, streams: [otu, s, s, qqq]}\n"
    ) == [
        "c.yaml:5:17: pipelines.p.from[1]: there is no stream 'ss'; did you mean s?",
        "c.yaml:7:40: sinks.b.streams[0]: there is no stream 'otu'; did you mean out?",
        "c.yaml:7:48: sinks.b.streams[2]: 's' is listed twice; remove one",
        "c.yaml:7:51: sinks.b.streams[3]: there is no stream 'qqq'; choose from out, s, _dead",
    ]


def test_a_stream_that_is_listed_and_that_nothing_feeds_is_warned_of(good):
    def warned(text: str) -> list[str]:
        return [f"{warning.line}:{warning.column} {warning.message}" for warning in good(text).warnings]

    sink = "sinks: {b: {sink: bucket, path: /x, streams: [%s]}}\n"
    assert warned(TAP + "streams: {s: {}}\n" + sink % "s") == []
    hint = "name it at a driver or in to:, or remove it"
    assert warned(TAP + "streams: {nobody: {}}\n" + sink % "nobody") == [f"4:11 nothing feeds this stream; {hint}"]
    long = TAP.replace("stream: s", "stream: temps")
    assert warned(long + "streams: {temp: {}}\n") == ["4:11 nothing feeds this stream; did you mean temps?"]
    piped = "pipelines: {p: {from: s, to: means}}\n"
    assert warned(TAP + piped + "streams: {means: {}, _dead: {}, _metrics: {}}\n") == []


def test_one_mistake_is_reported_once(problems):
    """What a broken entry would have fed is not reported as missing elsewhere."""
    (found,) = problems(
        "drivers: {t: {driver: tpa, routes: [{filter: a, stream: r}], stream: s}}\n"
        "pipelines: {p: {from: r, to: o}}\nsinks: {b: {sink: bucket, path: p, streams: [s, o]}}\n"
    )
    assert "did you mean tap?" in found
    (found,) = problems(
        TAP
        + "pipelines: {p: {from: s, to: o, steps: [{filter: wrong}]}}\nsinks: {b: {sink: bucket, path: p, streams: [o]}}\n"
    )
    assert "this is wrong" in found
    (found,) = problems("include: [none.yaml]\nsinks: {b: {sink: bucket, path: p, streams: [o]}}\n")
    assert "there is no file none.yaml" in found


def test_names_are_names_and_the_house_keeps_its_own(problems):
    assert problems(
        "streams:\n  _dead: {keep: {age: 1d}}\n  _mine: {}\ndrivers:\n  a b: {driver: tap, stream: s}\n  c: {driver: tap, stream: _dead}\n"
    ) == [
        "c.yaml:4:3: streams._mine: '_mine' is no name; write letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 64",
        "c.yaml:6:3: drivers.a b: 'a b' is no name; write letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 64",
        "c.yaml:7:28: drivers.c.stream: _dead is the house's own; choose another name",
    ]


def test_those_who_feed_one_stream_agree_on_how_it_is_read(good, problems):
    config = good("streams: {s: {decode: number}}\n" + TAP)
    assert (config.drivers["t"].decode, config.streams["s"].decode) == (None, Decoding("number"))
    assert problems(
        TAP + "  u: {driver: tap, stream: s, decode: number}\n  v: {driver: tap, stream: s, decode: nmber}\n"
    ) == [
        "c.yaml:4:39: drivers.u.decode: s is number here and json by drivers.t; use two streams, or one decoder",
        "c.yaml:5:39: drivers.v.decode: no decoder is called 'nmber'; did you mean number?",
    ]


def test_included_files_add_entries_each_name_once(good, problems, write):
    write("streams: {b: {}}\n", "parts/2.yaml")
    write("streams: {a: {}}\n", "parts/1.yaml")
    config = good("include: ['parts/*.yaml', parts/1.yaml, 'nothing/*.yaml', '*.yaml']\nstreams: {s: {}}\n")
    assert config.files == ("c.yaml", "parts/1.yaml", "parts/2.yaml")
    assert set(config.streams) == {"s", "a", "b", "_dead"}
    write("streams: {s: {}, a: {keep: {siez: 1MiB}}}\nlog: {}\ninclude: []\nstraems: {}\n", "parts/3.yaml")
    assert problems("include: ['parts/*.yaml', gone.yaml]\nstreams: {s: {}}\n") == [
        "c.yaml:2:27: include[1]: there is no file gone.yaml; create it, or remove this line",
        "parts/3.yaml:1:11: streams.s: there is one of this name already, at c.yaml:3:11; rename or remove one of them",
        "parts/3.yaml:1:18: streams.a: there is one of this name already, at parts/1.yaml:1:11; rename or remove one of them",
        "parts/3.yaml:2:1: log: only c.yaml may say this; move it there",
        "parts/3.yaml:3:1: include: only c.yaml may say this; move it there",
        "parts/3.yaml:4:1: straems: unknown option; did you mean streams?",
    ]


def test_problems_come_in_the_order_of_the_files(problems, write):
    write("streams: {a: {x: 1}}\n", "a.yaml")
    write("streams: [\n", "b.yaml")
    found = problems("sinks: {q: {sink: zzz}}\ninclude: [b.yaml, a.yaml]\nstreams: {s: 5}\n")
    assert [line.split(": ")[0] for line in found] == [
        "c.yaml:2:9", "c.yaml:2:19", "c.yaml:4:14", "b.yaml:2:1", "a.yaml:1:15",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("1970-01-01T00:01:00Z", 60 * 10**9),
        ("1970-01-01T01:00:30.5+01:00", 30_500_000_000),
        ("10s", 90 * 10**9),
    ],
)
def test_a_start_is_a_word_a_time_or_how_long_ago(text, resolved):
    assert Start.parse(text).resolve(100 * 10**9) == resolved


@pytest.mark.parametrize("text", ["", "yesterday", "2026-05-01T00:00:00", "2026-13-01T00:00:00Z", "7 weeks"])
def test_anything_else_is_no_start(text, problems):
    (found,) = problems(TAP + f"sinks: {{b: {{sink: bucket, path: p, streams: [s], start: '{text}'}}}}")
    assert "is no start; write earliest, latest, a time as 2026-05-01T00:00:00Z, or 7d" in found


@pytest.mark.parametrize("text", ["5", "[a]", "text", "- gateway: {}"])
def test_a_file_that_is_no_map_is_one_problem(text, problems):
    (found,) = problems(text, gateway="")
    assert found.startswith("c.yaml:1:1: file: expected a map with gateway, log, ")


def test_hundreds_of_mistakes_are_all_reported(problems):
    names = [f"stream-number-{i}" for i in range(900)]
    found = problems(
        TAP
        + f"streams: {{{', '.join(f'{name}: {{}}' for name in names)}}}\nsinks: {{b: {{sink: bucket, path: p, streams: [{', '.join(f'{name}x' for name in names)}]}}}}"
    )
    assert len(found) == 900


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {id: '" + "${X}" * 100_000 + "'}",
        "gateway: {id: '" + "${HOSTNAME}" * 90_000 + "'}",
        "gateway: {id: 'a://" + ":" * 500_000 + "'}",
        "log: {turn: " + "9" * 100_000 + "s, size: " + "9" * 400 + "MiB}",
        "gateway:\n" + " k: 1\n" * 19_000,
        "a" * 100_000 + ": 1",
        "x: {" * 1_000,
        "? " * 100_000,
        '"\\e[31m\\n": 1',
    ],
    ids=range(9),
)
def test_hostile_text_costs_bounded_work_and_a_message_in_one_line(text, problems):
    for line in problems(text, gateway=""):
        assert line.isprintable()
        assert len(line) < 400


GOOD = """\
gateway: {id: "g-${X:-1}", status: null}
log: {size: 20MiB, turn: 20ms}
drivers:
  t: {driver: tap, stream: s, routes: [a, {filter: b, stream: c}], wait: 2s, labels: {x: "1"}}
streams: {s: {keep: {size: 1MiB, age: 1d}, priority: urgent, decode: number}}
pipelines:
  p: {from: [s, c], to: o, steps: [{filter: fine}]}
sinks:
  b: {sink: bucket, path: p, streams: [o, _dead], batch: {records: 1, age: 1s}, format: raw, start: 7d}
"""
TOKENS = st.sampled_from([
    "", " ", "\n", "  ", ":", ": ", "- ", "{", "}", "[", "]", ",", '"', "'", "|", ">", "#", "&a ", "*a", "!t ", "<<", "${", "${X}", "$${", "\t",
    "null", "true", "1", "1s", "_dead", "drivers", "wrong", "\u2028", "é", "---\n", "? ", "\\", "include: ['*']",
])  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), TOKENS), min_size=0, max_size=6))
def test_no_text_breaks_the_loader(tmp_path, edits):
    text = GOOD
    for at, cut, token in edits:
        text = text[:at] + token + text[at + cut :]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    try:
        load(path, environ={}, plugins=RealCompiler())
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert problem.message
            assert problem.path


def test_the_module_of_plugins_is_where_they_come_from():
    assert callable(plugin.compiler())
    assert issubclass(plugin.definition(), msgspec.Struct)


def test_the_log_lies_beside_the_configuration_unless_its_path_is_absolute(write):
    write("gateway: {id: g}\nlog: {path: records}\n", "site/c.yaml")
    assert load("site/c.yaml", plugins=Plugins()).log.path == "site/records"
    write("gateway: {id: g}\nlog: {path: /var/records}\n", "site/c.yaml")
    assert load("site/c.yaml", plugins=Plugins()).log.path == "/var/records"


def test_what_a_misspelt_option_was_meant_to_feed_is_not_missed(problems):
    (found,) = problems(
        "drivers: {t: {driver: tap, stream: s, straem: r}}\nsinks: {b: {sink: bucket, path: p, streams: [r]}}\n"
    )
    assert "did you mean stream?" in found


def test_our_own_numbers_are_a_stream_where_somebody_reads_them_and_nobody_may_feed_it(tmp_path):
    def loaded(more: str) -> Any:
        path = tmp_path / "c.yaml"
        path.write_text(
            f"gateway: {{id: g, metrics_every: 5s}}\ndrivers: {{d: {{driver: simulated, stream: s}}}}\n{more}"
        )
        return load(path)

    assert "_metrics" not in loaded("").streams
    read = loaded("pipelines: {p: {from: _metrics, schema: {value: float}, steps: [{filter: value > 0}], to: busy}}")
    assert "_metrics" in read.streams
    assert read.gateway.metrics_every == 5
    assert "_metrics" in loaded("sinks: {f: {sink: file, path: x, streams: [_metrics, s]}}").streams
    for feeding in (
        "pipelines: {p: {from: s, steps: [], to: _metrics}}",
        "include: []\nsinks: {}\npipelines: {p: {from: s, steps: [], to: [x, _metrics]}}",
    ):
        with pytest.raises(ConfigError, match="_metrics`? is the house's own; choose another"):
            loaded(feeding)
    (tmp_path / "d.yaml").write_text("gateway: {id: g}\ndrivers: {d: {driver: simulated, stream: _metrics}}\n")
    with pytest.raises(ConfigError, match="_metrics`? is the house's own; choose another"):
        load(tmp_path / "d.yaml")


def test_a_relative_path_is_looked_up_beside_the_file_it_is_written_in(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "tidegate.yaml").write_text(
        "gateway: {id: g}\nlog: {path: log}\ninclude: [parts/out.yaml]\ndrivers: {a: {driver: simulated, stream: s}}\n"
    )
    (tmp_path / "parts" / "out.yaml").write_text("sinks: {disk: {sink: file, path: out, streams: [s]}}\n")
    config = load(tmp_path / "tidegate.yaml")
    assert config.log.path == str(tmp_path / "log")
    assert config.sinks["disk"].options.path == str(tmp_path / "parts" / "out")
