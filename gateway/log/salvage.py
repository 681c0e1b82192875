"""Salvage: what can still be read of databases that SQLite cannot read any more, page by page, without SQLite.

A damaged page costs SQLite every row that it can only reach through that page. Here each page is looked at by itself: a
leaf of a table is known by its first byte, its rows by the shape of their columns, and a block by its checksum. What
freed pages still hold of the past is found as well; who asks leaves out what is known to be gone.

    https://www.sqlite.org/fileformat2.html: 1.6 b-tree pages, 2.1 records, 4.1 the WAL
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from gateway.errors import LogDamaged
from gateway.log.block import decode_block, unpacked
from gateway.log.files import Files
from gateway.log.store import Snapshot
from gateway.record import Batch

PAGE = 4096
LEAF = 13  # first byte of a page with rows of a table
FRAME = 24 + PAGE  # of a WAL
WAL_HEAD = 32
CHUNK = 256  # pages read at a time
LARGEST = 64 << 20  # bytes of a row that are believed
INTS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}  # serial type -> bytes


class Row(NamedTuple):
    """A row of a table, found on some page: its columns, but those bytes at its end, and where to look for them."""

    number: int
    columns: tuple[int | bytes | None, ...]
    at: int  # in its page: where the bytes begin, …
    here: int  # … how many of them are there, …
    size: int  # … of how many in all …
    overflow: int  # … and the page that goes on with them; 0: none


class Place(NamedTuple):
    """Where a row was found."""

    source: int  # which file
    page: int
    old: bool  # as the database has the page, not the WAL


class Found(NamedTuple):
    """A block that may be whole: its checksum is looked at when it is read."""

    first: int
    n: int
    min_time: int
    max_time: int
    crc: int
    row: Row
    place: Place

    @property
    def last(self) -> int:
        return self.first + self.n - 1


class Wreck:
    """One database file that was set aside, with the WAL beside it. Reads only; safe to use from every thread."""

    def __init__(self, path: str, files: Files) -> None:
        self._path, self._files = path, files
        self._fd = -1
        self._newer: dict[int, bytes] = {}  # page number -> as the WAL has it
        self._done = bytearray()  # per page: its bytes are in the log again
        self.pages = 0

    def open(self) -> None:
        with suppress(OSError):
            self._fd = self._files.look_at(self._path)
            self.pages = self._files.size(self._fd) // PAGE
            self._done = bytearray(self.pages + 1)
        wal = b""
        with suppress(OSError):
            wal = self._files.head(self._path + "-wal", LARGEST)
        salts = wal[16:24]
        frames = range(WAL_HEAD, len(wal) - FRAME + 1, FRAME)
        ours = [at for at in frames if wal[at + 8 : at + 16] == salts]
        committed = max([at for at in ours if wal[at + 4 : at + 8] != bytes(4)], default=-1)
        for at in ours:
            if at <= committed:
                self._newer[int.from_bytes(wal[at : at + 4], "big")] = wal[at + 24 : at + FRAME]

    def page(self, number: int, *, old: bool = False) -> bytes:
        """A page as the WAL has it, or as the database does; nothing where that cannot be read."""
        if number in self._newer and not old:
            return self._newer[number]
        with suppress(OSError):
            return self._files.pread(self._fd, PAGE, (number - 1) * PAGE)
        return b""

    def leaves(self) -> Iterator[tuple[int, bool, bytes]]:
        """Every page that may hold rows of a table: (number, as the database has it, the page)."""
        for first in range(0, self.pages, CHUNK):
            try:
                data = self._files.pread(self._fd, CHUNK * PAGE, first * PAGE)
            except OSError:  # one bad sector among them: each page by itself
                data = b"".join([self.page(first + i + 1, old=True).ljust(PAGE, b"\0") for i in range(CHUNK)])
            heads = data[::PAGE] if first else bytes([data[100] if len(data) > 100 else 0]) + data[PAGE::PAGE]
            at = heads.find(LEAF)
            while at >= 0:
                yield first + at + 1, True, data[at * PAGE : (at + 1) * PAGE]
                at = heads.find(LEAF, at + 1)
        for number, page in self._newer.items():
            if page[100 if number == 1 else 0] == LEAF:
                yield number, False, page

    def whole(self, row: Row, place: Place, *, old: bool = False) -> bytes:
        """The bytes at the end of a row; fewer where its pages do not lead on."""
        parts = [self.page(place.page, old=place.old)[row.at : row.at + row.here]]
        have, number = len(parts[0]), row.overflow
        while have < row.size and number:
            page = self.page(number, old=old)
            if len(page) < PAGE:
                break
            parts.append(page[4 : 4 + row.size - have])
            have += len(parts[-1])
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)

    def forget(self, row: Row) -> None:
        """What follows the page of this row is in the log again."""
        have, number = row.here, row.overflow
        while have < row.size and 0 < number <= self.pages:
            self._done[number] = 1
            number = int.from_bytes(self.page(number)[:4], "big")
            have += PAGE - 4

    def leave(self, path: str, most: int) -> None:
        """Write what is not in the log again to another file, every page at its place; at most so many bytes."""
        fd = self._files.open(path)
        try:
            for number in range(1, self.pages + 1):
                page = b"" if self._done[number] else self.page(number, old=True)
                if most > 0 and any(page):
                    self._files.pwrite(fd, page, (number - 1) * PAGE)
                    most -= PAGE
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1


class Attic:
    """The blocks of all databases that were set aside, as long as they are not back in the log.

    The index is made once, by open(). Readers look; the log thread takes blocks out.
    """

    def __init__(self, folder: str, files: Files, most: int) -> None:
        self._folder, self._files, self._most = os.path.join(folder, "salvage"), files, most
        self._quarantine = os.path.join(folder, "quarantine")
        self.kept = (0, 0)  # files and bytes in quarantine
        self._wrecks: list[Wreck] = []
        self._rows: dict[int, dict[int, list[Found]]] = {}  # stream's id -> first -> where it may be
        self._blocks: dict[str, dict[int, list[Found]]] = {}
        self.streams: dict[str, tuple[int, int]] = {}  # name -> (next, id), as far as rows tell
        self.snapshots: dict[str, tuple[int, Row, Place]] = {}  # pipeline -> (commit, …) of the newest

    def __len__(self) -> int:
        return sum(map(len, self._blocks.values()))

    @property
    def done(self) -> bool:
        """All blocks are back, and the old databases are still here."""
        return bool(self._wrecks) and not len(self)

    @property
    def paths(self) -> list[str]:
        """The databases that were set aside and are not done with, oldest first."""
        names = {name.removesuffix("-wal") for name in self._files.listing(self._folder)}
        return [os.path.join(self._folder, name) for name in sorted(names, key=_number) if name.endswith(".db")]

    def set_aside(self, path: str) -> None:
        """Move a database and its WAL here. Durable when this returns."""
        self._files.make_folder(self._folder)
        number = 1 + max(
            map(_number, self._files.listing(self._folder) + self._files.listing(self._quarantine)), default=0
        )
        wal = path + "-wal"
        for old, new in ((path, f"{number}.db"), (wal, f"{number}.db-wal")):
            if self._files.head(old, 1):
                self._files.move(old, os.path.join(self._folder, new))
            self._files.remove(old)
        for beside in ("-shm", "-journal"):
            self._files.remove(path + beside)
        self._files.sync_folder(self._folder)
        self._files.sync_folder(os.path.dirname(path))

    def keep(self, name: str, content: bytes) -> None:
        """Put a copy of damaged bytes into quarantine."""
        self._files.make_folder(self._quarantine)
        number = 1 + max(map(_number, self._files.listing(self._quarantine)), default=0)
        self._files.replace(os.path.join(self._quarantine, f"{number}.{name}"), content)
        self._bound()

    def empty(self) -> None:
        """Nothing of interest is left here: what could not be read goes into quarantine, the rest is in the log."""
        self._files.make_folder(self._quarantine)
        for wreck, path in zip(self._wrecks, self.paths, strict=True):
            left = os.path.join(self._quarantine, os.path.basename(path))
            try:
                wreck.leave(left, self._most)
            except OSError:  # no room for it: the log is worth more
                self._files.remove(left)
        self._files.sync_folder(self._quarantine)
        self.close()
        for name in self._files.listing(self._folder):
            self._files.remove(os.path.join(self._folder, name))
        self._bound()

    def _bound(self) -> None:
        """The oldest leave quarantine when it would fill the disk."""
        names = sorted(self._files.listing(self._quarantine), key=_number)
        paths = [os.path.join(self._quarantine, name) for name in names]
        total = sum(map(self._files.taken, paths))
        for path in paths[:-1]:
            if total > self._most:
                total -= self._files.taken(path)
                self._files.remove(path)
        self.look()

    def look(self) -> None:
        """Count what is in quarantine."""
        taken = [
            self._files.taken(os.path.join(self._quarantine, name)) for name in self._files.listing(self._quarantine)
        ]
        self.kept = len(taken), sum(taken)

    def open(self) -> None:
        """Look through every page of every database there."""
        self.close()
        self._rows = {}
        for path in self.paths:
            wreck = Wreck(path, self._files)
            wreck.open()
            self._wrecks.append(wreck)
            for number, old, page in wreck.leaves():
                place = Place(len(self._wrecks) - 1, number, old)
                for row in rows_of(page, 100 if number == 1 else 0):
                    self._note(row, place)

    def _note(self, row: Row, place: Place) -> None:
        match row.columns:
            case (None, int(stream), int(first), int(n), int(least), int(most), int(crc)) if n > 0:
                found = Found(first, n, least, most, crc, row, place)
                self._rows.setdefault(stream, {}).setdefault(first, []).insert(0, found)
            case (None, bytes(name), int(next_), int(), int(), int()) if not row.size:
                with suppress(UnicodeDecodeError):
                    self.streams[name.decode()] = max(self.streams.get(name.decode(), (0, 0)), (next_, row.number))
            case (bytes(name), int(commit), bytes(), bytes()) if row.size:
                with suppress(UnicodeDecodeError):
                    known = self.snapshots.get(name.decode())
                    if known is None or known[0] <= commit:
                        self.snapshots[name.decode()] = (commit, row, place)

    def assign(self, ids: Mapping[str, int], gone: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        """Say whose the blocks are; `gone`: offsets (first, last) that are known to be elsewhere, or gone."""
        for name, id_ in ids.items():
            blocks = self._rows.get(id_, {})
            away = gone.get(name, ())
            keep = {
                first: found
                for first, found in blocks.items()
                if not any(low <= found[0].last and first <= high for low, high in away)
            }
            if keep:
                self._blocks[name] = dict(sorted(keep.items()))
        self._rows = {}

    def extents(self, stream: str) -> list[tuple[int, int]]:
        """(first, last) of every block of a stream that may be whole, in order."""
        return [(first, found[0].last) for first, found in list(self._blocks.get(stream, {}).items())]

    def oldest(self, stream: str) -> int | None:
        return next(iter(self._blocks.get(stream, ())), None)

    def last_first(self) -> Iterator[tuple[str, int, int]]:
        """(stream, first, last) of every block, the last of each stream first."""
        for stream, blocks in self._blocks.items():
            for first, found in reversed(blocks.items()):
                yield stream, first, found[0].last

    def read(self, stream: str, offset: int) -> tuple[Batch | None, tuple[int, int] | None]:
        """(the block that holds an offset, None where it does not read back; its extent, None where there is none)."""
        for first, found in reversed(list(self._blocks.get(stream, {}).items())):
            if first <= offset:
                if offset > found[0].last:
                    break
                blob = self.blob(stream, first)
                batch = None
                if blob is not None:
                    with suppress(LogDamaged):
                        batch = decode_block(blob[1], stream)
                if batch is not None and (batch.first, len(batch)) != (first, found[0].n):
                    batch = None
                return batch, (first, found[0].last)
        return None, None

    def blob(self, stream: str, first: int) -> tuple[Found, bytes] | None:
        """A block and its bytes, if its checksum holds."""
        for found in self._blocks.get(stream, {}).get(first, ()):
            wreck = self._wrecks[found.place.source]
            for old in (False, True):
                blob = wreck.whole(found.row, found.place, old=old)
                if len(blob) == found.row.size and zlib.crc32(blob) == found.crc:
                    return found, blob
        return None

    def whole_snapshots(self) -> dict[str, tuple[int, Snapshot]]:
        """The newest state of each pipeline, where it reads back: (commit, state)."""
        found = {}
        for pipeline, (commit, row, place) in self.snapshots.items():
            _, _, signature, positions = row.columns
            assert isinstance(signature, bytes)
            assert isinstance(positions, bytes)
            with suppress(ValueError):
                stored = self._wrecks[place.source].whole(row, place)
                found[pipeline] = (commit, Snapshot(signature.decode(), unpacked(stored), json.loads(positions)))
        return found

    def take(self, stream: str, first: int) -> None:
        """This block is in the log again, or lost for good."""
        for found in self._blocks[stream].pop(first, ()):
            self._wrecks[found.place.source].forget(found.row)

    def close(self) -> None:
        for wreck in self._wrecks:
            wreck.close()
        self._wrecks, self._blocks = [], {}


def rows_of(page: bytes, at: int) -> Iterator[Row]:
    """The rows of a leaf that can be made out. `at` is where its header stands."""
    count = int.from_bytes(page[at + 3 : at + 5], "big")
    if len(page) < PAGE or count > PAGE // 4:
        return
    for i in range(count):
        where = int.from_bytes(page[at + 8 + 2 * i : at + 10 + 2 * i], "big")
        row = _row(page, where) if at + 8 < where < PAGE else None
        if row is not None:
            yield row


def _row(page: bytes, at: int) -> Row | None:
    size, at = _varint(page, at)
    number, start = _varint(page, at)
    if not 2 < size < LARGEST:
        return None
    here = size
    if size > PAGE - 35:
        least = (PAGE - 12) * 32 // 255 - 23
        here = least + (size - least) % (PAGE - 4)
        here = here if here <= PAGE - 35 else least
    payload = page[start : start + here]
    overflow = int.from_bytes(page[start + here : start + here + 4], "big") if here < size else 0
    head, at = _varint(payload, 0)
    if not at < head <= len(payload):
        return None
    types: list[int] = []
    while at < head and len(types) < 12:
        kind, at = _varint(payload, at)
        types.append(kind)
    last = types.pop() if types and types[-1] >= 12 and not types[-1] % 2 else None
    columns: list[int | bytes | None] = []
    at = head
    for kind in types:
        width = INTS.get(kind, (kind - 12) // 2 if kind >= 12 else -1)
        if width < 0 or at + width > len(payload):
            return None
        data = payload[at : at + width]
        if kind >= 12:
            columns.append(data)
        elif kind == 0:
            columns.append(None)
        else:
            columns.append(kind - 8 if kind in (8, 9) else int.from_bytes(data, "big", signed=True))
        at += width
    return Row(number, tuple(columns), start + at, here - at, 0 if last is None else (last - 12) // 2, overflow)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)."""
    value = 0
    for i in range(9):
        byte = data[at + i] if at + i < len(data) else 0
        if i == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at + i + 1
    return value, at + 9


def _number(name: str) -> int:
    head = name.partition(".")[0]
    return int(head) if head.isdecimal() else 0
