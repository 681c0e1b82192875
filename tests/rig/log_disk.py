"""Disks to put under the log: one that fails or stops at the n-th step, one that remembers for a power cut."""

import errno
import os
import random
import shutil
import sqlite3
from pathlib import Path

from gateway.log import Log, LogOptions, SystemFiles

SMALL = {"journal": 64 << 10, "memory": 1 << 20, "seal": 64, "size": 64 << 20}


class TurnedClock:
    """A clock that a test turns."""

    def __init__(self, now: int = 1_700_000_000 * 10**9) -> None:
        self.now_ns, self.seconds = now, 1000.0

    def now(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.now_ns += round(seconds * 1e9)


class Died(BaseException):
    """The process is gone: nothing may catch this."""


class Disk(SystemFiles):
    """Counts the steps that change something. `fail(step, error)` is asked before each and may raise."""

    def __init__(self) -> None:
        self.steps = 0
        self.names: list[str] = []

    def step(self, name: str) -> None:
        self.steps += 1
        self.names.append(name)

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        self.step("pwrite")
        super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        self.step("fdatasync")
        super().fdatasync(fd)

    def connect(self, path: str, *, readonly: bool = False) -> sqlite3.Connection:
        if readonly:
            return super().connect(path, readonly=True)
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
                if not sql.startswith(("PRAGMA page_count", "PRAGMA freelist", "SELECT", "ROLLBACK")):
                    disk.step(sql.split()[0])
                cursor = super().execute(sql, *rest)
                if sql == "COMMIT":
                    disk.stored()
                return cursor

            def executemany(self, sql: str, *rest: object) -> sqlite3.Cursor:
                disk.step(sql.split()[0])
                return super().executemany(sql, *rest)

        os.close(self.open(path))
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Connection)

    def stored(self) -> None:
        """A transaction is durable."""


class DyingDisk(Disk):
    """The process dies just before step number `at`, or, for a pwrite, in the middle of it."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, name: str) -> None:
        super().step(name)
        if self.steps >= self.at:
            raise Died(name)

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        if self.steps + 1 == self.at:
            os.pwrite(fd, data[: len(data) // 2], offset)
        super().pwrite(fd, data, offset)


class FailingDisk(Disk):
    """While `failing` names a step, that step fails with `code`."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.code = errno.EIO

    def step(self, name: str) -> None:
        super().step(name)
        if name in self.failing:
            if name in ("pwrite", "fdatasync"):
                raise OSError(self.code, os.strerror(self.code))
            raise sqlite3.OperationalError("disk I/O error")


class PowerCutDisk(Disk):
    """Remembers every journal write and sync, and the database after each transaction, to rebuild what a power cut at
    any of those moments could leave: synced sectors, and of the others each one or not.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.events: list[tuple[str, int, bytes]] = []
        self.stores: list[dict[str, bytes]] = []
        self.journal = -1
        self.lying = False  # a sync fails, and what it should have written is gone but for the page cache

    def open(self, path: str) -> int:
        fd = super().open(path)
        if path.endswith("journal"):
            self.journal = fd
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        super().pwrite(fd, data, offset)
        if fd == self.journal:
            self.events.append(("write", offset, data))

    def fdatasync(self, fd: int) -> None:
        if fd != self.journal:
            return
        self.events.append(("lost" if self.lying else "sync", 0, b""))
        if self.lying:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(fd)

    def stored(self) -> None:
        files = {name: self.folder / name for name in ("log.db", "log.db-wal")}
        self.stores.append({name: path.read_bytes() for name, path in files.items() if path.exists()})
        self.events.append(("store", len(self.stores) - 1, b""))

    def image(self, cut: int, rnd: random.Random, target: Path) -> None:
        """Build in `target` what is on the device after the first `cut` events."""
        durable, unsynced, store = bytearray(), list[tuple[int, bytes]](), None
        for kind, number, data in self.events[:cut]:
            if kind == "write":
                unsynced.append((number, data))
            elif kind == "sync":
                for offset, piece in unsynced:
                    _put(durable, offset, piece)
                unsynced.clear()
            elif kind == "lost":
                unsynced.clear()
            else:
                store = self.stores[number]
        for offset, piece in unsynced:
            for at in range(0, len(piece), 512):
                if rnd.random() < 0.5:
                    _put(durable, offset + at, piece[at : at + 512])
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "journal").write_bytes(durable)
        for name, content in (store or {}).items():
            (target / name).write_bytes(content)


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset + len(piece):
        data.extend(bytes(offset + len(piece) - len(data)))
    data[offset : offset + len(piece)] = piece


def open_log(folder: Path, files: SystemFiles | None = None, clock: TurnedClock | None = None, **options: int) -> Log:
    log = Log(LogOptions(str(folder), **{**SMALL, **options}), clock or TurnedClock(), files or SystemFiles())
    log.recovery = log.open()
    return log


def killed(log: Log, folder: Path, target: Path) -> Path:
    """What kill -9 leaves: the files as they are now, without a word of good-bye. The old log is closed afterwards."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*-shm"))
    try:
        log.close()
    except (Died, Exception):
        pass  # its disk may be a broken one
    return target


def commit(log: Log, snapshots: object = None) -> object:
    """One commit as the daemon makes it, with the maintenance that is due."""
    made = log.gather(snapshots)
    log.write(made)
    log.committed(made)
    maintain(log)
    return made


def maintain(log: Log) -> list:
    done = log.maintain() if log.maintenance_due else None
    return log.maintained(done) if done is not None else []


def append(log: Log, stream: str, values: list[bytes], time: int = 1_700_000_000 * 10**9, **more: object) -> object:
    times = [time + i * 1000 for i in range(len(values))]
    return log.append(stream, times, [f"k{len(value) % 3}" for value in values], values, **more)


def values(log: Log, stream: str) -> dict[int, bytes]:
    """Everything that can be read: offset -> value."""
    out = {}
    for part in parts(log, stream):
        if hasattr(part, "values"):
            out.update(zip(range(part.first, part.next), part.values))
    return out


def parts(log: Log, stream: str, limit: int = 100) -> list:
    """Batches and gaps from offset 0 to the end, checked to leave nothing out and to say nothing twice."""
    at, out = 0, []
    while (part := log.read(stream, at, limit)) is not None:
        assert part.first == at
        at = part.next if hasattr(part, "values") else part.last + 1
        out.append(part)
    assert at == log.durable(stream)
    return out
