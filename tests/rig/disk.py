"""What a process did to a folder, as disk.c wrote it down, and what a power cut would have left of it.

The fault model: a cut may come after every change. What was synced before it is there. Of everything else each 512-byte
sector of every write is there or not, each by itself, so also torn and out of order; a cut-off file is as long as the
sectors that arrived make it; names that were made, changed or removed in a folder that was not synced since are there or
not. A sync that reported an error left the pages clean: they may never arrive, also after a later sync that succeeds.
"""

import ctypes
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

OPEN, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, MKDIR, MARK, SYNC_FAILED = range(1, 10)
CREATED = 1
CAN_WRITE, CAN_SYNC, CAN_NAME = 1, 2, 4
HEAD = struct.Struct("<BBHIqI")
SECTOR = 512


def library(folder: Path) -> Path:
    """disk.c, compiled into a folder."""
    target = folder / "disk.so"
    if not target.exists():
        source = Path(__file__).with_name("disk.c")
        made = folder / f"disk-{os.getpid()}.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, source, "-ldl", "-lpthread"], check=True)
        made.rename(target)
    return target


def memory() -> str | None:
    """A folder in memory, where there is one: images are made thousands of times."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@cache
def own() -> ctypes.CDLL:
    """The layer of this very process, which was started with it in LD_PRELOAD."""
    layer = ctypes.CDLL(os.environ["LD_PRELOAD"])
    layer.disk_record.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    layer.disk_fail.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    layer.disk_changes.restype = layer.disk_failures.restype = ctypes.c_long
    return layer


class Event(NamedTuple):
    """One change. `handle` names what was opened, until the next OPEN of that handle."""

    kind: int
    flag: int
    handle: int
    offset: int
    name: str
    data: bytes


def events(trace: bytes) -> Iterator[Event]:
    """Every event of a trace; one that was not finished at its end is left out."""
    at = 0
    while at + HEAD.size <= len(trace):
        kind, flag, names, handle, offset, size = HEAD.unpack_from(trace, at)
        at += HEAD.size
        if at + names + size > len(trace):
            return
        yield Event(kind, flag, handle, offset, trace[at : at + names].decode(), trace[at + names : at + names + size])
        at += names + size


class _File:
    """A file: as the process sees it, as the device has it, and the changes between the two, in order."""

    __slots__ = ("durable", "pending", "seen")

    def __init__(self, content: bytes = b"") -> None:
        self.seen = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[Event] = []


class Device:
    """Events go in one after the other; `cut` makes what is left if the power goes now."""

    def __init__(
        self,
        rnd: random.Random,
        *,
        lies: tuple[str, float] = ("", 0.0),
        content: "Mapping[str, bytes | bytearray] | None" = None,
    ) -> None:
        """`lies`: the file of which, and how likely it is that, a sync loses one of the writes that it reports as done.
        `content`: what is there, as cut() tells it.
        """
        self._rnd, self._lies = rnd, lies
        content = {"/": b""} | (content or {})
        files = {name.rstrip("/"): None if name.endswith("/") else _File(data) for name, data in content.items()}
        self.names: dict[str, _File | None] = files  # as the process sees it; None: a folder
        self._durable: dict[str, _File | None] = dict(self.names)
        self._moves: list[tuple[str, str, str, _File | None]] = []  # (folder, kind, name, what) not synced yet
        self._open: dict[int, tuple[str, _File | None]] = {}
        self.lied = 0

    def do(self, event: Event) -> None:
        kind, name = event.kind, event.name
        if kind == OPEN:
            if event.flag & CREATED:
                self._move("put", name, _File())
            if name not in self.names:
                raise AssertionError(f"{name} was opened and never made")
            self._open[event.handle] = (name, self.names[name])
        elif kind in (WRITE, TRUNCATE):
            file = self._open[event.handle][1]
            assert file is not None
            _apply(file.seen, event)
            file.pending.append(event)
        elif kind == SYNC:
            self._sync(*self._open[event.handle])
        elif kind == SYNC_FAILED:
            self._spoil(*self._open[event.handle])
        elif kind == UNLINK:
            self._move("drop", name, None)
        elif kind == RENAME:
            old, new = name.split("\0")
            file = self.names[old]
            self._move("drop", old, None)
            self._move("put", new, file)
        elif kind == MKDIR:
            self._move("put", name, None)

    def _move(self, kind: str, name: str, what: _File | None) -> None:
        move = (os.path.dirname(name), kind, name, what)
        _renamed(self.names, move)
        self._moves.append(move)

    def _sync(self, name: str, file: _File | None) -> None:
        if file is None:
            for move in [move for move in self._moves if move[0] == name]:
                _renamed(self._durable, move)
            self._moves = [move for move in self._moves if move[0] != name]
            return
        writes = [event for event in file.pending if event.kind == WRITE]
        file_of_lies, chance = self._lies
        lies = writes and name == file_of_lies and self._rnd.random() < chance
        lost = self._rnd.choice(writes) if lies else None
        for event in file.pending:
            if event is not lost:
                _apply(file.durable, event)
        self.lied += lost is not None
        file.pending = []

    def _spoil(self, name: str, file: _File | None) -> None:
        """A sync failed: some of it arrived, the rest never will; the process goes on seeing all of it."""
        if file is None:
            return
        for event in file.pending:
            _apply_some(file.durable, event, self._rnd.choice((0.0, 0.0, 0.5)), self._rnd)
        file.pending = []

    def in_flight(self, name: str) -> bool:
        """A file has changes that were not synced."""
        file = self.names.get(name)
        return file is not None and bool(file.pending)

    def empty(self, name: str) -> bool:
        """A file holds nothing, or is not there, also on the device."""
        file = self.names.get(name)
        return file is None or not (file.durable or file.pending)

    def cut(self) -> dict[str, bytes | bytearray]:
        """name -> content of every file that is left; a folder's name ends with a slash."""
        rnd = self._rnd
        chance = rnd.choice((0.0, 1.0, 0.5, 0.5, 0.1, 0.9))
        names = dict(self._durable)
        for move in self._moves:
            if rnd.random() < chance:
                _renamed(names, move)
        left: dict[str, bytes | bytearray] = {}
        for name, file in names.items():
            if not all(parent in names for parent in _parents(name)):
                continue
            if file is None:
                left[name + "/"] = b""
            elif not file.pending:
                left[name] = file.durable
            else:
                content = bytearray(file.durable)
                for event in file.pending:
                    _apply_some(content, event, chance, rnd)
                left[name] = content
        return left

    def seen(self) -> dict[str, bytes]:
        """What the process itself would read, file by file."""
        return {name: bytes(file.seen) for name, file in self.names.items() if file is not None}


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _renamed(names: "dict[str, _File | None]", move: "tuple[str, str, str, _File | None]") -> None:
    _, kind, name, what = move
    if kind == "put":
        names[name] = what
    else:
        names.pop(name, None)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == TRUNCATE:
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    if len(content) < event.offset:
        content.extend(bytes(event.offset - len(content)))
    content[event.offset : event.offset + len(event.data)] = event.data


def _apply_some(content: bytearray, event: Event, chance: float, rnd: random.Random) -> None:
    if chance == 1.0:
        _apply(content, event)
    elif chance and event.kind == TRUNCATE:
        if rnd.random() < chance:
            _apply(content, event)
    elif chance:
        for at in range(0, len(event.data), SECTOR):
            if rnd.random() < chance:
                _apply(content, event._replace(offset=event.offset + at, data=event.data[at : at + SECTOR]))


def write_image(folder: Path, left: "Mapping[str, bytes | bytearray]") -> None:
    """Put what is left into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in sorted(name for name in left if name.endswith("/")):
        (folder / name).mkdir(exist_ok=True)
    for name, content in left.items():
        if not name.endswith("/"):
            (folder / name).write_bytes(content)


def read_image(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, as Device.seen() tells it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path != folder / "marks"}
