"""A disk that is full to the last byte: eviction goes on, nothing is acknowledged falsely, and it is well with room again."""

import os
import random
import subprocess
import time

import pytest
from log_disk import TurnedClock, append, commit, maintain, open_log
from process import GatewayProcess

from gateway.errors import LogFull
from gateway.log import Keep
from gateway.record import Batch

pytestmark = pytest.mark.fault


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(tmp_path, request):
    """A file system of a few MiB, by its mount point."""
    where = tmp_path / "disk"
    where.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tidegate", str(where)]
    else:
        image = tmp_path / "image"
        image.write_bytes(b"")
        os.truncate(image, 16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(where)]
    subprocess.run(mount, check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk):
    """Take every byte that is left."""
    with open(disk / "filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0


def more(log, given, rnd, stream="s", rounds=1):
    for _ in range(rounds):
        values = [rnd.randbytes(60) for _ in range(64)]
        batch = append(log, stream, values)
        given[stream].update(zip(range(batch.first, batch.next), values))
        commit(log)


def checked(log, given):
    """What is kept, and what is not, of a stream: together all that was ever given."""
    kept = {}
    for stream in given:
        kept[stream], at, gone = {}, 0, 0
        while (part := log.read(stream, at, 1000)) is not None:
            if isinstance(part, Batch):
                kept[stream].update(zip(range(part.first, part.next), part.values))
                at = part.next
            else:
                assert part.cause == "evicted"
                gone += len(part)
                at = part.last + 1
        assert len(kept[stream]) + gone == len(given[stream])
        assert all(given[stream][offset] == value for offset, value in kept[stream].items())
    return kept


def test_at_zero_bytes_free_the_oldest_make_room_for_the_newest_and_urgent_ones_stay(disk):
    clock, rnd, given = TurnedClock(), random.Random(1), {"s": {}, "alarms": {}}
    log = open_log(disk / "log", clock=clock, journal=256 << 10)
    log.declare("alarms", Keep(urgent=True))
    clock.advance(61)
    more(log, given, rnd, rounds=60)
    more(log, given, rnd, "alarms", rounds=3)
    clock.advance(61)
    maintain(log)
    assert log._reserve.held
    fill(disk)
    full_at = log._store.bytes
    for i in range(60):
        more(log, given, rnd)
        more(log, given, rnd, "alarms", rounds=not i % 6)
        fill(disk)  # whatever it gives back is gone at once
    assert "full" in log.trouble
    assert "df -h" in log.trouble
    assert log._store.bytes <= full_at + (1 << 20), "the file does not grow on a full disk"
    kept = checked(log, given)
    assert len(kept["alarms"]) == len(given["alarms"]), "what is urgent is the last to go"
    assert max(kept["s"]) == max(given["s"])
    (disk / "filler").unlink()
    for _ in range(3):
        clock.advance(6)
        maintain(log)
    assert log.trouble == ""
    more(log, given, rnd, rounds=20)
    checked(log, given)
    log.close()
    log = open_log(disk / "log", journal=256 << 10)
    checked(log, given)
    log.close()


def test_a_full_disk_can_be_opened_and_used(disk):
    clock, rnd, given = TurnedClock(), random.Random(2), {"s": {}}
    log = open_log(disk / "log", clock=clock, journal=256 << 10)
    clock.advance(61)
    more(log, given, rnd, rounds=60)
    log.close()
    fill(disk)
    log = open_log(disk / "log", clock=clock, journal=256 << 10)
    more(log, given, rnd, rounds=60)
    checked(log, given)
    log.close()


def test_with_nothing_to_evict_commits_fail_unacknowledged_and_succeed_unchanged_when_there_is_room(disk):
    clock, rnd, given = TurnedClock(), random.Random(3), {"s": {}}
    log = open_log(disk / "log", clock=clock, journal=256 << 10, seal=1 << 20, memory=64 << 20)
    log.maintain()
    log._reserve.spend()
    fill(disk)
    refused = None
    for _ in range(200):
        values = [rnd.randbytes(60) for _ in range(64)]
        batch = append(log, "s", values)
        given["s"].update(zip(range(batch.first, batch.next), values))
        made = log.gather()
        try:
            log.write(made)
        except LogFull:
            refused = made
            break
        log.committed(made)
    assert refused is not None
    assert log.durable("s") == refused.pieces["s"][0].first
    assert "full" in log.trouble
    (disk / "filler").unlink()
    log.write(refused)
    log.committed(refused)
    for _ in range(3):
        clock.advance(6)
        maintain(log)
    assert log.trouble == ""
    checked(log, given)
    log.close()


CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB, journal: 1MiB}}
drivers: {{sim: {{driver: simulated, stream: s, sensors: 200, rate: 8000}}}}
sinks: {{out: {{sink: file, path: "{out}", streams: [s]}}}}
"""


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_the_gateway_says_that_its_disk_is_full_goes_on_and_is_well_again_by_itself(tmp_path, disk, full):
    gateway = GatewayProcess(tmp_path, "")
    gateway.log_folder = disk / "log"
    gateway.write_config(CONFIG, out=tmp_path / "out")

    def log_state():
        return next(part for part in gateway.json("/api/v1/status")["components"] if part["name"] == "log")

    def until(state, seconds):
        began = time.monotonic()
        while log_state()["state"] != state:
            assert time.monotonic() < began + seconds
            time.sleep(0.1)
        return time.monotonic() - began

    with gateway:
        time.sleep(1)
        fill(disk)
        told = until("waiting", 30)
        assert "df -h" in log_state()["detail"]
        before = gateway.metric("tidegate_records_in_total")
        gateway.wait_for_records("s", int(before) + (100_000 if full else 20_000))
        (disk / "filler").unlink()
        well = until("up", 30)
    (sink,) = gateway.accounts().readers
    print(
        f"told after {told:.1f} s, well {well:.1f} s after there was room, {sink.recorded} recorded and accounted for"
    )
