"""The power goes after every change that the real daemon makes to its disk: nothing acknowledged is lost, nothing is corrupt.

The daemon runs with Intake, Shaper, Forwarder and Log as it always does; a layer under its file calls, and under SQLite's,
writes down each change with its bytes (tests/rig/disk.c), and each promise among them (tests/rig/marks.py).
"""

import errno
import random
import subprocess
import sys
from pathlib import Path

import pytest
from disk import CAN_SYNC, SYNC, UNLINK, Device, events, memory, write_image
from log_disk import append, commit, open_log, values
from power import RIG, Recording, record, sweep

pytestmark = pytest.mark.fault


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Three lives of a daemon: 1,500 changes; the first start, seals, turnovers, checkpoints and evictions among them."""
    return record(_folder(tmp_path_factory.mktemp("recorded")))


@pytest.fixture
def folder(tmp_path):
    return _folder(tmp_path)


def _folder(otherwise: Path) -> Path:
    """In memory where that can be had, under the same name."""
    if memory() is None:
        return otherwise
    made = Path(memory()) / f"tidegate{str(otherwise).replace('/', '-')}"
    made.mkdir()
    _made.append(made)
    return made


_made: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def nothing_left_in_memory():
    yield
    subprocess.run(["rm", "-rf", *map(str, _made)], check=True)


def test_the_trace_holds_every_durable_change(recorded):
    assert recorded.complete(), "the trace, done again, must make the files that are there, byte for byte"
    marks = recorded.marks()
    sealed = [mark for mark in marks if mark["kind"] == "sealed"]
    assert len([mark for mark in marks if mark["kind"] == "opened"]) == 3
    assert sum(mark["turnover"] for mark in sealed) >= 8
    assert sum(not mark["turnover"] for mark in sealed) >= 8
    assert any(gap[2] == "evicted" for mark in sealed for gaps in mark["gaps"].values() for gap in gaps)
    assert any(mark["kind"] == "gathered" and mark["snapshots"] for mark in marks)
    assert sum(mark["kind"] == "confirmed" for mark in marks) > 50


@pytest.mark.timeout(900)
def test_no_cut_costs_what_was_acknowledged_and_none_leaves_a_log_that_does_not_open(recorded, full):
    found = sweep(recorded, 200_000 if full else 10_000, seed=1)
    print(
        f"{found['cuts']} cuts, {found['compound']} of them in a recovery, in {found['seconds']} s; "
        f"most records lost that nobody was promised: {found['unacknowledged_most']}"
    )
    assert not found["broken"], found["examples"]
    assert found["cuts"] >= (200_000 if full else 10_000) * 0.95
    assert found["compound"] >= found["cuts"] / 10
    assert found["lost_most"] == 0


@pytest.mark.parametrize(
    ("ways", "kinds"),
    [
        (("no-sync",), {"lost", "shown"}),
        (("normal", "no-checkpoint"), {"lost"}),
        (("off",), {"lost"}),
        (("early-ack",), {"lost", "early"}),
    ],
    ids=["journal not synced", "synchronous NORMAL", "synchronous OFF", "acknowledged early"],
)
def test_the_sweep_notices_when_what_a_promise_rests_on_is_taken_away(folder, ways, kinds):
    recording = Recording(folder, ways=ways)
    recording.life(400)
    found = sweep(recording, 300, seed=1)
    assert kinds <= set(found["broken"])


def test_a_database_whose_making_was_cut_short_is_made_again(folder):
    """The names of SQLite's first files arrive in any order: its rollback journal may be back beside a WAL."""
    recording = Recording(folder)
    recording.life(30)
    device = Device(random.Random(1))
    for event in events(recording.trace.read_bytes()):
        if event.kind == UNLINK:
            assert event.name == "log/log.db-journal"
            continue
        device.do(event)
        if event.kind == SYNC and device.names.get("log/log.db-wal"):
            break
    image = device.seen()
    assert {"log/log.db-journal", "log/log.db-wal", "log/log.db"} <= set(image)
    write_image(folder / "image", {"log/": b"", **image})
    log = open_log(folder / "image" / "log")
    append(log, "s", [b"alive"])
    commit(log)
    assert values(log, "s") == {0: b"alive"}
    log.close()


def test_no_cut_of_the_first_start_on_a_log_of_the_older_format_costs_anything(folder, full):
    recording = Recording(folder)
    recording.life(250, clean=True)
    assert recording.start(str(RIG / "older.py"), str(recording.root / "log")).wait(30) == 0, recording.output()
    before = recording.changes()
    recording.life(100)
    assert recording.complete()
    found = sweep(recording, 6000 if full else 600, seed=1)
    assert not found["broken"], found["examples"]
    assert recording.changes() >= before + 100


def test_no_cut_of_the_first_start_of_a_restored_log_which_begins_a_new_epoch_costs_anything(folder, full):
    recording = Recording(folder)
    recording.life(250)
    assert recording.start(str(RIG / "restored.py"), str(recording.root / "log")).wait(30) == 0, recording.output()
    before = recording.changes()
    recording.life(100)
    assert recording.complete()
    found = sweep(recording, 6000 if full else 600, seed=1)
    assert not found["broken"], found["examples"]
    assert recording.changes() >= before + 100
    assert len({mark["epoch"] for mark in recording.marks() if mark["kind"] == "opened"}) == 2


FAILED_SYNCS = (16, 30, 62, 83)


def failed_sync(folder: Path, at: int, ways: tuple[str, ...], cuts: int) -> dict:
    """The sync that is change number `at`, or the next one, fails with EIO; the process dies, and the next one finds in the
    page cache what never reached the device. It works on; then the power goes.
    """
    recording = Recording(folder, ways=ways)
    recording.life(-1, DISK_FAIL=f"{at} {errno.EIO} 1 {CAN_SYNC}")
    recording.life(150)
    assert recording.complete()
    return sweep(recording, cuts, seed=at)


@pytest.mark.timeout(600)
def test_what_only_the_page_cache_kept_after_a_failed_sync_is_on_the_device_before_anything_else_is(folder, full):
    for at in range(8, 120) if full else FAILED_SYNCS:
        (folder / str(at)).mkdir()
        found = failed_sync(folder / str(at), at, (), 150)
        assert not found["broken"], (at, found["examples"])


def test_without_the_barrier_at_the_start_the_failed_sync_costs_what_was_acknowledged(folder):
    for at in range(30, 130, 9):  # one of the first that is a sync of the journal shows it
        (folder / str(at)).mkdir()
        if failed_sync(folder / str(at), at, ("no-barrier",), 100)["broken"]["lost"]:
            return
    raise AssertionError("the proof must notice that the barrier is missing")


def test_a_page_of_the_wal_that_the_device_lost_costs_nothing_but_in_the_middle_of_a_checkpoint(recorded):
    found = sweep(recorded, 1000, seed=3, lies=("log/log.db-wal", 0.1))
    assert found["cuts"] > 500
    assert not found["broken"], found["examples"]


def test_a_record_of_the_journal_that_the_device_lost_is_declared_and_harms_nothing_else(recorded):
    found = sweep(recorded, 500, seed=3, lies=("log/journal", 0.1))
    assert found["broken"]["damage"] > 50
    assert not {"corrupt", "unopened", "unreadable", "snapshot"} & set(found["broken"]), found["examples"]


def test_the_proof_runs_as_long_as_asked_and_says_what_it_did():
    run = subprocess.run([sys.executable, str(RIG / "power.py"), "1", "7"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "seed 7" in run.stdout
    assert "acknowledged and lost: 0" in run.stdout.splitlines()[-1]
