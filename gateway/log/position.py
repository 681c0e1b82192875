"""Positions: what every reader has finished, as a prefix plus ranges beyond it, and the cuts it has under way.

- a prefix only ever moves over offsets that were settled or will never come
- the whole state of a (reader, stream) is journaled with each commit that changed it, so the newest one is enough
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.record import Extent, Gap

Range = tuple[int, int]  # first, last


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where one reader stands in one stream: the whole state, as it is journaled and stored."""

    reader: str
    stream: str
    next: int
    beyond: tuple[Range, ...] = ()  # settled, but not joined to the prefix
    cuts: tuple[Range, ...] = ()  # under way


class _Standing:
    __slots__ = ("beyond", "cuts", "next")

    def __init__(self, next: int, beyond: list[Range], cuts: list[Range]) -> None:  # noqa: A002 - the house's word
        self.next, self.beyond, self.cuts = next, beyond, cuts

    def finish(self, first: int, last: int) -> None:
        """Count first..last as read, and let the prefix run over everything that now joins it."""
        ranges: list[Range] = []
        for low, high in sorted([*self.beyond, (first, last)]):
            if ranges and low <= ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
            else:
                ranges.append((low, high))
        while ranges and ranges[0][0] <= self.next:
            self.next = max(self.next, ranges.pop(0)[1] + 1)
        self.beyond = ranges


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
            standing.finish(standing.next, next - 1)
            self._dirty.add((reader, stream))

    def cut(self, reader: str, extent: Extent) -> None:
        """This extent is under way from the coming commit on, and is sent as it is until it is settled."""
        self._standing(reader, extent.stream, extent.first).cuts.append((extent.first, extent.last))

    def outstanding(self, reader: str) -> list[Extent]:
        """Cuts that were not settled, by stream and offset."""
        standings = self._readers.get(reader, {})
        return sorted(Extent(stream, *cut) for stream, standing in standings.items() for cut in standing.cuts)

    def settle(self, reader: str, extent: Extent) -> None:
        """The cut is finished. The prefix moves once everything before it is finished too."""
        standing = self._standing(reader, extent.stream, extent.first)
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
            standing.cuts, standing.beyond = [], []
            self._dirty.add((reader, stream))

    def skip(self, reader: str, gap: Gap) -> None:
        """These offsets will never come: they count as read."""
        self._standing(reader, gap.stream, gap.first).finish(gap.first, gap.last)

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
            Place(reader, stream, standing.next, tuple(standing.beyond), tuple(standing.cuts))
            for reader, stream in sorted(self._dirty)
            for standing in (self._readers[reader][stream],)
        ]
        self._dirty.clear()
        return places

    def restore(self, place: Place) -> None:
        """Take over what was read back."""
        standing = _Standing(place.next, list(place.beyond), list(place.cuts))
        self._readers.setdefault(place.reader, {})[place.stream] = standing

    def _standing(self, reader: str, stream: str, first: int) -> _Standing:
        self._dirty.add((reader, stream))
        return self._readers.setdefault(reader, {}).setdefault(stream, _Standing(first, [], []))
