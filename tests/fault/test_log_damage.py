"""Bytes of the log that change by themselves: damage is told from a torn tail, declared, and never reused."""

import shutil
import sqlite3

import pytest
from log_disk import append, commit, killed, maintain, open_log, parts, values

from gateway.log import Tick
from gateway.record import Batch, Extent, Gap

PAGE = 4096
COMMITS = 6


def ready(tmp_path):
    """A log with six commits in its journal, one page each: stream s in all, rare in the second only."""
    folder = tmp_path / "log"
    log = open_log(folder)
    for i in range(COMMITS):
        append(log, "s", [b"%d" % i] * 10)
        if i == 1:
            append(log, "rare", [b"once"] * 3)
            log.positions.cut("cloud", Extent("s", 0, 4))
        log.tick("p", i)
        commit(log)
    return killed(log, folder, tmp_path / "killed")


@pytest.mark.parametrize("where", ["magic", "generation", "commit", "crc", "body", "page", "zeros"])
@pytest.mark.parametrize("hit", range(COMMITS))
def test_damage_is_declared_and_its_offsets_are_never_given_again(tmp_path, hit, where):
    folder = ready(tmp_path)
    content = bytearray((folder / "journal").read_bytes())
    at = hit * PAGE
    if where in ("page", "zeros"):
        content[at : at + PAGE] = bytes(PAGE) if where == "zeros" else b"\xa5" * PAGE
    else:
        content[at + {"magic": 0, "generation": 8, "commit": 16, "crc": 29, "body": 60}[where]] ^= 0x10
    (folder / "journal").write_bytes(content)
    log = open_log(folder)
    found = log.recovery
    last = hit == COMMITS - 1
    if last:
        assert (found.damaged, found.gaps, log.next("s")) == (0, [], 50)
        assert found.torn == (where in ("commit", "crc", "body"))  # where the header says no more, nobody can know
    else:
        gap = Gap("s", hit * 10, hit * 10 + 9, "damaged")
        assert (found.damaged, found.torn, log.next("s")) == (1, False, 60)
        assert found.gaps == ([gap] if hit != 1 else [gap, Gap("rare", 0, 2, "damaged")])
        assert log.read("s", gap.first, 5) == gap
        assert log.in_memory("s", gap.first)
        assert log.peek("s", gap.first, 5) is None
    assert found.commits == COMMITS - 1
    fresh = append(log, "s", [b"fresh"])
    assert fresh.first == log.next("s") - 1 == (50 if last else 60)
    rare = append(log, "rare", [b"fresh"])
    assert rare.first == 3  # also where the only record of that stream was the damaged one
    commit(log)
    expected = {i: b"%d" % (i // 10) for i in range(50 if last else 60) if last or i // 10 != hit}
    expected[fresh.first] = b"fresh"
    assert values(log, "s") == expected
    # The gap stays, through another kill, a turnover, and another kill.
    for _ in range(2):
        folder = killed(log, folder, tmp_path / f"again-{folder.name}")
        log = open_log(folder)
        assert sum(map(len, log.gaps("s", 0, 100))) == (0 if last else 10)
        assert values(log, "s") == expected
        assert log.next("rare") == 4
        log._upkeep.seal(turnover=True)
        maintain(log)
        assert values(log, "s") == expected
    assert log.recovery.gaps == []
    assert sum(map(len, log.gaps("s", 0, 100))) == (0 if last else 10)
    log.close()


def test_a_run_of_damaged_commits_is_one_gap_and_counted_exactly(tmp_path):
    folder = ready(tmp_path)
    content = bytearray((folder / "journal").read_bytes())
    content[0 : 3 * PAGE] = b"\xff" * 3 * PAGE
    (folder / "journal").write_bytes(content)
    log = open_log(folder)
    assert log.recovery.damaged == 3
    assert log.recovery.gaps == [Gap("s", 0, 29, "damaged"), Gap("rare", 0, 2, "damaged")]
    assert [tick.now for tick in log.recovery.ticks] == [3, 4, 5]
    assert log.recovery.ticks[0] == Tick("p", 3, {}, 4)
    log.close()


def test_a_record_cut_short_is_a_torn_tail_and_its_offsets_are_free(tmp_path):
    folder = tmp_path / "log"
    log = open_log(folder)
    append(log, "s", [b"kept"])
    commit(log)
    import random

    append(log, "s", [random.Random(1).randbytes(9000)])
    commit(log)
    folder = killed(log, folder, tmp_path / "killed")
    content = bytearray((folder / "journal").read_bytes())
    content[2 * PAGE : 3 * PAGE] = bytes(PAGE)
    (folder / "journal").write_bytes(content)
    log = open_log(folder)
    assert (log.recovery.torn, log.recovery.damaged, log.next("s")) == (True, 0, 1)
    assert append(log, "s", [b"again"]).first == 1
    commit(log)
    log.close()
    log = open_log(folder)
    assert (log.recovery.torn, list(values(log, "s").values())) == (False, [b"kept", b"again"])
    log.close()


def test_a_payload_cannot_forge_a_record(tmp_path):
    """Bytes of another log's journal, put page by page into payloads that zstd cannot shorten, stay payload."""
    import random

    other = open_log(tmp_path / "other")
    append(other, "s", [b"forged"] * 5)
    commit(other)
    other.close()
    record = (tmp_path / "other" / "journal").read_bytes()[:PAGE]
    folder = tmp_path / "log"
    log = open_log(folder)
    noise = random.Random(3).randbytes(PAGE)
    for shift in range(0, PAGE, 512):
        append(log, "s", [noise[:shift] + record + noise])
    commit(log)
    folder = killed(log, folder, tmp_path / "killed")
    with open(folder / "journal", "r+b") as journal:
        content = journal.read()
        journal.seek(0)
        journal.write(bytes(60))  # now the scan walks through the payloads
        journal.seek(10 * PAGE)
        assert len(content) > 11 * PAGE
        journal.write(record)  # even standing where a record would
    log = open_log(folder)
    assert (log.recovery.commits, log.streams()) == (0, [])
    log.close()


def test_an_unreadable_block_becomes_a_gap_and_the_rest_is_read(tmp_path):
    folder = tmp_path / "log"
    log = open_log(folder)
    for i in range(5):
        append(log, "s", [b"%d" % i] * 64)
        commit(log)
    log.close()
    db = sqlite3.connect(folder / "log.db")
    (blob,) = db.execute("SELECT data FROM block WHERE first=64").fetchone()
    db.execute("UPDATE block SET data=? WHERE first=64", (blob[:-3] + b"xyz",))
    db.commit()
    db.close()
    log = open_log(folder)
    gap = Gap("s", 64, 127, "damaged")
    assert [part for part in parts(log, "s") if isinstance(part, Gap)] == [gap]
    assert log.maintenance_due
    assert maintain(log) == [gap]
    assert log.gaps("s", 0, 1000) == [gap]
    log.close()
    log = open_log(folder)
    assert log.gaps("s", 100, 110) == [Gap("s", 100, 110, "damaged")]
    assert len(values(log, "s")) == 4 * 64
    log.close()


def test_a_journal_without_its_database_still_tells_what_it_holds(tmp_path):
    folder = ready(tmp_path)
    for name in ("log.db", "log.db-wal"):
        (folder / name).unlink()
    log = open_log(folder)
    assert (log.recovery.commits, log.streams(), log.next("s")) == (COMMITS, ["rare", "s"], 10 * COMMITS)
    assert append(log, "s", [b"new"]).first == 10 * COMMITS
    assert log.positions.outstanding("cloud") == [Extent("s", 0, 4)]
    log.close()


def test_an_old_journal_under_a_new_database_is_nothing(tmp_path):
    folder = ready(tmp_path)
    for name in ("log.db", "log.db-wal", "epoch"):
        (folder / name).unlink()
    log = open_log(folder)
    assert (log.recovery.commits, log.streams()) == (0, [])
    append(log, "s", [b"new life"])
    commit(log)
    log.close()
    log = open_log(folder)
    assert values(log, "s") == {0: b"new life"}
    assert isinstance(log.read("s", 0, 1), Batch)
    log.close()


def test_a_shortened_journal_is_filled_up_and_keeps_what_it_has(tmp_path):
    folder = ready(tmp_path)
    content = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(content[: 3 * PAGE + 100])
    log = open_log(folder)
    assert (folder / "journal").stat().st_size == len(content)
    assert log.next("s") == 30
    log.close()
    shutil.rmtree(folder)
