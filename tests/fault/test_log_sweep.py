"""Every page of every file of a log flipped, zeroed, cut off or lost: it always opens, keeps what is whole, declares the
rest, and gives no offset twice.
"""

import itertools
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from log_disk import append, commit, maintain, open_log

from gateway.errors import LogDamaged, LogError
from gateway.log import Snapshot, SystemFiles
from gateway.log.salvage import Attic
from gateway.record import Batch, Extent, Gap

pytestmark = pytest.mark.fault

PAGE = 4096
STREAMS = ("s", "t", "rare")
WAYS = ("flip", "zeros", "noise", "cut")


def make(folder: Path, *, closed: bool, size: int = 600 << 10) -> dict[str, dict[int, bytes]]:
    """A log with sealed blocks, evictions, several turnovers, a WAL and a tail; returns every record ever given."""
    rnd, given = random.Random(5), {name: dict[int, bytes]() for name in STREAMS}
    work = folder.parent / "making"
    log = open_log(work, size=size)
    for i in range(60):
        for name in STREAMS:
            if name != "rare" or i % 20 == 1:
                values = [rnd.randbytes(100) for _ in range(40)]
                batch = append(log, name, values, time=(1_700_000_000 + i) * 10**9)
                given[name].update(zip(range(batch.first, batch.next), values))
        log.positions.move("pipeline:p", "s", log.next("s"))
        log.positions.cut("sink:c", Extent("t", *[40 * i, 40 * i + 39]))
        log.positions.settle("sink:c", Extent("t", *[40 * i, 40 * i + 39]))
        commit(log, {"p": Snapshot("sig", b"state" * 500, {"s": log.next("s")})} if i % 10 == 0 else None)
    for i in range(3):  # a tail that only the journal holds
        values = [rnd.randbytes(100) for _ in range(5)]
        batch = append(log, "rare", values)
        given["rare"].update(zip(range(batch.first, batch.next), values))
        commit(log)
    if closed:
        log.close()
    shutil.copytree(work, folder, ignore=shutil.ignore_patterns("*-shm"))
    log.close()
    shutil.rmtree(work)
    return given


def hurt(path: Path, way: str, page: int, rnd: random.Random) -> None:
    content = bytearray(path.read_bytes())
    at = min(page * PAGE, len(content) - 1)
    match way:
        case "flip":
            where = at + rnd.randrange(min(PAGE, len(content) - at))
            content[where] ^= 1 << rnd.randrange(8)
        case "zeros":
            content[at : at + PAGE] = bytes(len(content[at : at + PAGE]))
        case "noise":
            content[at : at + PAGE] = rnd.randbytes(len(content[at : at + PAGE]))
        case "cut":
            del content[at:]
    path.write_bytes(content)


def everything(log) -> tuple[dict[str, dict[int, bytes]], dict[str, set[int]]]:
    """What can be read, and what is declared lost, once whatever is to be salvaged has been."""
    for _ in range(200):
        maintain(log)
        try:
            return read_all(log)
        except LogDamaged:
            continue
    raise AssertionError("the same damage is met for ever")


def read_all(log):
    found, gone = {}, {}
    for name in log.streams():
        found[name], gone[name] = {}, set()
        at = 0
        while (part := log.read(name, at, 1000)) is not None:
            assert part.first == at
            if isinstance(part, Batch):
                found[name].update(zip(range(part.first, part.next), part.values))
                at = part.next
            else:
                assert isinstance(part, Gap)
                gone[name].update(range(part.first, part.last + 1))
                at = part.last + 1
        assert at == log.durable(name)
    return found, gone


class Tally:
    def __init__(self) -> None:
        self.worst: dict[str, int] = {}
        self.images = self.refused = self.rebuilt = self.lost = self.declared = self.reused = self.slow = 0


def check(folder: Path, given, whole, tally: Tally, what: str, harmed: int) -> None:
    """`whole`: what an undamaged copy holds; `harmed`: pages that were hit, each of which may cost its block."""
    tally.images += 1
    began = time.monotonic()
    try:
        log = open_log(folder, size=600 << 10)
    except LogError as error:
        raise AssertionError(f"{what}: refused to open: {error}") from error
    tally.slow += time.monotonic() - began > 10
    try:
        same = log.epoch == whole["epoch"]
        ends = {name: log.next(name) for name in log.streams()}
        for name in STREAMS:  # it goes on at once
            fresh = append(log, name, [b"fresh"] * 3)
            if same and fresh.first in given[name] and given[name][fresh.first] in whole["durable"][name].values():
                tally.reused += 1
                raise AssertionError(f"{what}: offset {fresh.first} of {name} is given again")
        commit(log)
        found, gone = everything(log)
        tally.rebuilt += any((folder / "quarantine").glob("*.db")) if (folder / "quarantine").exists() else 0
        missing = 0
        for name in STREAMS:
            for offset, value in found.get(name, {}).items():
                if offset < ends.get(name, 0):
                    assert given[name][offset] == value, f"{what}: {name} {offset} reads back as something else"
            missing += len(
                [at for at in whole["found"][name] if at not in found.get(name, {}) or at >= ends.get(name, 0)]
            )
            tally.declared += len(gone.get(name, set()) - whole["gone"][name])
        tally.lost += missing
        if harmed == 1:
            kind = what.split()[2]
            tally.worst[kind] = max(tally.worst.get(kind, 0), missing)
        budget = harmed * whole["block"]
        assert missing <= budget, f"{what}: {missing} records lost, {budget} can have been hit"
    finally:
        log.close()


def sweep(tmp_path: Path, seed: int, images: int | None, closed: bool) -> Tally:
    given = make(tmp_path / "image", closed=closed)
    whole = {}
    shutil.copytree(tmp_path / "image", tmp_path / "whole")
    log = open_log(tmp_path / "whole", size=600 << 10)
    whole["epoch"] = log.epoch
    whole["found"], whole["gone"] = read_all(log)
    whole["durable"], whole["block"] = whole["found"], 4 * 80  # a leaf holds a few blocks of 40 to 80 records
    log.close()
    cases = [
        (path.name, way, page)
        for path in sorted((tmp_path / "image").iterdir())
        if path.is_file() and path.stat().st_size
        for page in range(-(-path.stat().st_size // PAGE))
        for way in WAYS
    ]
    rnd, tally = random.Random(seed), Tally()
    for name, way, page in cases if images is None else rnd.sample(cases, images):
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "image", folder)
        size = (folder / name).stat().st_size
        hurt(folder / name, way, page, rnd)
        harmed = 1 if way != "cut" else -(-size // PAGE) - page
        check(folder, given, whole, tally, f"seed {seed}: {name} page {page} {way}", harmed)
    print(
        f"seed {seed}: {tally.images} images, {tally.refused} refused, {tally.slow} slower than 10 s, {tally.rebuilt} "
        f"rebuilt, {tally.lost} records hit, {tally.declared} declared, {tally.reused} offsets given twice, worst page {tally.worst}"
    )
    return tally


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_any_damaged_page_of_any_file_costs_what_was_on_it_and_nothing_else(tmp_path, full, closed):
    tally = sweep(tmp_path, 11, None if full else 60, closed)
    assert tally.slow == 0
    assert tally.images >= 60


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_any_files_that_are_gone_or_empty_cost_what_was_in_them_and_no_offset_is_given_twice(tmp_path, closed):
    given = make(tmp_path / "image", closed=closed)
    shutil.copytree(tmp_path / "image", tmp_path / "whole")
    log = open_log(tmp_path / "whole", size=600 << 10)
    epoch, (before, _) = log.epoch, read_all(log)
    log.close()
    names = sorted(path.name for path in (tmp_path / "image").iterdir() if path.is_file())
    for chosen in (set(some) for n in range(1, len(names) + 1) for some in itertools.combinations(names, n)):
        for empty in (False, True):
            folder = tmp_path / "case"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(tmp_path / "image", folder)
            for name in chosen:
                (folder / name).write_bytes(b"") if empty else (folder / name).unlink()
            log = open_log(folder, size=600 << 10)
            for name in STREAMS:
                fresh = append(log, name, [b"fresh"])
                assert log.epoch != epoch or fresh.first not in before[name], (chosen, empty)
            commit(log)
            found, _ = everything(log)
            for name in STREAMS:
                for offset, value in found[name].items():
                    assert value == b"fresh" or value == given[name][offset]
            if not chosen & {"log.db", "log.db-wal", "journal"}:
                assert {name: len(found[name]) - 1 for name in STREAMS} == {name: len(before[name]) for name in STREAMS}
            if chosen == {"log.db"} or chosen == {"log.db", "log.db-wal"}:
                assert log.epoch == epoch, "the journal knows where everything stood"
                assert log.positions.where("sink:c", "t") == 40 * 60
            log.close()


@pytest.mark.parametrize("name", ["journal", "log.db", "log.db-wal", "epoch", "quarantine", "salvage"])
@pytest.mark.parametrize("what", ["a folder", "a symbolic link", "a pipe"])
def test_something_foreign_in_place_of_a_file_is_refused_in_words(tmp_path, name, what):
    folder = tmp_path / "log"
    log = open_log(folder)
    log.close()
    there = folder / name
    there.unlink(missing_ok=True)
    if name in ("quarantine", "salvage") and what == "a folder":
        there.mkdir()
        open_log(folder).close()
        return
    (tmp_path / "target").touch()
    {"a folder": there.mkdir, "a pipe": lambda: os.mkfifo(there)}.get(
        what, lambda: there.symlink_to(tmp_path / "target")
    )()
    with pytest.raises(LogError, match="move it away, or write another log.path"):
        open_log(folder)


def test_a_database_that_lost_a_turnover_reuses_no_offset_and_keeps_what_the_journal_still_has(tmp_path):
    """As after a WAL page that a device dropped: the journal is a generation ahead of the database."""
    folder = tmp_path / "log"
    log = open_log(folder)
    append(log, "s", [b"old"] * 10)
    commit(log)
    log._upkeep.seal(turnover=True)
    maintain(log)
    log._store.checkpoint()
    stale = {name: (folder / name).read_bytes() for name in ("log.db", "log.db-wal")}
    for i in range(4):
        append(log, "s", [b"%d" % i] * 10)
        log.positions.move("sink:c", "s", log.next("s") - 10)
        commit(log)
    log._upkeep.seal(turnover=True)  # this one is lost
    maintain(log)
    append(log, "s", [b"new"] * 10)
    commit(log)
    log.close()
    for name, content in stale.items():
        (folder / name).write_bytes(content)
    log = open_log(folder)
    assert log.next("s") == 60
    assert log.recovery.gaps == [Gap("s", 10, 19, "damaged")], "the page that the new generation was written over"
    assert log.positions.where("sink:c", "s") == 40
    found, gone = everything(log)
    assert sorted(found["s"]) == [*range(10), *range(20, 60)]
    assert gone["s"] == set(range(10, 20))
    log.close()


def test_a_database_that_breaks_while_it_is_in_use_is_rebuilt_and_nothing_stops(tmp_path):
    folder = tmp_path / "log"
    log = open_log(folder)
    given = {}
    rnd = random.Random(1)

    def more(rounds):
        for _ in range(rounds):
            values = [rnd.randbytes(100) for _ in range(64)]
            batch = append(log, "s", values)
            given.update(zip(range(batch.first, batch.next), values))
            try:
                commit(log)
            except LogDamaged:  # the seal met it; the commit itself is durable
                maintain(log)

    more(30)
    log._store.checkpoint()
    with open(folder / "log.db", "r+b") as file:
        pages = os.fstat(file.fileno()).st_size // PAGE
        for page in range(1, pages):  # every leaf of an index; the rows are all there
            file.seek(page * PAGE)
            if file.read(1) == b"\x0a":
                file.seek(page * PAGE)
                file.write(bytes(PAGE))
    for connection in (log._store._connection, log._reading._reader._db):
        if connection is not None:
            connection.execute("PRAGMA shrink_memory")
    log._reading.close()
    log._reading.recent._blocks.clear()
    more(5)
    found, gone = everything(log)
    more(5)
    found, gone = everything(log)
    assert found["s"] == given
    assert not gone["s"]
    assert list((folder / "quarantine").iterdir())
    epoch = log.epoch
    log.close()
    log = open_log(folder)
    assert everything(log)[0]["s"] == given
    assert log.epoch == epoch
    log.close()


def test_a_salvage_that_is_cut_off_goes_on_with_the_next_start(tmp_path):
    given = make(tmp_path / "log", closed=True, size=64 << 20)
    (tmp_path / "log" / "log.db").write_bytes(b"\0" * 100 + (tmp_path / "log" / "log.db").read_bytes()[100:])
    log = open_log(tmp_path / "log")
    assert "blocks of it were found" in log.recovery.told
    assert "come back" in log.trouble
    image = shutil.copytree(tmp_path / "log", tmp_path / "again", ignore=shutil.ignore_patterns("*-shm"))
    found, _ = everything(log)
    assert log.trouble == ""
    log.close()
    log = open_log(image)
    assert everything(log)[0] == found
    assert all(given[name][at] == value for name in STREAMS for at, value in found[name].items())
    assert not list((image / "salvage").iterdir())
    log.close()


def test_quarantine_is_bounded_and_the_newest_is_kept(tmp_path):
    attic = Attic(str(tmp_path), SystemFiles(), 100_000)
    for i in range(10):
        attic.keep("journal", bytes([i + 1]) * 30_000)
    left = sorted(path.name for path in (tmp_path / "quarantine").iterdir())
    assert left == ["10.journal", "8.journal", "9.journal"]
    assert attic.kept[0] == 3
