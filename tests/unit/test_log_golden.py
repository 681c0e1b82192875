"""Logs that older versions left are read, gone on with, and never spoiled: one golden file for every format there was."""

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest
from golden import Nowhere, commit, found, live
from log_disk import Died, DyingDisk

from gateway.errors import LogTooNew
from gateway.log import Log, LogOptions, block, journal, schema
from gateway.log.archive import Archive
from gateway.log.audit import audit
from gateway.log.backup import back_up
from gateway.log.identity import adopt
from gateway.record import Extent

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("format-*.tar.xz"))


def unpacked(file, folder):
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    return folder / "log", json.loads((folder / "expected.json").read_text())


def opened(folder, files=None):
    log = Log(
        LogOptions(str(folder), journal=64 << 10, memory=1 << 20, seal=64, size=64 << 10), Clock(), files or Nowhere()
    )
    log.recovery = log.open()
    return log


class Clock:
    def now(self):
        return 1_800_000_000 * 10**9

    def monotonic(self):
        return 5000.0


def same(log, expected):
    there = found(log)
    assert there == {name: told for name, told in expected.items() if name != "formats"}


def adds_up(folder):
    archive = Archive(str(folder))
    archive.open()
    assert audit(archive).wrong == []


def test_the_formats_of_today_have_a_golden_file():
    """Whoever changes a format makes one: python tests/rig/golden.py tests/golden"""
    with tarfile.open(GOLDEN / f"format-{schema.FORMAT}.tar.xz") as tar:
        told = json.load(tar.extractfile("expected.json"))
    assert told["formats"] == [schema.FORMAT, journal.FORMAT, block.FORMAT]


def test_the_maker_of_golden_files_makes_what_is_in_them(tmp_path):
    """So that all formats hold the same, and a later one can be compared."""
    _, expected = unpacked(FILES[-1], tmp_path / "golden")
    log = live(tmp_path / "log")
    assert {**found(log), "epoch": expected["epoch"], "formats": expected["formats"]} == expected
    log.close()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_log_of_every_format_is_read_and_gone_on_with(tmp_path, file):
    folder, expected = unpacked(file, tmp_path)
    log = opened(folder)
    assert (log.recovery.gaps, log.recovery.told, log.recovery.damaged) == ([], "", 0)
    assert log.recovery.snapshots["p"].state == b"state 25"
    assert [tick.now - 1_700_000_000 * 10**9 for tick in log.recovery.ticks] == []
    assert len(log.recovery.remembered["driver:sensors"]) > 1000
    same(log, expected)
    log.positions.settle("sink:cloud", Extent("freezers", 1400, 1439))
    assert log.positions.where("sink:cloud", "freezers") == 1480
    for n in range(30):
        log.append("freezers", [n] * 40, ["k"] * 40, [b"%040d" % n] * 40)
        commit(log)
    after = found(log)
    log.close()
    adds_up(folder)
    log = opened(folder)
    assert found(log) == after
    log.close()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_log_of_every_format_is_looked_at_without_being_changed(tmp_path, file):
    folder, expected = unpacked(file, tmp_path)
    if (folder / "log.db-wal").stat().st_size:  # a look needs the index of the WAL, which a kill leaves behind
        db = sqlite3.connect(folder / "log.db")
        db.execute("SELECT count(*) FROM block").fetchall()
        shutil.copy(folder / "log.db-shm", tmp_path / "shm")
        shutil.copy(folder / "log.db-wal", tmp_path / "wal")
        db.close()
        shutil.rmtree(folder)
        unpacked(file, tmp_path)
        shutil.move(tmp_path / "shm", folder / "log.db-shm")
        shutil.move(tmp_path / "wal", folder / "log.db-wal")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    archive = Archive(str(folder))
    archive.open()
    assert archive.next("freezers") == expected["streams"]["freezers"][1]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_dying_anywhere_on_the_way_from_the_first_format_costs_nothing(tmp_path):
    class Dying(DyingDisk):
        def machine(self):
            return ""

    golden, expected = unpacked(GOLDEN / "format-1.tar.xz", tmp_path)
    at, log = 0, None
    while log is None:
        at += 1
        folder, left = tmp_path / "try", tmp_path / "left"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden, folder)
        try:
            log = opened(folder, Dying(at))
        except Died:
            shutil.rmtree(left, ignore_errors=True)
            shutil.copytree(folder, left, ignore=shutil.ignore_patterns("*-shm"))
            back = opened(left)
            same(back, expected)
            back.close()
    log._files.at = 1 << 30
    log.close()
    assert at > 8


def test_a_log_of_a_later_format_is_touched_by_no_command(tmp_path):
    folder, _ = unpacked(FILES[-1], tmp_path)
    db = sqlite3.connect(folder / "log.db")
    db.execute(f"PRAGMA application_id={schema.APPLICATION + schema.FORMAT + 1}")
    db.execute(f"PRAGMA user_version={schema.FORMAT + 1}")
    db.commit()
    db.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "copy").mkdir()
    for attempt in (
        lambda: opened(folder),
        lambda: adopt(str(folder), Nowhere()),
        lambda: back_up(str(folder), str(tmp_path / "copy")),
        lambda: Archive(str(folder)).open(),
    ):
        with pytest.raises(LogTooNew):
            attempt()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list((tmp_path / "copy").iterdir()) == []
