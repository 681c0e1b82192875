"""What travels through the house: batches of records, the gaps between them, extents of them, and receipts for them.

A record is (offset, time, key, value). Inside the daemon records move as columns of one stream: one object per batch,
none per record. `Record` exists for the edges (a CLI line, an API answer, a test).
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

RETAINED = 1  # flag: an MQTT broker sent this as a retained message, not as news

DEAD_LETTERS = "_dead"  # the stream of records that could not be processed or delivered
METRICS = "_metrics"  # the stream of our own numbers, recorded only where somebody reads it


class Record(NamedTuple):
    """One event at an edge of the house. `time` is ns since 1970 UTC."""

    offset: int
    time: int
    key: str
    value: bytes
    flags: int = 0


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive records of one stream, as columns of equal length. Never changed after it was made.

    `commits` says which commit recorded them, run-length: ((commit number, records), …) in order; a batch that was not
    committed yet carries the number its commit will have. `flags` is one byte per record, or None where all are zero.
    """

    stream: str
    first: int
    times: Sequence[int]
    keys: Sequence[str]
    values: Sequence[bytes]
    commits: tuple[tuple[int, int], ...] = ()
    flags: bytes | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def next(self) -> int:
        """The offset after the last record."""
        return self.first + len(self.values)

    def slice(self, first: int, stop: int) -> "Batch":
        """The records with first <= offset < stop; both bounds are clipped to what the batch holds."""
        low, high = max(first - self.first, 0), min(stop - self.first, len(self.values))
        if low == 0 and high == len(self.values):
            return self
        return Batch(
            self.stream,
            self.first + low,
            self.times[low:high],
            self.keys[low:high],
            self.values[low:high],
            _cut_runs(self.commits, low, high),
            self.flags[low:high] if self.flags else None,
        )

    def records(self) -> Iterator[Record]:
        """One object per record: for the edges only."""
        flags = self.flags or bytes(len(self.values))
        return map(Record, range(self.first, self.first + len(self.values)), self.times, self.keys, self.values, flags)


def _cut_runs(runs: tuple[tuple[int, int], ...], low: int, high: int) -> tuple[tuple[int, int], ...]:
    out, at = [], 0
    for commit, n in runs:
        keep = min(at + n, high) - max(at, low)
        if keep > 0:
            out.append((commit, keep))
        at += n
    return tuple(out)


def concat(batches: Sequence[Batch]) -> Batch:
    """Neighbouring batches of one stream as one. They must be contiguous."""
    if len(batches) == 1:
        return batches[0]
    times: list[int] = []
    keys: list[str] = []
    values: list[bytes] = []
    commits: list[tuple[int, int]] = []
    for batch in batches:
        times += batch.times
        keys += batch.keys
        values += batch.values
        for commit, n in batch.commits:
            if commits and commits[-1][0] == commit:
                commits[-1] = (commit, commits[-1][1] + n)
            else:
                commits.append((commit, n))
    flags = None
    if any(batch.flags for batch in batches):
        flags = b"".join([batch.flags or bytes(len(batch)) for batch in batches])
    return Batch(batches[0].stream, batches[0].first, times, keys, values, tuple(commits), flags)


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Offsets first..last of a stream that nobody will read any more, and why: damaged, evicted, expired, thinned."""

    stream: str
    first: int
    last: int
    cause: str

    def __len__(self) -> int:
        return self.last - self.first + 1


class Extent(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Offsets first..last (both included) of one stream: what a sink's batch was cut to."""

    stream: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


class Rejected(NamedTuple):
    """A record that the far side will never take, and its reason in plain words."""

    offset: int
    reason: str


class Receipt(NamedTuple):
    """What the far side said of a delivery: everything is accepted but the records named here."""

    rejected: tuple[Rejected, ...] = ()


class Delivery:
    """One cut extent on its way to a sink: an id that never names two contents, the records, the gaps, the body.

    `body` is encoded and compressed once, on first use, and kept for every retry. For format `raw` there is no body:
    the sink sends `batch` record by record.
    """

    __slots__ = ("batches", "body", "content_type", "encoding", "extent", "gaps", "id")

    def __init__(
        self,
        id: str,  # noqa: A002 - it is the batch id everywhere
        extent: Extent,
        batches: Sequence[Batch],
        gaps: Sequence[Gap],
        content_type: str,
        encoding: str,
        body: bytes,
    ) -> None:
        self.id, self.extent, self.batches, self.gaps = id, extent, batches, gaps
        self.content_type, self.encoding, self.body = content_type, encoding, body

    @property
    def count(self) -> int:
        """How many records it carries."""
        return sum(map(len, self.batches))


def sizes(values: Sequence[bytes]) -> list[int]:
    """Running total of the payload bytes: sizes(v)[i] is the size of the first i + 1 values."""
    return list(accumulate(map(len, values)))


def fingerprint(key: str, value: bytes) -> int:
    """32 bits that tell one record's content from another's: what is kept to recognise a record delivered again."""
    return zlib.crc32(value, zlib.crc32(key.encode("utf-8", "surrogatepass")))


def fingerprints(keys: Sequence[str], values: Sequence[bytes]) -> Iterator[int]:
    """`fingerprint()` of many records; keys are looked at once."""
    seeds = {key: zlib.crc32(key.encode("utf-8", "surrogatepass")) for key in set(keys)}
    return map(zlib.crc32, values, map(seeds.__getitem__, keys))


def wire_value(value: bytes) -> object:
    """A payload as outside programs see it: the JSON value it is, else text, else {"$b": base64}.

    Encode the result with msgspec.json or msgspec.to_builtins; a JSON payload is passed through byte for byte.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"$b": base64.b64encode(value).decode()}
    try:
        msgspec.json.decode(value)  # in full: a number may be JSON and still be more than anybody can read
    except (msgspec.DecodeError, RecursionError):
        return text
    # In valid JSON a line break stands between tokens only; a line-based format needs it to be a space.
    return (
        msgspec.Raw(value.replace(b"\n", b" ").replace(b"\r", b" "))
        if b"\n" in value or b"\r" in value
        else msgspec.Raw(value)
    )


def dead_letter(who: str, step: str, reason: str, stream: str, record: Record) -> bytes:
    """The value of a dead letter: who could not handle which record of which stream, at which step, and why."""
    return msgspec.json.encode(
        {
            "by": who,
            "step": step,
            "reason": reason[:500],
            "stream": stream,
            "offset": record.offset,
            "time": record.time,
            "key": record.key,
            "value": wire_value(record.value),
        }
    )
