"""Sealing: one transaction's worth of change to the store, kept apart from what memory knows until its COMMIT."""

from collections.abc import Iterable, Iterator, Mapping
from math import ceil

import msgspec

from gateway.log.block import PLAIN, TURNED, encode_block
from gateway.log.contents import BlockRow, Shelf
from gateway.log.gaps import add_gap
from gateway.log.position import Range
from gateway.log.ring import evict
from gateway.log.store import Store
from gateway.log.stream import Stream
from gateway.record import Batch, Gap, concat

SAMPLE_EVERY = 16  # blocks of a stream between two trials of both layouts
BLOCK_BYTES = 2 << 20  # payload bytes of one block: unpacking one takes about three times as much memory


class Sealing:
    """`shelves` and `gaps` are how things will stand; whoever began this takes them over after the COMMIT."""

    def __init__(self, store: Store, shelves: Mapping[str, Shelf], streams: Mapping[str, Stream], now: int) -> None:
        self._now = now  # ns: when gaps are declared
        self._store, self._streams, self._before = store, streams, shelves
        self.shelves = {name: msgspec.structs.replace(shelf) for name, shelf in shelves.items()}
        self.gaps: dict[str, tuple[Gap, ...]] = {}
        self.new_gaps: list[Gap] = []
        self.batches: list[Batch] = []
        self.changed: dict[str, Shelf] = {}
        self.evicted = 0  # blocks

    def shelf(self, stream: str) -> Shelf:
        """The stream's shelf, made where it has none."""
        if stream not in self.shelves:
            self.shelves[stream] = self._store.new_shelf(stream)
        return self.shelves[stream]

    def put(self, batch: Batch, blob: bytes) -> None:
        self._store.put_block(self.shelf(batch.stream), batch, blob)
        self.batches.append(batch)

    def put_back(self, stream: str, row: BlockRow, crc: int, blob: bytes) -> None:
        """Add a block that the stream had once."""
        self._store.put_back(self.shelf(stream), row, crc, blob)

    def sealed(self, home: Stream) -> None:
        """Everything that was written of a stream is on its shelf, or in a gap."""
        shelf = self.shelf(home.name)
        shelf.next = max(shelf.next, home.written)
        if not shelf.blocks:
            shelf.oldest = shelf.next

    def lose(self, gaps: Iterable[Gap]) -> None:
        """Declare gaps."""
        for gap in gaps:
            known = self.gaps.get(gap.stream, self._streams[gap.stream].gaps)
            known, parts = add_gap(known, gap)
            self.gaps[gap.stream] = known
            self.new_gaps += parts
            for whole in known:
                if whole.first <= gap.last and whole.last >= gap.first:
                    self._store.save_gap(self.shelf(gap.stream), whole, self._now)

    def evict(self, pins: Mapping[str, list[Range]], size: int, now: int | None) -> None:
        """Forget what is too much or, by `now`, too old."""
        keeps = {name: self._streams[name].keep for name in self.shelves}
        gone = evict(self._store, self.shelves, keeps, pins, size, now)
        self.evicted += len(gone)
        self.lose(gone)

    def finish(self) -> None:
        """The last step before the COMMIT."""
        for name, shelf in self.shelves.items():
            if shelf != self._before.get(name):
                self._store.save_shelf(shelf)
                self.changed[name] = shelf


class Layouts:
    """The layout that was smaller for each stream lately."""

    def __init__(self) -> None:
        self._layouts: dict[str, tuple[int, int]] = {}  # stream -> (layout, blocks until the next trial)

    def encode(self, batch: Batch) -> bytes:
        """A batch as a block."""
        layout, blocks = self._layouts.get(batch.stream, (PLAIN, 0))
        if blocks:
            self._layouts[batch.stream] = (layout, blocks - 1)
            return encode_block(batch, layout)
        plain, turned = encode_block(batch, PLAIN), encode_block(batch, TURNED)
        self._layouts[batch.stream] = (PLAIN if len(plain) < len(turned) else TURNED, SAMPLE_EVERY - 1)
        return min(plain, turned, key=len)


def blocks_of(pieces: Iterable[Batch], start: int, records: int) -> Iterator[Batch]:
    """Batches of a tail from offset `start` on as blocks: contiguous, of about `records` records, of bounded size."""
    run: list[Batch] = []
    for piece in pieces:
        if piece.next <= start:
            continue
        if run and run[-1].next != piece.first:
            yield from _parts(concat(run), records)
            run = []
        run.append(piece.slice(start, piece.next))
    if run:
        yield from _parts(concat(run), records)


def _parts(whole: Batch, records: int) -> Iterator[Batch]:
    """A run as one block, or as equal parts where it is too much for one."""
    count, size = len(whole), sum(map(len, whole.values))
    parts = 1 if count <= 2 * records else ceil(count / records)
    parts = min(max(parts, ceil(size / BLOCK_BYTES)), count)
    step = ceil(count / parts)
    for first in range(whole.first, whole.next, step):
        yield whole.slice(first, first + step)
