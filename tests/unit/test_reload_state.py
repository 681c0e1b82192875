"""What a pipeline holds survives an edit where it still means the same, and an edit that is undone loses nothing."""

import json

import pytest
from shaped import Shaped

from gateway.plugin import compiler

WINDOW = {"tumbling": "10s", "agg": {"n": "count()", "sum": "sum(v)"}}
SUMS = {
    "from": "in",
    "schema": {"ts": "time", "v": "float"},
    "time": {"event": "ts", "lateness": "0s", "max_ahead": "1h"},
    "steps": [{"filter": "v > 0"}, {"window": WINDOW}, {"emit": {"n": "n", "sum": "sum"}}],
    "to": "out",
}


def compiled(definition, name="sums"):
    program = compiler()(name, definition, {})
    assert not isinstance(program, list), program
    return program


def payload(ts: float, v: float) -> bytes:
    return json.dumps({"ts": 1_790_000_000 + ts, "v": v}).encode()


class Edited(Shaped):
    """A shaper whose pipelines are exchanged while it runs, as a reload does."""

    def edit(self, pipelines) -> list[str]:
        self._pipelines = pipelines
        running = {lane.program.name: lane.program for lane in self.shaper.lanes}
        programs = []
        for name, definition in pipelines.items():
            program = compiled(definition, name)
            same = name in running and running[name].signature == program.signature
            programs.append(running[name] if same else program)
            for stream in (*program.inputs, *program.outputs):
                self.log.declare(stream, self.keep)
        starts = {program.name: self.shaper.starts(program) for program in programs}
        parked = {name: found for name in pipelines if name not in running and (found := self.log.snapshot(name))}
        told = self.shaper.arrange(programs, starts, parked, frozenset())
        self.commit()
        return told

    @property
    def keep(self):
        from gateway.log import Keep

        return Keep(size=None, age_s=None)

    def rows(self) -> list[dict]:
        return [json.loads(value) for value in self.values("out")]


@pytest.fixture
def house(tmp_path):
    made = Edited(tmp_path, {"sums": SUMS})
    made.record("in", payload(1, 1), payload(2, 2), key="a")
    made.turn()
    made.commit()
    yield made
    made.log.close()


def edit(**changes):
    return {"sums": {**SUMS, **changes}}


def steps(*, keep="v > 0", window=WINDOW):
    return [{"filter": keep}, {"window": window}, {"emit": {"n": "n", "sum": "sum"}}]


def close_window(house) -> list[dict]:
    house.record("in", payload(3, 4), payload(20, 1), key="a")
    house.turn()
    house.commit()
    return house.rows()


def test_an_open_window_goes_on_when_another_step_is_edited(house):
    told = house.edit(edit(steps=steps(keep="v > 0.5")))
    assert told == ["sums changed, its state goes on"]
    assert close_window(house) == [{"n": 3, "sum": 7.0}]


def test_an_open_window_goes_on_when_a_field_is_added_before_the_others(house):
    told = house.edit(edit(schema={"extra": "str?", **SUMS["schema"]}))
    assert told == ["sums changed, its state goes on"]
    assert close_window(house) == [{"n": 3, "sum": 7.0}]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": steps(window={**WINDOW, "tumbling": "20s"})},
        {"steps": steps(window={**WINDOW, "agg": {"n": "count()", "sum": "max(v)"}})},
        {"schema": {"ts": "time", "v": "int"}},
        {"key": "'all'"},
        {"time": {}},
    ],
    ids=["width", "aggregate", "type", "key", "clock"],
)
def test_what_no_longer_means_the_same_starts_empty_and_is_announced(house, change):
    assert house.edit(edit(**change)) == ["sums changed; starting empty: steps[1].window"]
    assert house.shaper.lanes[0].program.stats()["keys"] == 0


@pytest.mark.parametrize(("before", "after"), [("v", "v * 2"), ("v * 2", "v")])
def test_numbers_that_shared_a_place_are_not_taken_for_others(tmp_path, before, after):
    def shared(text):
        window = {"tumbling": "10s", "agg": {"total": "sum(v)", "mean": "mean(w)"}}
        emit = {"total": "total", "mean": "mean"}
        return {"sums": {**SUMS, "steps": [{"set": {"w": text}}, {"window": window}, {"emit": emit}]}}

    house = Edited(tmp_path, shared(before))
    house.record("in", payload(1, 1), payload(2, 2), key="a")
    house.turn()
    house.commit()
    assert house.edit(shared(after)) == ["sums changed; starting empty: steps[1].window"]
    house.record("in", payload(3, 4), payload(20, 1), key="a")
    house.turn()
    house.commit()
    factor = 2 if "2" in after else 1
    assert house.rows() == [{"total": 4.0, "mean": 4.0 * factor}]
    house.log.close()


@pytest.mark.parametrize(
    "change",
    [{"time": {}}, {"time": {"event": "ts", "zone": "+02:00"}}, {"schema": {"ts": "time[ms]", "v": "float"}}],
    ids=["clock", "zone", "unit"],
)
def test_what_has_passed_by_one_clock_says_nothing_of_another(house, change):
    program = compiled({**SUMS, **change})
    program.adopt(house.shaper.lanes[0].program.snapshot())
    assert program.progress.mark == 0
    assert program.stats()["keys"] == 0


def keyed(step, most):
    steps = [step, {"emit": {"v": "v"}}]
    return {"from": "in", "schema": {"v": "float"}, "steps": steps, "to": "out", "max_keys": most}


@pytest.mark.parametrize(
    ("step", "held"),
    [
        ({"deadband": {"field": "v", "delta": 1}}, "keys"),
        ({"throttle": {"every": "1h"}}, "keys"),
        ({"dedupe": {"by": "v", "within": "1h"}}, "remembered"),
        ({"alarm": {"name": "a", "raise_when": "v > 0", "hold": "1m", "to": "alarms"}}, "keys"),
    ],
    ids=lambda step: next(iter(step)) if isinstance(step, dict) else "",
)
def test_fewer_keys_are_kept_once_max_keys_is_lowered(tmp_path, step, held):
    house = Edited(tmp_path, {"sums": keyed(step, 1000)})
    for n in range(200):
        house.record("in", b'{"v":1}', key=f"k{n}")
    house.turn()
    house.commit()
    house.edit({"sums": keyed(step, 10)})
    stats = house.shaper.lanes[0].program.stats()
    assert stats[held] == 10
    assert stats["evicted"] == 190
    house.record("in", b'{"v":1}', key="k199")
    house.turn()
    house.commit()
    assert len(house.values("out")) == 200 + ("alarm" in step), "those used last are the ones that are kept"
    house.log.close()


def test_a_window_is_bounded_again_once_max_keys_is_lowered(house):
    for n in range(200):
        house.record("in", payload(1, 1), key=f"k{n}")
    house.turn()
    house.commit()
    house.edit(edit(max_keys=10))
    house.record("in", payload(1, 1), key="one more")
    house.turn()
    house.commit()
    stats = house.shaper.lanes[0].program.stats()
    assert stats["keys"] == 10
    assert stats["evicted"] == 192
    assert len(house.rows()) == 192, "what had to go gave its row"


def test_a_crash_after_an_edit_finds_the_state_that_belongs_to_it(house):
    house.edit(edit(steps=steps(keep="v > 0.5")))
    house.record("in", payload(2.5, 8), key="a")
    house.turn()
    house.commit()
    house.kill()
    assert close_window(house) == [{"n": 4, "sum": 15.0}]


def test_an_edit_before_a_start_keeps_the_state_too(house):
    house.record("in", payload(2.5, 8), payload(2.6, 0.1), key="a")
    house.turn()
    house.commit()
    house._pipelines = edit(steps=steps(keep="v > 0.5"))
    house.kill()
    # what came between the last stored state and the start is counted as the new definition would
    assert close_window(house) == [{"n": 4, "sum": 15.0}]


def test_a_new_step_does_not_act_on_records_that_went_by_before_it(house):
    house.record("in", payload(20, 1), key="a")
    house.turn()
    house.commit()  # the first window closes before the second step is there
    second = {"window": {"tumbling": "40s", "agg": {"rows": "count()"}}}
    house._pipelines = {
        "sums": {**SUMS, "steps": [{"filter": "v > 0"}, {"window": WINDOW}, second, {"emit": {"rows": "rows"}}]}
    }
    house.kill()
    house.record("in", payload(40, 1), payload(60, 1), payload(90, 1), key="a")
    house.turn()
    house.commit()
    assert house.rows() == [{"n": 2, "sum": 3.0}, {"rows": 1}, {"rows": 2}]


def test_a_pipeline_that_is_taken_out_and_put_back_goes_on_where_it_was(house):
    assert house.edit({}) == ["sums removed"]
    house.record("in", payload(3, 4), key="a")
    house.commit()
    assert house.edit({"sums": SUMS}) == ["sums changed, its state goes on"]
    house.record("in", payload(20, 1), key="a")
    house.turn()
    house.commit()
    assert house.rows() == [{"n": 3, "sum": 7.0}]


def test_a_pipeline_that_goes_on_is_not_touched_by_the_edit_of_another(house):
    program = house.shaper.lanes[0].program
    other = {"from": "in", "steps": [], "to": "copy"}
    assert house.edit({"sums": SUMS, "copy": other}) == ["copy added"]
    assert house.shaper.lanes[0].program is program
    assert close_window(house) == [{"n": 3, "sum": 7.0}]
    assert len(house.values("copy")) == 4, "it starts at the earliest record"


def test_another_input_leaves_windows_and_the_time_that_passed(house):
    told = house.edit(edit(**{"from": ["in", "more"]}))
    assert told == ["sums changed, its state goes on"]
    house.record("more", payload(4, 16), key="a")
    house.commit()
    house.record("in", payload(20, 1), key="a")
    house.record("more", payload(20, 1), key="a")
    house.commit()
    house.commit()
    assert house.rows() == [{"n": 3, "sum": 19.0}]


def test_a_state_of_another_version_is_no_obstacle():
    program = compiled(SUMS)
    assert program.adopt(b"\xc1") == ["steps[1].window"]


def test_raised_alarms_that_an_edit_forgets_are_told(tmp_path):
    def warm(limit):
        alarm = {"name": "warm", "raise_when": f"v > {limit}", "to": "alarms"}
        return {"warm": {"from": "in", "schema": {"v": "float"}, "steps": [{"alarm": alarm}]}}

    house = Edited(tmp_path, warm(10))
    house.record("in", b'{"v":20}', key="a")
    house.record("in", b'{"v":20}', key="b")
    house.turn()
    house.commit()
    (told,) = house.edit(warm(50))
    assert told == (
        "warm changed; starting empty: steps[0].alarm; 2 raised alarms are forgotten and will not be told as cleared"
    )
    house.log.close()


def test_what_is_run_again_at_a_start_is_not_counted_again(house):
    house.record("in", b"garbage", key="a")
    house.turn()
    house.commit()
    assert house.shaper.lanes[0].program.stats()["dead"] == 1
    house.kill()
    stats = house.shaper.lanes[0].program.stats()
    assert stats["dead"] == 0
    assert stats["keys"] == 1, "what is held is told as it is"
