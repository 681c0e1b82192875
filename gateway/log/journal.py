"""The journal: the newest commits, one record each, in a file that was filled with zeros once and is reused in place.

- a record starts at a multiple of 4096 bytes and is written by one pwrite and one fdatasync
- records of one generation stand one behind the other from offset 0, their commit numbers rising by one
- a record belongs to this log and to this place in time, or it is nothing: its checksum is seeded with the log's
  epoch, which no payload knows, and it names its generation
- the file starts again at 0 only after SQLite holds everything in it, under the next generation

    magic "TGJ" | format u8 | body length u32 | generation u64 | commit u64 | unpacked length u32 | crc32 u32 | body
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import zstandard

from gateway.errors import LogError, LogTooNew
from gateway.log.block import LEVEL, unpacked
from gateway.log.columns import Times, joined, pack_keys, pack_times, unpack, unpack_keys, unpack_times
from gateway.log.files import Files, as_log_errors
from gateway.log.position import Place
from gateway.record import Batch, Gap

FORMAT = 1
MAGIC = b"TGJ"
PAGE = 4096
HEADER = struct.Struct("<3sBIQQII")
FILL = bytes(1 << 20)
LARGEST = 512 << 20  # bytes of a journal: it may be configured to 256 MiB, and grows for a record that is larger


class Marks(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The delivery ids (u16) that one source gave the records of a section from index `at` on."""

    source: str
    at: int
    ids: bytes


class Section(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One stream's records of one commit, as columns."""

    stream: str
    first: int
    times: Times
    keys: list[bytes]
    index: bytes
    values: list[bytes]
    flags: bytes | None = None
    marks: list[Marks] = []


class Tick(msgspec.Struct, array_like=True, frozen=True):
    """Time `now` (ns) passed for a pipeline that had read its inputs up to `positions` (stream -> next offset)."""

    pipeline: str
    now: int
    positions: dict[str, int]
    commit: int


class Moment(msgspec.Struct, array_like=True, frozen=True):
    """When a commit was made, by every clock there is, and how far the wall clock was to be trusted."""

    boot: str
    monotonic_ns: int
    wall_ns: int
    quality: str


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """What one journal record says. Later formats may only add fields at the end, with defaults."""

    moment: Moment
    sections: list[Section]
    nexts: dict[str, int]  # next offset of each other stream that this generation holds records of
    places: list[Place]
    gaps: list[Gap]
    ticks: list[Tick]
    shelves: dict[str, int] | None = None  # stream -> its id in the store; see below


# The first record of a generation has `shelves`. Its nexts, places and gaps are those of all streams: with it, the
# journal alone tells where everything stood, should the store be lost.


class Found(NamedTuple):
    """A valid record met while scanning."""

    commit: int
    generation: int
    entry: Entry


def section_of(pieces: Sequence[Batch], marks: list[Marks]) -> Section:
    """Neighbouring batches of one stream as a section."""
    keys, index = pack_keys(joined([piece.keys for piece in pieces]))
    flags = None
    if any(piece.flags for piece in pieces):
        flags = b"".join([piece.flags or bytes(len(piece)) for piece in pieces])
    times = pack_times(joined([piece.times for piece in pieces]))
    values = joined([piece.values for piece in pieces])
    return Section(pieces[0].stream, pieces[0].first, times, keys, index, values, flags, marks)


def batch_of(section: Section, commit: int) -> Batch:
    """The records of a section, as they were appended."""
    count = len(section.values)
    return Batch(
        section.stream,
        section.first,
        unpack_times(section.times, count),
        unpack_keys(section.keys, unpack(section.index)),
        section.values,
        ((commit, count),),
        section.flags,
    )


class Journal:
    """The file. `at` is where the next record goes; everything before it is durable."""

    def __init__(self, path: str, size: int, files: Files) -> None:
        self._path, self._files = path, files
        self.size = size
        self.at = 0
        self.generation = 0
        self.bytes_written = 0
        self.torn = False
        self.made = False  # there was no file, or an empty one
        self.lost = False  # scan() found nothing of this log, not even of the generation before
        self._fd = -1
        self._seed = 0
        self._last: tuple[int, bytes] | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Entry)
        self._compress = zstandard.ZstdCompressor(level=LEVEL).compress

    @property
    def free(self) -> int:
        """Bytes until the end of the file."""
        return self.size - self.at

    def refuse_newer(self, epoch: str) -> None:
        """Raise LogTooNew for the journal of a later version of this log. Reads only."""
        head = self._files.head(self._path, HEADER.size)
        if len(head) == HEADER.size and head[:3] == MAGIC and head[3] > FORMAT:
            length, self._seed = HEADER.unpack(head)[2], _seed(epoch)
            self._record_at(self._files.head(self._path, min(HEADER.size + length, LARGEST)), 0, 0)

    def open(self) -> None:
        """Lock the file, and give it its full size where it is shorter. Raises LogError, LogFull."""
        with as_log_errors(f"cannot open {self._path}"):
            self._fd = self._files.open(self._path)
            try:
                self._files.lock(self._fd)
            except BlockingIOError as error:
                hint = "stop it, or give this one another log.path"
                raise LogError(f"{self._path} is in use: another Tidegate has this log open ({hint})") from error
            have = self._files.size(self._fd)
            self.made = have == 0
            if have < self.size:
                for offset in range(have, self.size, len(FILL)):
                    self._files.pwrite(self._fd, FILL[: self.size - offset], offset)
                self._files.fdatasync(self._fd)
            self.size = max(have, self.size)

    def content(self) -> bytes:
        """All of it, as it is."""
        with as_log_errors(f"cannot read {self._path}"):
            return self._files.pread(self._fd, self.size, 0)

    def scan(self, epoch: str, generation: int) -> Iterator[Found]:
        """Every valid record of this generation or a later one, in order, however much damage lies between them.

        A later one is there where the store has lost the turnover to it; it is the journal's generation from now on.
        Afterwards `at` is behind the last record of it and `torn` says whether the remains of another one follow.
        """
        yield from self._scan(self.content(), epoch, generation)

    def look(self, epoch: str, generation: int) -> Iterator[Found]:
        """The same of a journal that was never opened here, and may be in use by another process."""
        with as_log_errors(f"cannot read {self._path}"):
            data = self._files.head(self._path, LARGEST)
        yield from self._scan(data, epoch, generation)

    def _scan(self, data: bytes, epoch: str, generation: int) -> Iterator[Found]:
        self._seed, self.generation = _seed(epoch), generation
        self.at, self._last, self.torn, self.lost = 0, None, False, True
        records: list[tuple[int, int, int]] = []  # commit, generation, where
        at = 0
        while at + HEADER.size <= len(data):
            found = self._record_at(data, at, generation - 1)
            if found is None:
                at += PAGE
                continue
            self.lost = False
            commit, its_generation, stop = found
            if its_generation < generation:
                at += PAGE  # what was written over it since may stand anywhere behind
                continue
            records.append((commit, its_generation, at))
            begin, at = at, stop + -stop % PAGE
            if its_generation >= self.generation:
                self.generation, self.at, self._last = its_generation, at, (begin, data[begin:at])
        for commit, its_generation, at in sorted(records):
            stop = at + HEADER.size + HEADER.unpack_from(data, at)[2]
            # one whose checksum holds and that does not unpack is counted as damage, like every one that is missing
            with suppress(ValueError):
                entry = self._decoder.decode(unpacked(data[at + HEADER.size : stop]))
                yield Found(commit, its_generation, entry)
        head = data[self.at : self.at + HEADER.size]
        if len(head) == HEADER.size:
            magic, _, _, its_generation, _, _, _ = HEADER.unpack(head)
            self.torn = magic == MAGIC and its_generation == self.generation
        if self.lost and len(data) >= HEADER.size:
            # A first record that a power cut tore may have covered all there were; the sector with its header, or with
            # the one before it, is whole.
            magic, _, _, its_generation, _, _, _ = HEADER.unpack_from(data)
            self.lost = magic != MAGIC or its_generation not in (generation - 1, generation)

    def _record_at(self, data: bytes, at: int, oldest: int) -> tuple[int, int, int] | None:
        """(commit, generation, where it ends) of a record whose checksum holds."""
        magic, version, length, generation, commit, raw, crc = HEADER.unpack_from(data, at)
        stop = at + HEADER.size + length
        if magic != MAGIC or generation < oldest or stop > len(data):
            return None
        head = self._head_crc(version, length, generation, commit, raw)
        if zlib.crc32(memoryview(data)[at + HEADER.size : stop], head) != crc:
            return None
        if version > FORMAT:
            raise LogTooNew(f"{self._path} has a record of format {version}, this version knows up to {FORMAT}")
        return commit, generation, stop

    def _head_crc(self, version: int, length: int, generation: int, commit: int, raw: int) -> int:
        head = HEADER.pack(MAGIC, version, length, generation, commit, raw, 0)
        return zlib.crc32(head[:-4], self._seed)

    def barrier(self) -> None:
        """Make sure that what was read is on the device and not only in the page cache.

        A process whose fdatasync failed may have left its last record in the page cache, marked clean: it reads back
        well and is gone after a power cut. Written again it is dirty again, and this fdatasync counts.
        """
        with as_log_errors(f"cannot write {self._path}"):
            if self._last is not None:
                self._files.pwrite(self._fd, self._last[1], self._last[0])
            self._files.fdatasync(self._fd)
        self._last = None

    def encode(self, entry: Entry) -> tuple[int, bytes]:
        """An entry as the body of a record: (unpacked length, bytes)."""
        raw = self._encoder.encode(entry)
        return len(raw), self._compress(raw)

    def fits(self, body: bytes) -> bool:
        """Whether a record with this body can be written now. At offset 0 everything can: the file grows."""
        return self.at == 0 or HEADER.size + len(body) <= self.free

    def write(self, commit: int, raw: int, body: bytes) -> None:
        """One record, durable when this returns; to be written again, unchanged, where it raises."""
        head = self._head_crc(FORMAT, len(body), self.generation, commit, raw)
        header = HEADER.pack(MAGIC, FORMAT, len(body), self.generation, commit, raw, zlib.crc32(body, head))
        record = b"".join((header, body, bytes(-(len(header) + len(body)) % PAGE)))
        with as_log_errors(f"cannot write {self._path}"):
            self._files.pwrite(self._fd, record, self.at)
            self._files.fdatasync(self._fd)
        self.bytes_written += len(record)
        self.at += len(record)
        self.size = max(self.size, self.at)

    def restart(self, epoch: str) -> None:
        """From the start, under the next generation: everything that is in the file is in SQLite now."""
        self._seed = _seed(epoch)
        self.generation += 1
        self.at = 0

    def close(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1


def _seed(epoch: str) -> int:
    """What the checksums of a log's records start from."""
    return zlib.crc32(bytes.fromhex(epoch))
