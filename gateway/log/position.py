"""Positions: what every reader has finished, as a prefix plus ranges beyond it, and the cuts it has under way.

- a prefix only ever moves over offsets that were settled or will never come
- the whole state of a (reader, stream) is journaled with each commit that changed it, so the newest one is enough
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.record import Extent, Gap

Range = tuple[int, int]  # first, last


class Ledger(msgspec.Struct, array_like=True, frozen=True):
    """What became of every offset that a reader has finished, as counts since it began at `since`.

    What is finished = delivered + dead + missed, less what was set back and counts again when it is read again.
    """

    since: int = 0
    delivered: int = 0  # to a sink: the far side has it; to a pipeline: it was read
    dead: int = 0  # in dead letters
    missed: dict[str, int] = {}  # cause of the gap -> offsets that were gone before the reader came to them
    again: int = 0  # finished, and set back or finished once more


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where one reader stands in one stream: the whole state, as it is journaled and stored."""

    reader: str
    stream: str
    next: int
    beyond: tuple[Range, ...] = ()  # settled, but not joined to the prefix
    cuts: tuple[Range, ...] = ()  # under way
    ledger: Ledger | None = None  # None: it was not kept yet


class _Standing:
    __slots__ = ("again", "beyond", "cuts", "dead", "delivered", "missed", "next", "since")

    def __init__(self, next: int, beyond: list[Range], cuts: list[Range], ledger: Ledger | None = None) -> None:  # noqa: A002 - the house's word
        self.next, self.beyond, self.cuts = next, beyond, cuts
        if ledger is None:  # kept from now on
            ledger = Ledger(next, delivered=sum([last + 1 - first for first, last in beyond]))
        self.since, self.delivered, self.dead = ledger.since, ledger.delivered, ledger.dead
        self.missed, self.again = dict(ledger.missed), ledger.again

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.since, self.delivered, self.dead, dict(self.missed), self.again)

    def finish(self, first: int, last: int) -> None:
        """Count first..last as finished, and let the prefix run over everything that now joins it."""
        before = self.next + sum([high + 1 - low for low, high in self.beyond])
        ranges: list[Range] = []
        for low, high in sorted([*self.beyond, (first, last)]):
            if ranges and low <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
            else:
                ranges.append((low, high))
        while ranges and ranges[0][0] <= self.next:
            self.next = max(self.next, ranges.pop(0)[1] + 1)
        self.beyond = ranges
        after = self.next + sum([high + 1 - low for low, high in ranges])
        self.again += last + 1 - first - (after - before)  # what of it was finished already

    def miss(self, cause: str, count: int) -> None:
        self.missed[cause] = self.missed.get(cause, 0) + count


class Positions:
    """Every reader's state, in memory. Changed on the event loop; each change goes into the coming commit."""

    def __init__(self) -> None:
        self._readers: dict[str, dict[str, _Standing]] = {}
        self._dirty: set[tuple[str, str]] = set()

    @property
    def dirty(self) -> bool:
        """Something changed since take()."""
        return bool(self._dirty)

    def where(self, reader: str, stream: str) -> int | None:
        """The first offset that the reader has not finished; None where it never started."""
        standing = self._readers.get(reader, {}).get(stream)
        return None if standing is None else standing.next

    def start(self, reader: str, stream: str, next: int) -> None:  # noqa: A002 - the house's word
        """Begin at `next`, whatever was before."""
        self._readers.setdefault(reader, {})[stream] = _Standing(next, [], [])
        self._dirty.add((reader, stream))

    def move(self, reader: str, stream: str, next: int) -> None:  # noqa: A002 - the house's word
        """Everything before `next` is finished."""
        standing = self._readers.get(reader, {}).get(stream)
        if standing is None:
            self.start(reader, stream, next)
        elif next > standing.next:
            standing.delivered += next - standing.next
            standing.finish(standing.next, next - 1)
            self._dirty.add((reader, stream))

    def cut(self, reader: str, extent: Extent) -> None:
        """This extent is under way from the coming commit on, and is sent as it is until it is settled."""
        self._standing(reader, extent.stream, extent.first).cuts.append((extent.first, extent.last))

    def outstanding(self, reader: str) -> list[Extent]:
        """Cuts that were not settled, by stream and offset."""
        standings = self._readers.get(reader, {})
        return sorted(Extent(stream, *cut) for stream, standing in standings.items() for cut in standing.cuts)

    def settle(self, reader: str, extent: Extent, *, dead: int = 0, gaps: Sequence[Gap] = ()) -> None:
        """The cut is finished: delivered, but for `dead` records and what was lost to `gaps` before it was sent.

        The prefix moves once everything before it is finished too.
        """
        standing = self._standing(reader, extent.stream, extent.first)
        standing.delivered += len(extent) - dead - sum(map(len, gaps))
        standing.dead += dead
        for gap in gaps:
            standing.miss(gap.cause, len(gap))
        if (extent.first, extent.last) in standing.cuts:
            standing.cuts.remove((extent.first, extent.last))
        standing.finish(extent.first, extent.last)

    def recut(self, reader: str, extent: Extent, parts: Sequence[Extent]) -> None:
        """Instead of this cut, which was never taken, these are under way from the coming commit on."""
        standing = self._standing(reader, extent.stream, extent.first)
        if (extent.first, extent.last) in standing.cuts:
            standing.cuts.remove((extent.first, extent.last))
        standing.cuts += [(part.first, part.last) for part in parts]

    def release(self, reader: str, stream: str) -> None:
        """Nobody reads on for now: nothing is under way, and reading on later begins at the prefix.

        What was finished beyond it is read again then; otherwise what lies between would never be.
        """
        standing = self._readers.get(reader, {}).get(stream)
        if standing is not None and (standing.cuts or standing.beyond):
            standing.again += sum([last + 1 - first for first, last in standing.beyond])
            standing.cuts, standing.beyond = [], []
            self._dirty.add((reader, stream))

    def skip(self, reader: str, gap: Gap) -> None:
        """These offsets will never come: they count as read."""
        standing = self._standing(reader, gap.stream, gap.first)
        standing.miss(gap.cause, len(gap))
        standing.finish(gap.first, gap.last)

    def cut_next(self, reader: str, stream: str) -> int:
        """Where the next cut starts: after the prefix, all cuts, and all that was finished beyond the prefix."""
        standing = self._readers.get(reader, {}).get(stream)
        if standing is None:
            return 0
        return max([standing.next, *(last + 1 for _, last in (*standing.cuts, *standing.beyond))])

    def readers(self) -> Mapping[str, Mapping[str, int]]:
        """reader -> stream -> prefix."""
        return {
            reader: {stream: standing.next for stream, standing in standings.items()}
            for reader, standings in self._readers.items()
        }

    def of(self, reader: str) -> dict[str, int]:
        """stream -> prefix, of one reader."""
        return {stream: standing.next for stream, standing in self._readers.get(reader, {}).items()}

    def take(self) -> list[Place]:
        """The whole state of everything that changed since the last take()."""
        places = [
            Place(reader, stream, standing.next, tuple(standing.beyond), tuple(standing.cuts), standing.ledger)
            for reader, stream in sorted(self._dirty)
            for standing in (self._readers[reader][stream],)
        ]
        self._dirty.clear()
        return places

    def restore(self, place: Place) -> None:
        """Take over what was read back."""
        standing = _Standing(place.next, list(place.beyond), list(place.cuts), place.ledger)
        self._readers.setdefault(place.reader, {})[place.stream] = standing

    def _standing(self, reader: str, stream: str, first: int) -> _Standing:
        self._dirty.add((reader, stream))
        return self._readers.setdefault(reader, {}).setdefault(stream, _Standing(first, [], []))
