"""Looking at a log from outside: all of it in every state an owner may leave it in, and nothing of it changed."""

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from log_disk import SMALL, TurnedClock

from gateway.errors import LogError, LogTooNew
from gateway.log import Keep, Log, LogOptions
from gateway.log.archive import Archive, NoLog
from gateway.record import Batch, Gap

S = 1_000_000_000
START = 1_700_000_000 * S


def opened(folder, **options):
    log = Log(LogOptions(path=str(folder), **{**SMALL, **options}), TurnedClock())
    log.open()
    for stream in ("a", "b"):
        log.declare(stream, Keep())
    return log


def commit(log):
    done = log.gather()
    log.write(done)
    log.committed(done)
    while log.maintenance_due and (result := log.maintain()) is not None:
        log.maintained(result)


def fill(log, commits, stream="a", each=10):
    for _ in range(commits):
        first = log.next(stream)
        numbers = range(first, first + each)
        log.append(
            stream, [START + n * S for n in numbers], [f"k{n % 3}" for n in numbers], [b"%d" % n for n in numbers]
        )
        commit(log)


def looked(folder):
    archive = Archive(str(folder))
    archive.open()
    return archive


def records(source, stream):
    at, found = 0, []
    while (part := source.read(stream, at, 1 << 30)) is not None:
        if isinstance(part, Batch):
            found += part.records()
            at = part.next
        else:
            found.append(part)
            at = part.last + 1
    return found


def state(folder):
    """Everything of the files that a look could change."""
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(Path(folder).iterdir())
    }


def killed(log, folder, to):
    """The files as they are at this moment, as a kill leaves them."""
    shutil.copytree(folder, to)
    return to


def test_a_log_is_seen_whole_while_in_use_after_a_kill_and_after_a_close(tmp_path):
    log = opened(tmp_path / "log")
    fill(log, 30)
    fill(log, 2, "b")
    wanted = {stream: records(log, stream) for stream in "ab"}
    assert len(wanted["a"]) == 300
    left = killed(log, tmp_path / "log", tmp_path / "killed")
    for folder in (tmp_path / "log", left):
        before = state(folder)
        archive = looked(folder)
        assert archive.streams() == ["a", "b"]
        assert {stream: records(archive, stream) for stream in "ab"} == wanted
        assert archive.written == START
        assert state(folder) == before
    log.close()
    before = state(tmp_path / "log")
    assert not (tmp_path / "log" / "log.db-wal").exists()
    assert {stream: records(looked(tmp_path / "log"), stream) for stream in "ab"} == wanted
    assert state(tmp_path / "log") == before


def test_seeking_by_time_and_by_commit_finds_the_first_record_of_it_or_later(tmp_path):
    log = opened(tmp_path / "log")
    fill(log, 30)
    archive = looked(tmp_path / "log")
    for offset in (0, 1, 63, 64, 65, 250, 299):
        assert archive.seek("a", START + offset * S) == offset == log.seek("a", START + offset * S)
        assert archive.seek("a", START + offset * S - 1) == offset
    assert archive.seek("a", START + 300 * S) == archive.next("a") == 300
    everything = list(archive.batches("a", 0, 300))
    commits = [number for part in everything for number, count in part.commits for _ in range(count)]
    for number in (0, 1, 2, 7, 29, 30):
        wanted = next((i for i, one in enumerate(commits) if one >= number), 300)
        assert archive.seek_commit("a", number) == wanted
    assert archive.seek_commit("a", max(commits) + 1) == 300
    log.close()


def test_what_is_evicted_while_one_looks_is_a_gap_and_what_came_later_is_not_seen(tmp_path):
    log = opened(tmp_path / "log")
    fill(log, 30)
    archive = looked(tmp_path / "log")
    log.declare("a", Keep(size=1))
    fill(log, 30)
    first = archive.read("a", 0, 1)
    assert isinstance(first, Gap)
    assert first.cause == "evicted"
    found = records(archive, "a")
    offsets = [
        n for part in found for n in (range(part.first, part.last + 1) if isinstance(part, Gap) else [part.offset])
    ]
    assert offsets == list(range(300))
    log.close()


def test_a_damaged_block_is_a_gap_and_reading_goes_on_behind_it(tmp_path):
    log = opened(tmp_path / "log")
    fill(log, 30)
    log.close()
    import sqlite3

    db = sqlite3.connect(tmp_path / "log" / "log.db")
    db.execute("UPDATE block SET data = zeroblob(40) WHERE first = (SELECT min(first) FROM block WHERE first > 0)")
    db.commit()
    db.close()
    (gap,) = [part for part in records(looked(tmp_path / "log"), "a") if isinstance(part, Gap)]
    assert gap.cause == "damaged"
    assert len(records(looked(tmp_path / "log"), "a")) == 300 - len(gap) + 1


def test_a_commit_of_the_journal_that_does_not_read_back_is_a_gap(tmp_path):
    log = opened(tmp_path / "log", seal=8192)
    fill(log, 5)
    left = killed(log, tmp_path / "log", tmp_path / "killed")
    with (left / "journal").open("r+b") as file:
        file.seek(2 * 4096 + 40)
        file.write(bytes(20))
    found = records(Archive_without_pause(left), "a")
    assert [part for part in found if isinstance(part, Gap)] == [Gap("a", 20, 29, "damaged")]
    assert len(found) == 41
    log.close()


def Archive_without_pause(folder):
    archive = Archive(str(folder), pause=lambda seconds: None)
    archive.open()
    return archive


LOOK_ON = """
import sys
import tempfile
from gateway.log.archive import Archive
from gateway.record import Batch
looks = 0
while not sys.stdin.closed and looks < 100_000:
    archive = Archive(sys.argv[1])
    archive.open()
    at = 0
    while (part := archive.read("a", at)) is not None:
        assert isinstance(part, Batch), part
        assert part.values == [b"%d" % n for n in range(part.first, part.next)]
        at = part.next
    looks += 1
    print(looks, at, flush=True)
"""


def test_looking_again_and_again_while_the_owner_writes_opens_and_closes_never_fails_and_never_stops_it(tmp_path):
    folder = tmp_path / "log"
    log = opened(folder)
    fill(log, 1)
    look = [sys.executable, "-c", LOOK_ON, str(folder)]
    with subprocess.Popen(look, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as looking:
        looking.stdout.readline()
        for _ in range(12):
            fill(log, 60)
            log.close()
            log = opened(folder)
        wanted = log.next("a")
        for line in looking.stdout:
            looks, seen = map(int, line.split())
            if seen == wanted:
                break
        looking.kill()
        failure = looking.stderr.read()
    log.close()
    assert failure == ""
    assert seen == wanted
    assert looks > 3


def test_no_log_a_newer_log_and_files_that_may_not_be_read_say_what_to_do(tmp_path):
    with pytest.raises(NoLog, match="there is no log in"):
        Archive(str(tmp_path / "nothing")).open()
    (tmp_path / "file").write_text("")
    with pytest.raises(NoLog, match="is this the folder of a log"):
        Archive(str(tmp_path / "file")).open()
    log = opened(tmp_path / "log")
    fill(log, 3)
    log.close()
    import sqlite3

    db = sqlite3.connect(tmp_path / "log" / "log.db")
    db.execute("PRAGMA user_version=99")
    db.execute(f"PRAGMA application_id={0x54470000 + 99}")
    db.close()
    with pytest.raises(LogTooNew, match="has format 99"):
        Archive(str(tmp_path / "log")).open()


def test_a_wal_without_its_index_is_left_to_the_gateway(tmp_path):
    log = opened(tmp_path / "log")
    fill(log, 30)
    while not (tmp_path / "log" / "log.db-wal").stat().st_size:  # a checkpoint has just emptied it
        fill(log, 1)
    left = killed(log, tmp_path / "log", tmp_path / "killed")
    (left / "log.db-shm").unlink()
    with pytest.raises(LogError, match="start the gateway once"):
        Archive_without_pause(left)
    log.close()


LOOK = """
import os, sys
from gateway.errors import LogError
from gateway.log.archive import Archive
os.setgroups([]); os.setgid(65534); os.setuid(65534)
archive = Archive(sys.argv[1])
try:
    archive.open()
    print(archive.next("a"), len(archive.read("a", 0)))
except LogError as error:
    print(error)
"""


@pytest.fixture
def open_folder():
    """A folder that everybody may enter. Those of pytest are closed to others, again with every run that begins."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's name")
def test_another_user_is_told_how_to_read_it_and_reads_it_then_without_any_right_to_write(open_folder):
    folder = open_folder / "log"
    log = opened(folder)
    fill(log, 30)

    def look():
        done = subprocess.run([sys.executable, "-c", LOOK, str(folder)], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert f"nobody may not read {folder} (it belongs to root, group root, mode 0700); try: sudo -u root" in look()
    folder.chmod(0o750)
    assert "try: sudo -u root" in look()  # nobody should join the group of root
    os.chown(folder, 0, grp.getgrnam("daemon").gr_gid)
    assert "group daemon, mode 0750); try: sudo usermod -aG daemon nobody, then log in again" in look()
    folder.chmod(0o755)
    assert f"nobody may not read {folder}/journal (it belongs to root, group root, mode 0640)" in look()
    for path in folder.iterdir():
        path.chmod(0o644)
    before = state(folder)
    assert look() == "300 70\n"
    assert state(folder) == before
    log.close()
    assert look() == "300 70\n"
