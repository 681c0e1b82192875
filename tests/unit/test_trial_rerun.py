"""A pipeline over what the log holds: the same definition gives what was recorded, an edited one says what differs."""

import importlib
import json
import re
import sqlite3
from datetime import UTC, datetime

import pytest
import yaml
from click.testing import CliRunner
from shaped import START, Shaped
from shaping import program

from gateway.cli import main
from gateway.config import PipelineEntry
from gateway.derive import Columns
from gateway.log.archive import Archive
from gateway.trial.difference import MOST_HELD, Difference
from gateway.trial.rerun import NothingRecorded, rerun

S = 1_000_000_000
WINDOW = {
    "from": "in",
    "to": "out",
    "schema": {"v": "float"},
    "steps": [{"filter": "v >= 0"}, {"window": {"tumbling": "10s", "agg": {"n": "count()", "top": "max(v)"}}}],
}


def entry(definition, name="p"):
    made = program(definition["steps"], **{k: v for k, v in definition.items() if k != "steps"})
    made.name = name
    return PipelineEntry(name=name, definition=definition, program=made)


def record(
    tmp_path, pipelines, seconds=60, streams=("in",), payload=lambda n, stream: b'{"v":%d}' % (n % 7), **options
):
    """A log with one record per second and stream, derived from as they came; closed."""
    house = Shaped(tmp_path, pipelines, seal=64, **options)
    for n in range(seconds):
        house.clock.ns = START + n * S
        for stream in streams:
            house.record(stream, payload(n, stream), key=f"k{n % 2}")
        house.turn()
        house.commit(snapshots=n == 0)
    house.log.close()
    return looked(tmp_path)


def looked(tmp_path):
    archive = Archive(str(tmp_path / "log"))
    archive.open()
    return archive


def counts(result, stream="out"):
    (one,) = [one for one in result.outputs if one.stream == stream]
    return one.records, one.recorded, one.same, one.changed, one.added, one.missing


def test_the_same_definition_gives_what_was_recorded(tmp_path):
    archive = record(tmp_path, {"p": WINDOW})
    result = rerun(entry(WINDOW), archive, since=0, until=None)
    assert counts(result) == (10, 10, 10, 0, 0, 0)
    (one,) = result.inputs
    assert (one.records, one.first, one.last, one.gone) == (60, START, START + 59 * S, 0)
    assert (result.dead, result.alarms) == ([], [])


@pytest.mark.parametrize("cut", [20, 25, 33])
def test_after_warming_up_a_part_of_the_log_gives_what_was_recorded_of_it(tmp_path, cut):
    archive = record(tmp_path, {"p": WINDOW})
    since, until = START + cut * S, START + 55 * S
    cold = rerun(entry(WINDOW), archive, since=since, until=until)
    warm = rerun(entry(WINDOW), archive, since=since, until=until, warm_s=20)
    assert counts(warm)[1] == counts(cold)[1] == 2 * ((54 - 1) // 10 - (cut - 1) // 10)
    assert counts(warm)[3:] == (0, 0, 0)
    assert warm.warmed == 20
    assert counts(cold)[3:] != (0, 0, 0)
    assert warm.inputs[0].records == 55 - cut


def test_an_edited_definition_shows_what_changes_what_is_new_and_what_is_missing(tmp_path):
    archive = record(tmp_path, {"p": WINDOW})
    edited = {**WINDOW, "steps": [{"filter": "v < 6"}, *WINDOW["steps"][1:]]}
    result = rerun(entry(edited), archive, since=0, until=None, shown=3)
    assert counts(result)[:2] == (10, 10)
    assert counts(result)[3] > 0
    (one,) = result.outputs
    assert [(e.time, e.key) for e in one.examples] == sorted((e.time, e.key) for e in one.examples)[:3]
    first = one.examples[0]
    assert json.loads(first.ours)["n"] == json.loads(first.theirs)["n"] - 1
    assert result.counters["filtered"] == 8
    moved = rerun(entry({**WINDOW, "key": "'all'"}), archive, since=0, until=None)
    assert counts(moved) == (5, 10, 0, 0, 5, 10)


def test_dead_letters_are_counted_by_reason_beside_those_recorded_also_those_told_of_by_others(tmp_path):
    def payload(n, stream):
        return b'{"v":"x"}' if n % 2 else b'{"v":%d}' % n

    copy = {**WINDOW, "steps": [{"emit": {"v": "v"}}]}
    archive = record(tmp_path, {"p": copy}, seconds=300, payload=payload)
    result = rerun(entry(copy), archive, since=0, until=None)
    (reason,) = result.dead
    assert (reason.step, reason.sample, reason.key) == ("decode", "v is str, not float", "k1")
    assert (reason.count, reason.recorded) == (150, 150)
    divide = {**copy, "steps": [{"emit": {"v": "1 / (v - 2)"}}]}
    result = rerun(entry(divide), archive, since=0, until=None)
    assert [(one.sample, one.count, one.recorded) for one in result.dead] == [
        ("v is str, not float", 150, 150),
        ("division by zero", 1, 0),
    ]
    other = rerun(entry(copy, "q"), archive, since=0, until=None)
    assert (other.dead[0].count, other.dead[0].recorded) == (150, 0)


def test_alarms_are_counted_as_raised_and_cleared_beside_those_recorded(tmp_path):
    def definition(limit):
        alarm = {"name": "high", "raise_when": f"v > {limit}", "to": "alarms"}
        return {**WINDOW, "steps": [{"alarm": alarm}, {"filter": "false"}]}

    archive = record(tmp_path, {"p": definition(5)}, payload=lambda n, stream: b'{"v":%d}' % (n // 2 % 10))
    result = rerun(entry(definition(8)), archive, since=0, until=None)
    (alarm,) = result.alarms
    assert (alarm.stream, alarm.name) == ("alarms", "high")
    assert (alarm.raised, alarm.cleared, alarm.recorded_raised, alarm.recorded_cleared) == (6, 4, 6, 4)
    assert counts(result, "alarms")[3:] == (4, 6, 6)  # cleared by the same records, for another reason


def test_several_inputs_come_in_the_order_in_which_the_gateway_read_them(tmp_path):
    both = {
        "from": ["b", "a"],
        "to": "out",
        "schema": {"v": "float", "s": "str"},
        "key": "'all'",
        "steps": [{"window": {"tumbling": "10s", "agg": {"first": "first(s)", "last": "last(s)", "n": "count()"}}}],
    }
    archive = record(
        tmp_path,
        {"p": both},
        streams=("a", "b"),
        payload=lambda n, stream: b'{"v":%d,"s":"%b%d"}' % (n, stream.encode(), n),
    )
    result = rerun(entry(both), archive, since=0, until=None)
    assert counts(result)[1] > 3
    assert counts(result)[3:] == (0, 0, 0)
    part = rerun(entry(both), archive, since=START + 20 * S, until=START + 45 * S, warm_s=20)
    assert counts(part)[1] > 1
    assert counts(part)[3:] == (0, 0, 0)


def test_time_passes_to_the_last_commit_so_what_a_tick_closed_is_closed_here_too(tmp_path):
    house = Shaped(tmp_path, {"p": WINDOW})
    house.record("in", b'{"v":1}')
    house.turn()
    house.commit(snapshots=True)
    house.clock.ns = START + 60 * S
    house.commit()
    house.log.close()
    result = rerun(entry(WINDOW), looked(tmp_path), since=0, until=None)
    assert result.until == START + 60 * S
    assert counts(result) == (1, 1, 1, 0, 0, 0)


def test_what_is_gone_of_an_input_is_counted(tmp_path):
    record(tmp_path, {}, seconds=150)
    db = sqlite3.connect(tmp_path / "log" / "log.db")
    first, gone = db.execute("SELECT first, n FROM block ORDER BY first LIMIT 1 OFFSET 1").fetchone()
    db.execute("UPDATE block SET data = zeroblob(10) WHERE first = ?", (first,))
    db.commit()
    db.close()
    (one,) = rerun(entry(WINDOW), looked(tmp_path), since=0, until=None).inputs
    assert (one.records, one.gone) == (150 - gone, gone)


def test_a_log_without_the_input_says_what_it_holds(tmp_path):
    archive = record(tmp_path, {}, seconds=3)
    with pytest.raises(NothingRecorded, match="the log holds nothing of other; it holds in"):
        rerun(entry({**WINDOW, "from": "other"}), archive, since=0, until=None)


# -- comparing ---------------------------------------------------------------------------------------------------------


def columns(*rows):
    return Columns([t for t, _, _ in rows], [k for _, k, _ in rows], [v for _, _, v in rows])


def test_records_meet_by_key_and_time_however_late_the_other_side_is():
    difference = Difference(shown=5)
    difference.take(columns((1, "a", b"1"), (1, "b", b"2"), (2, "a", b"3"), (2, "a", b"3")), columns((1, "b", b"2")))
    difference.take(columns(), columns((2, "a", b"3"), (1, "a", b"9"), (2, "a", b"4"), (5, "z", b"0")))
    difference.finish()
    assert (difference.same, difference.changed, difference.added, difference.missing) == (2, 2, 0, 1)
    assert [tuple(one) for one in difference.first()] == [
        ("a", 1, b"1", b"9"),
        ("a", 2, b"3", b"4"),
        ("z", 5, None, b"0"),
    ]


def test_a_comparison_holds_a_bounded_number_of_records_and_counts_them_all():
    difference = Difference(shown=2)
    for chunk in range(30):
        rows = [(chunk * 5000 + n, "k", b"x") for n in range(5000)]
        difference.take(columns(), columns(*rows))
        assert difference._held <= 2 * MOST_HELD + 5000
    difference.finish()
    assert (difference.same, difference.missing, difference._held) == (0, 150_000, 0)
    assert [one.time for one in difference.first()] == [0, 1]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path):
    """A log and the configuration that recorded it; gives a function that runs the command."""
    record(tmp_path, {"means": WINDOW})

    def run(*args, definition=WINDOW, **more):
        config = tmp_path / "tidegate.yaml"
        whole = {
            "gateway": {"id": "g"},
            "log": {"path": "log"},
            "drivers": {"lab": {"driver": "simulated", "stream": "in"}},
            "pipelines": {"means": definition},
            **more,
        }
        config.write_text(yaml.safe_dump(whole))
        return CliRunner().invoke(main, ["try", *args, "-c", str(config)])

    return run


BEGIN = "2020-01-01T00:00:00Z"


def test_the_command_shows_that_nothing_differs(house):
    result = house("means", "--since", BEGIN)
    assert result.exit_code == 0, result.output
    assert re.search(r"^in +60 +\d+ B", result.output, re.MULTILINE)
    assert re.search(r"^out +10 +.* 10 +0 +0 +0$", result.output, re.MULTILINE)
    assert "Nothing differs.  (60 records in " in result.output
    assert "--warm" not in result.output


def test_warming_up_is_proposed_only_where_the_log_reaches_back_before_the_span(house):
    begin = datetime.fromtimestamp(START // S + 30, UTC).isoformat()
    result = house("means", "--since", begin)
    assert "Try --warm 1h." in result.output


def test_the_command_shows_what_differs_and_exits_with_1(house):
    edited = {**WINDOW, "steps": [{"filter": "v < 6"}, *WINDOW["steps"][1:]]}
    result = house("means", "--since", BEGIN, "--show", "1", definition=edited)
    assert result.exit_code == 1
    assert re.search(r'^    - {.*"n":5,.*}\n    \+ {.*"n":4,.*}$', result.output, re.MULTILINE)
    assert "What would come differs from what was recorded." in result.output


def test_the_command_tells_programs_the_same(house):
    answer = json.loads(house("means", "--since", BEGIN, "--json").output)
    assert (answer["pipeline"], answer["inputs"][0]["records"], answer["outputs"][0]["same"]) == ("means", 60, 10)


def test_the_command_says_who_else_feeds_an_output_and_that_a_new_pipeline_recorded_nothing(house):
    other = {"from": "in", "to": "out", "steps": []}
    result = house("means", "--since", BEGIN, pipelines={"means": WINDOW, "other": other})
    assert "out is also fed by pipeline other: what is missing may be theirs, and is no difference." in result.output
    result = house("means", "--since", BEGIN, definition={**WINDOW, "to": "fresh"})
    assert "The running version recorded nothing of this" in result.output


def test_what_is_missing_of_a_stream_that_others_feed_is_no_difference_and_what_is_new_still_is(house):
    never = {**WINDOW, "steps": [{"filter": "v > 100"}, *WINDOW["steps"][1:]]}
    assert house("means", "--since", BEGIN, definition=never).exit_code == 1
    both = {"means": never, "other": {"from": "in", "to": "out", "steps": []}}
    result = house("means", "--since", BEGIN, pipelines=both)
    assert (result.exit_code, "Nothing differs." in result.output) == (0, True)
    assert re.search(r"^out +0 .* 0 +0 +0 +10$", result.output, re.MULTILINE)
    assert "records that differ" not in result.output
    both["means"] = {**WINDOW, "steps": [{"filter": "v < 6"}, *WINDOW["steps"][1:]]}
    assert house("means", "--since", BEGIN, pipelines=both).exit_code == 1


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("mean",), 2, "did you mean means?"),
        (("means", "--since", "yesterday"), 2, "write how long ago (1h)"),
        (("means", "--since", "1h", "--until", "2h"), 2, "it lies before --since"),
        (("means", "--warm", "5"), 2, "no duration"),
        (("means", "--log", "nowhere"), 1, "there is no log in nowhere"),
        (("means", "--since", "2026-12-01T00:00:00Z"), 0, "Nothing was recorded in this span"),
    ],
)
def test_the_command_says_what_to_write_instead(house, args, code, says):
    result = house(*args)
    assert (result.exit_code, says in result.output) == (code, True), result.output


def test_the_command_is_a_module_that_can_be_imported():
    assert importlib.import_module("gateway.cli.try").command.name == "command"
