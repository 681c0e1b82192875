"""Makes a golden file of the log's format as it is: `python tests/rig/golden.py FOLDER` writes FOLDER/format-N.tar.xz.

To be run once for every format, with the version that introduces it; the file is kept for ever. It holds a log as a
kill left it, with something of everything, and `expected.json`: what has to be found in it.
"""

import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from gateway.log import Keep, Log, LogOptions, Snapshot, SystemFiles, block, journal, schema
from gateway.record import Batch, Extent

START = 1_700_000_000 * 10**9


class Clock:
    def now(self):
        return START

    def monotonic(self):
        return 1000.0


class Nowhere(SystemFiles):
    """A machine without a name, so that the log is bound to none."""

    def machine(self):
        return ""


def commit(log, snapshots=None):
    made = log.gather(snapshots)
    log.write(made)
    log.committed(made)
    while log.maintenance_due and (done := log.maintain()) is not None:
        log.maintained(done)


def live(folder: Path) -> Log:
    log = Log(LogOptions(str(folder), journal=64 << 10, memory=1 << 20, seal=64, size=64 << 10), Clock(), Nowhere())
    log.open()
    for stream in ("doors", "freezers"):
        log.declare(stream, Keep())
    for i in range(40):
        numbers = range(40 * i, 40 * i + 40)
        log.append(
            "freezers",
            [START + n * 10**9 for n in numbers],
            [f"site/{'äbc'[n % 3]}/temp" for n in numbers],
            [b'{"t":%d,"pad":"%s"}' % (n, b"%08x" % (n * 2654435761 % 2**32)) for n in numbers],
            ids=[n % 65536 for n in numbers],
            source="driver:sensors",
        )
        if i % 7 == 0:
            log.append("doors", [START + i], ["door"], [bytes(range(i, i + 3))], flags=b"\1")
        log.positions.move("pipeline:p", "freezers", log.next("freezers"))
        if i % 20 == 0:
            log.tick("p", START + i)
        commit(
            log, {"p": Snapshot("sig", b"state %d" % i, {"freezers": log.next("freezers")})} if i % 25 == 0 else None
        )
    log.positions.start("sink:cloud", "freezers", 1400)
    for first in (1400, 1440, 1480):
        log.positions.cut("sink:cloud", Extent("freezers", first, first + 39))
    log.positions.settle("sink:cloud", Extent("freezers", 1440, 1479))
    commit(log)
    return log


def found(log) -> dict:
    """Everything that a log gives back, in JSON; of the records of a stream, (how many, next, SHA-256)."""
    streams, gaps = {}, []
    for name in log.streams():
        at, records = 0, []
        while (part := log.read(name, at, 1 << 30)) is not None:
            if isinstance(part, Batch):
                records += [[r.offset, r.time, r.key, r.value.hex()] for r in part.records()]
                at = part.next
            else:
                gaps.append([name, part.first, part.last, part.cause])
                at = part.last + 1
        told = hashlib.sha256(json.dumps(records).encode()).hexdigest()
        streams[name] = [len(records), log.next(name), told]
    positions = log.positions
    return {
        "epoch": log.epoch,
        "streams": streams,
        "gaps": gaps,
        "positions": {reader: dict(at) for reader, at in positions.readers().items()},
        "under_way": [[e.stream, e.first, e.last] for e in positions.outstanding("sink:cloud")],
        "cut_next": positions.cut_next("sink:cloud", "freezers"),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        log = live(Path(scratch, "living"))
        expected = found(log)
        expected["formats"] = [schema.FORMAT, journal.FORMAT, block.FORMAT]
        shutil.copytree(
            Path(scratch, "living"), Path(scratch, "log"), ignore=shutil.ignore_patterns("*-shm", "reserve")
        )
        log.close()
        with tarfile.open(Path(sys.argv[1], f"format-{schema.FORMAT}.tar.xz"), "w:xz") as tar:
            for path in sorted(Path(scratch, "log").iterdir()):
                tar.add(path, f"log/{path.name}")
            text = json.dumps(expected, ensure_ascii=False).encode()
            about = tarfile.TarInfo("expected.json")
            about.size = len(text)
            tar.addfile(about, io.BytesIO(text))


if __name__ == "__main__":
    main()
