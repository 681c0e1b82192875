"""Two streams compared while both are made, in bounded memory: what is the same, what changed, what only one has.

Records belong together by key and time; their order among others does not count.
"""

from collections import Counter
from itertools import islice
from typing import NamedTuple

from gateway.derive import Columns

MOST_HELD = 20_000  # records of each side that wait for their counterpart

Row = tuple[str, int, bytes]  # key, time (ns), value


class Differing(NamedTuple):
    """Records of one key and time that differ; None where a side has none."""

    key: str
    time: int
    ours: bytes | None
    theirs: bytes | None


class Difference:
    """`take` both sides as they come, then `finish`. `examples` are the first that differ, `shown` at most.

    `shared`: what only they have is no example, for it may come from somebody else.
    """

    def __init__(self, shown: int, *, shared: bool = False) -> None:
        self._shown, self._shared = shown, shared
        self.same = self.changed = self.added = self.missing = 0
        self.examples: list[Differing] = []
        self._ours: dict[tuple[str, int], list[bytes]] = {}
        self._theirs: dict[tuple[str, int], list[bytes]] = {}
        self._held = 0

    def take(self, ours: Columns, theirs: Columns) -> None:
        """The next records of both sides, of about the same stretch of time."""
        if not self._held and ours == theirs:
            self.same += len(ours.values)
            return
        a, b = _rows(ours), _rows(theirs)
        both = set(a) & set(b)
        if both:
            common = Counter(row for row in a if row in both) & Counter(row for row in b if row in both)
            self.same += common.total()
            a, b = _without(a, common), _without(b, common)
        for row in a:
            self._meet(row, self._ours, self._theirs)
        for row in b:
            self._meet(row, self._theirs, self._ours)
        if self._held > 2 * MOST_HELD:
            self._settle(MOST_HELD)

    def finish(self) -> None:
        """Nothing comes any more."""
        self._settle(self._held)

    def _meet(
        self, row: Row, mine: dict[tuple[str, int], list[bytes]], other: dict[tuple[str, int], list[bytes]]
    ) -> None:
        """Find the same record on the other side, or wait for it."""
        key, time, value = row
        waiting = other.get((key, time))
        if waiting is not None and value in waiting:
            waiting.remove(value)
            self._held -= 1
            self.same += 1
            if not waiting:
                del other[key, time]
            return
        mine.setdefault((key, time), []).append(value)
        self._held += 1

    def _settle(self, count: int) -> None:
        """Count those that have waited longest as different: first of ours, then of theirs."""
        for at in list(islice(self._ours, count)):
            self._count(at, self._ours.pop(at), self._theirs.pop(at, []))
        for at in list(islice(self._theirs, count)):
            self._count(at, [], self._theirs.pop(at))

    def _count(self, at: tuple[str, int], ours: list[bytes], theirs: list[bytes]) -> None:
        self._held -= len(ours) + len(theirs)
        pairs = min(len(ours), len(theirs))
        self.changed += pairs
        self.added += len(ours) - pairs
        self.missing += len(theirs) - pairs
        differing = len(ours) if self._shared else max(len(ours), len(theirs))
        for i in range(min(differing, self._shown)):
            mine, other = ours[i] if i < len(ours) else None, theirs[i] if i < len(theirs) else None
            self.examples.append(Differing(*at, mine, other))
        if len(self.examples) > 4 * self._shown:
            self._keep_first()

    def first(self) -> list[Differing]:
        """The first records that differ, by time."""
        self._keep_first()
        return self.examples

    def _keep_first(self) -> None:
        self.examples = sorted(self.examples, key=lambda one: (one.time, one.key))[: self._shown]


def _without(rows: list[Row], common: Counter[Row]) -> list[Row]:
    """Rows less those that both sides have, as often as both have them."""
    left, kept = common.copy(), []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
        else:
            kept.append(row)
    return kept


def _rows(columns: Columns) -> list[Row]:
    return list(zip(columns.keys, columns.times, columns.values, strict=True))
