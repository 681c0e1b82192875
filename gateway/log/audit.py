"""The audit: everything that was ever recorded is accounted for, in exact counts, for each stream and each reader.

    recorded = kept + gaps by cause                                            of every stream
    recorded = delivered + dead letters + missed + gaps + pending - again      of every reader, since it began

`missed` were gaps already when the reader came to them, `gaps` are those it has not come to yet, and `again` is what
was finished and counts once more (see Ledger). The left side comes from offsets, the right side from counters that
travel with the positions and from reading every block; they meet only if nothing was lost unseen.
"""

from collections.abc import Iterator, Sequence

import msgspec

from gateway.log.archive import Archive
from gateway.log.gaps import gaps_between
from gateway.log.position import Ledger, Place
from gateway.record import DEAD_LETTERS, Batch, Gap

DAMAGED, UNDECLARED = "damaged", "undeclared"
Range = tuple[int, int, str]  # first, last, cause of the gap; "" where the records are there


class StreamAudit(msgspec.Struct):
    """One stream. `undeclared` records are gone, and no gap says so."""

    stream: str
    recorded: int
    kept: int
    gaps: dict[str, int]
    undeclared: int

    @property
    def ok(self) -> bool:
        return not self.undeclared and self.recorded == self.kept + sum(self.gaps.values())


class ReaderAudit(msgspec.Struct):
    """One reader of one stream. `wrong` says what does not add up."""

    reader: str
    stream: str
    since: int  # the offset it began with
    recorded: int  # from there on
    delivered: int
    dead: int
    missed: dict[str, int]
    gaps: dict[str, int]
    pending: int
    again: int
    wrong: str = ""


class Audit(msgspec.Struct):
    streams: list[StreamAudit]
    readers: list[ReaderAudit]
    wrong: list[str]  # in words; nothing where all is well


class _Letter(msgspec.Struct):
    by: str
    stream: str
    more: int = 0


def audit(archive: Archive) -> Audit:
    """Read everything in a log that open() was called of. Blocks; raises LogError."""
    ranges = {stream: _ranges(archive, stream) for stream in archive.streams()}
    streams = [_stream(stream, archive.next(stream), ranges[stream]) for stream in archive.streams()]
    readers = [
        _reader(place, archive.next(place.stream), ranges[place.stream])
        for place in sorted(archive.places(), key=lambda place: (place.reader, place.stream))
        if place.stream in ranges
    ]
    wrong = [
        f"stream {one.stream}: {one.recorded:,} recorded, {one.kept:,} kept, {sum(one.gaps.values()):,} in gaps, "
        f"{one.undeclared:,} gone and in no gap"
        for one in streams
        if not one.ok
    ]
    wrong += [f"{one.reader} in {one.stream}: {one.wrong}" for one in readers if one.wrong]
    wrong += _letters(archive, ranges.get(DEAD_LETTERS, []), readers)
    return Audit(streams, readers, wrong)


def _ranges(archive: Archive, stream: str) -> list[Range]:
    """All offsets ever given, as what became of them; neighbours of one kind joined."""
    found: list[Range] = []
    for part in archive.batches(stream, 0, archive.next(stream)):
        first, last = (part.first, part.next - 1) if isinstance(part, Batch) else (part.first, part.last)
        cause = "" if isinstance(part, Batch) else part.cause
        if found and found[-1][1:] == (first - 1, cause):
            first = found.pop()[0]
        found.append((first, last, cause))
    declared = archive.gaps(stream)  # as of now: a block may have been evicted since it was to be read
    return [piece for one in found for piece in ([one] if one[2] != DAMAGED else _checked(one, declared))]


def _checked(damaged: Range, declared: Sequence[Gap]) -> Iterator[Range]:
    """What cannot be read, by whether a gap says so."""
    at, end, _ = damaged
    for gap in gaps_between(declared, at, end):
        if gap.first > at:
            yield at, gap.first - 1, UNDECLARED
        if gap.last >= at:
            yield max(at, gap.first), gap.last, gap.cause
            at = gap.last + 1
    if at <= end:
        yield at, end, UNDECLARED


def _stream(stream: str, recorded: int, ranges: Sequence[Range]) -> StreamAudit:
    sums = _sums(ranges, [(0, recorded - 1)])
    kept, undeclared = sums.pop("", 0), sums.pop(UNDECLARED, 0)
    return StreamAudit(stream, recorded, kept, sums, undeclared)


def _reader(place: Place, end: int, ranges: Sequence[Range]) -> ReaderAudit:
    ledger = place.ledger or Ledger(place.next, delivered=sum([last + 1 - first for first, last in place.beyond]))
    ahead, at = list[tuple[int, int]](), place.next
    for first, last in sorted(place.beyond):
        ahead.append((at, first - 1))
        at = last + 1
    ahead.append((at, end - 1))
    gaps = _sums(ranges, ahead)
    pending = gaps.pop("", 0)
    recorded = end - ledger.since
    settled = ledger.delivered + ledger.dead + sum(ledger.missed.values()) - ledger.again
    finished = place.next - ledger.since + sum([last + 1 - first for first, last in place.beyond])
    found = ReaderAudit(
        *(place.reader, place.stream, ledger.since, recorded, ledger.delivered, ledger.dead),
        *(ledger.missed, gaps, pending, ledger.again),
    )
    if place.next > end:
        found.wrong = f"it stands at {place.next}, and only {end} were recorded"
    elif settled != finished:
        found.wrong = f"{finished:,} are finished, and {settled:,} are accounted for"
    elif recorded != settled + pending + sum(gaps.values()):
        found.wrong = f"{recorded:,} were recorded, {settled + pending + sum(gaps.values()):,} are accounted for"
    return found


def _letters(archive: Archive, ranges: Sequence[Range], readers: Sequence[ReaderAudit]) -> list[str]:
    """Every record that a sink's ledger counts as dead has a letter, or is counted by one; if all letters are kept."""
    if any(cause for _, _, cause in ranges):
        return []
    told: dict[str, int] = {}
    for first, last, _ in ranges:
        for part in archive.batches(DEAD_LETTERS, first, last + 1):
            for value in part.values if isinstance(part, Batch) else ():
                letter = msgspec.json.decode(value, type=_Letter)
                told[letter.by] = told.get(letter.by, 0) + 1 + letter.more
    dead: dict[str, int] = {}
    for one in readers:
        if one.reader.startswith("sink:") and one.stream != DEAD_LETTERS:
            dead[one.reader] = dead.get(one.reader, 0) + one.dead
    return [
        f"{reader}: {count:,} records are dead, and letters tell of {told.get(reader, 0):,}"
        for reader, count in dead.items()
        if count > told.get(reader, 0)  # records that a former sink of this name refused have letters, too
    ]


def _sums(ranges: Sequence[Range], wanted: Sequence[tuple[int, int]]) -> dict[str, int]:
    """cause -> how many of the wanted offsets."""
    sums: dict[str, int] = {}
    for low, high in wanted:
        for first, last, cause in ranges:
            count = min(last, high) - max(first, low) + 1
            if count > 0:
                sums[cause] = sums.get(cause, 0) + count
    return sums
