"""The log: what was appended becomes durable by one journal record per commit, and is sealed into SQLite later.

- a record is acknowledged, and read, only after the commit that holds it is on the device
- an offset names one content for ever, also after damage: what is lost becomes a gap, and its offsets are not reused
- the journal starts again only after SQLite holds everything that was in it
- a seal that fails changes nothing and costs nothing but time: the journal still holds it all

Three threads meet here. The event loop owns what is gathered and the tails; the log thread owns the journal, the store
and what it has seen written; readers only look. What passes between them is immutable or replaced whole.
"""

import os
import secrets
import threading
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from gateway.clock import Clock
from gateway.errors import LogError
from gateway.log.block import PLAIN, TURNED, encode_block
from gateway.log.files import Files, SystemFiles, as_log_errors
from gateway.log.gaps import add_gap, gaps_between
from gateway.log.journal import HEADER, Entry, Found, Journal, Marks, Moment, Tick, batch_of, section_of
from gateway.log.position import Place, Positions
from gateway.log.recent import Recent
from gateway.log.seal import BLOCK_BYTES, Sealing, blocks_of
from gateway.log.store import Contents, Shelf, Snapshot, Store, StoreReader
from gateway.log.stream import PIECE_COST, RECORD_COST, RUN_COST, Keep, Stream, size_of
from gateway.log.unsealed import Unsealed
from gateway.plugin import Remembered
from gateway.record import Batch, Gap

COMMIT_LIMIT = 32 << 20  # what one commit may hold unpacked; far above what the intake lets in, below what we unpack
RECORD_BYTES = 16  # of a record in a commit, beside its key and value
COMMIT_ROOM = 3 << 19  # 1.5 MiB: the largest record that a commit is expected to make
SAMPLE_EVERY = 16  # blocks of a stream between two trials of both layouts
SNAPSHOT_EVERY = 200_000  # records that a restart may have to run again, at about 5 µs each on a small board
SNAPSHOT_SHARE = 10  # snapshots are at most this part of the bytes written, unless the journal turns over
CHORES_S = 60.0  # between checkpoints: what a device that lost a WAL page can cost
RETRY_S = 1.0  # after a seal that failed


class LogOptions(msgspec.Struct, frozen=True):
    """`path` is a folder; the rest are bytes, but `seal`: the records that make a block."""

    path: str
    size: int = 2 << 30  # of the pages of the database that hold something
    journal: int = 8 << 20
    memory: int = 16 << 20  # of all tails together
    seal: int = 8192


class Commit:
    """Everything gathered up to one moment, never changed again. `size` is its bytes in the journal, once written."""

    __slots__ = ("body", "gaps", "marks", "moment", "nexts", "number", "pieces", "places", "raw", "snapshots", "ticks")

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

    @property
    def size(self) -> int:
        return HEADER.size + len(self.body)


class Maintained(msgspec.Struct):
    """What maintain() did and the event loop has to hear of."""

    shelves: dict[str, Shelf]  # of every stream that changed
    gaps: list[Gap]


class Recovery(msgspec.Struct):
    """What open() found."""

    took_s: float
    snapshots: dict[str, Snapshot]
    ticks: list[Tick]  # those after each pipeline's snapshot, in order
    remembered: dict[str, list[Remembered]]
    gaps: list[Gap]  # declared just now
    torn: bool  # the journal ended in a record that was never finished, so never acknowledged
    damaged: int  # commits that do not read back
    commits: int  # replayed from the journal


class Log:
    """All methods belong to the event loop and return at once, but those marked BLOCKING: they belong to ONE thread
    of their own, except read() and seek(), which may run anywhere.
    """

    def __init__(self, options: LogOptions, clock: Clock, files: Files | None = None) -> None:
        self._options, self._clock, self._files = options, clock, files or SystemFiles()
        self._journal = Journal(os.path.join(options.path, "journal"), options.journal, self._files)
        self._store = Store(os.path.join(options.path, "log.db"), self._files)
        self._reader = StoreReader(os.path.join(options.path, "log.db"), self._files)
        self._reading = threading.Lock()
        self._recent = Recent(options.memory // 2)
        self.epoch = ""
        self.positions = Positions()
        self.clock_trusted = True  # False: nothing expires by age
        self._boot = ""
        self._streams: dict[str, Stream] = {}
        # the event loop's: what the coming commit will hold
        self._coming = 1
        self._gathered: dict[str, list[Batch]] = {}
        self._marks: dict[str, list[tuple[Marks, Batch]]] = {}
        self._ticks: list[Tick] = []
        self._gaps: list[Gap] = []
        self._live: dict[str, int] = {}  # stream -> next, of streams with records in this generation
        self._pending_bytes = 0
        self._memory = 0
        self._ripe: set[str] = set()
        self._records_since_snapshots = 0
        self._bytes_at_snapshots = 0
        # the log thread's: what is on the device
        self._unsealed = Unsealed()
        self._shelves: dict[str, Shelf] = {}
        self._snapshot_bytes = 0
        self._layouts: dict[str, tuple[int, int]] = {}  # stream -> (layout, blocks until the next trial)
        self._unreadable: list[Gap] = []  # found by readers
        self._done: Maintained | None = None  # not yet handed to maintained()
        self._in_doubt = False
        self._not_before = self._chores_at = 0.0
        self._commits = self._seals = self._evicted = 0

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self) -> Recovery:
        """BLOCKING. Recover, and make sure that all that was recovered is on the device. Once, before anything else.

        Raises LogTooNew, having changed nothing; LogError, also where another process has the log; LogFull.
        """
        started = self._clock.monotonic()
        with as_log_errors(f"cannot open {self._options.path}"):
            self._files.make_folder(self._options.path)
            self._boot = self._files.boot_id()
            self._store.refuse_newer()
            self._journal.refuse_newer()
        try:
            self._journal.open()
            contents = self._store.open(secrets.token_hex(16))
            with as_log_errors(f"cannot sync {self._options.path}"):
                self._files.sync_folder(self._options.path)
            self._take(contents)
            commits = damaged = 0
            for found in self._journal.scan(contents.epoch, contents.generation):
                commits, damaged = commits + 1, damaged + found.commit - self._unsealed.commit - 1
                self._replay(found)
            self._journal.barrier()
        except BaseException:  # whatever it was, the lock must go
            self.close()
            raise
        self._gaps += self._unsealed.gaps  # into the coming commit, and into SQLite with the next seal
        self._coming = self._unsealed.commit + 1
        self._chores_at = self._clock.monotonic() + CHORES_S
        for home in self._streams.values():
            self._move_oldest(home)
        return Recovery(
            self._clock.monotonic() - started,
            {name: snapshot for name, (_, snapshot) in contents.snapshots.items()},
            self._unsealed.ticks,
            self._unsealed.remembered,
            list(self._unsealed.gaps),
            self._journal.torn,
            damaged,
            commits,
        )

    def _take(self, contents: Contents) -> None:
        """Start from what the store holds."""
        self.epoch, self._shelves = contents.epoch, contents.shelves
        self._unsealed.take(contents)
        for name, shelf in contents.shelves.items():
            self._streams[name] = Stream(name, shelf.next, contents.gaps.get(name, ()))
        for place in contents.places:
            self.positions.restore(place)

    def _replay(self, found: Found) -> None:
        """Apply one journal record: its records from each stream's `next` on, and everything else."""
        commit, entry = found
        for section in entry.sections:
            batch = batch_of(section, commit)
            for marks in section.marks:
                self._unsealed.note_ids(marks, batch.keys[marks.at :], batch.values[marks.at :])
            home = self._stream(section.stream)
            if batch.next > home.next:
                self._skip_damaged(home, batch.first)
                fresh = batch.slice(home.next, batch.next)
                home.append(fresh, size_of(fresh))
                self._memory += size_of(fresh)
            home.written = self._live[home.name] = home.next
            self._memory -= home.settle()
        for name, next_ in entry.nexts.items():
            home = self._stream(name)
            self._skip_damaged(home, next_)
            home.written = home.durable = self._live[name] = home.next
        for gap in entry.gaps:
            self._declare_gap(gap)
        self._unsealed.note_places(entry.places)
        for place in entry.places:
            self.positions.restore(place)
        self._unsealed.note_ticks(entry.ticks)
        self._unsealed.commit = commit

    def _skip_damaged(self, home: Stream, until: int) -> None:
        """Offsets from `next` to `until` were given by a commit that does not read back."""
        if until > home.next:
            self._declare_gap(Gap(home.name, home.next, until - 1, "damaged"))
            home.next = until

    def _declare_gap(self, gap: Gap) -> None:
        home = self._stream(gap.stream)
        home.gaps, new = add_gap(home.gaps, gap)
        self._unsealed.gaps += new

    def _stream(self, name: str) -> Stream:
        home = self._streams.get(name)
        if home is None:
            home = self._streams[name] = Stream(name, 0, ())
        return home

    def declare(self, stream: str, keep: Keep) -> None:
        """The stream exists and is kept like this from the next seal on. May be repeated."""
        self._stream(stream).keep = keep

    # -- what is there -------------------------------------------------------------------------------------------------

    def streams(self) -> list[str]:
        """Every stream that was ever declared or written, sorted."""
        return sorted(self._streams)

    def oldest(self, stream: str) -> int:
        """The first offset that can still be read; `next` where none can."""
        return self._streams[stream].oldest

    def next(self, stream: str) -> int:
        """The offset that the next record gets."""
        return self._streams[stream].next

    def durable(self, stream: str) -> int:
        """The offset after the last durable record."""
        return self._streams[stream].durable

    def gaps(self, stream: str, first: int, last: int) -> list[Gap]:
        """What is missing of first..last, clipped to it."""
        return gaps_between(self._streams[stream].gaps, first, last)

    def oldest_time(self, stream: str) -> int | None:
        """Time (ns) of the oldest record that is kept, as far as it is known without asking the disk."""
        home, shelf = self._streams[stream], self._shelves.get(stream)
        if shelf is not None and shelf.blocks:
            return shelf.oldest_time
        return home.pieces[0].times[0] if home.pieces else None

    def newest_time(self, stream: str) -> int | None:
        """Time (ns) of the newest durable record; None where nothing is kept."""
        home, shelf = self._streams[stream], self._shelves.get(stream)
        newest = home.piece(home.durable - 1)
        if newest is not None:
            return newest.times[home.durable - 1 - newest.first]
        return shelf.newest_time if shelf is not None and shelf.blocks else None

    # -- gathering -----------------------------------------------------------------------------------------------------

    def append(
        self,
        stream: str,
        times: Sequence[int],
        keys: Sequence[str],
        values: Sequence[bytes],
        *,
        flags: bytes | None = None,
        ids: Sequence[int] | None = None,
        source: str | None = None,
    ) -> Batch:
        """Give records their offsets; they go into the coming commit. The columns are kept, not copied.

        Raises ValueError or OverflowError for columns that could never be written: nothing fails after acceptance.
        """
        home = self._streams.get(stream) or self._stream(stream)
        count = len(values)
        if not count:
            return Batch(stream, home.next, [], [], [])
        size = sum(map(len, values))
        array("q", times)
        if not len(times) == len(keys) == count == len(flags or values) == len(values if ids is None else ids):
            raise ValueError(f"{stream}: columns of different length")
        pending = self._pending_bytes + size + sum(map(len, keys)) + count * RECORD_BYTES
        if pending > COMMIT_LIMIT:
            raise ValueError(f"{stream}: {pending} bytes in one commit")
        if flags is not None and not any(flags):
            flags = None
        batch = Batch(stream, home.next, times, keys, values, ((self._coming, count),), flags)
        pieces = self._gathered.setdefault(stream, [])
        if ids is not None:
            mark = Marks(
                source or "", batch.first - (pieces[0].first if pieces else batch.first), array("H", ids).tobytes()
            )
            self._marks.setdefault(stream, []).append((mark, batch))
        pieces.append(batch)
        taken = size + count * RECORD_COST + RUN_COST + PIECE_COST
        home.append(batch, taken)
        self._memory += taken
        self._pending_bytes = pending
        self._records_since_snapshots += count
        return batch

    def tick(self, pipeline: str, now_ns: int) -> None:
        """Time passed for a pipeline, which stands where its reader `pipeline:NAME` stands now."""
        self._ticks.append(Tick(pipeline, now_ns, self.positions.of(f"pipeline:{pipeline}"), self._coming))

    @property
    def pending_bytes(self) -> int:
        """What was appended since the last gather(), uncompressed: keys, values, and a little per record."""
        return self._pending_bytes

    @property
    def pending(self) -> bool:
        """There is something to commit."""
        return bool(self._gathered or self._ticks or self._gaps) or self.positions.dirty

    @property
    def turnover_due(self) -> bool:
        """The coming gather() should be given snapshots."""
        journal = self._journal
        if journal.free < self._room * 3 // 2:
            return True
        written = journal.bytes_written - self._bytes_at_snapshots
        return self._records_since_snapshots >= SNAPSHOT_EVERY and written >= SNAPSHOT_SHARE * self._snapshot_bytes

    @property
    def _room(self) -> int:
        return min(COMMIT_ROOM, self._journal.size // 4)

    def gather(self, snapshots: Mapping[str, Snapshot] | None = None) -> Commit:
        """Take everything appended and noted so far. `snapshots` are the pipelines' states at exactly this commit."""
        pieces = self._gathered
        nexts = {name: next_ for name, next_ in self._live.items() if name not in pieces}
        for name, batches in pieces.items():
            self._live[name] = batches[-1].next
        moment = Moment(self._boot, round(self._clock.monotonic() * 1e9), self._clock.now(), "unknown")
        commit = Commit(
            self._coming,
            pieces,
            self._marks,
            nexts,
            self.positions.take(),
            self._gaps,
            self._ticks,
            moment,
            None if snapshots is None else dict(snapshots),
        )
        self._coming += 1
        self._gathered, self._marks, self._gaps, self._ticks, self._pending_bytes = {}, {}, [], [], 0
        if snapshots is not None:
            self._records_since_snapshots, self._bytes_at_snapshots = 0, self._journal.bytes_written
        return commit

    # -- committing ----------------------------------------------------------------------------------------------------

    def write(self, commit: Commit) -> None:
        """BLOCKING. Make a commit durable. Raises LogError or LogFull; then call again with the same commit."""
        unsealed = self._unsealed
        if commit.number <= unsealed.commit:
            return
        assert commit.number == unsealed.commit + 1, "commits are written in the order they were gathered"
        if not commit.body:
            sections = [
                section_of(pieces, [marks for marks, _ in commit.marks.get(stream, ())])
                for stream, pieces in commit.pieces.items()
            ]
            entry = Entry(commit.moment, sections, commit.nexts, commit.places, commit.gaps, commit.ticks)
            commit.raw, commit.body = self._journal.encode(entry)
        if self._in_doubt or not self._journal.fits(commit.body):
            self._seal(turnover=True)
            # Into the database's own file before the journal is used again: then a page of the WAL that the device lost
            # costs nothing. It need not succeed: what counts is on the device, and maintain() tries again.
            with suppress(LogError), as_log_errors("cannot checkpoint"):
                self._store.checkpoint()
        self._journal.write(commit.number, commit.raw, commit.body)
        unsealed.commit = commit.number
        self._commits += 1
        for stream, pieces in commit.pieces.items():
            self._streams[stream].written = pieces[-1].next
        unsealed.note_places(commit.places)
        unsealed.note_ticks(commit.ticks)
        for noted in commit.marks.values():
            for marks, batch in noted:
                unsealed.note_ids(marks, batch.keys, batch.values)
        if commit.snapshots is not None:
            unsealed.snapshots = (commit.number, commit.snapshots)

    def committed(self, commit: Commit) -> None:
        """The commit was written: its records may be read and acknowledged."""
        for name in commit.pieces:
            home = self._streams[name]
            self._memory -= home.settle()
            waiting = home.durable - home.pieces[0].first if home.pieces else 0
            if waiting >= self._options.seal or home.bytes >= 2 * BLOCK_BYTES:
                self._ripe.add(name)

    # -- sealing -------------------------------------------------------------------------------------------------------

    @property
    def maintenance_due(self) -> bool:
        """maintain() would find something to do."""
        if self._done is not None:
            return True
        now = self._clock.monotonic()
        if now < self._not_before:
            return False
        return self._seal_due or self._turning or (now >= self._chores_at and (self._store.unchecked or self._ages))

    @property
    def _seal_due(self) -> bool:
        return (
            bool(self._ripe)
            or bool(self._unreadable)
            or self._unsealed.snapshots is not None
            or self._memory > self._options.memory
        )

    @property
    def _ages(self) -> bool:
        return any(home.keep.age_s is not None for home in self._streams.values())

    @property
    def _turning(self) -> bool:
        """The journal is used up, or nearly so and there are fresh snapshots to go with it."""
        free = self._journal.free
        return free < self._room or (free < self._room * 3 // 2 and self._unsealed.snapshots is not None)

    def maintain(self) -> Maintained | None:
        """BLOCKING. Seal and evict what is due, in one transaction; checkpoint at least every minute.

        Raises LogError or LogFull: then nothing was changed, and maintenance_due tells when to try again.
        """
        chores = self._clock.monotonic() >= self._chores_at
        turnover = self._turning and self._journal.at > 0
        try:
            if turnover or self._seal_due or (chores and self._ages):
                self._seal(turnover=turnover)
            if self._store.unchecked and (turnover or chores):
                with as_log_errors("cannot checkpoint"):
                    self._store.checkpoint()
        except LogError:
            self._not_before = self._clock.monotonic() + RETRY_S
            raise
        if chores:
            self._chores_at = self._clock.monotonic() + CHORES_S
        done, self._done = self._done, None
        return done

    def _seal(self, *, turnover: bool) -> None:
        """One transaction: blocks, eviction, gaps, snapshots; with `turnover` all else that only the journal holds."""
        work = Sealing(self._store, self._shelves, self._streams)
        unreadable, ripe = list(self._unreadable), set(self._ripe)
        now = self._clock.now() if self.clock_trusted else None
        with as_log_errors("cannot seal"):
            try:
                with self._store.transaction():
                    for home in self._to_seal(turnover):
                        for batch in blocks_of(home.waiting(), work.shelf(home.name).next, self._options.seal):
                            work.put(batch, self._encode(batch))
                        work.sealed(home)
                    work.lose(self._unsealed.gaps)
                    work.lose(unreadable)
                    work.evict(self._unsealed.pins(), self._options.size, now)
                    snapshot_bytes = self._unsealed.store_snapshots(self._store)
                    if turnover:
                        self._unsealed.turn_over(self._store, self._journal.generation + 1)
                    work.finish()
            except BaseException:
                # A turnover in doubt may be found kept by the next process: until one succeeds, nothing may be written
                # to a journal that this one would not look at.
                self._in_doubt = self._in_doubt or (turnover and self._store.in_doubt)
                raise
        # From here on it has happened, and nothing fails.
        self._in_doubt = False
        self._shelves = work.shelves
        for batch in work.batches:
            self._recent.put(batch)
        for name, gaps in work.gaps.items():
            self._streams[name].gaps = gaps
        if self._unsealed.snapshots is not None:
            self._snapshot_bytes = snapshot_bytes
        self._unsealed.forget_snapshots()
        self._unsealed.gaps = []
        del self._unreadable[: len(unreadable)]
        self._ripe -= ripe
        if turnover:
            self._unsealed.turned_over()
            self._journal.restart()
        self._seals += 1
        self._evicted += work.evicted
        before = self._done or Maintained({}, [])
        self._done = Maintained({**before.shelves, **work.changed}, before.gaps + work.new_gaps)

    def _to_seal(self, turnover: bool) -> list[Stream]:
        """Streams whose tails go now: all of them, or the ripe ones and, while memory is short, the largest."""
        waiting = [home for home in list(self._streams.values()) if home.written > self._sealed(home.name)]
        if turnover:
            return waiting
        chosen = [home for home in waiting if home.name in self._ripe]
        excess = self._memory - sum([home.bytes for home in chosen])
        if self._memory > self._options.memory:
            for home in sorted(waiting, key=lambda home: -home.bytes):
                if excess <= self._options.memory * 3 // 4:
                    break
                if home not in chosen:
                    chosen.append(home)
                    excess -= home.bytes
        return chosen

    def _sealed(self, stream: str) -> int:
        shelf = self._shelves.get(stream)
        return shelf.next if shelf else 0

    def _encode(self, batch: Batch) -> bytes:
        """In the layout that was smaller for this stream lately."""
        layout, blocks = self._layouts.get(batch.stream, (PLAIN, 0))
        if blocks:
            self._layouts[batch.stream] = (layout, blocks - 1)
            return encode_block(batch, layout)
        plain, turned = encode_block(batch, PLAIN), encode_block(batch, TURNED)
        self._layouts[batch.stream] = (PLAIN if len(plain) < len(turned) else TURNED, SAMPLE_EVERY - 1)
        return min(plain, turned, key=len)

    def maintained(self, done: Maintained) -> list[Gap]:
        """What was sealed leaves the tails, what was evicted is gone. Returns the gaps that are new."""
        for name, shelf in done.shelves.items():
            home = self._streams[name]
            self._memory -= home.drop(shelf.next)
            self._move_oldest(home)
        self._live = {name: next_ for name, next_ in self._live.items() if next_ > self._sealed(name)}
        return done.gaps

    def _move_oldest(self, home: Stream) -> None:
        shelf = self._shelves.get(home.name)
        if shelf and shelf.blocks:
            home.oldest = shelf.oldest
        else:
            home.oldest = home.pieces[0].first if home.pieces else home.next

    # -- reading -------------------------------------------------------------------------------------------------------

    def peek(self, stream: str, first: int, limit: int) -> Batch | None:
        """Records from memory, those not committed yet among them; None where `first` is not in memory."""
        home = self._streams[stream]
        piece = home.piece(first) or self._recent.at(stream, first)
        return piece.slice(first, first + limit) if piece else None

    def in_memory(self, stream: str, first: int) -> bool:
        """read() would not touch the disk."""
        home = self._streams[stream]
        if first >= home.durable or home.piece(first) is not None:
            return True
        return home.gap(first) is not None or self._recent.at(stream, first) is not None

    def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None:
        """BLOCKING unless in_memory(); any thread. Durable records from `first` on, at most `limit` and never beyond a
        block; a Gap, from `first` on, where offsets will never come; None at the end. Raises LogError.
        """
        home = self._streams[stream]
        durable = home.durable
        if first >= durable:
            return None
        # Between two looks a block may be sealed (it leaves the tail after it entered the store) or evicted (it leaves
        # the store as its gap enters it); so what one round does not see, the next one does.
        for _ in range(2):
            found = home.gap(first) or home.piece(first) or self._recent.at(stream, first) or self._stored(home, first)
            if isinstance(found, Batch):
                return found.slice(first, min(first + limit, durable))
            if found is not None:
                return found
        with self._reading:
            following = self._reader.block_after(self._shelves[stream].id, first) if stream in self._shelves else None
        lost = Gap(stream, first, (following or durable) - 1, "damaged")
        self._unreadable.append(lost)
        return lost

    def _stored(self, home: Stream, first: int) -> Batch | Gap | None:
        shelf = self._shelves.get(home.name)
        if shelf is None:
            return None
        with self._reading:
            found = self._reader.block(shelf.id, home.name, first)
            if found is None:
                return self._reader.gap(shelf.id, home.name, first)
        if isinstance(found, Batch):
            self._recent.put(found)
            return found
        if found not in self._unreadable:
            self._unreadable.append(found)
        return Gap(found.stream, first, found.last, found.cause)

    def seek(self, stream: str, time_ns: int) -> int:
        """BLOCKING, any thread. The first durable offset whose record has that time or a later one; else the end."""
        home, shelf = self._streams[stream], self._shelves.get(stream)
        at = home.oldest
        if shelf is not None:
            with self._reading:
                found = self._reader.block_since(shelf.id, time_ns)
            at = max(at, shelf.next if found is None else found)
        while (part := self.read(stream, at, 1 << 30)) is not None:
            if isinstance(part, Batch):
                if max(part.times) >= time_ns:
                    return part.first + next(i for i, time in enumerate(part.times) if time >= time_ns)
                at = part.next
            else:
                at = part.last + 1
        return home.durable

    def snapshot(self, pipeline: str) -> Snapshot | None:
        """BLOCKING, any thread. The newest durable state of a pipeline, which may be one that no longer runs."""
        written = self._unsealed.snapshots
        if written is not None and pipeline in written[1]:
            return written[1][pipeline]
        with self._reading:
            return self._reader.snapshot(pipeline)

    def remembered(self, source: str) -> Sequence[Remembered]:
        """BLOCKING. The last durable records of a source that carried delivery ids, oldest first."""
        return self._unsealed.remembered.get(source, ())

    # -- the rest ------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """Figures for the status. Device bytes: the journal's are counted, SQLite's are estimated from the pages that
        its transactions change, once into the WAL and once into the database.
        """
        shelves = self._shelves
        return {
            "log_bytes": self._journal.size + self._store.bytes,
            "used_bytes": self._store.used,
            "device_bytes": self._journal.bytes_written + self._store.estimated_bytes_written,
            "journal_free_bytes": self._journal.free,
            "commits": self._commits,
            "seals": self._seals,
            "blocks": {name: shelf.blocks for name, shelf in shelves.items()},
            "block_records": {name: shelf.next - shelf.oldest for name, shelf in shelves.items()},
            "block_bytes": {name: shelf.bytes for name, shelf in shelves.items()},
            "evicted_blocks": self._evicted,
            "memory_bytes": self._memory,
        }

    def close(self) -> None:
        """BLOCKING. Leave everything closed; what was gathered and never written is gone."""
        with self._reading:
            self._reader.close()
        try:
            with as_log_errors("cannot close the log"):
                self._store.close()
        finally:
            self._journal.close()
