"""Salvage: the blocks of databases that SQLite cannot read any more, kept until they are back in the log.

A damaged page costs SQLite every row that it can only reach through that page; here each page is looked at by itself
(`wreck`), and a block is known by its checksum. What freed pages still hold of the past is found as well; who asks
leaves out what is known to be gone.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from gateway.errors import LogDamaged
from gateway.log.block import decode_block, unpacked
from gateway.log.contents import Snapshot
from gateway.log.files import Files
from gateway.log.wreck import Place, Row, Wreck, rows_of
from gateway.record import Batch


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


def _number(name: str) -> int:
    head = name.partition(".")[0]
    return int(head) if head.isdecimal() else 0
