"""The process dies, or the disk fails, at every step there is: nothing acknowledged is lost, nothing comes twice."""

import errno
import os
import random

import pytest
from log_disk import (
    Died,
    DyingDisk,
    FailingDisk,
    PowerCutDisk,
    append,
    commit,
    killed,
    maintain,
    open_log,
    values,
)

from gateway.errors import LogError, LogFull
from gateway.log import Keep, Snapshot
from gateway.record import Extent


class Life:
    """A log at work, and what was promised to those outside."""

    def __init__(self, log):
        self.log = log
        self.acknowledged, self.offered = {}, {}  # stream -> {offset: value}
        self.state = self.offered_state = (0, 0)  # the pipeline's position and tick
        self.settled = 0

    def work(self, rounds, start=0):
        """`rounds` commits over three streams, with everything else a commit may hold."""
        log = self.log
        log.declare("small", Keep(size=1500))
        for i in range(start, start + rounds):
            for stream, count in (("fast", 40), ("slow", 1), ("small", 25)):
                batch = append(
                    log,
                    stream,
                    [b"%s-%d-%d" % (stream.encode(), i, j * 7919) for j in range(count)],
                    ids=range(count),
                    source="d",
                )
                self.offered.setdefault(stream, {}).update(zip(range(batch.first, batch.next), batch.values))
            log.positions.move("pipeline:p", "fast", log.next("fast"))
            log.tick("p", i)
            cut = Extent("slow", log.positions.cut_next("cloud", "slow"), log.next("slow") - 1)
            log.positions.cut("cloud", cut)
            if i % 2:
                for extent in log.positions.outstanding("cloud"):
                    log.positions.settle("cloud", extent)
            self.offered_state = (log.next("fast"), i)
            snapshots = (
                {"p": Snapshot("sig", b"state at %d" % i, {"fast": log.next("fast")})} if log.turnover_due else None
            )
            made = log.gather(snapshots)
            log.write(made)
            self.acknowledge()
            log.committed(made)
            maintain(log)

    def acknowledge(self):
        self.acknowledged = {stream: dict(records) for stream, records in self.offered.items()}
        self.state = self.offered_state


def check(life, log):
    """What was acknowledged is there; of the commit in flight, all or nothing."""
    kept = None
    for stream, offered in life.offered.items():
        if stream not in log.streams():
            assert not life.acknowledged.get(stream)
            kept = False
            continue
        there, acknowledged = values(log, stream), life.acknowledged.get(stream, {})
        gone = {offset for gap in log.gaps(stream, 0, 1 << 40) for offset in range(gap.first, gap.last + 1)}
        assert not gone or stream == "small"
        assert set(acknowledged) <= set(there) | gone
        assert not set(there) & gone
        assert there.items() <= offered.items()
        extra = {offset for offset in set(there) | gone if offset not in acknowledged}
        assert extra in (set(), set(offered) - set(acknowledged))
        if set(offered) - set(acknowledged):
            assert kept in (None, bool(extra))  # one commit is whole or nothing, over all streams
            kept = bool(extra)
        assert log.next(stream) == log.durable(stream) == len(acknowledged) + len(extra)
    where = log.positions.where("pipeline:p", "fast") or 0
    assert where == (life.offered_state if kept else life.state)[0]
    # Every tick of the pipeline since its snapshot comes back, in order, and none from before.
    snapshot = log.recovery.snapshots.get("p")
    first = int(snapshot.state.split()[-1]) + 1 if snapshot else 0
    last = (life.offered_state if kept else life.state)[1]
    assert [tick.now for tick in log.recovery.ticks] == list(range(first, last + 1 if where else 0))
    assert log.positions.outstanding("cloud") == sorted(set(log.positions.outstanding("cloud")))


def steps_of_a_life(tmp_path):
    disk = DyingDisk(10**9)
    log = open_log(tmp_path / "whole", disk, journal=32 << 10)
    opened = disk.steps
    Life(log).work(14)
    assert log._journal.generation >= 2
    assert log.stats()["evicted_blocks"] > 0
    names = disk.names
    log.close()
    return opened, names


@pytest.mark.fault
def test_killed_at_every_step_of_commit_seal_and_turnover(tmp_path):
    opened, names = steps_of_a_life(tmp_path)
    assert {"pwrite", "fdatasync", "BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"} <= set(names[opened:])
    for at in range(opened + 1, len(names) + 1):
        folder = tmp_path / "log"
        log = open_log(folder, DyingDisk(at), journal=32 << 10)
        life = Life(log)
        with pytest.raises(Died):
            life.work(14)
        folder_after = killed(log, folder, tmp_path / "killed")
        for path in folder.iterdir():
            path.unlink()
        log = open_log(folder_after, journal=32 << 10)
        check(life, log)
        # Life goes on, and a second death right away changes nothing.
        append(log, "fast", [b"next life"])
        commit(log)
        expected = values(log, "fast")
        log = open_log(killed(log, folder_after, tmp_path / "twice"), journal=32 << 10)
        assert values(log, "fast") == expected
        log.close()


@pytest.mark.fault
def test_killed_at_every_step_of_the_first_opening(tmp_path):
    opened, _ = steps_of_a_life(tmp_path)
    for at in range(1, opened + 1):
        folder = tmp_path / f"log-{at}"
        with pytest.raises(Died):
            open_log(folder, DyingDisk(at))
        log = open_log(folder)
        append(log, "s", [b"alive"])
        commit(log)
        log.close()
        log = open_log(folder)
        assert values(log, "s") == {0: b"alive"}
        log.close()


@pytest.mark.fault
def test_a_power_cut_at_any_moment_costs_nothing_that_was_acknowledged(tmp_path):
    folder, rnd = tmp_path / "log", random.Random(5)
    disk = PowerCutDisk(folder)
    log = open_log(folder, disk, journal=32 << 10)
    life, moments = Life(log), []
    original = life.acknowledge

    def acknowledge():
        original()
        moments.append((len(disk.events), dict(life.acknowledged), life.state))

    opened = len(disk.events)
    life.acknowledge = acknowledge
    life.work(24)
    log.close()
    assert sum(kind == "store" for kind, _, _ in disk.events) >= 3
    cuts = 0
    for cut in range(opened, len(disk.events) + 1):
        before = [moment for moment in moments if moment[0] <= cut]
        then = Life(None)
        then.offered = {s: {} for s in life.offered}
        if before:
            _, then.acknowledged, then.state = before[-1]
        after = next((moment for moment in moments if moment[0] > cut), None)
        then.offered, then.offered_state = (after[1], after[2]) if after else (then.acknowledged, then.state)
        for _ in range(5):
            disk.image(cut, rnd, tmp_path / "cut")
            log = open_log(tmp_path / "cut", journal=32 << 10)
            check(then, log)
            assert log.recovery.damaged == 0
            log.close()
            cuts += 1
    assert cuts >= 300


def test_what_only_the_page_cache_knew_is_on_the_device_before_anything_is_acknowledged(tmp_path):
    """A sync fails, Linux marks the pages clean, the process is restarted and finds its record whole; then power goes."""
    folder = tmp_path / "log"
    disk = PowerCutDisk(folder)
    log = open_log(folder, disk)
    append(log, "s", [b"a"])
    commit(log)
    append(log, "s", [b"never acknowledged, but seen by the next process"])
    made = log.gather()
    disk.lying = True
    with pytest.raises(LogError):
        log.write(made)
    disk.lying = False
    log.close()
    log = open_log(folder, disk)
    assert len(values(log, "s")) == 2
    append(log, "s", [b"c"])
    commit(log)
    log.close()
    disk.image(len(disk.events), random.Random(1), tmp_path / "cut")
    log = open_log(tmp_path / "cut")
    assert log.recovery.damaged == 0
    assert [len(value) for value in values(log, "s").values()] == [1, 48, 1]
    log.close()


@pytest.mark.parametrize("step", ["pwrite", "fdatasync"])
@pytest.mark.parametrize(("code", "error"), [(errno.EIO, LogError), (errno.ENOSPC, LogFull)])
def test_a_failed_write_is_repeated_with_the_same_bytes(tmp_path, step, code, error):
    disk = FailingDisk()
    log = open_log(tmp_path / "log", disk)
    append(log, "s", [b"a"] * 10)
    made = log.gather()
    append(log, "s", [b"b"])  # gathers on while the commit is in flight
    disk.failing, disk.code = {step}, code
    written = []
    with pytest.raises(error) as caught:
        log.write(made)
    assert type(caught.value) is error
    assert log.read("s", 0, 10) is None
    first, body = (tmp_path / "log" / "journal").read_bytes()[:4096], made.body
    disk.failing = set()
    log.write(made)
    log.write(made)  # once more does nothing
    written = (tmp_path / "log" / "journal").read_bytes()[:8192]
    assert made.body is body
    assert first in (written[:4096], bytes(4096))
    assert written[4096:] == bytes(4096)
    log.committed(made)
    commit(log)
    assert list(values(log, "s").values()) == [b"a"] * 10 + [b"b"]
    log.close()


@pytest.mark.parametrize("step", ["BEGIN", "INSERT", "UPDATE", "COMMIT"])
def test_a_failing_seal_fails_no_commit_and_is_made_up_for(tmp_path, step):
    disk = FailingDisk()
    log = open_log(tmp_path / "log", disk, journal=256 << 10)
    disk.failing = {step}
    for i in range(20):
        append(log, "s", [b"%d" % i] * 20)
        made = log.gather()
        log.write(made)
        log.committed(made)
        if log.maintenance_due:
            with pytest.raises(LogError):
                log.maintain()
            assert not log.maintenance_due  # not again at once
            log._clock.advance(2)
    assert log.stats()["blocks"] == {}
    assert len(values(log, "s")) == 400
    disk.failing = set()
    assert maintain(log) == []
    assert log.stats()["blocks"]["s"] >= 1
    assert len(values(log, "s")) == 400
    log.close()
    log = open_log(tmp_path / "log")
    assert len(values(log, "s")) == 400
    log.close()


def test_a_checkpoint_that_fails_hides_no_seal_and_is_tried_again_in_a_moment(tmp_path):
    disk = FailingDisk()
    log = open_log(tmp_path / "log", disk)
    disk.failing = {"PRAGMA"}
    while not log._upkeep.turning:
        append(log, "s", [b"x"] * 10)
        made = log.gather()
        log.write(made)
        log.committed(made)
    done = log.maintain()
    assert done.shelves["s"].blocks >= 1
    log.maintained(done)
    assert not log.maintenance_due, "not again at once"
    log._clock.advance(61)
    with pytest.raises(LogError, match="cannot checkpoint"):
        log.maintain()
    assert not log.maintenance_due
    disk.failing = set()
    log._clock.advance(2)
    assert log.maintenance_due
    maintain(log)
    assert (tmp_path / "log" / "log.db-wal").stat().st_size == 0
    log.close()


def test_the_wal_stays_short_however_much_is_sealed_between_two_turnovers(tmp_path):
    log = open_log(tmp_path / "log", journal=64 << 20, size=256 << 20)
    longest = 0
    for i in range(150):
        append(log, "s", [os.urandom(1000) for _ in range(64)])
        commit(log)
        longest = max(longest, (tmp_path / "log" / "log.db-wal").stat().st_size)
    assert log._journal.generation == 1
    assert longest <= 2 << 20
    log.close()


@pytest.mark.parametrize("header", ["new", "old"])
def test_a_torn_first_record_that_covers_all_there_were_is_a_torn_tail_and_no_lost_journal(tmp_path, header):
    log = open_log(tmp_path / "log")
    append(log, "s", [b"a"])
    commit(log)
    log._upkeep.seal(turnover=True)
    log.maintained(log.maintain())
    before = (tmp_path / "log" / "journal").read_bytes()
    append(log, "s", [os.urandom(20_000)])
    log.write(log.gather())
    epoch, torn = log.epoch, bytearray((tmp_path / "log" / "journal").read_bytes())
    torn[8192:8704] = before[8192:8704]
    if header == "old":
        torn[:512] = before[:512]
    left = killed(log, tmp_path / "log", tmp_path / "killed")
    (left / "journal").write_bytes(torn)
    again = open_log(left)
    assert again.epoch == epoch
    assert values(again, "s") == {0: b"a"}
    again.close()


def test_while_a_turnover_is_in_doubt_nothing_is_written_that_the_next_process_would_not_read(tmp_path):
    disk = FailingDisk()
    log = open_log(tmp_path / "log", disk, journal=32 << 10)
    disk.failing = {"COMMIT"}
    with pytest.raises(LogError):
        while True:
            append(log, "s", [b"x"] * 30)
            made = log.gather()
            log.write(made)
            log.committed(made)
            if log._upkeep.turning:
                log.maintain()
    append(log, "s", [b"y"])
    made = log.gather()
    before = (tmp_path / "log" / "journal").read_bytes()
    with pytest.raises(LogError):
        log.write(made)
    assert (tmp_path / "log" / "journal").read_bytes() == before
    disk.failing = set()
    log.write(made)
    log.committed(made)
    maintain(log)
    there = values(log, "s")
    assert there[max(there)] == b"y"
    log = open_log(killed(log, tmp_path / "log", tmp_path / "killed"), journal=32 << 10)
    assert values(log, "s") == there
    log.close()


def test_with_no_room_for_seals_the_journal_takes_commits_until_it_is_full(tmp_path):
    disk = FailingDisk()
    log = open_log(tmp_path / "log", disk)
    disk.failing = {"INSERT"}
    kept = 0
    with pytest.raises(LogError):
        while True:
            append(log, "s", [b"%d" % kept])
            made = log.gather()
            log.write(made)
            log.committed(made)
            kept += 1
    assert kept == (64 << 10) // 4096
    assert len(values(log, "s")) == kept
    disk.failing = set()
    log.write(made)  # the same commit, once there is room
    log.committed(made)
    maintain(log)
    assert values(log, "s") == {i: b"%d" % i for i in range(kept + 1)}
    log.close()


def test_opening_fails_loudly_when_the_barrier_fails(tmp_path):
    log = open_log(tmp_path / "log")
    append(log, "s", [b"a"])
    commit(log)
    folder = killed(log, tmp_path / "log", tmp_path / "killed")
    for step in ("fdatasync", "pwrite", "PRAGMA"):
        disk = FailingDisk()
        disk.failing = {step}
        with pytest.raises(LogError):
            open_log(folder, disk)
    log = open_log(folder)  # and the lock was given back
    assert values(log, "s") == {0: b"a"}
    log.close()
