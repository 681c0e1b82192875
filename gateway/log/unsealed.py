"""What only the journal holds, beside records: places, ticks, delivery ids, new gaps. It goes to SQLite at turnover."""

import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from gateway.log.journal import Marks, Tick
from gateway.log.position import Place, Range
from gateway.log.store import Contents, Snapshot, Store
from gateway.plugin import Remembered
from gateway.record import Gap

REMEMBERED = 4096  # delivery ids kept per source


class Unsealed:
    """The log thread's view of what has been written. `commit` is the number of the last commit on the device."""

    def __init__(self) -> None:
        self.commit = 0
        self.gaps: list[Gap] = []
        self.snapshots: tuple[int, Mapping[str, Snapshot]] | None = None  # (commit, pipeline -> state), not stored yet
        self._snapshot_commits: dict[str, int] = {}
        self._places: dict[tuple[str, str], Place] = {}
        self._new_places: set[tuple[str, str]] = set()
        self._ticks: list[Tick] = []
        self._remembered: dict[str, tuple[array[int], array[int]]] = {}  # source -> (ids, fingerprints)
        self._new_remembered: set[str] = set()
        self._carried: dict[str, deque[tuple[array[int], Sequence[str], Sequence[bytes]]]] = {}  # not yet among those

    def take(self, contents: Contents) -> None:
        """Start from what the store holds."""
        self.commit = contents.commit
        self._snapshot_commits = {name: commit for name, (commit, _) in contents.snapshots.items()}
        self._places = {(place.reader, place.stream): place for place in contents.places}
        self.note_ticks(contents.ticks)
        for source, (ids, fingerprints) in contents.remembered.items():
            self._remembered[source] = (array("H", ids), array("I", fingerprints))

    def note_places(self, places: Iterable[Place]) -> None:
        for place in places:
            self._places[place.reader, place.stream] = place
            self._new_places.add((place.reader, place.stream))

    def note_ticks(self, ticks: Iterable[Tick]) -> None:
        """Keep the ticks that happened after their pipeline's snapshot."""
        self._ticks += [tick for tick in ticks if tick.commit > self._snapshot_commits.get(tick.pipeline, 0)]

    def note_ids(self, marks: Marks, keys: Sequence[str], values: Sequence[bytes]) -> None:
        """Keep delivery ids, with fingerprints (see gateway.record) of the records that carried them."""
        new = array("H", marks.ids)
        keys, values = keys[: len(new)][-REMEMBERED:], values[: len(new)][-REMEMBERED:]
        carried = self._carried.setdefault(marks.source, deque())
        carried.append((new[-REMEMBERED:], keys, values))
        # Most are replaced before anyone asks, so fingerprints are only taken of what a turnover or a restart finds.
        spare = sum(len(ids) for ids, _, _ in carried) - REMEMBERED
        while spare >= len(carried[0][0]):
            spare -= len(carried.popleft()[0])

    def _fingerprint(self) -> None:
        for source, carried in self._carried.items():
            ids, fingerprints = self._remembered.setdefault(source, (array("H"), array("I")))
            for new, keys, values in carried:
                seeds = {key: zlib.crc32(key.encode("utf-8", "surrogatepass")) for key in set(keys)}
                ids.extend(new)
                fingerprints.extend(map(zlib.crc32, values, map(seeds.__getitem__, keys)))
            del ids[:-REMEMBERED], fingerprints[:-REMEMBERED]
            self._new_remembered.add(source)
        self._carried.clear()

    @property
    def ticks(self) -> list[Tick]:
        return list(self._ticks)

    @property
    def remembered(self) -> dict[str, list[Remembered]]:
        self._fingerprint()
        return {source: list(map(Remembered, *columns)) for source, columns in self._remembered.items()}

    def pins(self) -> dict[str, list[Range]]:
        """stream -> every cut that is under way."""
        pins: dict[str, list[Range]] = {}
        for place in self._places.values():
            if place.cuts:
                pins.setdefault(place.stream, []).extend(place.cuts)
        return pins

    def store_snapshots(self, store: Store) -> int:
        """Inside a transaction. Returns the bytes they take."""
        if self.snapshots is None:
            return 0
        commit, snapshots = self.snapshots
        return sum([store.save_snapshot(pipeline, commit, state) for pipeline, state in snapshots.items()])

    def forget_snapshots(self) -> None:
        """They are stored: ticks they already know are needed no more."""
        if self.snapshots is not None:
            commit, snapshots = self.snapshots
            self._snapshot_commits.update(dict.fromkeys(snapshots, commit))
            ticks, self._ticks, self.snapshots = self._ticks, [], None
            self.note_ticks(ticks)

    def turn_over(self, store: Store, generation: int) -> None:
        """Inside a transaction: everything, after which the journal may start again under this generation."""
        self._fingerprint()
        store.turn_over(
            generation,
            self.commit,
            [self._places[key] for key in sorted(self._new_places)],
            self._ticks,
            [
                (source, ids.tobytes(), fingerprints.tobytes())
                for source in sorted(self._new_remembered)
                for ids, fingerprints in (self._remembered[source],)
            ],
        )

    def turned_over(self) -> None:
        """That transaction is durable."""
        self._new_places.clear()
        self._new_remembered.clear()
