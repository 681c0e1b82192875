"""The audit: it finds everything accounted for where it is, and says where it is not."""

import json
import random
import sqlite3

import pytest
from click.testing import CliRunner
from log_disk import append, commit, maintain, open_log

from gateway.cli import main
from gateway.log.archive import Archive
from gateway.log.audit import audit
from gateway.record import DEAD_LETTERS, Extent, Gap, Record, dead_letter


def audited(folder):
    archive = Archive(str(folder))
    archive.open()
    return audit(archive)


def lived(folder, **options):
    """A log in which every kind of fate occurs."""
    rnd = random.Random(3)
    log = open_log(folder, size=200 << 10, **options)
    for i in range(40):
        append(log, "s", [rnd.randbytes(100) for _ in range(64)])
        if i % 4 == 0:  # it lags, and the ring takes what it has not read
            for gap in log.gaps("s", log.positions.cut_next("sink:c", "s"), log.next("s")):
                if gap.first == log.positions.cut_next("sink:c", "s"):
                    log.positions.skip("sink:c", gap)
            first = log.positions.cut_next("sink:c", "s")
            extent = Extent("s", first, first + 19)
            if extent.last < log.next("s"):
                log.positions.cut("sink:c", extent)
                record = Record(first, 1, "k", b"bad")
                append(log, DEAD_LETTERS, [dead_letter("sink:c", "send", "no", "s", record)])
                log.positions.settle("sink:c", extent, dead=1)
        log.positions.move("pipeline:p", "s", log.next("s") - 10)
        commit(log)
        maintain(log)
    return log


@pytest.mark.parametrize("state", ["in use", "closed"])
def test_everything_adds_up_with_evictions_dead_letters_and_a_reader_that_lags(tmp_path, state):
    log = lived(tmp_path / "log")
    if state == "closed":
        log.close()
    found = audited(tmp_path / "log")
    assert found.wrong == []
    (stream,) = [one for one in found.streams if one.stream == "s"]
    assert stream.recorded == 40 * 64 == stream.kept + stream.gaps["evicted"]
    (sink,) = [one for one in found.readers if one.reader == "sink:c"]
    assert sink.dead > 3
    assert sink.missed["evicted"] > 0
    assert sink.pending > 0
    assert sink.recorded == sink.delivered + sink.dead + sink.missed["evicted"] + sum(sink.gaps.values()) + sink.pending
    (pipeline,) = [one for one in found.readers if one.reader == "pipeline:p"]
    assert (pipeline.since, pipeline.delivered, pipeline.pending) == (54, 40 * 64 - 54 - 10, 10)
    if state == "in use":
        log.close()


def test_ranges_that_are_set_back_and_delivered_again_are_counted_once(tmp_path):
    log = open_log(tmp_path / "log")
    append(log, "s", [b"x"] * 30)
    for first in (0, 10, 20):
        log.positions.cut("sink:c", Extent("s", first, first + 9))
    log.positions.settle("sink:c", Extent("s", 10, 19))
    commit(log)
    log.positions.release("sink:c", "s")
    commit(log)
    assert audited(tmp_path / "log").readers[0].again == 10
    for first in (0, 10):
        log.positions.cut("sink:c", Extent("s", first, first + 9))
        log.positions.settle("sink:c", Extent("s", first, first + 9), gaps=[Gap("s", first, first + 1, "damaged")])
    commit(log)
    found = audited(tmp_path / "log")
    assert found.wrong == []
    (one,) = found.readers
    assert (one.delivered, one.again, one.missed, one.pending) == (26, 10, {"damaged": 4}, 10)
    log.close()


def tampered(folder, sql):
    db = sqlite3.connect(folder / "log.db")
    db.execute(sql)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM block WHERE first=(SELECT max(first) FROM block WHERE stream=1)", "gone and in no gap"),
        ("UPDATE block SET crc=1 WHERE first=(SELECT max(first) FROM block WHERE stream=1)", "gone and in no gap"),
        ("UPDATE position SET next=next+5 WHERE reader='sink:c'", "are accounted for"),
        ("UPDATE position SET next=next+90000 WHERE reader='sink:c'", "only 2560 were recorded"),
        ("UPDATE position SET ledger='[0,0,100000,{},0]' WHERE reader='sink:c'", "are accounted for"),
    ],
)
def test_what_does_not_add_up_is_told_with_both_numbers(tmp_path, sql, said):
    log = lived(tmp_path / "log")
    log._upkeep.seal(turnover=True)
    maintain(log)
    log.close()
    assert audited(tmp_path / "log").wrong == []
    tampered(tmp_path / "log", sql)
    result = CliRunner().invoke(main, ["verify", "--log", str(tmp_path / "log")])
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    told = CliRunner().invoke(main, ["verify", "--local", "--json", "--log", str(tmp_path / "log")])
    assert told.exit_code == 1
    assert said in json.loads(told.output)["wrong"][0]


def test_a_log_that_adds_up_exits_with_0_and_says_so(tmp_path):
    lived(tmp_path / "log").close()
    result = CliRunner().invoke(main, ["verify", "--local", "--log", str(tmp_path / "log")])
    assert result.exit_code == 0, result.output
    assert "Everything adds up: 2,570 records of 2 streams." in result.output
    nothing = CliRunner().invoke(main, ["verify", "--log", str(tmp_path)])
    assert nothing.exit_code == 1
    assert "there is no log" in nothing.output
