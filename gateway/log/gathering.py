"""What the coming commit will hold: everything appended and noted since the last one. It belongs to the event loop."""

from array import array
from collections.abc import Iterable, Mapping, Sequence

from gateway.clock import Clock
from gateway.log.contents import Snapshot
from gateway.log.journal import HEADER, Marks, Moment, Tick
from gateway.log.position import Place, Positions
from gateway.log.stream import PIECE_COST, RECORD_COST, RUN_COST, Streams
from gateway.record import Batch, Gap

COMMIT_LIMIT = 32 << 20  # what one commit may hold unpacked; far above what the intake lets in, below what we unpack
RECORD_BYTES = 16  # of a record in a commit, beside its key and value


class Commit:
    """Everything gathered up to one moment, never changed again. `size` is its bytes in the journal, once written."""

    __slots__ = (
        "body",
        "gaps",
        "marks",
        "moment",
        "nexts",
        "number",
        "pieces",
        "places",
        "raw",
        "snapshots",
        "ticks",
        "whole",
    )

    def __init__(
        self,
        number: int,
        pieces: dict[str, list[Batch]],
        marks: dict[str, list[tuple[Marks, Batch]]],
        nexts: dict[str, int],
        places: list[Place],
        gaps: list[Gap],
        ticks: list[Tick],
        moment: Moment,
        snapshots: Mapping[str, Snapshot] | None,
    ) -> None:
        self.number, self.pieces, self.marks, self.nexts = number, pieces, marks, nexts
        self.places, self.gaps, self.ticks, self.moment, self.snapshots = places, gaps, ticks, moment, snapshots
        self.raw, self.body = 0, b""
        self.whole = False  # it says where everything stands

    @property
    def size(self) -> int:
        return HEADER.size + len(self.body)


class Gathering:
    """Gives offsets, and keeps what was given them until take()."""

    def __init__(self, streams: Streams, positions: Positions, clock: Clock) -> None:
        self._streams, self._positions, self._clock = streams, positions, clock
        self._boot = ""
        self._coming = 1  # the commit's number
        self._pieces: dict[str, list[Batch]] = {}
        self._marks: dict[str, list[tuple[Marks, Batch]]] = {}
        self._ticks: list[Tick] = []
        self._gaps: list[Gap] = []
        self._live: dict[str, int] = {}  # stream -> next, of streams with records in this generation
        self.pending_bytes = 0
        self.since_snapshots = 0  # records

    def begin(self, boot: str, coming: int, live: Mapping[str, int], gaps: Iterable[Gap]) -> None:
        """Go on from what was found: the boot, the next commit, streams in the journal, gaps that it is to hold."""
        self._boot, self._coming = boot, coming
        self._live = dict(live)
        self._gaps += gaps

    def append(
        self,
        stream: str,
        times: Sequence[int],
        keys: Sequence[str],
        values: Sequence[bytes],
        flags: bytes | None,
        ids: Sequence[int] | None,
        source: str | None,
    ) -> Batch:
        """As Log.append()."""
        home = self._streams.home(stream)
        count = len(values)
        if not count:
            return Batch(stream, home.next, [], [], [])
        size = sum(map(len, values))
        array("q", times)
        if not len(times) == len(keys) == count == len(flags or values) == len(values if ids is None else ids):
            raise ValueError(f"{stream}: columns of different length")
        pending = self.pending_bytes + size + sum(map(len, keys)) + count * RECORD_BYTES
        if pending > COMMIT_LIMIT:
            raise ValueError(f"{stream}: {pending} bytes in one commit")
        if flags is not None and not any(flags):
            flags = None
        batch = Batch(stream, home.next, times, keys, values, ((self._coming, count),), flags)
        pieces = self._pieces.setdefault(stream, [])
        if ids is not None:
            mark = Marks(
                source or "", batch.first - (pieces[0].first if pieces else batch.first), array("H", ids).tobytes()
            )
            self._marks.setdefault(stream, []).append((mark, batch))
        pieces.append(batch)
        self._streams.append(home, batch, size + count * RECORD_COST + RUN_COST + PIECE_COST)
        self.pending_bytes = pending
        self.since_snapshots += count
        return batch

    def tick(self, pipeline: str, now_ns: int) -> None:
        """As Log.tick()."""
        self._ticks.append(Tick(pipeline, now_ns, self._positions.of(f"pipeline:{pipeline}"), self._coming))

    @property
    def pending(self) -> bool:
        """There is something to commit."""
        return bool(self._pieces or self._ticks or self._gaps) or self._positions.dirty

    def take(self, snapshots: Mapping[str, Snapshot] | None) -> Commit:
        """Everything so far as a commit; the next one begins."""
        pieces = self._pieces
        nexts = {name: next_ for name, next_ in self._live.items() if name not in pieces}
        for name, batches in pieces.items():
            self._live[name] = batches[-1].next
        moment = Moment(self._boot, round(self._clock.monotonic() * 1e9), self._clock.now(), "unknown")
        commit = Commit(
            self._coming,
            pieces,
            self._marks,
            nexts,
            self._positions.take(),
            self._gaps,
            self._ticks,
            moment,
            None if snapshots is None else dict(snapshots),
        )
        self._coming += 1
        self._pieces, self._marks, self._gaps, self._ticks, self.pending_bytes = {}, {}, [], [], 0
        if snapshots is not None:
            self.since_snapshots = 0
        return commit

    def forget_sealed(self) -> None:
        """Streams that the store holds as far as any commit here need not be named again."""
        self._live = {name: next_ for name, next_ in self._live.items() if next_ > self._streams.sealed(name)}
