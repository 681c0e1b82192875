"""The power-cut proof: the real daemon at work on a recording disk, then cuts after every change it made.

`python tests/rig/power.py SECONDS [SEED]` runs for that long, prints a report, and ends with 1 where a promise was
broken. tests/fault/test_power_cuts.py does the same for some seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
from disk import MARK, Device, events, library, memory, read_image

from gateway.testing import free_port

CUTS_PER_S = 400  # two cores of a common machine
RIG = Path(__file__).parent
CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{port}"}}
log: {{path: {root}/log, turn: 20ms, commit: 20ms}}
drivers:
  told: {{driver: told, seed: {seed}}}
pipelines:
  means:
    from: fast
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 1s, max_ahead: 10000d}}
    steps:
      - filter: v > -5
      - window: {{tumbling: 2s, agg: {{n: count(), mean: mean(v)}}}}
    to: means
sinks:
  cloud: {{sink: heard, seed: {seed}, streams: [fast, means], batch: {{records: 50, age: 50ms}}, format: ndjson}}
"""


class Recording:
    """A daemon in a folder of its own, `root`, on a disk that is written down in `trace`."""

    def __init__(self, folder: Path, seed: int = 1, ways: tuple[str, ...] = ()) -> None:
        self.folder, self.root, self.trace, self.ways = folder, folder / "root", folder / "trace", ways
        self.layer = library(folder)
        self.root.mkdir()
        self.config = folder / "tidegate.yaml"
        self.config.write_text(CONFIG.format(port=free_port(), root=self.root, seed=seed))

    def start(self, *command: str, **environment: object) -> "subprocess.Popen[bytes]":
        """The daemon, or another command, on the recorded disk. `environment`: see disk.c."""
        given = {name: str(value) for name, value in environment.items()}
        given |= {"LD_PRELOAD": str(self.layer), "DISK_ROOT": str(self.root), "DISK_TRACE": str(self.trace)}
        given["PYTHONPATH"] = os.pathsep.join([str(RIG.parent.parent), str(RIG)])
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *(command or (str(RIG / "marked.py"), str(self.config), *self.ways))],
                env=os.environ | given,
                stdout=output,
                stderr=output,
            )

    def life(self, changes: int, *, clean: bool = False, **environment: object) -> None:
        """Run until that many changes were made, or so many after one that failed (-N), then die on the spot; or, `clean`,
        stop in order.
        """
        before = self.changes()
        process = self.start(**environment, **({} if clean else {"DISK_DIE": changes}))
        try:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                if clean and self.changes() - before >= changes:
                    process.send_signal(signal.SIGTERM)
                    clean = False
                    process.wait(20)
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
                raise AssertionError(f"the daemon did not end:\n{self.output()}")

    def output(self) -> str:
        return (self.folder / "output").read_text()[-4000:]

    def changes(self) -> int:
        """How many changes were written down."""
        if not self.trace.exists():
            return 0
        return sum(event.kind != MARK for event in events(self.trace.read_bytes()))

    def marks(self) -> list[dict]:
        decode = msgspec.msgpack.Decoder().decode
        return [decode(event.data) for event in events(self.trace.read_bytes()) if event.kind == MARK]

    def complete(self) -> bool:
        """The trace, done again, makes the very files that are there."""
        device = Device(random.Random(0))
        for event in events(self.trace.read_bytes()):
            device.do(event)
        return device.seen() == read_image(self.root)


def record(folder: Path, seed: int = 1, ways: tuple[str, ...] = (), scale: int = 1) -> Recording:
    """Three lives: the first start and a kill, a recovery and an ordered stop, a start and a kill."""
    recording = Recording(folder, seed, ways)
    recording.life(700 * scale + seed % 50)
    recording.life(400 * scale, clean=True)
    recording.life(400 * scale + seed % 50)
    return recording


def sweep(recording: Recording, cuts: int, seed: int, parts: int = 2, lies: tuple[str, float] = ("", 0.0)) -> dict:
    """Cut the power so many times, in several processes; the sums of what they found."""
    command = [sys.executable, str(RIG / "sweep.py"), str(recording.trace), str(cuts), str(seed)]
    environment = os.environ | {
        "LD_PRELOAD": str(recording.layer),
        "PYTHONPATH": os.pathsep.join([str(RIG.parent.parent), str(RIG)]),
    }
    workers = [
        subprocess.Popen([*command, str(part), str(parts), *map(str, lies)], env=environment, stdout=subprocess.PIPE)
        for part in range(parts)
    ]
    try:
        answers = [worker.communicate()[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    total: dict = {"cuts": 0, "compound": 0, "seconds": 0.0, "lost_most": 0, "unacknowledged_most": 0}
    total |= {"broken": Counter(), "examples": {}}
    for worker, answer in zip(workers, answers, strict=True):
        assert worker.returncode == 0, f"a sweep of {recording.trace} ended with {worker.returncode}"
        part = json.loads(answer)
        for name in ("cuts", "compound"):
            total[name] += part[name]
        for name in ("seconds", "lost_most", "unacknowledged_most"):
            total[name] = max(total[name], part[name])
        total["broken"].update(part["broken"])
        total["examples"] |= part["examples"]
    return total


def main() -> int:
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    until, sums, recordings = time.monotonic() + seconds, Counter(), 0
    broken: Counter[str] = Counter()
    worst = changes = 0
    print(f"seed {seed}; {seconds:.0f} s of power cuts", flush=True)
    while time.monotonic() < until:
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
            recording = record(Path(folder), seed, scale=2)
            complete = recording.complete()
            changes += recording.changes()
            left = int((until - time.monotonic()) * CUTS_PER_S)
            found = sweep(recording, min(20_000, max(300, left)), seed)
        recordings += 1
        sums.update(cuts=found["cuts"], compound=found["compound"])
        broken.update(found["broken"])
        broken["trace"] += not complete
        worst = max(worst, found["unacknowledged_most"])
        line = {kind: count for kind, count in found["broken"].items() if count}
        print(f"seed {seed}: {found['cuts']} cuts in {found['seconds']:.0f} s, {line or 'nothing broken'}", flush=True)
        for kind, words in found["examples"].items():
            print(f"  {kind}: {words}", flush=True)
        seed += 1
    print(
        f"{sums['cuts']} cuts, {sums['compound']} of them in a recovery; {recordings} recordings, {changes} changes; "
        f"acknowledged and lost: {broken['lost']}; corrupt or not opened: {broken['corrupt'] + broken['unopened']}; "
        f"other promises broken: {sum(broken.values()) - broken['lost'] - broken['corrupt'] - broken['unopened']}; "
        f"most records lost that nobody was promised: {worst}"
    )
    return 1 if sum(broken.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
