"""What the log does on a good day."""

import os
import sqlite3
import stat
import zlib

import pytest
from log_disk import TurnedClock, append, commit, killed, maintain, open_log, parts, values

from gateway.errors import LogError, LogTooNew
from gateway.log import Keep, Snapshot, SystemFiles
from gateway.log.files import BOOT_VARIABLE
from gateway.log.journal import HEADER, Marks
from gateway.log.unsealed import Unsealed
from gateway.plugin import Remembered
from gateway.record import RETAINED, Batch, Extent, Gap, fingerprint


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


def test_records_come_back_as_they_were_given_after_commit_seal_and_restart(folder):
    log = open_log(folder)
    wanted = {}
    for i in range(30):
        batch = append(
            log, "s", [b"%d-%d" % (i, j) for j in range(20)], flags=bytes([RETAINED] * 20) if i % 2 else None
        )
        wanted.update(zip(range(batch.first, batch.next), batch.values))
        commit(log)
    assert log.stats()["blocks"]["s"] >= 1
    assert values(log, "s") == wanted
    log.close()
    again = open_log(folder)
    assert values(again, "s") == wanted
    assert (again.oldest("s"), again.durable("s"), again.next("s")) == (0, 600, 600)
    first = again.read("s", 20, 3)
    assert (list(first.times), list(first.keys), first.flags) == (
        [1_700_000_000 * 10**9 + i * 1000 for i in range(3)],
        ["k0", "k0", "k0"],
        bytes([RETAINED] * 3),
    )
    assert first.commits == ((2, 3),)
    assert again.epoch == log.epoch
    assert len(again.epoch) == 32
    again.close()


def test_readers_see_nothing_before_it_is_durable_but_the_live_batch_can_be_peeked(folder):
    log = open_log(folder)
    batch = append(log, "s", [b"a", b"b"])
    assert log.pending
    assert log.read("s", 0, 10) is None
    assert log.peek("s", 0, 10) is batch
    assert list(log.peek("s", 1, 10).values) == [b"b"]
    assert (log.next("s"), log.durable("s")) == (2, 0)
    made = log.gather()
    assert batch.commits == ((made.number, 2),)
    assert not log.pending
    log.write(made)
    assert log.read("s", 0, 10) is None
    log.committed(made)
    assert list(log.read("s", 0, 10).values) == [b"a", b"b"]
    assert log.in_memory("s", 0)
    assert log.peek("s", 2, 10) is None
    log.close()


def test_columns_that_could_never_be_written_are_refused_when_they_are_given(folder):
    log = open_log(folder)
    with pytest.raises(OverflowError):
        log.append("s", [2**63], ["k"], [b"v"])
    with pytest.raises(ValueError, match="different length"):
        log.append("s", [1], ["k", "l"], [b"v"])
    with pytest.raises(ValueError, match="bytes in one commit"):
        log.append("s", [1], ["k"], [bytes(33 << 20)])
    assert not log.pending
    log.append("s", [1], ["\ud800 is no text"], [b"v"])
    commit(log)
    assert log.read("s", 0, 1).keys == ["\ud800 is no text"]
    log.close()


def test_seek_finds_the_first_record_of_a_time_or_later(folder):
    log = open_log(folder)
    for i in range(300):
        append(log, "s", [b"x"], time=i * 10)
        commit(log)
    assert log.stats()["blocks"]["s"] >= 4
    for time, offset in ((-5, 0), (0, 0), (1, 1), (640, 64), (1555, 156), (2990, 299), (2991, 300)):
        assert log.seek("s", time) == offset
    log.close()


def test_an_empty_log_and_a_silent_stream_read_as_nothing(folder):
    log = open_log(folder)
    log.declare("quiet", Keep())
    log.declare("quiet", Keep(size=5))
    assert log.streams() == ["quiet"]
    assert (log.oldest("quiet"), log.next("quiet"), log.durable("quiet")) == (0, 0, 0)
    assert log.read("quiet", 0, 10) is None
    assert log.seek("quiet", 0) == 0
    assert len(log.append("quiet", [], [], [])) == 0
    assert not log.pending
    log.close()


def test_two_daemons_cannot_open_one_log(folder):
    log = open_log(folder)
    with pytest.raises(LogError, match="another Tidegate"):
        open_log(folder)
    log.close()
    open_log(folder).close()


@pytest.mark.parametrize("part", ["database", "journal"])
def test_a_log_of_a_newer_version_is_refused_and_not_touched(folder, part):
    log = open_log(folder)
    append(log, "s", [b"a"])
    commit(log)
    log.close()
    if part == "database":
        db = sqlite3.connect(folder / "log.db")
        db.execute("PRAGMA user_version=3")
        db.execute(f"PRAGMA application_id={0x54470003}")
        db.close()
    else:
        content = bytearray((folder / "journal").read_bytes())
        magic, _, length, generation, number, raw, _ = HEADER.unpack_from(content)
        head = HEADER.pack(magic, 2, length, generation, number, raw, 0)[:-4]
        crc = zlib.crc32(
            content[HEADER.size : HEADER.size + length], zlib.crc32(head, zlib.crc32(bytes.fromhex(log.epoch)))
        )
        content[: HEADER.size] = head + crc.to_bytes(4, "little")
        (folder / "journal").write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LogTooNew):
        open_log(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o640), (0o027, 0o640), (0o077, 0o600)])
def test_the_folder_is_its_owners_alone_and_its_files_can_be_read_by_those_it_is_opened_to(folder, umask, mode):
    before = os.umask(umask)
    try:
        log = open_log(folder)
        append(log, "s", [b"a"])
        commit(log)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {mode}
    assert {path.name for path in folder.iterdir()} >= {"journal", "log.db", "log.db-wal", "log.db-shm"}
    log.close()


def test_a_boot_has_one_name_whether_the_kernel_tells_it_or_the_unit(tmp_path, monkeypatch):
    files = SystemFiles()
    told = files.boot_id()
    assert len(told) == 32
    assert int(told, 16)
    monkeypatch.setenv(BOOT_VARIABLE, "another")
    assert files.boot_id() == told
    monkeypatch.setattr(files, "boot_file", str(tmp_path / "hidden"))
    monkeypatch.setenv(BOOT_VARIABLE, told)
    assert files.boot_id() == told
    monkeypatch.delenv(BOOT_VARIABLE)
    assert files.boot_id() == ""


def test_positions_with_ranges_and_cuts_survive_a_kill_and_a_turnover(tmp_path, folder):
    log = open_log(folder)
    append(log, "s", [b"x"] * 100)
    log.positions.start("cloud", "s", 0)
    for first in (0, 10, 20):
        log.positions.cut("cloud", Extent("s", first, first + 9))
    log.positions.settle("cloud", Extent("s", 10, 19))
    commit(log)
    log.positions.cut("lost", Extent("s", 0, 9))  # never committed
    for turned_over in (False, True):
        folder = killed(log, folder, tmp_path / f"killed-{turned_over}")
        log = open_log(folder)
        assert log.positions.readers() == {"cloud": {"s": 0}}
        assert log.positions.outstanding("cloud") == [Extent("s", 0, 9), Extent("s", 20, 29)]
        assert log.positions.cut_next("cloud", "s") == 30
        log._upkeep.seal(turnover=True)
        maintain(log)
    assert log.recovery.commits == 0
    log.positions.settle("cloud", Extent("s", 0, 9))
    assert log.positions.where("cloud", "s") == 20
    log.close()


def test_snapshots_ticks_and_delivery_ids_survive_a_turnover(tmp_path, folder):
    log = open_log(folder)
    log.positions.move("pipeline:p", "s", 0)
    append(log, "s", [b"a"], ids=[7], source="d")
    log.positions.move("pipeline:p", "s", 1)
    log.tick("p", 100)
    log.tick("q", 101)
    commit(log, {"p": Snapshot("sig", b"state" * 1000, {"s": 1})})
    append(log, "s", [b"b", b"c"], ids=[8, 65535], source="d")
    log.positions.move("pipeline:p", "s", 2)
    log.tick("p", 200)
    log.positions.move("pipeline:p", "s", 3)
    commit(log)
    for turned_over in (False, True, True):
        folder = killed(log, folder, tmp_path / f"killed-{folder.name}-{turned_over}")
        log = open_log(folder)
        found = log.recovery
        assert found.snapshots == {"p": Snapshot("sig", b"state" * 1000, {"s": 1})}
        assert [(tick.pipeline, tick.now, tick.positions) for tick in found.ticks] == [
            ("q", 101, {}),
            ("p", 200, {"s": 2}),
        ]
        assert found.remembered == {
            "d": [Remembered(i, fingerprint(f"k{1}", v)) for i, v in ((7, b"a"), (8, b"b"), (65535, b"c"))]
        }
        if turned_over:
            append(log, "s", [b"later"])
            commit(log)
        log._upkeep.seal(turnover=True)
        maintain(log)
    log.close()


def test_only_the_last_delivery_ids_of_a_source_are_remembered(folder):
    log = open_log(folder, journal=1 << 20)
    for i in range(20):
        values = [b"%d" % n for n in range(i * 1000, i * 1000 + 1000)]
        append(log, "s", values, ids=range(i * 1000, i * 1000 + 1000), source="d")
        commit(log)
    log.close()
    log = open_log(folder)
    kept = log.recovery.remembered["d"]
    wanted = [(n, b"%d" % n) for n in range(20000 - 16384, 20000)]
    assert kept == [Remembered(n, fingerprint(f"k{len(value) % 3}", value)) for n, value in wanted]
    log.close()


def test_large_payloads_are_remembered_as_fingerprints_only():
    unsealed, value = Unsealed(), bytes(100_000)
    for n in range(30):
        unsealed.note_ids(Marks("d", 0, n.to_bytes(2, "little")), ["k"], [value])
        assert sum(carried.size for carried in unsealed._carried.values()) <= 2 << 20
    assert unsealed.remembered == {"d": [Remembered(n, fingerprint("k", value)) for n in range(30)]}


def test_snapshots_are_asked_for_before_the_journal_is_used_up(folder):
    log = open_log(folder)
    asked = False
    for i in range(100):
        append(log, "s", [bytes([i]) * 10])
        if log.turnover_due:
            asked = True
            commit(log, {"p": Snapshot("sig", b"%d" % i, {"s": i + 1})})
            break
        commit(log)
    assert asked
    assert not log.turnover_due
    log.close()
    log = open_log(folder)
    assert log.recovery.snapshots["p"].state == b"%d" % i
    assert log.recovery.commits == 0
    assert len(values(log, "s")) == i + 1
    log.close()


def test_a_commit_larger_than_the_journal_is_written_all_the_same(folder):
    import random

    noise = random.Random(1).randbytes(300_000)
    log = open_log(folder)
    append(log, "s", [b"before"])
    commit(log)
    append(log, "s", [noise])
    made = log.gather()
    log.write(made)
    log.committed(made)
    maintain(log)
    append(log, "s", [b"after"])
    commit(log)
    log.close()
    log = open_log(folder)
    assert list(values(log, "s").values()) == [b"before", noise, b"after"]
    log.close()


def test_under_memory_pressure_the_largest_tail_is_sealed_first(folder):
    log = open_log(folder, memory=200_000, seal=100_000, journal=8 << 20)
    for _ in range(40):
        append(log, "large", [b"x" * 100] * 40)
        append(log, "small", [b"y"])
        commit(log)
        assert log.stats()["memory_bytes"] < 250_000
    assert log.stats()["blocks"].get("large", 0) >= 1
    assert log.stats()["blocks"].get("small", 0) == 0
    log.close()


def test_a_stream_over_its_size_loses_its_oldest_blocks_to_a_declared_gap(folder):
    log = open_log(folder)
    log.declare("s", Keep(size=2000))
    log.declare("other", Keep())
    lost = []
    for i in range(40):
        append(log, "s", [b"%d/%d/%d" % (i, j, i * j * 7919) for j in range(64)])
        append(log, "other", [b"x"] * 64)
        made = log.gather()
        log.write(made)
        log.committed(made)
        lost += maintain(log)
    (gap,) = log.gaps("s", 0, log.next("s"))
    assert gap.cause == "evicted"
    assert (gap.first, gap.last) == (0, log.oldest("s") - 1)
    assert sum(map(len, lost)) == len(gap)
    assert log.read("s", 5, 10) == Gap("s", 5, gap.last, "evicted")
    assert log.stats()["block_bytes"]["s"] <= 2000
    assert log.oldest("other") == 0
    assert [type(part) for part in parts(log, "s")][:2] == [Gap, Batch]
    log.close()
    log = open_log(folder)
    assert log.gaps("s", 3, 4) == [Gap("s", 3, 4, "evicted")]
    assert log.oldest("s") == gap.last + 1
    log.close()


def test_the_whole_log_over_its_size_takes_from_the_largest_stream_and_spares_urgent_ones(folder):
    log = open_log(folder, size=300 << 10)
    log.declare("alarms", Keep(urgent=True))
    import random

    rnd = random.Random(2)
    for _ in range(120):
        append(log, "big", [rnd.randbytes(60) for _ in range(64)])
        append(log, "alarms", [rnd.randbytes(10) for _ in range(64)])
        commit(log)
    assert log.oldest("big") > 0
    assert log.oldest("alarms") == 0
    assert log._store.used_bytes() <= 300 << 10
    assert set(values(log, "alarms")) == set(range(120 * 64))
    log.close()


def test_old_records_expire_unless_the_clock_is_not_trusted(folder):
    clock = TurnedClock()
    log = open_log(folder, clock=clock)
    log.declare("s", Keep(age_s=3600))
    append(log, "s", [b"x"] * 64, time=clock.now())
    commit(log)
    clock.advance(4000)
    log.clock_trusted = False
    maintain(log)
    assert log.oldest("s") == 0
    clock.advance(61)
    log.clock_trusted = True
    assert log.maintenance_due
    assert maintain(log) == [Gap("s", 0, 63, "expired")]
    assert log.oldest("s") == log.next("s") == 64
    log.close()


def test_a_turnover_for_a_commit_forgets_nothing_that_this_commit_cuts(folder):
    log = open_log(folder, journal=24 << 10, memory=60_000, seal=40, size=90 << 10)
    append(log, "s", [os.urandom(300) for _ in range(121)])
    made = log.gather()
    log.write(made)
    log.committed(made)
    log.positions.cut("sink:c", Extent("s", 0, 120))
    made = log.gather()
    log.write(made)  # the journal is full: everything is sealed first, and is more than the log may hold
    assert log._journal.generation == 2
    assert log.gaps("s", 0, 120) == []
    log.close()


def test_a_block_with_a_cut_under_way_is_passed_over_until_the_cut_is_settled(folder):
    log = open_log(folder)
    log.declare("s", Keep(size=500))
    log.positions.start("cloud", "s", 0)
    cut = Extent("s", 64, 70)
    for i in range(10):
        append(log, "s", [b"%d/%d" % (i, j * 7919) for j in range(64)])
        if i == 1:
            log.positions.cut("cloud", cut)
        commit(log)
    assert log.gaps("s", 0, 63) == [Gap("s", 0, 63, "evicted")]
    assert log.oldest("s") == 64
    assert len(log.read("s", 64, 7)) == 7
    assert log.gaps("s", 128, 200) == [Gap("s", 128, 200, "evicted")]
    log.positions.settle("cloud", cut)
    for i in range(2):
        append(log, "s", [b"%d/%d" % (i, j) for j in range(64)])
        commit(log)
    assert len(log.gaps("s", 0, log.next("s"))) == 1  # neighbours of one cause are one gap
    assert log.oldest("s") > 128
    log.close()


def test_readers_close_behind_never_touch_the_disk(folder):
    log = open_log(folder)
    for _ in range(10):
        append(log, "s", [b"x"] * 64)
        commit(log)
    assert log.stats()["blocks"]["s"] >= 9
    assert log.in_memory("s", 500)
    assert len(log.peek("s", 500, 5)) == 5
    assert log.read("s", 500, 5).commits == ((8, 5),)
    log.close()


def test_many_streams_are_each_in_order_and_sealed_by_their_own_need(folder):
    log = open_log(folder, journal=1 << 20)
    for i in range(30):
        for name in range(50):
            append(log, f"s{name}", [b"%d" % i] * (20 if name < 3 else 1))
        commit(log)
    blocks = log.stats()["blocks"]
    assert all(blocks.get(f"s{name}", 0) >= 5 for name in range(3))
    assert not any(blocks.get(f"s{name}", 0) for name in range(3, 50))
    for name in range(50):
        assert len(values(log, f"s{name}")) == (600 if name < 3 else 30)
    log.close()
    log = open_log(folder)
    assert all(len(values(log, f"s{name}")) == (600 if name < 3 else 30) for name in range(50))
    log.close()
