"""Definitions: every mistake at once with its path, what a pipeline reads and feeds, and where a failure is reported."""

import pytest
from shaping import NOON, Event, S, mistakes, program, run

from gateway.plugin import compiler
from pipelines.language import compile_pipeline

WINDOW = {"window": {"tumbling": "10s", "agg": {"n": "count()"}}}


def told(found):
    return [(m.path, m.offset, str(m)) for m in found]


def test_the_house_finds_the_compiler_by_name():
    assert compiler() is compile_pipeline


def test_all_mistakes_of_a_definition_come_in_one_run():
    definition = {
        "from": "in",
        "too": "out",
        "start": "yesterday",
        "schema": {"ts": "time", "v": "flot", "u": "str"},
        "time": {"event": "u", "latenes": "5s", "zone": "Mars/Base", "idle": "5 minutes"},
        "key": ["key", "ts"],
        "max_keys": 0,
        "steps": [
            {"set": {"c": "v + 1", "d": "u + 1", "key": "1"}},
            {"filtr": "true"},
            {"filter": "u"},
            {"set": {"a": "1"}, "filter": "true"},
            {"window": {"tumbling": "10", "agg": {"n": "count(v)", "m": "mean(u)", "x": "avg(v)"}, "late": "keep"}},
            {"emit": {"x": "q"}},
            {"filter": "true"},
        ],
    }
    found = compile_pipeline("p", definition, {})
    assert isinstance(found, list)
    assert told(found) == [
        (("too",), 0, "unknown option; did you mean `to`?"),
        (("max_keys",), 0, "this must be at least 1"),
        (("start",), 0, "write earliest, latest, a time as 2026-11-23T10:00:00Z, or how far back, as 7d"),
        (("schema", "v"), 0, "there is no type `flot`; there are int, float, str, bool, time; did you mean `float`?"),
        (("time", "latenes"), 0, "unknown option; did you mean `lateness`?"),
        (("time", "idle"), 0, "'5 minutes' is no duration; write a number and a unit: 250ms, 10s, 5m, 2h, 7d"),
        (("time", "zone"), 0, "write a zone as Europe/Berlin, UTC or +02:00"),
        (("time", "event"), 0, "the event time must be a field of type time, and this is str"),
        (("key", 1), 0, "a key is text, a whole number or true/false, and this is time"),
        (("steps", 0, "set", "d"), 0, "`+` cannot take str and int; to join text, write str(1)"),
        (("steps", 0, "set", "key"), 0, "`key` is built in and cannot be set"),
        (("steps", 1, "filtr"), 0, "no step is called `filtr`; did you mean `filter`?"),
        (("steps", 2, "filter"), 0, "this must be true or false, and it is str"),
        (("steps", 3), 0, "a step has one key, its name; this has set, filter; begin each with `- `"),
        (("steps", 4, "window", "tumbling"), 0, "'10' is no duration; write a number and a unit: 250ms, 10s, 5m, 2h, 7d"),
        (("steps", 4, "window", "late"), 0, "'keep' is none of its values; choose from drop, side, error"),
        (("steps", 6, "filter"), 0, "nothing but `route` can follow `emit`; put this step before it"),
        (("to",), 0, "`to` must name a stream, or a list of them; it may be missing only after a last step `route` or `alarm`"),
    ]  # fmt: skip


def test_what_a_broken_step_may_have_named_is_not_called_unknown():
    def found(first, **more):
        steps = [first, {"filter": "c > 1 and v > 1 and v"}, {"emit": {"x": "d"}}]
        return compile_pipeline("p", {"from": "in", "to": "out", "schema": {"v": "float"}, "steps": steps, **more}, {})

    for broken in ({"set": {"c": None}}, {"set": "c = v - 15"}, {"sett": {"c": "v"}}, {"window": {"agg": {"c": "v"}}}):
        about = [mistake.path[:2] for mistake in found(broken)]
        assert about[-1] == ("steps", 1)  # the `and v` is told all the same …
        assert ("steps", 2) not in about  # … and `d` is not
    assert ("steps", 2) in [mistake.path[:2] for mistake in found({"filter": None})]


def test_every_wrong_value_of_a_set_is_told():
    steps = [{"set": {"a": None, "b": [1], "c": "v"}}]
    found = compile_pipeline("p", {"from": "in", "to": "out", "schema": {"v": "float"}, "steps": steps}, {})
    assert [mistake.path for mistake in found] == [("steps", 0, "set", "a"), ("steps", 0, "set", "b")]


def test_steps_are_a_list():
    found = compile_pipeline("p", {"from": "in", "to": "out", "steps": {"filter": "true"}}, {})
    assert isinstance(found, list)
    assert told(found) == [(("steps",), 0, "this must be a list, and it is a map; write `- filter: …`")]


def test_mistakes_in_a_window_point_into_its_aggregates():
    agg = {
        "a": "count(v)",
        "b": "mean(u)",
        "c": "avg(v)",
        "d": "mean(o)",
        "e": "mean(v) * 2",
        "f": "sum(v + q)",
        "start": "min(v)",
        "g": "mean(",
        "h": "p95()",
    }
    found = mistakes([{"window": {"tumbling": "10s", "agg": agg}}], schema={"v": "float", "u": "str", "o": "float?"})
    assert [(m.path[3:], m.offset) for m in found] == [
        (("agg", "a"), 0),
        (("agg", "b"), 5),
        (("agg", "c"), 0),
        (("agg", "d"), 5),
        (("agg", "e"), 0),
        (("agg", "f"), 8),
        (("agg", "g"), 5),
        (("agg", "h"), 0),
        (("agg", "start"), 0),
    ]


def test_after_a_window_there_is_only_its_row():
    found = mistakes(
        [{"window": {"tumbling": "10s", "agg": {"n": "count()"}}}, {"filter": "v > 1"}], schema={"v": "float"}
    )
    assert [str(m) for m in found] == ["no field `v` in a window's row, which has key, start, end and the aggregates"]


@pytest.mark.parametrize(
    ("definition", "path", "message"),
    [
        ({"from": "_dead"}, ("from",), "cannot read that stream: they would come back"),
        ({"from": ["a", "out"]}, ("from",), "it would feed itself"),
        ({"from": "p.late"}, ("from",), "it would feed itself"),
        ({"from": []}, ("from",), "must name a stream"),
        ({"to": ""}, ("to",), "must name a stream"),
        ({"from": 5}, ("from",), "this must be text or a list, and it is a whole number"),
        ({"key": "o", "schema": {"o": "str?"}}, ("key",), "give it a default"),
        ({"key": "round(2.5, 1)"}, ("key",), "this is float"),
        ({"time": {"event": "ts"}, "schema": {"ts": "time?"}}, ("time", "event"), "that is never missing"),
        ({"time": {"event": "ts - 1"}, "schema": {"ts": "time"}}, ("time", "event"), "must be a field"),
        ({"steps": [5]}, ("steps", 0), "this must be a map, and it is a whole number"),
        ({"steps": [{"emit": {'a"b': "1"}}]}, ("steps", 0, "emit"), "cannot contain a quote"),
        ({"steps": [{"set": {"a-b": "1"}}]}, ("steps", 0, "set", "a-b"), "cannot name a field"),
        ({"steps": [{"window": {"tumbling": "0ms", "agg": {}}}]}, ("steps", 0, "window", "tumbling"), "at least 1ms"),
        (
            {"time": {"lateness": "1h"}, "steps": [{"window": {"tumbling": "10ms", "agg": {}}}]},
            ("steps", 0, "window", "tumbling"),
            "360000 windows",
        ),
        ({"steps": [{"window": {"agg": {}}}]}, ("steps", 0, "window"), "`tumbling` is missing; write `tumbling: 10s`"),
        (
            {"steps": [{"window": {"tumbling": "1s"}}]},
            ("steps", 0, "window"),
            "`agg` is missing; write `agg: {mean: mean(v)}`",
        ),
        ({"steps": [{"window": "10s"}]}, ("steps", 0, "window"), "this must be a map, and it is text"),
        ({"colour": 1}, ("colour",), "choose from from, key, max_keys, schema, start, steps, tests, time and 1 more"),
        ({"key": "sensor", "schema": {"v": "float"}}, ("key",), "which declares v; declare it in `schema:`"),
        ({"time": {"event": "tss"}, "schema": {"ts": "time"}}, ("time", "event"), "declares ts; did you mean `ts`?"),
        ({"steps": [{"filter": ["a"]}]}, ("steps", 0, "filter"), "write an expression here, as text"),
    ],
)
def test_what_cannot_work_is_refused_with_its_path(definition, path, message):
    found = mistakes(**definition)
    assert found[0].path == path
    assert message in str(found[0])


def test_a_pipeline_names_what_it_reads_and_everything_it_may_feed():
    late = {"window": {**WINDOW["window"], "late": "side"}}
    made = program([late], **{"from": ["a", "b"], "to": ["x", "y"]})
    assert made.inputs == ("a", "b")
    assert set(made.outputs) == {"x", "y", "p.late", "_dead"}


@pytest.mark.parametrize(
    ("start", "means"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("2025-11-23T12:00:00Z", NOON),
        (1763899200, NOON),
        ("7d", -7 * 86400 * S),
    ],
)
def test_where_a_new_pipeline_starts(start, means):
    assert program(start=start).start == means


def test_yaml_numbers_and_booleans_are_expressions_too():
    made = program([{"filter": True}, {"emit": {"a": 1, "b": 1.5, "c": False}}])
    assert run(made, [Event("k", b"")]).rows() == [{"a": 1, "b": 1.5, "c": False}]


def test_several_outputs_get_the_same_records():
    out = run(program(to=["x", "y"]), [Event("k", b"1")])
    assert out.emitted == [("x", NOON, "k", b"1"), ("y", NOON, "k", b"1")]


def test_the_key_of_what_is_derived_is_the_pipelines_key():
    made = program([{"emit": {"v": "v"}}], schema={"v": "int", "ok": "bool"}, key=["topic_part(1)", "v", "ok"])
    assert run(made, [Event("site/a", b'{"v":7,"ok":true}')]).emitted[0][2] == "a/7/true"


def test_the_signature_is_of_what_decides_the_results():
    base = program([WINDOW], schema={"v": "float"})
    assert program([WINDOW], schema={"v": "float"}).signature == base.signature
    assert program([WINDOW], schema={"v": "float"}, start="latest").signature == base.signature
    others = [
        program([WINDOW], schema={"v": "int"}),
        program([WINDOW], schema={"v": "float"}, max_keys=5),
        program([WINDOW], schema={"v": "float"}, decoders={"in": "number"}),
        program([WINDOW], schema={"v": "float"}, time={"lateness": "1s"}),
    ]
    assert len({base.signature, *(other.signature for other in others)}) == 5


# where a failure is reported

SCHEMA = {"ts": "time", "v": "float", "u": "str"}
STEPS = [
    {"filter": "v / (v - 1) < 1e9"},
    {"set": {"a": "v * 2", "b": "sqrt(v)"}},
    {"window": {"tumbling": "10s", "agg": {"n": "count()", "s": "sum(v * v)", "m": "mean(log(v))"}, "late": "error"}},
    {"set": {"r": "1 / (n - 2)"}},
    {"emit": {"r": "r", "s": "pow(s, 3)"}},
]


def payload(v, ts=NOON // S, u="'x'"):
    return f'{{"ts":{ts},"v":{v},"u":"{u}"}}'.encode()


@pytest.mark.parametrize(
    ("event", "step", "reason"),
    [
        (Event("k/a", b"{"), "decode", "not valid JSON: Input data was truncated"),
        (Event("k/a", payload('"x"')), "decode", "v is str, not float"),
        (Event("k/a", payload(1, '"soon"')), "schema.ts", "'soon' is no time: write ISO-8601, or seconds since 1970"),
        (
            Event("k/a", payload(1, NOON // S + 61)),
            "time.max_ahead",
            "the event time 2025-11-23T12:01:01Z is too far ahead of the arrival 2025-11-23T12:00:00Z",
        ),
        (Event("k", payload(2)), "key", "the key 'k' has no part 1"),
        (Event("k/a", payload(1)), "steps[0].filter", "division by zero"),
        (Event("k/a", payload(-1)), "steps[1].set.b", "outside what the function is defined for, as sqrt(-1) is"),
        (Event("k/a", payload("1.5e308")), "steps[1].set.a", "the result is not a finite number"),
        (Event("k/a", payload("1e200")), "steps[2].window.agg.s", "the result is not a finite number"),
        (Event("k/a", payload(0)), "steps[2].window.agg.m", "outside what the function is defined for, as sqrt(-1) is"),
        (
            Event("k/a", payload(2, NOON // S - 60)),
            "steps[2].window.late",
            "late: its window ended at 2025-11-23T11:59:10Z and is closed",
        ),
    ],
)
def test_a_failure_is_reported_with_its_step_and_the_next_record_goes_on(event, step, reason):
    made = program(STEPS, schema=SCHEMA, time={"event": "ts", "lateness": "1s"}, key="topic_part(1)")
    good = Event("k/a", payload(2))
    out = run(made, [good, event, good, event._replace(key="k")])
    assert out.letters()[0] == (step, reason)
    assert [letter.offset for letter in out.dead()] == [1, 3]
    assert [letter.key for letter in out.dead()] == [event.key, "k"]
    assert made.stats()["dead"] == 2
    assert made.stats()["keys"] == 1


def test_a_row_that_fails_after_its_window_is_reported_and_the_next_row_goes_on():
    made = program(STEPS, schema=SCHEMA, time={"event": "ts", "lateness": "0s"}, key="topic_part(1)")
    events = [
        Event("k/a", payload(2)),
        Event("k/a", payload(2)),
        Event("k/b", payload(2)),
        Event("k/c", payload("1e100")),
    ]
    out = run(made, [*events, Event("k/d", payload(2, NOON // S + 10))])
    assert out.letters() == [
        ("steps[3].set.r", "division by zero"),
        ("steps[4].emit.s", "the result is too large"),
    ]
    letter = out.dead()[0]
    assert (letter.stream, letter.offset, letter.key, letter.time) == ("", -1, "a", NOON + 10 * S)
    assert b'"start":"2025-11-23T12:00:00Z"' in bytes(letter.value)
    assert [(key, row["r"]) for (_, _, key, _), row in zip(out.emitted[1:2], out.rows(), strict=True)] == [("b", -1.0)]


def test_an_int_sum_refuses_the_record_that_would_overflow_it_and_keeps_the_rest():
    made = program([{"window": {"tumbling": "10s", "agg": {"s": "sum(n)", "c": "count()"}}}], schema={"n": "int"})
    big = b'{"n":9223372036854775807}'
    out = run(
        made, [Event("k", big), Event("k", b'{"n":1}'), Event("k", b'{"n":-1}'), Event("k", b'{"n":0}', NOON + 10 * S)]
    )
    assert out.letters() == [("steps[0].window.agg", "the result does not fit into a 64-bit int")]
    assert [(row["s"], row["c"]) for row in out.rows()] == [(9223372036854775806, 2)]
