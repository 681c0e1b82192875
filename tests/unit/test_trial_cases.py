"""Tests that a pipeline carries: what passes, what fails and how it is told, and the command that runs them."""

import json
import textwrap
from importlib import import_module

import pytest
from click.testing import CliRunner
from shaping import program

from gateway import plugin
from gateway.cli import main
from gateway.config import load_pipelines
from gateway.errors import ConfigError
from gateway.trial import run_case

SCHEMA = {"ts": "time", "v": "float"}
WINDOW = [{"window": {"tumbling": "10s", "agg": {"n": "count()"}}}]
STEP = '''
import msgspec
from gateway.plugin import Plugin

class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: bool

class Forgetful:
    """Counts records, and keeps the count where no snapshot finds it."""
    def __init__(self, options):
        self.seen = 0
    def count(self):
        self.seen += 1
        return self.seen % 2 == 0
    def save(self):
        return None
    def load(self, saved):
        self.seen = 0
    def stats(self):
        return {}
    def write(self, code):
        with code.block(f"if {code.state(self)}.count():"):
            code.write("continue")

plugin = Plugin(Options, Forgetful)
'''


def run(test, steps=(), **definition):
    made = program(list(steps), tests=[{"name": "t", **test}], **definition)
    return run_case(made, made.tests[0])


def told(test, steps=(), **definition):
    """Summaries and lines of what differs, as text."""
    found = []
    for one in run(test, steps, **definition).differences:
        found.append(f"{one.stream}: {one.summary}")
        found += [f"{line.mark:1} {line.text}" for line in one.lines]
    return found


def passes(test, steps=(), **definition):
    return run(test, steps, **definition).passed


def test_a_payload_may_have_more_than_is_expected_of_it():
    row = {"a": {"b": 1, "c": 2}, "l": [1, {"x": 1, "y": 2}], "n": None}
    for wanted in ({}, {"a": {"b": 1.0}}, {"l": [1, {"y": 2}]}, {"missing": None}, {"n": None}):
        assert passes({"in": [{"value": row}], "out": {"out": [wanted]}}), wanted
    for wanted in ({"a": {"b": 2}}, {"l": [1]}, {"l": [1, {}, 3]}, {"d": 1}, {"a": 1}, {"a": {"b": True}}, {"n": 0}):
        assert not passes({"in": [{"value": row}], "out": {"out": [wanted]}}), wanted


def test_numbers_agree_to_nine_digits():
    add = [{"emit": {"x": "0.1 + 0.2"}}]
    assert passes({"in": [{"value": {}}], "out": {"out": [{"x": 0.3}]}}, add)
    assert not passes({"in": [{"value": {}}], "out": {"out": [{"x": 0.3000001}]}}, add)


def test_lists_must_agree_in_number_and_order_and_streams_not_named_are_not_looked_at():
    records = [{"value": {"n": 1}}, {"value": {"n": 2}}]
    assert passes({"in": records, "out": {"out": [{"n": 1}, {"n": 2}]}})
    assert not passes({"in": records, "out": {"out": [{"n": 2}, {"n": 1}]}})
    assert not passes({"in": records, "out": {"out": [{"n": 1}]}})
    assert not passes({"in": records, "out": {"out": []}})
    assert passes({"in": records, "dead": []})


def test_key_time_and_payloads_that_are_no_maps_can_be_expected():
    records = [
        {"key": "a/b", "value": 21.5, "time": "90s"},
        {"key": "c", "value": {"$hex": "00ff"}, "after": "500ms"},
        {"key": "d", "value": {"$text": "not JSON"}, "time": "2026-01-01T00:02:00Z"},
        {"key": "e", "value": {"$b": "AP8="}},
    ]
    rows = [
        {"$key": "a/b", "$time": "90s", "$value": 21.5},
        {"$key": "c", "$time": "90.5s", "$value": {"$hex": "00ff"}},
        {"$time": "2m", "$value": "not JSON"},
        {"$b": "AP8="},
    ]
    assert told({"in": records, "out": {"out": rows}}) == []
    assert told({"in": records[:1], "out": {"out": [{"$key": "x", "$time": "1s", "$value": 3}]}}) == [
        "out: 1 record came, and not as expected",
        "! +90s  a/b  21.5",
        "    $key: 'a/b', not 'x'",
        "    $time: +90s, not +1s",
        "    the payload: 21.5, not 3",
    ]


def test_a_failure_shows_what_came_beside_what_was_expected():
    records = [{"key": "k", "value": {"n": n, "s": "x"}} for n in (1, 2, 4, 5)]
    rows = [{"n": 1}, {"n": 3, "s": "x"}, {"n": 4}, {"n": 5}, {"n": 6}]
    assert told({"in": records, "out": {"out": rows}}) == [
        "out: 4 records came, 5 records expected",
        '= +0s  k  {"n":1,"s":"x"}',
        '! +0s  k  {"n":2,"s":"x"}',
        "    n: 2, not 3",
        '= +0s  k  {"n":4,"s":"x"}',
        '= +0s  k  {"n":5,"s":"x"}',
        '- {"n":6}',
    ]


def test_the_field_that_differs_is_named_although_another_record_would_fit():
    alarm = {"name": "warm", "key": "a"}
    states = [{**alarm, "state": "raised", "since": 60}, {**alarm, "state": "cleared", "since": 60}]
    rows = [{**alarm, "state": "raised", "since": 0}, {**alarm, "state": "cleared"}, {**alarm, "state": "raised"}]
    assert told({"in": [{"value": one} for one in states], "out": {"out": rows}}) == [
        "out: 2 records came, 3 records expected",
        '! +0s    {"name":"warm","key":"a","state":"raised","since":60}',
        "    since: 60, not 0",
        '= +0s    {"name":"warm","key":"a","state":"cleared","since":60}',
        '- {"name":"warm","key":"a","state":"raised"}',
    ]


def test_one_record_too_many_at_the_beginning_leaves_the_others_their_own():
    records = [{"value": {"room": "hall", "n": n, "unit": "C"}} for n in range(5)]
    rows = [{"room": "hall", "n": n, "unit": "C"} for n in range(1, 6)]
    found = told({"in": records, "out": {"out": rows}})
    assert [line[0] for line in found[1:]] == ["+", "=", "=", "=", "=", "-"]
    assert found[0] == "out: 5 records came, 1 of them not as expected"


def test_a_moment_far_from_the_beginning_is_told_as_it_is():
    records = [{"key": "k", "value": {"ts": "1970-01-01T00:01:00.25Z"}}]
    found = told({"in": records, "out": {"out": [{"$time": "1s"}]}}, schema=SCHEMA, time={"event": "ts"})
    assert found == [
        "out: 1 record came, and not as expected",
        '! 1970-01-01T00:01:00.25Z  k  {"ts":"1970-01-01T00:01:00.25Z"}',
        "    $time: 1970-01-01T00:01:00.25Z, not +1s",
    ]


def test_dead_letters_are_expected_by_parts_of_their_reason_and_a_test_that_names_none_expects_none():
    broken = {"in": [{"key": "k", "value": {"v": "x"}}], "out": {"out": []}}
    use = [{"filter": "v > 1"}]
    schema = {"v": "float"}
    assert told(broken, use, schema=schema) == [
        "_dead: 1 dead letter came, no dead letters expected",
        '+ k  decode: v is str, not float  {"v":"x"}',
    ]
    assert passes({**broken, "dead": ["not float"]}, use, schema=schema)
    assert passes({**broken, "dead": [{"step": "decode", "key": "k"}]}, use, schema=schema)
    assert not passes({**broken, "dead": [{"step": "steps[0]"}]}, use, schema=schema)
    assert not passes({**broken, "dead": ["not float", "not float"]}, use, schema=schema)


def test_time_passes_after_the_last_record_until_nothing_waits_or_as_long_as_told():
    records = [{"key": "k", "value": {"v": 1}, "time": "2s"}]
    row = {"n": 1, "$time": "10s"}
    assert passes({"in": records, "out": {"out": [row]}}, WINDOW)
    assert passes({"in": records, "out": {"out": [row]}, "wait": "8s"}, WINDOW)
    assert passes({"in": records, "out": {"out": []}, "wait": "7s"}, WINDOW)
    assert passes(
        {"in": [*records, {"key": "q", "value": {}, "after": "30s"}], "out": {"out": [row]}, "wait": "0s"}, WINDOW
    )


def test_several_inputs_come_in_the_order_written_and_retained_is_a_flag():
    records = [
        {"stream": "b", "value": {"n": 1}, "retained": True},
        {"stream": "a", "value": {"n": 2}},
        {"stream": "b", "value": {"n": 3}},
    ]
    steps = [{"emit": {"n": "n", "r": "retained"}}]
    rows = [{"n": 1, "r": True}, {"n": 2, "r": False}, {"n": 3, "r": False}]
    assert passes({"in": records, "out": {"out": rows}}, steps, schema={"n": "int"}, **{"from": ["a", "b"]})


def test_payloads_of_a_stream_that_is_no_json_are_the_text_that_arrives():
    test = {"in": [{"value": "t=21.5 unit=C"}], "out": {"out": [{"t": 21.5}]}}
    assert passes(test, [{"emit": {"t": "t"}}], schema={"t": "float"}, decoders={"in": "keyvalue"})
    assert passes(
        {"in": [{"value": 4}], "out": {"out": [{"v": 4}]}},
        [{"emit": {"v": "v"}}],
        schema={"v": "float"},
        decoders={"in": "number"},
    )


def test_a_test_leaves_the_program_as_it_was_and_does_not_see_the_one_before():
    made = program(
        WINDOW, tests=[{"name": n, "in": [{"key": "k", "value": {}}], "out": {"out": [{"n": 1}]}} for n in "ab"]
    )
    before = made.snapshot()
    assert all(run_case(made, case).passed for case in made.tests)
    assert made.snapshot() == before


def test_a_step_that_keeps_something_where_it_should_not_is_found(tmp_path, monkeypatch):
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "forgetful.py").write_text(STEP)
    monkeypatch.setattr(plugin, "SITE_PLUGINS", tmp_path)
    lines = told({"in": [{"key": "k", "value": n} for n in range(3)], "dead": []}, [{"forgetful": True}])
    assert "batches: it depends on how records are batched, or on a restart" in lines[0]
    assert lines[1] == "- out  k  1"


def test_tests_change_no_signature():
    plain = program(WINDOW)
    tested = program(WINDOW, tests=[{"name": "t", "in": [{"value": 1}], "dead": []}])
    assert plain.signature == tested.signature


# -- the command -------------------------------------------------------------------------------------------------------

PIPELINES = """\
pipelines:
  double:
    from: numbers
    schema: {n: int}
    steps: [{emit: {n: n * 2}}]
    to: doubled
    tests:
      - {name: twice, in: [{value: {n: 2}}], out: {doubled: [{n: 4}]}}
      - name: thrice
        in: [{key: "\\e[31m", value: {n: 2}}]
        out: {doubled: [{n: 6}]}
  bare: {from: numbers, steps: [], to: copies}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pipelines.yaml"
    path.write_text(PIPELINES)
    return path


def command(*args):
    return CliRunner().invoke(main, ["test", *map(str, args)])


def test_a_file_with_nothing_but_pipelines_is_tested_and_one_failure_is_exit_code_1(file):
    result = command(file)
    assert result.exit_code == 1
    assert result.output == textwrap.dedent(f"""\
        pass  double: twice
        FAIL  double: thrice  ({file}:9)
              doubled: 1 record came, and not as expected
                ! +0s  \\x1b[31m  {{"n":4}}
                    n: 4, not 6
        2 tests, 1 failed  (- expected, + came, ! came but not quite, = as expected)
        without tests: bare
        """)


def test_json_tells_the_same(file):
    answer = json.loads(command(file, "--json").output)
    assert (answer["ok"], answer["untested"]) == (False, ["bare"])
    assert [(one["pipeline"], one["name"], one["ok"], one["line"]) for one in answer["tests"]] == [
        ("double", "twice", True, 8),
        ("double", "thrice", False, 9),
    ]
    assert answer["tests"][1]["differences"][0]["stream"] == "doubled"


def test_no_test_at_all_is_said_and_is_exit_code_1(file):
    result = command(file, "bare")
    assert result.exit_code == 1
    assert "pipeline bare has no tests" in result.output


def test_all_passing_is_exit_code_0(file):
    file.write_text(PIPELINES.replace("n: 6", "n: 4"))
    result = command("-c", file, "double")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "2 tests, all passed")


def test_a_pipeline_that_is_not_there_and_two_files_are_usage(file):
    result = command(file, "doubel")
    assert result.exit_code == 2
    assert "did you mean double?" in result.output
    assert command("-c", file, file).exit_code == 2


def test_mistakes_in_tests_are_configuration(file):
    file.write_text(PIPELINES.replace("doubled: [{n: 6}]", "dubled: []"))
    result = command(file)
    assert result.exit_code == import_module("gateway.cli").EXIT_CONFIG
    assert f"{file}:11:15: pipelines.double.tests[1].out.dubled: the pipeline does not feed" in result.output


def test_a_whole_configuration_is_tested_without_its_secrets_and_sinks_but_with_its_streams(tmp_path):
    file = tmp_path / "t.yaml"
    text = """\
gateway: {id: g}
drivers:
  plant: {driver: mqtt, url: "mqtt://h", username: u, password_file: nowhere, subscribe: ["#"], stream: numbers}
sinks:
  cloud: {sink: mqtt, url: "mqtt://h", username: u, password_file: nowhere, topic: t, streams: [doubled]}
"""
    file.write_text(text + PIPELINES)
    assert load_pipelines(file).feeders["numbers"] == ["driver plant"]
    file.write_text(text.replace("numbers", "other") + PIPELINES)
    with pytest.raises(ConfigError, match="there is no stream 'numbers'"):
        load_pipelines(file)
