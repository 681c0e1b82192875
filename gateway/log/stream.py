"""Streams in memory: their tails, their gaps, and the marks that say how far each is durable, sealed and read."""

from bisect import bisect_right
from operator import attrgetter

import msgspec

from gateway.log.contents import Shelf
from gateway.log.gaps import add_gap, gap_at
from gateway.record import Batch, Gap, concat

PIECE_COST = 400  # bytes of a batch object and its columns, beside what they hold
RUN_COST = 72  # bytes of one commit number with its count
RECORD_COST = 120  # bytes of a record's objects, beside its payload
MERGE_BELOW = 512  # pieces of a tail are joined up to this many records

_first = attrgetter("first")


class Keep(msgspec.Struct, frozen=True):
    """How much of a stream is kept: bytes, age by record time; an urgent stream is the last to be evicted for room."""

    size: int | None = None
    age_s: float | None = None
    urgent: bool = False


class Stream:
    """One stream. The tail changes on the event loop alone; other threads see a list that grows or is replaced whole.

    oldest <= the first readable offset; [.. sealed) is in SQLite; [.. durable) is on the device; [.. next) is given.
    """

    __slots__ = ("bytes", "durable", "gaps", "keep", "name", "next", "oldest", "pieces", "written")

    def __init__(self, name: str, next: int, gaps: tuple[Gap, ...]) -> None:  # noqa: A002 - the house's word
        self.name = name
        self.keep = Keep()
        self.oldest = self.next = self.durable = next
        self.written = next  # as `durable`, but seen from the log thread
        self.gaps = gaps  # replaced by the log thread alone
        self.pieces: list[Batch] = []
        self.bytes = 0  # of memory

    def append(self, batch: Batch, size: int) -> None:
        """Put a batch at the end; `size` is what its payloads take."""
        self.pieces.append(batch)
        self.next = batch.next
        self.bytes += size

    def piece(self, offset: int) -> Batch | None:
        """The batch of the tail that holds this offset."""
        pieces = self.pieces
        at = bisect_right(pieces, offset, key=_first) - 1
        if at >= 0 and offset < pieces[at].next:
            return pieces[at]
        return None

    def gap(self, offset: int) -> Gap | None:
        return gap_at(self.gaps, offset)

    def waiting(self) -> list[Batch]:
        """What could be sealed now: the written part of the tail. For the log thread."""
        return [piece for piece in self.pieces if piece.next <= self.written]

    def settle(self) -> int:
        """Everything written is durable now; small pieces are joined. Returns the bytes of memory that saved."""
        self.durable = max(self.durable, self.written)
        pieces, saved = self.pieces, 0
        # Like the carries of a binary counter: each record is copied a few times at most.
        while (
            len(pieces) > 1
            and pieces[-1].next <= self.durable
            and pieces[-2].next == pieces[-1].first
            and len(pieces[-2]) <= 2 * len(pieces[-1])
            and len(pieces[-2]) + len(pieces[-1]) <= MERGE_BELOW
        ):
            whole = concat(pieces[-2:])
            saved += size_of(pieces[-2]) + size_of(pieces[-1]) - size_of(whole)
            pieces = [*pieces[:-2], whole]
        self.pieces = pieces
        self.bytes -= saved
        return saved

    def drop(self, sealed: int) -> int:
        """Forget the pieces below `sealed`. Returns the bytes of memory that saved."""
        kept = [piece.slice(sealed, piece.next) for piece in self.pieces if piece.next > sealed]
        size = sum(map(size_of, kept))
        saved, self.bytes, self.pieces = self.bytes - size, size, kept
        return saved


class Streams:
    """Every stream of a log, and what is sealed of each.

    The event loop adds streams and changes their tails. `shelves` is replaced whole, and `ripe` emptied, by the log
    thread. Before the log is in use, whoever opens it has all of it.
    """

    def __init__(self) -> None:
        self.homes: dict[str, Stream] = {}  # by name
        self.shelves: dict[str, Shelf] = {}  # of those that the store knows
        self.memory = 0  # bytes that all tails take
        self.ripe: set[str] = set()  # those with a tail that makes a block

    def home(self, name: str) -> Stream:
        """The stream of that name, made where there was none."""
        found = self.homes.get(name)
        if found is None:
            found = self.homes[name] = Stream(name, 0, ())
        return found

    def sealed(self, name: str) -> int:
        """Every offset below is in the store, or in a gap."""
        shelf = self.shelves.get(name)
        return shelf.next if shelf else 0

    def append(self, home: Stream, batch: Batch, size: int) -> None:
        """As Stream.append()."""
        home.append(batch, size)
        self.memory += size

    def settle(self, home: Stream) -> None:
        """As Stream.settle()."""
        self.memory -= home.settle()

    def drop(self, home: Stream, sealed: int) -> None:
        """As Stream.drop()."""
        self.memory -= home.drop(sealed)

    def declare(self, gap: Gap) -> list[Gap]:
        """A gap that was found while the log is opened. Returns the parts of it that are new."""
        home = self.home(gap.stream)
        home.gaps, new = add_gap(home.gaps, gap)
        return new

    def skip(self, home: Stream, until: int) -> list[Gap]:
        """Offsets from `next` to `until` were given by a commit that does not read back. Returns the gap, if any."""
        if until <= home.next:
            return []
        gap, home.next = Gap(home.name, home.next, until - 1, "damaged"), until
        return self.declare(gap)


def size_of(batch: Batch) -> int:
    """About how many bytes of memory a batch takes."""
    return sum(map(len, batch.values)) + len(batch) * RECORD_COST + len(batch.commits) * RUN_COST + PIECE_COST
