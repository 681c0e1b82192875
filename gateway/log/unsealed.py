"""What only the journal holds, beside records: places, ticks, delivery ids, new gaps. It goes to SQLite at turnover."""

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from gateway.log.contents import Contents, Snapshot
from gateway.log.journal import Marks, Tick
from gateway.log.position import Place, Range
from gateway.log.store import Store
from gateway.plugin import Remembered
from gateway.record import Gap, fingerprints

REMEMBERED = 16384  # delivery ids kept per source: what a source may deliver again after a crash
CARRIED_BYTES = 2 << 20  # of their payloads that are kept as they are; beyond that, as fingerprints


class _Carried:
    """Records with delivery ids, as they came."""

    def __init__(self) -> None:
        self.records: deque[tuple[array[int], Sequence[str], Sequence[bytes]]] = deque()
        self.count = 0
        self.size = 0  # payload bytes

    def add(self, ids: "array[int]", keys: Sequence[str], values: Sequence[bytes]) -> None:
        self.records.append((ids, keys, values))
        self.count += len(ids)
        self.size += sum(map(len, values))
        while self.count - len(self.records[0][0]) >= REMEMBERED:
            gone, _, values = self.records.popleft()
            self.count -= len(gone)
            self.size -= sum(map(len, values))


class Unsealed:
    """The log thread's view of what has been written. `commit` is the number of the last commit on the device."""

    def __init__(self) -> None:
        self.commit = 0
        self.gaps: list[Gap] = []
        self.snapshots: tuple[int, Mapping[str, Snapshot]] | None = None  # (commit, pipeline -> state), not stored yet
        self._snapshot_commits: dict[str, int] = {}
        self.coming: Sequence[Place] = ()  # of the commit that is being written
        self._places: dict[tuple[str, str], Place] = {}
        self._new_places: set[tuple[str, str]] = set()
        self._ticks: list[Tick] = []
        self._remembered: dict[str, tuple[array[int], array[int]]] = {}  # source -> (ids, fingerprints)
        self._new_remembered: set[str] = set()
        self._carried: dict[str, _Carried] = {}  # not yet among those

    def take(self, contents: Contents) -> None:
        """Start from what the store holds."""
        self.commit = contents.commit
        self._snapshot_commits = {name: commit for name, (commit, _) in contents.snapshots.items()}
        self._places = {(place.reader, place.stream): place for place in contents.places}
        self.note_ticks(contents.ticks)
        for source, (ids, prints) in contents.remembered.items():
            self._remembered[source] = (array("H", ids), array("I", prints))

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
        carried = self._carried.setdefault(marks.source, _Carried())
        carried.add(new, keys[: len(new)], values[: len(new)])
        # Most are replaced before anyone asks, so fingerprints are only taken of what a turnover or a restart finds,
        # and where payloads are large.
        if carried.size > CARRIED_BYTES:
            self._fingerprint(marks.source)

    def _fingerprint(self, source: str) -> None:
        ids, prints = self._remembered.setdefault(source, (array("H"), array("I")))
        for new, keys, values in self._carried.pop(source).records:
            ids.extend(new)
            prints.extend(fingerprints(keys, values))
        del ids[:-REMEMBERED], prints[:-REMEMBERED]
        self._new_remembered.add(source)

    def _fingerprint_all(self) -> None:
        for source in list(self._carried):
            self._fingerprint(source)

    @property
    def places(self) -> list[Place]:
        """Where every reader stands."""
        return list(self._places.values())

    def store_all(self) -> None:
        """The store is a new one: all of it goes there with the next turnover."""
        self._new_places = set(self._places)
        self._fingerprint_all()
        self._new_remembered = set(self._remembered)

    @property
    def ticks(self) -> list[Tick]:
        return list(self._ticks)

    @property
    def remembered(self) -> dict[str, list[Remembered]]:
        self._fingerprint_all()
        return {source: list(map(Remembered, *columns)) for source, columns in self._remembered.items()}

    def pins(self) -> dict[str, list[Range]]:
        """stream -> every cut that is under way, or will be when the commit that is being written is durable."""
        pins: dict[str, list[Range]] = {}
        for place in (*self._places.values(), *self.coming):
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
        self._fingerprint_all()
        store.turn_over(
            generation,
            self.commit,
            [self._places[key] for key in sorted(self._new_places)],
            self._ticks,
            [
                (source, ids.tobytes(), prints.tobytes())
                for source in sorted(self._new_remembered)
                for ids, prints in (self._remembered[source],)
            ],
        )

    def turned_over(self) -> None:
        """That transaction is durable."""
        self._new_places.clear()
        self._new_remembered.clear()
