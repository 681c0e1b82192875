"""One database that SQLite cannot read any more, page by page, without SQLite.

A leaf of a table is known by its first byte, its rows by the shape of their columns. What freed pages still hold of the
past is found as well.

    https://www.sqlite.org/fileformat2.html: 1.6 b-tree pages, 2.1 records, 4.1 the WAL
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from gateway.log.files import Files

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
