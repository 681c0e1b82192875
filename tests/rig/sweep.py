"""Cuts the power after every change of a trace and opens what is left: `python sweep.py TRACE CUTS SEED PART PARTS`.

To be started with disk.c in LD_PRELOAD, so that a recovery can be written down and cut short as well. Prints one JSON
object: cuts, compound (those of a recovery), seconds, broken (kind -> count), lost_most (records), examples.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import marks
from disk import Device, events, memory, own, write_image
from ledger import Ledger, marked, unsound

from gateway.clock import SystemClock
from gateway.log import Log, LogOptions, store_reader

COMPOUND = 10  # one cut in so many is followed by cuts of its recovery …
AGAIN = 4  # … so many

# The same blocks are read after every cut. What a block holds depends on its bytes alone; their checksum is taken anew.
store_reader.decode_block = lru_cache(maxsize=4096)(store_reader.decode_block)


class Sweep:
    """Counts what it finds. `lies`: see Device."""

    def __init__(self, seed: int, scratch: Path, *, lies: tuple[str, float] = ("", 0.0)) -> None:
        self.rnd, self.scratch, self.lies = random.Random(seed), scratch, lies
        self.cuts = self.compound = self.lost_most = 0
        self.unacknowledged_most = 0
        self._checkpoint = False
        self.broken: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def run(self, trace: bytes, cuts: float, part: int = 0, parts: int = 1) -> None:
        """About that many cuts, evenly over the events of this part."""
        told = marked(list(events(trace)))
        moments = [at for at, (_, said, _) in enumerate(told) if said is None or said["kind"] != "gathered"]
        each = cuts / len(moments)  # of every part: each takes its share of the events
        due = self.rnd.random()
        device, ledger = Device(self.rnd, lies=self.lies), Ledger()
        for at, (event, said, gaps) in enumerate(told):
            ledger.forgotten = gaps
            if said is None:
                device.do(event)
            else:
                ledger.hear(said)
                if said["kind"] == "gathered":
                    continue
            torn = self.lies[0] and self._checkpoint_under_way(device)
            if at % parts != part or torn:
                continue  # a lost page of the WAL and a cut in the middle of a checkpoint: then the database is torn
            due += each
            while due >= 1:
                due -= 1
                deep = not self.lies[0] and self.rnd.random() < 1 / COMPOUND
                if deep:
                    due -= AGAIN
                self.cut(device, ledger, f"event {at} of {len(told)}", deep)
        self._note([*ledger.wrong], "while it ran")

    def _checkpoint_under_way(self, device: Device) -> bool:
        """The database has been changed, and the WAL is not yet empty on the device."""
        if device.in_flight("log/log.db"):
            self._checkpoint = True
        elif self._checkpoint and device.empty("log/log.db-wal"):
            self._checkpoint = False
        return self._checkpoint

    def cut(self, device: Device, ledger: Ledger, where: str, deep: bool) -> None:
        left = device.cut()
        folder = self.scratch / "image"
        write_image(folder, left)
        self.cuts += 1
        if deep:
            self._cut_recovery(folder, left, ledger, where)
        else:
            self._note(self.open(folder, ledger), where)

    def open(self, folder: Path, ledger: Ledger) -> list[tuple[str, str]]:
        log = Log(LogOptions(str(folder / "log"), **marks.SMALL), SystemClock())
        try:
            found = log.open()
        except Exception as error:
            return [("unopened", repr(error))]
        try:
            findings = list(ledger.broken(log, found))
            self.lost_most = max(
                [self.lost_most]
                + [
                    next_ - (log.next(stream) if stream in log.streams() else 0)
                    for stream, next_ in ledger.acknowledged.items()
                ]
            )
            self.unacknowledged_most = max(
                self.unacknowledged_most,
                sum(len(values) for values in ledger.values.values())
                - sum(log.next(stream) for stream in log.streams()),
            )
        except Exception as error:
            findings = [("unreadable", repr(error))]
        log.close()
        if wrong := unsound(folder / "log"):
            findings.append(("corrupt", wrong))
        return findings

    def _cut_recovery(self, folder: Path, left: Mapping[str, bytes | bytearray], ledger: Ledger, where: str) -> None:
        """Open it, record a little, and cut all that again."""
        trace = self.scratch / "trace"
        trace.unlink(missing_ok=True)
        own().disk_record(str(folder).encode(), str(trace).encode())
        marks.root(str(folder))
        log = marks.MarkedLog(LogOptions(str(folder / "log"), **marks.SMALL), SystemClock())
        try:
            log.open()
            for n in range(2):
                log.append("fast", [n], ["again"], [b"another life"])
                made = log.gather()
                log.write(made)
                log.committed(made)
        except Exception as error:
            self._note([("unopened", repr(error))], where)
        finally:
            log.close()
            own().disk_record(b"", None)
        told = marked(list(events(trace.read_bytes())))
        chosen = Counter(self.rnd.choices(range(len(told)), k=AGAIN))
        device = Device(self.rnd, content=left, lies=self.lies)
        ledger = ledger.copy()
        known = ledger.forgotten
        for at, (event, said, gaps) in enumerate(told):
            ledger.forgotten = known if gaps is None else gaps
            if said is None:
                device.do(event)
            else:
                ledger.hear(said)
            for _ in range(chosen[at]):
                write_image(self.scratch / "again", device.cut())
                self.cuts += 1
                self.compound += 1
                self._note(
                    self.open(self.scratch / "again", ledger), f"{where}, then {at} of {len(told)} of its recovery"
                )

    def _note(self, findings: list[tuple[str, str]], where: str) -> None:
        for kind in {kind for kind, _ in findings}:
            self.broken[kind] += 1
        for kind, words in findings:
            self.examples.setdefault(kind, f"{where}: {words}")


def main() -> None:
    trace, cuts, seed, part, parts = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    lies = (sys.argv[6], float(sys.argv[7])) if len(sys.argv) > 7 else ("", 0.0)
    scratch = Path(tempfile.mkdtemp(dir=memory()))
    started = time.monotonic()
    sweep = Sweep(seed * parts + part, scratch, lies=lies)
    try:
        sweep.run(trace.read_bytes(), cuts, part, parts)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        json.dumps(
            {
                "cuts": sweep.cuts,
                "compound": sweep.compound,
                "seconds": round(time.monotonic() - started, 1),
                "broken": sweep.broken,
                "lost_most": sweep.lost_most,
                "unacknowledged_most": sweep.unacknowledged_most,
                "examples": sweep.examples,
            }
        )
    )


if __name__ == "__main__":
    main()
