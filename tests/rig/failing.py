"""The real daemon on a disk whose K-th change fails: `python failing.py CONFIG CASE...`, a CASE being `K:ERRNO:HELD_S`.
A word without a colon is one of weak.py, for all of them.

To be started with disk.c in LD_PRELOAD. HELD_S 0: that one change fails; else all from it on, until the fault is taken
away HELD_S seconds after the first failure. The daemon runs in a process of its own per case, which is forked from this
one; where it cannot open its log it ends with an error, and is started again as systemd would. When it is well again it
stops in order. Then the log is opened and compared with what was promised, as it is and after power cuts.

Prints a JSON object per case: case, failures, restarts, told (what the status said), well_s (from the end of the fault to
the second commit with everything up), code (of the stop), broken, examples.
"""

import asyncio
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import marks
import weak
from disk import Device, events, memory, own, read_image
from ledger import Ledger, marked
from marked import prepare
from sweep import Sweep

from gateway.clock import SystemClock
from gateway.config import load
from gateway.daemon import Daemon
from gateway.errors import LogError
from gateway.log import Log, LogOptions

AT_A_TIME = 6
CUTS = 10  # after every case
ANY_CHANGE = 7
WELL_WITHIN_S = 40.0  # then it is given up


class Case:
    """One fault, and what became of it."""

    def __init__(self, words: str, config: str, folder: Path) -> None:
        at, code, held = words.split(":")
        self.words, self.at, self.code, self.held_s = words, int(at), getattr(errno, code), float(held)
        self.root, self.trace, self.config = folder / "root", folder / "trace", folder / "tidegate.yaml"
        self.root.mkdir()
        self.config.write_text(config.replace("ROOT", str(self.root)))
        self.told: set[str] = set()
        self.restarts = 0
        self.healed_at = 0.0
        self.well_s = -1.0

    def run(self) -> dict:
        """In a process of its own: the daemon until it is well again, then the proof."""
        own().disk_record(str(self.root).encode(), str(self.trace).encode())
        own().disk_fail(self.at, self.code, int(not self.held_s), ANY_CHANGE)
        marks.root(str(self.root))
        began = time.monotonic()
        while self.well_s < 0 and time.monotonic() - began < WELL_WITHIN_S + self.held_s:
            daemon = Daemon(load(self.config))
            try:
                asyncio.run(self._live(daemon))
            except* LogError as group:
                self.told.add(str(group.exceptions[0]).partition("/")[0])
                self.restarts += 1
                self._heal_in_time(began)
                time.sleep(0.1)
        failures = own().disk_failures()
        own().disk_record(b"", None)
        return {
            "case": self.words,
            "failures": failures,
            "restarts": self.restarts,
            "told": sorted(self.told),
            "well_s": round(self.well_s, 2),
            **self._proof(),
        }

    async def _live(self, daemon: Daemon) -> None:
        steering = asyncio.create_task(self._steer(daemon))
        try:
            await daemon.run()
        finally:
            steering.cancel()

    async def _steer(self, daemon: Daemon) -> None:
        while not own().disk_failures() and own().disk_changes() < self.at:
            await asyncio.sleep(0.01)
        first, commits = time.monotonic(), -1
        while self.well_s < 0:
            await asyncio.sleep(0.02)
            self._heal_in_time(first)
            log = daemon.board.find("log")
            if log is not None and log.state == "waiting":
                self.told.add(log.detail.partition("/")[0])
            well = self.healed_at and daemon.ready and log is not None and log.state == "up"
            made = daemon.log._writing.commits
            commits = made if not well or commits < 0 else commits
            if well and made >= commits + 2:
                self.well_s = time.monotonic() - self.healed_at
        daemon.stop()

    def _heal_in_time(self, first: float) -> None:
        if not self.healed_at and time.monotonic() >= first + self.held_s:
            own().disk_heal()
            self.healed_at = time.monotonic()

    def _proof(self) -> dict:
        told = marked(list(events(self.trace.read_bytes())))
        scratch = self.root.parent / "scratch"
        scratch.mkdir()
        sweep = Sweep(self.at, scratch)
        sweep.run(self.trace.read_bytes(), CUTS)
        ledger, device = Ledger(), Device(sweep.rnd)
        for event, said, gaps in told:
            ledger.forgotten = gaps
            if said is None:
                device.do(event)
            else:
                ledger.hear(said)
        findings = [] if device.seen() == read_image(self.root) else [("trace", "it does not hold every change")]
        log = Log(LogOptions(str(self.root / "log"), **marks.SMALL), SystemClock())
        found = log.open()
        findings += ledger.broken(log, found)
        if any(next_ > self_next for stream, next_ in ledger.next.items() for self_next in (log.next(stream),)):
            findings.append(("conservation", "fewer records than were written"))
        log.close()
        sweep._note(findings, "at the end")
        return {"cuts": sweep.cuts, "broken": dict(sweep.broken), "examples": sweep.examples}


def main() -> None:
    config, words = Path(sys.argv[1]).read_text(), sys.argv[2:]
    cases = [word for word in words if ":" in word]
    prepare()
    weak.weaken([word for word in words if ":" not in word])
    scratch = Path(tempfile.mkdtemp(dir=memory()))
    running: dict[int, Path] = {}
    failed = False
    while cases or running:
        while cases and len(running) < AT_A_TIME:
            words = cases.pop(0)
            folder = Path(tempfile.mkdtemp(dir=scratch))
            child = os.fork()
            if not child:
                code = 1
                try:
                    with (folder / "output").open("w") as output:
                        os.dup2(output.fileno(), 2)
                    answer = Case(words, config, folder).run()
                    (folder / "answer").write_text(json.dumps(answer))
                    code = 0
                finally:
                    os._exit(code)
            running[child] = folder
        child, status = os.wait()
        folder = running.pop(child)
        if status:
            failed = True
            print((folder / "output").read_text()[-3000:], file=sys.stderr, flush=True)
        else:
            print((folder / "answer").read_text(), flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(scratch)
    sys.exit(failed)


if __name__ == "__main__":
    main()
