"""The steps that remember and the one that sorts, one promise per test. That batches and restarts change nothing is tested
in tests/contract and tests/property."""

import random

import pytest
from shaping import NOON, Event, Out, S, mistakes, program, run

EVENT = {"schema": {"ts": "time", "v": "float"}, "time": {"event": "ts", "lateness": "0s", "max_ahead": "1d"}}
HOT = {"name": "hot", "raise_when": "v > 8", "to": "alarms"}


def at(second, v, key="k", arrival=None):
    payload = b'{"ts":%.3f,"v":%s}' % (NOON / S + second, str(v).encode())
    return Event(key, payload, NOON + round((second if arrival is None else arrival) * S))


def passed(step, readings, **more):
    """The values that go on after a step, and the program."""
    made = program([step, {"emit": {"v": "v"}}], **EVENT | more)
    return [row["v"] for row in run(made, [at(*reading) for reading in readings]).rows()], made


def told(out):
    """(second, key, state, second since which) of every alarm."""
    return [
        ((time - NOON) / S, key, row["state"], row["since"][14:19])
        for (time, key), row in zip(
            [(time, key) for stream, time, key, _ in out.emitted if stream == "alarms"], out.rows("alarms"), strict=True
        )
    ]


def alarm(readings=(), *, definition=EVENT, **options):
    made = program([{"alarm": {**HOT, **options}}], **definition)
    return made, run(made, [at(*reading) for reading in readings])


# deadband


def test_a_deadband_compares_with_the_last_value_that_went_on_so_that_a_drift_is_not_lost():
    found, made = passed({"deadband": {"field": "v", "delta": 0.2}}, [(i, round(21 + i / 20, 2)) for i in range(10)])
    assert found == [21.0, 21.2, 21.4]
    assert made.stats()["unchanged"] == 7


def test_a_deadband_takes_decimal_numbers_as_they_are_written():
    # 21.2 - 21.0 is a little less than 0.2
    assert passed({"deadband": {"field": "v", "delta": 0.2}}, [(0, 21.0), (1, 21.2), (2, 21.0), (3, 20.8)])[0] == [
        21.0,
        21.2,
        21.0,
        20.8,
    ]


def test_a_deadband_is_kept_per_key():
    readings = [(0, 1, "a"), (0, 1, "b"), (1, 1.1, "a"), (1, 9, "b")]
    assert passed({"deadband": {"field": "v", "delta": 1}}, readings)[0] == [1, 1, 9]


def test_a_heartbeat_lets_an_unmoved_value_through_from_time_to_time():
    readings = [(second, 5) for second in range(0, 100, 10)]
    found, made = passed({"deadband": {"field": "v", "delta": 1, "heartbeat": "30s"}}, readings)
    assert len(found) == 4  # 0, 30, 60, 90
    assert made.stats()["unchanged"] == 6


def test_a_deadband_in_percent_is_of_the_last_value_and_lets_any_change_of_zero_through():
    readings = [(0, 100), (1, 104), (2, 105), (3, 110), (4, 0), (5, 0), (6, 0.001)]
    assert passed({"deadband": {"field": "v", "percent": 5}}, readings)[0] == [100, 105, 0, 0.001]


def test_a_record_from_further_back_does_not_set_the_heartbeat_back():
    readings = [(100, 5), (40, 9), (101, 9.1), (129, 9.2), (130, 9.3)]
    assert passed({"deadband": {"field": "v", "delta": 1, "heartbeat": "30s"}}, readings)[0] == [5, 9, 9.3]


def test_a_deadband_looks_at_any_number():
    assert passed({"deadband": {"field": "abs(v)", "delta": 1}}, [(0, 1), (1, -1), (2, -3)])[0] == [1, -3]


# throttle


def test_a_throttle_lets_the_first_of_each_span_through():
    found, made = passed({"throttle": {"every": "10s"}}, [(s, s) for s in (3, 4, 12.9, 13, 22, 40)])
    assert found == [3, 13, 40]
    assert made.stats()["throttled"] == 3


def test_a_throttle_of_n_lets_the_first_n_of_each_span_through():
    readings = [(s, s) for s in (0, 1, 2, 3, 9, 10, 11, 12)]
    assert passed({"throttle": {"every": "10s", "n": 2}}, readings)[0] == [0, 1, 10, 11]


def test_a_throttle_is_kept_per_key():
    assert passed({"throttle": {"every": "10s"}}, [(0, 1, "a"), (1, 2, "b"), (2, 3, "a")])[0] == [1, 2]


def test_a_throttle_thins_what_a_device_kept_while_it_was_away_and_does_not_lose_it_as_a_whole():
    readings = [(1000, -1), *[(s, s) for s in range(0, 60, 5)]]
    assert passed({"throttle": {"every": "20s"}}, readings)[0] == [-1, 0, 20, 40]
    backwards = [(1000, -1), *[(s, s) for s in range(55, -1, -5)]]
    assert passed({"throttle": {"every": "20s"}}, backwards)[0] == [-1, 55, 35, 15]
    twice = {"throttle": {"every": "20s", "n": 2}}
    assert passed(twice, readings)[0] == [-1, 0, 5, 20, 25, 40, 45]


def test_old_and_new_records_that_alternate_do_not_let_one_another_through_a_throttle():
    seconds = range(100)
    two = [(at, at) for s in seconds for at in (5000 + s, s)]
    assert passed({"throttle": {"every": "20s"}}, two)[0] == [at for s in range(0, 100, 20) for at in (5000 + s, s)]
    three = [(at, at) for s in seconds for at in (5000 + s, s, 1000 + s)]
    found, made = passed({"throttle": {"every": "20s"}}, three)
    assert [at for at in found if at >= 5000] == list(range(5000, 5100, 20))
    assert len(found) <= 3 * 5 + 2
    assert made.stats()["throttled"] == 300 - len(found)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_two_that_a_throttle_lets_through_in_one_span_are_so_far_apart(seed):
    draw = random.Random(seed)
    readings = [(at, at) for at in (draw.choice((9000, 5000, 0)) + draw.randrange(300) for _ in range(2000))]
    found, _ = passed({"throttle": {"every": "20s"}}, readings)
    newest, older = found[0], []
    for at in found[1:]:
        if at > newest:
            assert at - newest >= 20
            newest, older = at, older[-1:]
        else:
            assert all(abs(at - one) >= 20 for one in [newest, *older])
            older.append(at)


# dedupe


def test_a_dedupe_drops_what_was_seen_of_the_same_key_within_the_span():
    readings = [(0, 1, "a"), (1, 1, "b"), (2, 1, "a"), (3, 2, "a"), (59, 1, "a"), (60, 1, "a"), (61, 1, "a")]
    found, made = passed({"dedupe": {"by": "v", "within": "1m"}}, readings)
    assert found == [1, 1, 2, 1]
    assert made.stats()["duplicate"] == 3


def test_a_dedupe_counts_the_span_in_both_directions():
    readings = [(100, 1), (41, 1), (40, 1), (99, 1)]
    assert passed({"dedupe": {"by": "v", "within": "1m"}}, readings)[0] == [1, 1]


def test_a_dedupe_by_several_values_needs_all_of_them_to_be_the_same():
    readings = [(0, 1), (1, 1), (1, 1), (1, 2)]
    assert passed({"dedupe": {"by": ["v", "ts"], "within": "1m"}}, readings)[0] == [1, 1, 2]


def test_a_dedupe_forgets_what_is_over_and_then_the_oldest_and_counts_only_those():
    made = program([{"dedupe": {"by": "v", "within": "10s"}}], **EVENT, max_keys=100)
    run(made, [at(i, i) for i in range(5000)])
    assert made.stats()["remembered"] <= 64
    assert made.stats()["evicted"] == 0
    run(made, [at(5000, i) for i in range(10_000, 10_500)])
    assert made.stats()["remembered"] <= 100
    assert made.stats()["evicted"] > 300
    run(made, [at(5000, 10_499), at(5000, 10_000)])
    assert made.stats()["duplicate"] == 1


def test_a_value_that_went_on_again_is_the_newest_and_forgotten_last():
    readings = [(0, 1), (1, 2), (61, 1), (61.5, 3), (62, 1)]
    found, made = passed({"dedupe": {"by": "v", "within": "1m"}}, readings, max_keys=2)
    assert found == [1, 2, 1, 3]
    assert (made.stats()["duplicate"], made.stats()["evicted"], made.stats()["remembered"]) == (1, 0, 2)


def test_what_a_dedupe_has_forgotten_does_not_depend_on_restarts():
    definition = {**EVENT, "time": {**EVENT["time"], "idle": "1d"}}
    before, after = [at(0, i) for i in range(100)], [at(11, 1000), at(5, 7, arrival=11)]
    counts = []
    for restart in (False, True):
        made, twin = (program([{"dedupe": {"by": "v", "within": "10s"}}], **definition) for _ in range(2))
        run(made, before)
        if restart:
            twin.restore(made.snapshot())
            made = twin
        counts.append(len(run(made, after).rows()))
    assert counts[0] == counts[1]


# alarm


def test_an_alarm_is_raised_once_and_cleared_once():
    made, out = alarm([(0, 5), (1, 9), (2, 10), (3, 8), (4, 5)])
    assert told(out) == [(1, "k", "raised", "00:01"), (3, "k", "cleared", "00:01")]
    assert made.stats()["alarms"] == 1
    assert made.stats()["raised"] == 0
    assert len(out.rows()) == 5  # the records themselves go on


def test_between_its_two_conditions_an_alarm_stays_as_it_is():
    _, out = alarm([(0, 7), (1, 9), (2, 7), (3, 9), (4, 5.9), (5, 7)], clear_when="v < 6")
    assert told(out) == [(1, "k", "raised", "00:01"), (4, "k", "cleared", "00:01")]


def test_a_condition_that_did_not_hold_for_long_enough_raises_nothing():
    _, out = alarm([(0, 9), (60, 9), (119, 5), (120, 9), (239, 5)], hold="2m")
    assert told(out) == []


def test_an_alarm_is_raised_by_the_record_that_comes_exactly_at_the_end_of_the_hold():
    _, out = alarm([(0, 9), (119.999, 9), (120, 10)], hold="2m", **{"with": ["v"]})
    assert told(out) == [(120, "k", "raised", "00:00")]
    assert out.rows("alarms")[0]["v"] == 10


def test_a_record_exactly_at_the_end_of_the_hold_may_still_say_that_it_is_over():
    assert told(alarm([(0, 9), (120, 5)], hold="2m")[1]) == []


@pytest.mark.parametrize("lateness", ["0s", "5s", "1h"])
def test_a_condition_that_lasted_longer_was_an_alarm_whatever_the_record_after_says(lateness):
    definition = {**EVENT, "time": {"event": "ts", "lateness": lateness, "max_ahead": "1d"}}
    _, out = alarm([(0, 9), (130, 5)], hold="2m", definition=definition, **{"with": ["v"]})
    assert told(out) == [(120, "k", "raised", "00:00"), (130, "k", "cleared", "00:00")]
    assert [row["v"] for row in out.rows("alarms")] == [9, 5]


def test_a_value_between_the_conditions_ends_the_hold_and_not_the_alarm():
    between = [(0, 9), (60, 7), (130, 9), (249, 9)]
    assert told(alarm(between, hold="2m", clear_when="v < 6")[1]) == []
    after = [(0, 9), (130, 7), (131, 5)]
    assert told(alarm(after, hold="2m", clear_when="v < 6")[1])[1:] == [(131, "k", "cleared", "00:00")]


def test_records_of_other_keys_let_time_pass():
    _, out = alarm([(0, 9, "a"), (50, 9, "b"), (120, 1, "c")], hold="2m")
    assert told(out) == []
    _, out = alarm([(0, 9, "a"), (50, 9, "b"), (121, 1, "c"), (300, 1, "c")], hold="2m")
    assert told(out) == [(120, "a", "raised", "00:00"), (170, "b", "raised", "00:50")]


def test_a_silent_sensor_raises_its_alarm_when_the_clock_has_gone_as_far():
    made, out = alarm([(0, 9)], hold="2m")
    while made.due() is not None:
        assert made.due() <= NOON + 120 * S + 1
        made.tick(made.due(), out)
    assert told(out) == [(120, "k", "raised", "00:00")]


def test_by_arrival_a_tick_raises_the_alarm_as_soon_as_the_hold_is_over():
    made = program([{"alarm": {**HOT, "hold": "2m"}}], schema={"v": "float"})
    out = run(made, [Event("k", b'{"v":9}')])
    assert made.due() == NOON + 120 * S + 1
    made.tick(made.due(), out)
    assert told(out) == [(120, "k", "raised", "00:00")]
    assert made.due() is None


def test_what_a_device_kept_while_it_was_away_raises_the_alarms_of_that_time_and_no_others():
    now = (3600, 1, "other")

    def of_device(*readings):
        return [(second, v, "k", 3601) for second, v in readings]

    spike = [now, *of_device((0, 9), (60, 5)), (3900, 5)]
    assert told(alarm(spike, hold="2m")[1]) == []
    long = [now, *of_device((0, 9), (60, 9), (120, 9), (180, 5))]
    assert told(alarm(long, hold="2m")[1]) == [(120, "k", "raised", "00:00"), (180, "k", "cleared", "00:00")]
    # and if nothing more comes of it, time decides, counted from where it stood
    hot = [now, *of_device((0, 9))]
    assert told(alarm([*hot, (3720, 1, "other")], hold="2m")[1]) == []
    assert told(alarm([*hot, (3721, 1, "other")], hold="2m")[1]) == [(120, "k", "raised", "00:00")]


def test_a_record_older_than_the_newest_of_its_key_changes_no_alarm():
    assert told(alarm([(10, 5), (5, 9), (11, 5)])[1]) == []
    assert told(alarm([(10, 9), (5, 5)])[1]) == [(10, "k", "raised", "00:10")]


def test_a_reminder_comes_with_a_record_after_the_alarm_was_told_that_long_ago():
    _, out = alarm([(0, 9), (59, 9), (60, 9), (61, 9), (200, 9), (201, 5)], remind="1m")
    assert [(second, state) for second, _, state, _ in told(out)] == [
        (0, "raised"),
        (60, "raised"),
        (200, "raised"),
        (201, "cleared"),
    ]
    assert [row.get("reminder", False) for row in out.rows("alarms")] == [False, True, True, False]


def test_an_alarm_says_what_it_was_told_to_say_and_leaves_out_what_is_missing():
    made = program(
        [{"alarm": {**HOT, "severity": "high", "with": ["v", "rh", "ts", "a.b"], "to": ["alarms", "all"]}}],
        schema={"ts": "time", "v": "float", "rh": "float?", "a.b": "str"},
        time={"event": "ts"},
        key="topic_part(0)",
    )
    out = run(made, [Event("site/a", b'{"ts":1763899200,"v":9,"a":{"b":"x"}}')])
    body = b'{"name":"hot","state":"raised","key":"site","since":"2025-11-23T12:00:00Z","severity":"high","v":9.0,"ts":"2025-11-23T12:00:00Z","a.b":"x"}'
    assert out.emitted[:2] == [("alarms", NOON, "site", body), ("all", NOON, "site", body)]


def test_the_keys_that_have_no_alarm_are_forgotten_first():
    made, out = alarm([(0, 9, "hot"), *[(i, 1, f"k{i}") for i in range(1, 50)]], definition={**EVENT, "max_keys": 3})
    run(made, [at(60, 1, "hot")], out=out)
    assert [state for _, _, state, _ in told(out)] == ["raised", "cleared"]
    assert made.stats()["evicted"] == 47
    assert made.stats()["keys"] == 3


def test_a_forgotten_key_neither_raises_nor_counts_any_more():
    made, out = alarm([(0, 9, f"k{i}") for i in range(5)], definition={**EVENT, "max_keys": 2})
    assert made.stats()["raised"] == 2
    made, out = alarm([(0, 9, f"k{i}") for i in range(5)], definition={**EVENT, "max_keys": 2}, hold="1m")
    run(made, [at(600, 1, "other")], out=out)
    assert [key for _, key, _, _ in told(out)] == ["k3", "k4"]


def test_a_condition_that_cannot_be_computed_is_a_dead_letter_and_changes_nothing():
    _, out = alarm([(0, 1), (1, 0), (2, 0.1)], raise_when="1 / v > 8")
    assert out.letters() == [("steps[0].alarm.raise_when", "division by zero")]
    assert told(out) == [(2, "k", "raised", "00:02")]


def test_a_pipeline_that_only_makes_alarms_needs_no_stream_for_the_rest():
    made = program([{"alarm": HOT}], **EVENT, to=[])
    out = run(made, [at(0, 9), at(1, 5)])
    assert {stream for stream, *_ in out.emitted} == {"alarms"}
    assert set(made.outputs) == {"alarms", "_dead"}


def test_alarms_of_a_windows_rows_are_told_by_the_end_of_the_row():
    steps = [
        {"window": {"tumbling": "10s", "agg": {"m": "mean(v)"}}},
        {"alarm": {**HOT, "raise_when": "m > 8", "hold": "20s", "with": ["m", "start"]}},
    ]
    out = run(program(steps, **EVENT), [at(5, 9), at(15, 9), at(25, 10), at(35, 1), at(50, 1)])
    assert told(out) == [(30, "k", "raised", "00:10"), (40, "k", "cleared", "00:10")]
    assert [(row["m"], row["start"][17:19]) for row in out.rows("alarms")] == [(10, "20"), (1, "30")]


# route


def routed(out):
    return [(stream, value) for stream, _, _, value in out.emitted]


def test_a_record_goes_to_the_streams_of_the_first_case_that_is_true():
    made = program(
        [{"route": [{"when": "v > 8", "to": ["high", "all"]}, {"when": "v > 5", "to": "all"}, {"to": "rest"}]}],
        schema={"v": "float"},
        to=[],
    )
    out = run(made, [Event("k", b'{"v":9, "more":1}'), Event("k", b'{"v":6}'), Event("k", b'{"v":1}')])
    assert routed(out) == [
        ("high", b'{"v":9, "more":1}'),
        ("all", b'{"v":9, "more":1}'),
        ("all", b'{"v":6}'),
        ("rest", b'{"v":1}'),
    ]
    assert set(made.outputs) == {"high", "all", "rest", "_dead"}


def test_what_no_case_takes_goes_on_to_the_steps_after():
    steps = [
        {"set": {"w": "v * 2"}},
        {"route": [{"when": "w > 8", "to": "high"}]},
        {"filter": "w > 2"},
        {"emit": {"w": "w"}},
    ]
    out = run(program(steps, schema={"v": "float"}), [Event("k", b'{"v":%d}' % v) for v in (5, 2, 1)])
    assert routed(out) == [("high", b'{"v":5.0,"w":10.0}'), ("out", b'{"w":4.0}')]


def test_what_no_case_takes_is_counted_where_it_can_go_nowhere():
    made = program([{"route": [{"when": "v > 8", "to": "high"}]}], schema={"v": "float"}, to=[])
    assert routed(run(made, [Event("k", b'{"v":1}'), Event("k", b'{"v":9}')])) == [("high", b'{"v":9}')]
    assert made.stats()["unrouted"] == 1


def test_after_emit_a_route_says_where_that_goes():
    steps = [{"emit": {"w": "v * 2"}}, {"route": [{"when": "v > 8", "to": ["high", "all"]}]}]
    out = run(program(steps, schema={"v": "float"}), [Event("k", b'{"v":9}'), Event("k", b'{"v":1}')])
    assert routed(out) == [("high", b'{"w":18.0}'), ("all", b'{"w":18.0}'), ("out", b'{"w":2.0}')]


def test_rows_of_a_window_can_be_routed():
    steps = [{"window": {"tumbling": "10s", "agg": {"n": "count()"}}}, {"route": [{"when": "n > 1", "to": "busy"}]}]
    made = program(steps, **EVENT, to=[])
    out = run(made, [at(1, 1), at(2, 1), at(11, 1), at(30, 1)])
    assert [(stream, time) for stream, time, *_ in out.emitted] == [("busy", NOON + 10 * S)]
    assert made.stats()["unrouted"] == 1


# room


@pytest.mark.parametrize(
    "step", [{"deadband": {"field": "v", "delta": 1}}, {"throttle": {"every": "1d"}}, {"alarm": HOT}]
)
def test_a_step_remembers_the_keys_that_came_last_and_counts_those_it_forgets(step):
    made = program([step], **EVENT, max_keys=3)
    run(made, [at(i, 1, key) for i, key in enumerate("abcad")])
    assert made.stats()["keys"] == 3
    assert made.stats()["evicted"] == 1
    before = len(run(made, [at(9, 1, "a")], out=Out()).rows())
    assert before == (1 if "alarm" in step else 0)  # `a` is known still, `b` is not
    assert len(run(made, [at(10, 1, "b")], out=Out()).rows()) == 1


# mistakes


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ({"deadband": {"field": "u", "delta": 1}}, "field", "needs a number, and this is str; to read a number from text"),
        ({"deadband": {"field": "ok", "delta": 1}}, "field", "needs a number, and this is bool"),
        ({"deadband": {"field": "o", "delta": 1}}, "field", "may be missing: put `filter: has(…)` before"),
        ({"deadband": {"field": "q", "delta": 1}}, "field", "no field `q` in the schema"),
        ({"deadband": {"field": "v", "delta": 0}}, "delta", "more than 0"),
        ({"deadband": {"field": "v", "delta": -1}}, "delta", "more than 0"),
        ({"deadband": {"field": "v", "delta": float("inf")}}, "delta", "finite"),
        ({"deadband": {"field": "v", "percent": 0}}, "percent", "more than 0"),
        ({"deadband": {"field": "v"}}, None, "either `delta` or `percent`"),
        ({"deadband": {"field": "v", "delta": 1, "percent": 1}}, None, "either `delta` or `percent`"),
        ({"deadband": {"field": "v", "delta": 1, "heartbeat": 30}}, "heartbeat", "has no unit; write it like 10s"),
        ({"deadband": {"field": "v", "delta": 1, "heartbeat": "0s"}}, "heartbeat", "at least 1ms"),
        ({"deadband": {"field": "v", "dleta": 1}}, "dleta", "did you mean `delta`?"),
        ({"throttle": {"every": "0s"}}, "every", "at least 1ms"),
        ({"throttle": {"every": "1s", "n": 0}}, "n", "at least 1"),
        ({"throttle": {"n": 1}}, None, "`every` is missing; write `every: 10s`"),
        ({"dedupe": {"by": "v"}}, None, "`within` is missing; write `within: 10m`"),
        ({"dedupe": {"by": "v", "within": "0ms"}}, "within", "at least 1ms"),
        ({"dedupe": {"by": ["v", "q"], "within": "1m"}}, ("by", 1), "no field `q`"),
        ({"dedupe": {"by": "o", "within": "1m"}}, "by", "may be missing"),
        ({"dedupe": {"by": [], "within": "1m"}}, "by", "as in `by: seq`"),
        ({"alarm": {**HOT, "raise_when": "v"}}, "raise_when", "must be true or false, and it is float"),
        ({"alarm": {**HOT, "clear_when": "u < 1"}}, "clear_when", "str"),
        ({"alarm": {**HOT, "hold": "-2m"}}, "hold", "is no duration"),
        ({"alarm": {**HOT, "remind": "0s"}}, "remind", "at least 1ms"),
        ({"alarm": {**HOT, "name": ""}}, "name", "must not be empty"),
        ({"alarm": {**HOT, "to": "in"}}, "to", "`in` is an input of this pipeline: it would feed itself"),
        ({"alarm": {**HOT, "to": ["x", "in"]}}, ("to", 1), "it would feed itself; choose another stream"),
        ({"alarm": {**HOT, "to": "_dead"}}, "to", "is the house's own"),
        ({"alarm": {**HOT, "to": []}}, "to", "name a stream"),
        ({"alarm": {**HOT, "with": ["v + 1"]}}, ("with", 0), "name a value in a `set` step"),
        ({"alarm": {**HOT, "with": ["v", "q"]}}, ("with", 1), "no field `q`"),
        ({"alarm": {**HOT, "with": ["key"]}}, ("with", 0), "an alarm has a `key` of its own"),
        ({"alarm": {**HOT, "with": "v"}}, "with", "this must be a list, and it is text; write `[v]`"),
        ({"alarm": {**HOT, "raise": "v > 1"}}, "raise", "did you mean `raise_when`?"),
        ({"route": []}, None, "there is no case"),
        ({"route": [{"when": "v > 1"}]}, 0, "`to` is missing; write `to: alarms`"),
        ({"route": [{"wen": "v > 1", "to": "x"}]}, (0, "wen"), "did you mean `when`?"),
        ({"route": [{"when": "v", "to": "x"}]}, (0, "when"), "must be true or false"),
        ({"route": [{"when": "v > 1", "to": "in"}]}, (0, "to"), "it would feed itself"),
        ({"route": {"when": "v > 1", "to": "x"}}, None, "must be a list, and it is a map"),
        ({"route": [5]}, 0, "this must be a map"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_its_place(step, path, message):
    schema = {"v": "float", "u": "str", "o": "float?", "ok": "bool"}
    found = mistakes([step], schema=schema)
    ((kind, _),) = step.items()
    where = () if path is None else path if isinstance(path, tuple) else (path,)
    assert [m.path for m in found] == [("steps", 0, kind, *where)]
    assert message in str(found[0])


def test_every_mistake_of_every_case_is_found():
    cases = [{"when": "q > 1", "to": "x"}, {"to": "in"}, {"when": "v > 1", "to": ""}]
    found = mistakes([{"route": cases}], schema={"v": "float"}, to=[])
    assert [m.path[3:] for m in found] == [(0, "when"), (1, "to"), (2, "to"), (2,)]
    found = mistakes([{"route": [{"when": "v > 1"}, {"wen": "v > 1", "to": 5}]}], schema={"v": "float"})
    assert [m.path[3:] for m in found] == [(0,), (1, "wen"), (1, "to")]


@pytest.mark.parametrize(
    ("steps", "to", "path", "message"),
    [
        ([], [], ("to",), "`to` must name a stream"),
        ([{"alarm": HOT}, {"filter": "v > 1"}], [], ("to",), "only after a last step `route` or `alarm`"),
        ([{"route": [{"to": "x"}]}], "out", ("to",), "the last case of `route` takes every record"),
        ([{"route": [{"to": "x"}]}, {"filter": "v > 1"}], [], ("steps", 1, "filter"), "nothing comes here"),
        ([{"emit": {"v": "v"}}, {"alarm": HOT}], "out", ("steps", 1, "alarm"), "nothing but `route` can follow `emit`"),
        ([{"rute": [{"to": "x"}]}], [], ("steps", 0, "rute"), "did you mean `route`?"),
        ([{"route": [{"when": "v > 1"}]}], [], ("steps", 0, "route", 0), "`to` is missing"),
        ([{"filter": "v > 1"}], "_dead", ("to",), "_dead is the house's own"),
    ],
)
def test_where_a_pipeline_ends_is_said_once_and_clearly(steps, to, path, message):
    (found,) = mistakes(steps, schema={"v": "float"}, to=to)
    assert found.path == path
    assert message in str(found)


def test_a_pipeline_says_which_of_its_outputs_alarms_go_to():
    steps = [{"alarm": {**HOT, "to": ["alarms", "pager"]}}, {"route": [{"when": "v > 1", "to": "high"}]}]
    assert program(steps, **EVENT).alarms == {"alarms", "pager"}
    assert program([{"filter": "v > 1"}], **EVENT).alarms == set()
