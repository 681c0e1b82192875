"""The shaper: pipelines that fall behind, fail, or start late."""

from types import SimpleNamespace

import pytest
from shaped import Shaped

from gateway.plugin import compiler

COPY = {"from": "in", "schema": {"v": "int"}, "steps": [{"emit": {"v": "v"}}], "to": "out"}


@pytest.fixture
def house(tmp_path):
    made = Shaped(tmp_path, {"copy": COPY}, seal=100, memory=1 << 16)
    yield made
    made.log.close()


def payloads(first: int, stop: int) -> list[bytes]:
    return [b'{"v":%d}' % n for n in range(first, stop)]


def test_outputs_are_recorded_in_the_commit_of_their_inputs(house):
    house.record("in", *payloads(0, 3))
    house.turn()
    assert house.values("out") == [], "nothing is read before its commit"
    house.commit()
    assert house.values("out") == payloads(0, 3)


def test_a_record_that_fails_becomes_a_dead_letter_and_the_rest_goes_on(house):
    house.record("in", b'{"v":1}', b"garbage", b'{"v":2}')
    house.commit()
    assert house.values("out") == payloads(1, 3)
    (dead,) = house.values("_dead")
    assert b'"by":"copy"' in dead
    assert b'"offset":1' in dead
    assert b"garbage" in dead


def test_a_pipeline_that_starts_in_the_past_catches_up_from_the_disk(tmp_path):
    house = Shaped(tmp_path, {"other": {**COPY, "to": "elsewhere"}}, seal=100, memory=1 << 16)
    for low in range(0, 3_000, 100):
        house.record("in", *payloads(low, low + 100))
        house.commit()
    house.log.close()
    house._pipelines = {"copy": COPY}
    house.open()
    for _ in range(100):
        house.turn()
        house.commit()
    assert house.values("out") == payloads(0, 3_000)
    house.log.close()


def test_a_defect_stops_its_pipeline_alone_and_a_restart_makes_good(tmp_path, monkeypatch):
    house = Shaped(tmp_path, {"copy": COPY, "twin": {**COPY, "to": "twin"}})
    house.record("in", *payloads(0, 2))
    house.commit()
    broken = house.shaper.lanes[0]
    broken.program = SimpleNamespace(
        name="copy", inputs=("in",), outputs=("out",), signature="x", due=lambda: None, run=lambda batch, out: 1 / 0
    )
    house.record("in", *payloads(2, 4))
    house.commit(snapshots=True)
    assert house.values("twin") == payloads(0, 4)
    assert house.values("out") == payloads(0, 2)
    assert house.board.state("pipeline:copy") == "failed"
    house.kill()
    house.commit()
    assert house.values("out") == payloads(0, 4)
    house.log.close()


def test_a_changed_definition_starts_with_an_empty_state_at_its_position(tmp_path):
    window = {
        "from": "in",
        "schema": {"v": "int"},
        "steps": [{"window": {"tumbling": "10s", "agg": {"sum": "sum(v)"}}}],
        "to": "out",
    }
    house = Shaped(tmp_path, {"p": window})
    house.record("in", *payloads(0, 5))
    house.commit()
    house.log.close()
    changed = {**window, "steps": [{"window": {"tumbling": "10s", "agg": {"n": "count()"}}}]}
    house._pipelines = {"p": changed}
    house.open()
    house.record("in", *payloads(5, 7))
    house.commit()
    house.clock.ns += 60_000_000_000
    house.commit()
    (row,) = house.values("out")
    assert b'"n":2' in row, "what was in the old window went with it; records are not run twice"
    house.log.close()


def test_news_in_an_urgent_stream_is_told_at_once(tmp_path):
    house = Shaped(tmp_path, {"copy": COPY}, urgent=frozenset({"out"}))
    house.record("in", *payloads(0, 1))
    house.turn()
    assert house.urgent_news == 1
    house.log.close()


def test_starting_a_while_ago_means_ago(tmp_path):
    house = Shaped(tmp_path, {"other": {**COPY, "to": "elsewhere"}})
    house.record("in", *payloads(0, 3))
    house.commit()
    house.clock.ns += 3600 * 1_000_000_000
    house.record("in", *payloads(3, 5))
    house.commit()
    house.log.close()
    house._pipelines = {"copy": {**COPY, "start": "10m"}}
    assert not isinstance(compiler()("copy", house._pipelines["copy"], {}), list)
    house.open()
    house.turn()
    house.commit()
    assert house.values("out") == payloads(3, 5)
    house.log.close()


def test_behind_a_commit_that_does_not_come_back_nothing_piles_up_and_nothing_is_lost(tmp_path):
    house = Shaped(tmp_path, {"other": {**COPY, "to": "elsewhere"}}, seal=1000)
    for low in range(0, 60_000, 1_000):
        house.record("in", *payloads(low, low + 1_000))
        house.commit()
    house.log.close()
    house._pipelines = {"copy": COPY}
    house.open()
    for _ in range(200):  # turns without a commit: the disk is held
        house.shaper.shape()
    assert house.log.pending_bytes < 4 << 20
    for _ in range(100):
        house.turn()
        house.commit()
    assert house.values("out") == payloads(0, 60_000)
    assert house.board.state("pipeline:copy") == "up"
    house.log.close()


def test_a_backlog_of_several_inputs_is_worked_off_without_news(tmp_path):
    house = Shaped(tmp_path, {"other": {**COPY, "to": "elsewhere"}}, seal=100)
    for low in range(0, 2_000, 100):
        house.record("in", *payloads(low, low + 100))
        house.record("more", *payloads(low, low + 100))
        house.commit()
    house.log.close()
    house._pipelines = {"both": {**COPY, "from": ["in", "more"]}}
    house.open()
    commits = 0
    house.commit()
    while house.shaper.wants_commit():  # what the intake asks in every turn
        house.commit()
        commits += 1
        assert commits < 1_000
    assert len(house.values("out")) == 4_000
    house.log.close()
