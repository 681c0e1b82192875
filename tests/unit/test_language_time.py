"""Event time: watermarks, lateness, silence, ticks, and windows that close, one promise per test."""

import math
import random

import pytest
from shaping import NOON, Event, Out, S, program, run

from gateway.record import Batch

COUNT = {"window": {"tumbling": "10s", "agg": {"n": "count()"}}}
EVENT = {"schema": {"ts": "time", "v": "float = 0"}, "time": {"event": "ts", "lateness": "2s"}}


def at(second, key="k", *, arrival=None, stream="in", **more):
    """A reading taken `second` s after noon, arriving then unless told otherwise."""
    fields = "".join(f',"{name}":{value}' for name, value in more.items())
    payload = f'{{"ts":{NOON // S + second}{fields}}}'.encode()
    return Event(key, payload, NOON + round((second if arrival is None else arrival) * S), stream)


def closed(out):
    """(key, second of the end, count) of every row."""
    return [
        (row["key"], (time - NOON) // S, row["n"]) for (to, time, *_), row in zip(out.emitted, out.rows(), strict=True)
    ]


def test_a_window_closes_with_the_record_that_moves_the_watermark_to_its_end():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1), at(9), at(11.9)])
    assert closed(out) == []
    run(made, [at(12)], out=out)
    assert closed(out) == [("k", 10, 2)]
    assert out.emitted[0][1] == NOON + 10 * S


def test_rows_come_in_the_order_of_windows_and_then_of_first_appearance():
    out = run(program([COUNT], **EVENT), [at(11, "b"), at(5, "z"), at(10, "a"), at(9, "b"), at(12, "b"), at(99, "a")])
    assert closed(out) == [("z", 10, 1), ("b", 10, 1), ("b", 20, 2), ("a", 20, 1)]


def test_a_record_is_late_only_if_its_window_is_closed():
    made = program([COUNT], **EVENT)
    # the watermark is at 9.5 s: 8 s is behind it, but its window is open; 9 s is late once 12 s was seen
    out = run(made, [at(11.5), at(8), at(12), at(9), at(22)])
    assert closed(out) == [("k", 10, 1), ("k", 20, 2)]
    assert made.stats()["late"] == 1


def test_late_records_go_where_the_window_says():
    late = at(3, "late", v=7)
    for policy in ("drop", "side", "error"):
        made = program([{"window": {**COUNT["window"], "late": policy}}], **EVENT)
        out = run(made, [at(1), at(30), late])
        assert made.stats()["late"] == 1
        aside = [emitted for emitted in out.emitted if emitted[0] != "out"]
        if policy == "drop":
            assert aside == []
        elif policy == "side":
            assert aside == [("p.late", NOON + 3 * S, "late", late.value)]
        else:
            assert out.letters() == [
                ("steps[0].window.late", "late: its window ended at 2025-11-23T12:00:10Z and is closed")
            ]


def test_an_event_time_too_far_ahead_does_not_move_the_watermark():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1), at(62, arrival=1), at(2), at(12)])
    assert [step for step, _ in out.letters()] == ["time.max_ahead"]
    assert out.rows()[0]["n"] == 2


def test_a_clock_that_was_never_set_judges_no_event_time():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1)._replace(time=5 * S), at(200)._replace(time=6 * S)])
    assert out.letters() == []
    assert out.rows()[0]["n"] == 1


def test_without_an_event_time_the_arrival_counts():
    made = program([COUNT])
    out = run(made, [Event("k", b"x", NOON), Event("k", b"y", NOON + 9 * S), Event("k", b"z", NOON + 10 * S)])
    assert closed(out) == [("k", 10, 2)]


def test_a_tick_closes_windows_of_arrival_time_when_the_clock_has_passed_them():
    made = program([COUNT], time={"lateness": "1s"})
    assert made.due() is None
    out = run(made, [Event("k", b"x", NOON + S)])
    assert made.due() == NOON + 11 * S
    made.tick(NOON + 11 * S - 1, out)
    assert out.emitted == []
    made.tick(NOON + 11 * S, out)
    assert closed(out) == [("k", 10, 1)]
    assert made.due() is None


def test_after_a_tick_what_comes_for_a_closed_window_is_late():
    made = program([COUNT])
    out = run(made, [Event("k", b"x", NOON)])
    made.tick(NOON + 10 * S, out)
    run(made, [Event("k", b"x", NOON + 9 * S), Event("k", b"x", NOON + 10 * S)], out=out)
    assert made.stats()["late"] == 1
    assert made.stats()["keys"] == 1


# silence


def test_a_silent_source_lets_its_window_close_once_the_clock_has_gone_as_far_as_was_missing():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1, arrival=3)])
    assert made.due() == NOON + 63 * S
    made.tick(made.due(), out)
    assert closed(out) == [("k", 10, 1)]
    assert made.due() is None


def test_a_window_longer_than_the_patience_is_not_cut_short_by_silence():
    made = program([{"window": {"tumbling": "15m", "agg": {"n": "count()"}}}], **EVENT)
    out = run(made, [at(0), at(300)])  # a sensor that speaks every five minutes
    made.tick(made.due(), out)
    run(made, [at(600)], out=out)
    assert closed(out) == []
    while made.due() is not None:
        made.tick(made.due(), out)
    assert closed(out) == [("k", 900, 3)]


def test_silence_is_noticed_by_the_next_record_if_no_tick_came():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1), at(2, arrival=100)])
    assert closed(out) == [("k", 10, 1)]
    assert made.stats()["late"] == 1


def test_readings_that_were_held_back_are_late_only_where_their_window_was_closed():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1)])
    made.tick(NOON + 600 * S, out)  # the link was down for ten minutes; then the device sends what it kept
    run(made, [at(second, arrival=601) for second in (2, 11, 21, 31, 45)], out=out)
    assert closed(out) == [("k", 10, 1), ("k", 20, 1), ("k", 30, 1), ("k", 40, 1)]
    assert made.stats()["late"] == 1


def test_the_slowest_input_holds_the_watermark():
    made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
    out = run(made, [at(1, stream="a"), at(30, stream="a"), at(5, stream="b"), at(11.5, stream="b")])
    assert closed(out) == []
    run(made, [at(12, stream="b")], out=out)
    assert closed(out) == [("k", 10, 2)]


def test_an_input_that_is_silent_holds_nobody_back():
    for noticed_by in ("tick", "record"):
        made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
        out = run(made, [at(1, stream="a"), at(2, stream="b"), at(30, stream="a"), at(61, stream="a")])
        assert closed(out) == []
        if noticed_by == "tick":
            assert made.due() == NOON + 62 * S  # b was heard at 2 s
            made.tick(NOON + 62 * S, out)
        else:
            run(made, [at(62, stream="a")], out=out)
        assert closed(out) == [("k", 10, 2), ("k", 40, 1)]


def test_an_input_that_never_spoke_is_waited_for_once():
    made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
    out = run(made, [at(second, stream="a") for second in range(60)])
    assert closed(out) == []
    run(made, [at(60, stream="a")], out=out)
    assert [row[1] for row in closed(out)] == [10, 20, 30, 40, 50]


def test_an_input_of_which_nothing_can_be_read_holds_nobody_back_either():
    made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
    junk = [Event("x", b"junk", NOON + second * S, "b") for second in range(0, 70, 5)]
    events = sorted([*junk, *(at(second, stream="a") for second in range(70))], key=lambda event: event.time)
    out = run(made, events)
    assert [(time - NOON) // S for stream, time, *_ in out.emitted if stream == "out"] == [10, 20, 30, 40, 50, 60]


def test_an_input_that_speaks_again_is_waited_for_again():
    made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
    out = run(made, [at(1, stream="a"), at(2, stream="b"), at(63, stream="a")])
    assert len(out.emitted) == 1
    run(made, [at(64, stream="b"), at(80, stream="a")], out=out)
    assert len(out.emitted) == 1
    run(made, [at(80, stream="b")], out=out)
    assert len(out.emitted) == 2


def test_a_clock_that_is_set_makes_nobody_look_silent():
    made = program([COUNT], **EVENT)
    out = run(made, [at(1)._replace(time=100 * S)])
    made.tick(NOON + S, out)  # ntp: from 1970 to now
    assert out.emitted == []
    assert made.due() == NOON + 61 * S


def test_a_tick_before_it_is_due_changes_nothing():
    made = program([COUNT], **EVENT, **{"from": ["a", "b"]})
    run(made, [at(1, stream="a"), at(2, stream="b")])
    before = made.snapshot()
    made.tick(made.due() - 1, Out())
    assert made.snapshot() == before


def test_a_pipeline_without_windows_waits_for_nothing():
    made = program([{"filter": "v > 1"}], **EVENT)
    out = run(made, [at(1, v=2)])
    assert made.due() is None
    made.tick(NOON + 10**15, out)
    assert len(out.emitted) == 1


# windows


def test_windows_of_windows_are_the_larger_windows():
    rng = random.Random(3)
    seconds = sorted(rng.uniform(0, 300) for _ in range(500))
    events = [at(round(second, 3), f"k{i % 3}", v=i) for i, second in enumerate(seconds)] + [at(420)]
    sizes = {"n": "count()", "s": "sum(v)", "hi": "max(v)"}
    again = {"n": "sum(n)", "s": "sum(s)", "hi": "max(hi)"}
    direct = run(program([{"window": {"tumbling": "1m", "agg": sizes}}], **EVENT), events)
    twice = [{"window": {"tumbling": "10s", "agg": sizes}}, {"window": {"tumbling": "1m", "agg": again}}]
    chained = run(program(twice, **EVENT), events)
    assert sorted(direct.emitted) == sorted(chained.emitted)
    assert len(direct.emitted) == 15


def test_a_row_has_its_key_its_bounds_and_whatever_is_set_after():
    steps = [COUNT, {"filter": "n > 1 and not partial"}, {"set": {"per_s": "n / (end - start)"}}]
    out = run(program(steps, **EVENT, key="topic_part(0)"), [at(1, "a/x"), at(2, "a/y"), at(3, "b/x"), at(20)])
    assert out.emitted == [
        (
            "out",
            NOON + 10 * S,
            "a",
            b'{"key":"a","start":"2025-11-23T12:00:00Z","end":"2025-11-23T12:00:10Z","n":2,"per_s":0.2}',
        )
    ]


def test_several_fields_can_be_summarised_in_one_window():
    agg = {
        "n": "count()", "sv": "sum(v)", "av": "mean(v)", "lo": "min(v)", "hi": "max(v)", "f": "first(v)", "l": "last(v)",
        "sd": "stddev(v)", "i": "sum(i)", "mi": "max(i)", "u": "last(u)", "e": "mean(v * i)", "t": "first(ts)",
    }  # fmt: skip
    schema = {"ts": "time", "v": "float", "i": "int", "u": "str"}
    made = program([{"window": {"tumbling": "10s", "agg": agg}}], schema=schema, time={"event": "ts"})
    values = [(3.0, 1, '"a"'), (1.0, 2, '"b"'), (8.0, 3, '"c"')]
    out = run(made, [*(at(1, v=v, i=i, u=u) for v, i, u in values), at(99, v=0, i=0, u='""')])
    row = out.rows()[0]
    assert math.isclose(row.pop("sd"), 3.605551275463989)
    assert {name: value for name, value in row.items() if name not in {"key", "start", "end"}} == {
        "n": 3, "sv": 12.0, "av": 4.0, "lo": 1.0, "hi": 8.0, "f": 3.0, "l": 8.0, "i": 6, "mi": 3, "u": "c",
        "e": 29 / 3, "t": "2025-11-23T12:00:01Z",
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 99, 4096, 4097, 20_000])
def test_quantiles_are_exact_up_to_a_bound_and_within_a_percent_beyond(count):
    agg = {"p50": "p50(v)", "p95": "p95(v)", "p99": "p99(v)", "lo": "min(v)", "hi": "max(v)", "m": "mean(v)", "n": "count()",
           "sd": "stddev(v)", "f": "first(v)", "l": "last(v)", "s": "sum(v)"}  # fmt: skip
    rng = random.Random(count)
    values = [rng.lognormvariate(0, 2) * rng.choice((1, 1, 1, -1)) for _ in range(count)]
    made = program([{"window": {"tumbling": "10s", "agg": agg}}], **EVENT)
    events = [at(1, v=repr(value)) for value in values]
    (row,) = run(made, [*events, at(99, v=0)], 7000).rows()
    values_sorted = sorted(values)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = values_sorted[math.ceil(share * count) - 1]
        assert row[name] == exact if count <= 4096 else math.isclose(row[name], exact, rel_tol=0.0101)
    assert (row["n"], row["lo"], row["hi"]) == (count, min(values), max(values))
    assert (row["f"], row["l"]) == (values[0], values[-1])
    assert math.isclose(row["s"], math.fsum(values), rel_tol=1e-9)
    assert math.isclose(row["m"], math.fsum(values) / count, rel_tol=1e-9)
    mean = math.fsum(values) / count
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1)) if count > 1 else 0.0
    assert math.isclose(row["sd"], sd, rel_tol=1e-9, abs_tol=1e-9)


def test_more_keys_than_allowed_give_the_least_recently_used_ones_their_row_early():
    made = program([COUNT], **EVENT, max_keys=3)
    events = [at(1, "a", arrival=1), at(1, "b", arrival=2), at(1, "c", arrival=3), at(1, "a", arrival=4)]
    out = run(made, [*events, at(1, "d", arrival=5)])
    assert out.rows() == [
        {"key": "b", "start": "2025-11-23T12:00:00Z", "end": "2025-11-23T12:00:10Z", "n": 1, "partial": True}
    ]
    run(made, [at(1, "b", arrival=6), at(20)], out=out)
    assert [(row["key"], row["n"], row.get("partial", False)) for row in out.rows()] == [
        ("b", 1, True),
        ("c", 1, True),
        ("a", 2, False),
        ("d", 1, False),
        ("b", 1, False),
    ]
    assert made.stats()["evicted"] == 2


def test_windows_that_an_input_holds_open_cannot_take_all_memory():
    made = program([COUNT], **EVENT, max_keys=2, **{"from": ["a", "b"]})
    # b keeps speaking of yesterday, so nothing can close; a speaks of ever new windows
    events = [at(0, stream="b")]
    for i in range(300):
        events += [at(10 * i, stream="a", arrival=i * 10), at(0, stream="b", arrival=i * 10)]
    run(made, events)
    assert made.stats()["keys"] <= 2 * (1 + 7)
    assert made.stats()["evicted"] > 200


def test_columns_may_be_any_sequence():
    made = program([{"emit": {"v": "v"}}], schema={"v": "float"})
    out = Out()
    batch = Batch("in", 7, (NOON, NOON, NOON), ("a", "b", "c"), (b'{"v":1}', b"x", b'{"v":3}'))
    made.run(batch, out)
    assert [letter.offset for letter in out.dead()] == [8]
    assert out.rows() == [{"v": 1.0}, {"v": 3.0}]
