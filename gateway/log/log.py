"""The log: what was appended becomes durable by one journal record per commit, and is sealed into SQLite later.

- a record is acknowledged, and read, only after the commit that holds it is on the device
- an offset names one content for ever, also after damage: what is lost becomes a gap, and its offsets are not reused
- the journal starts again only after SQLite holds everything that was in it
- a seal that fails changes nothing and costs nothing but time: the journal still holds it all
- damage never stops it: what cannot be read is declared, a database that is malformed is rebuilt around what is left

Three threads meet here. The event loop owns what is gathered and the tails; the log thread owns the journal, the store
and what it has seen written; readers only look. What passes between them is immutable or replaced whole.
"""

import os
import secrets
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from gateway.clock import Clock
from gateway.errors import LogDamaged, LogError, LogFull
from gateway.log.block import PLAIN, TURNED, encode_block
from gateway.log.files import Files, SystemFiles, as_log_errors
from gateway.log.gaps import add_gap, gaps_between
from gateway.log.identity import bind_if_due, new_epoch_because
from gateway.log.journal import HEADER, Entry, Found, Journal, Marks, Moment, Tick, batch_of, section_of
from gateway.log.position import Place, Positions
from gateway.log.recent import Recent
from gateway.log.rescue import bring_back, known_epoch, refuse_foreign, stood
from gateway.log.reserve import Reserve
from gateway.log.salvage import Attic
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
CHORES_S = 60.0  # between checkpoints, where no turnover makes one
SLICE = 4 << 20  # bytes of blocks that a seal brings back from a damaged database
QUARANTINE = 64 << 20  # bytes of damaged files that are kept at most
SPARE = 16 * 4096  # bytes of pages that a transaction may need beside its blocks
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
    told: str = ""  # what was found damaged, and what became of it
    moved: str = ""  # why a new epoch has begun though nothing is damaged


class Log:
    """All methods belong to the event loop and return at once, but those marked BLOCKING: they belong to ONE thread
    of their own, except read() and seek(), which may run anywhere.
    """

    def __init__(self, options: LogOptions, clock: Clock, files: Files | None = None) -> None:
        self._options, self._clock, self._files = options, clock, files or SystemFiles()
        self._journal = Journal(os.path.join(options.path, "journal"), options.journal, self._files)
        self._store = Store(os.path.join(options.path, "log.db"), self._files)
        self._reader = StoreReader(os.path.join(options.path, "log.db"), self._files)
        self._attic = Attic(options.path, self._files, min(QUARANTINE, options.size // 4))
        self._reserve = Reserve(options.path, options.journal * 3 // 2, self._files)
        self._reading = threading.Lock()
        self._recent = Recent(options.memory // 2)
        self.epoch = self._told_epoch = ""  # the second: as the file `epoch` has it
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
        self._malformed = ""  # why the database is to be rebuilt
        self._fresh: Contents | None = None  # what a new one begins with, until it is on the device
        self._done: Maintained | None = None  # not yet handed to maintained()
        self._in_doubt = False
        self._not_before = self._chores_at = 0.0
        self._commits = self._seals = self._evicted = 0

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self) -> Recovery:
        """BLOCKING. Recover, and make sure that all that was recovered is on the device. Once, before anything else.

        Raises LogTooNew, having changed nothing; LogError, also where another process has the log; LogFull.
        """
        started, path = self._clock.monotonic(), self._options.path
        with as_log_errors(f"cannot open {path}"):
            self._files.make_folder(path)
            refuse_foreign(path, self._files)
            self._boot = self._files.boot_id()
            self._reserve.open()
            self._attic.look()
            self._store.refuse_newer()
            known = known_epoch(path, self._files)
            if known:
                self._journal.refuse_newer(known)
        try:
            self._journal.open()
            recovery = self._recover(known)
            bind_if_due(path, self._files)
            recovery.took_s = self._clock.monotonic() - started
        except BaseException:  # whatever it was, the lock must go
            self.close()
            raise
        return recovery

    def _recover(self, known: str) -> Recovery:
        """`known` is the epoch by its own file, where there is one."""
        path, told = self._options.path, list[str]()
        moved = new_epoch_because(path, self._files)
        contents, why = self._open_store(known)
        if contents is not None:
            records: Iterable[Found] = self._journal.scan(contents.epoch, contents.generation)
        else:
            self._store.close()
            with as_log_errors(f"cannot salvage {path}/log.db"):
                self._attic.set_aside(os.path.join(path, "log.db"))
                self._attic.open()
            everything = list(self._journal.scan(known, 0)) if known else []
            records = [found for found in everything if found.generation == self._journal.generation]
            contents, exact = stood(records, self._attic, known, self._journal.generation)
            told += [why] if exact else [why, "the journal does not tell where all streams stood: a new epoch begins"]
        self._take(contents)
        commits = damaged = 0
        for found in records:
            commits, damaged = commits + 1, damaged + found.commit - self._unsealed.commit - 1
            self._replay(found)
        for place in self._unsealed.places:  # whoever had finished an offset had been given it
            last = max([last for _, last in (*place.beyond, *place.cuts)], default=-1)
            home = self._stream(place.stream)
            self._skip_damaged(home, max(place.next, last + 1))
            home.written = home.durable = max(home.durable, home.next)
        with as_log_errors(f"cannot keep what is damaged in {path}"):
            if damaged:
                self._attic.keep("journal", self._journal.content())
            self._files.sync_folder(path)
        self._journal.barrier()
        gaps = list(self._unsealed.gaps)
        self._gaps += gaps  # into the coming commit, and into SQLite with the next seal
        self._coming = self._unsealed.commit + 1
        self._chores_at = self._clock.monotonic() + CHORES_S
        # (Where nothing was sealed yet, a first record that does not read back is most likely a torn tail; and after a
        # move the journal may be of the epoch before: a start that was cut short.)
        lost = self._journal.lost and not moved and (contents.generation > 1 or contents.shelves)
        if moved:
            self.epoch = secrets.token_hex(16)
        if why or contents.malformed:
            self._malformed = contents.malformed or why
            self._rebuild(None if contents.malformed else contents)
            told.append(f"{len(self._attic)} blocks of it were found, and come back while the log is in use")
        elif (known and self._journal.made) or lost:
            self.epoch = secrets.token_hex(16)
            told.append("the journal is gone, and with it the newest records: a new epoch begins")
            self._seal(turnover=True)
        else:
            if self._attic.paths:  # a salvage that was interrupted
                self._attic.open()
                self._sort_out()
                told.append(f"{len(self._attic)} blocks of a damaged database are still to come back")
            if moved:
                self._seal(turnover=True)
        self._told_epoch = known
        if known and self.epoch != known:  # with a record in it, the journal is not taken for lost the next time
            self.write(self.gather())
        for home in self._streams.values():
            self._move_oldest(home)
        return Recovery(
            0.0,
            {name: snapshot for name, (_, snapshot) in contents.snapshots.items()},
            self._unsealed.ticks,
            self._unsealed.remembered,
            gaps,
            self._journal.torn,
            damaged,
            commits,
            "; ".join(told),
            moved,
        )

    def _open_store(self, known: str) -> tuple[Contents | None, str]:
        """(what it holds, "") or (None, why it cannot be used)."""
        if known and self._store.lost:
            return None, f"{self._options.path}/log.db is gone or empty"
        try:
            return self._store.open(secrets.token_hex(16), was=bool(known)), ""
        except LogDamaged as error:
            return None, str(error)

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
        commit, entry = found.commit, found.entry
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
        if self._malformed:
            self._rebuild()
        if not commit.body:
            commit.raw, commit.body = self._journal.encode(self._entry(commit))
        if self._in_doubt or self._fresh is not None or not self._journal.fits(commit.body):
            self._seal(turnover=True)
            # Into the database's own file before the journal is used again: then a page of the WAL that the device lost
            # costs nothing. It need not succeed: what counts is on the device, and maintain() tries again.
            with suppress(LogError), as_log_errors("cannot checkpoint"):
                self._store.checkpoint(keep=self._reserve.full)
        if self._journal.at == 0 and not commit.whole:
            commit.whole = True
            commit.raw, commit.body = self._journal.encode(self._entry(commit))
        if (
            self._told_epoch != self.epoch
        ):  # before the first record: from then on the journal must be readable by itself
            with as_log_errors(f"cannot write {self._options.path}/epoch"):
                self._files.replace(os.path.join(self._options.path, "epoch"), f"{self.epoch}\n".encode())
            self._told_epoch = self.epoch
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

    def _entry(self, commit: Commit) -> Entry:
        """What the journal will say; with `whole`, of all streams and readers, as the first record of a generation."""
        sections = [
            section_of(pieces, [marks for marks, _ in commit.marks.get(stream, ())])
            for stream, pieces in commit.pieces.items()
        ]
        if not commit.whole:
            return Entry(commit.moment, sections, commit.nexts, commit.places, commit.gaps, commit.ticks)
        homes = list(self._streams.values())
        nexts = {home.name: home.written for home in homes if home.name not in commit.pieces}
        changed = {(place.reader, place.stream) for place in commit.places}
        places = [place for place in self._unsealed.places if (place.reader, place.stream) not in changed]
        gaps = [gap for home in homes for gap in home.gaps]
        shelves = {name: shelf.id for name, shelf in self._shelves.items()}
        return Entry(commit.moment, sections, nexts, places + commit.places, gaps, commit.ticks, shelves)

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
        chores = now >= self._chores_at and (self._store.unchecked or self._ages)
        if self._reserve.due(now) and (self._reserve.full or now >= self._chores_at):
            return True
        return self._seal_due or self._turning or self._store.wal_is_long or chores

    @property
    def _seal_due(self) -> bool:
        return (
            bool(self._ripe)
            or bool(self._unreadable)
            or bool(self._malformed)
            or self._fresh is not None
            or self._attic.done
            or self._salvage_room() > 0
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
            if self._malformed:
                self._rebuild()
            if turnover or self._seal_due or (chores and self._ages):
                self._seal(turnover=turnover)
            if self._attic.done:
                with as_log_errors("cannot fill quarantine"):
                    self._attic.empty()
            if self._store.unchecked and (turnover or chores or self._store.wal_is_long or self._reserve.full):
                with as_log_errors("cannot checkpoint"):
                    self._store.checkpoint(keep=self._reserve.full)
            if self._reserve.due(self._clock.monotonic()):
                self._reserve.make(self._clock.monotonic())
        except LogError:
            self._not_before = self._clock.monotonic() + RETRY_S
            if self._done is None:
                raise
            chores = False  # what was sealed is told first; what failed is tried again in a moment, and told then
        if chores:
            self._chores_at = self._clock.monotonic() + CHORES_S
        done, self._done = self._done, None
        return done

    def _seal(self, *, turnover: bool) -> None:
        """As _seal_once(); where the disk is full, with the room of the reserve and of the oldest blocks."""
        try:
            self._seal_once(turnover=turnover)
        except LogFull:
            if not self._reserve.held:
                self._reserve.full = True
                raise
            self._reserve.spend()
            self._store.widen(self._reserve.size)
            self._seal_once(turnover=turnover)

    def _seal_once(self, *, turnover: bool) -> None:
        """One transaction: blocks, eviction, gaps, snapshots; with `turnover` all else that only the journal holds."""
        turnover = turnover or self._fresh is not None
        work = Sealing(self._store, self._shelves, self._streams, self._clock.now())
        unreadable, ripe = list(self._unreadable), set(self._ripe)
        now = self._clock.now() if self.clock_trusted else None
        with self._noticing_damage("cannot seal"):
            try:
                with self._store.transaction():
                    if self._fresh is not None:
                        self._store.lay_out(self._fresh)
                    homes = self._to_seal(turnover)
                    blocks = [
                        (batch, self._encode(batch))
                        for home in homes
                        for batch in blocks_of(home.waiting(), work.shelf(home.name).next, self._options.seal)
                    ]
                    if self._reserve.full:  # the file must not grow: what comes takes the place of what goes
                        need = sum([len(blob) + 2 * 4096 for _, blob in blocks]) + SPARE
                        work.evict(self._unsealed.pins(), max(self._store.bytes - need, 0), now)
                    for batch, blob in blocks:
                        work.put(batch, blob)
                    for home in homes:
                        work.sealed(home)
                    work.lose(self._unsealed.gaps)
                    work.lose(unreadable)
                    back = bring_back(work, self._attic, self._salvage_room())
                    work.evict(self._unsealed.pins(), self._options.size, now)
                    snapshot_bytes = self._unsealed.store_snapshots(self._store)
                    if turnover:
                        self._unsealed.turn_over(self._store, self._journal.generation + 1)
                        self._store.new_epoch(self.epoch)
                    work.finish()
            except BaseException:
                # A turnover in doubt may be found kept by the next process: until one succeeds, nothing may be written
                # to a journal that this one would not look at.
                self._in_doubt = self._in_doubt or (turnover and self._store.in_doubt)
                raise
        # From here on it has happened, and nothing fails.
        self._in_doubt, self._fresh = False, None
        self._shelves = work.shelves
        for stream, first in back:
            self._attic.take(stream, first)
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
            self._journal.restart(self.epoch)
        self._seals += 1
        self._evicted += work.evicted
        before = self._done or Maintained({}, [])
        self._done = Maintained({**before.shelves, **work.changed}, before.gaps + work.new_gaps)

    @contextmanager
    def _noticing_damage(self, what: str) -> Iterator[None]:
        """What SQLite calls malformed is rebuilt with the next commit or maintenance."""
        try:
            with as_log_errors(what):
                yield
        except LogDamaged as error:
            self._malformed = str(error)
            raise

    def _salvage_room(self) -> int:
        """Bytes of blocks that may come back now: never so many that a seal waits, or finds no room."""
        if not len(self._attic) or self._fresh is not None:
            return 0
        return SLICE if self._files.free(self._options.path) > 4 * SLICE + self._journal.size else 0

    def _rebuild(self, contents: Contents | None = None) -> None:
        """A new database around what memory knows. The old one is set aside, and its blocks come back from there.

        `contents`: the old one is set aside already, and these were found of it.
        """
        path = self._options.path
        with as_log_errors(f"cannot salvage {path}/log.db"):
            with self._reading:
                self._reader.close()
                self._store.close()
                if contents is None:
                    self._attic.set_aside(os.path.join(path, "log.db"))
            if contents is None:
                self._attic.open()
        self._shelves = {name: Shelf(shelf.id, shelf.next, shelf.next) for name, shelf in self._shelves.items()}
        self._sort_out()
        self._store.connect()
        self._fresh = Contents(
            self.epoch,
            self._journal.generation,
            self._unsealed.commit,
            self._shelves,
            {name: home.gaps for name, home in self._streams.items()},
            self._unsealed.places,
            self._attic.whole_snapshots(),
            [],
            {},
        )
        self._unsealed.store_all()
        self._malformed = ""
        self._seal(turnover=True)

    def _sort_out(self) -> None:
        """What the attic has of each stream, and the gaps that remain."""
        beyond = 1 << 62
        ids = {name: shelf.id for name, shelf in self._shelves.items()}
        gone = {
            name: [(gap.first, gap.last) for gap in self._streams[name].gaps] + [(shelf.next, beyond)]
            for name, shelf in self._shelves.items()
        }
        for name, shelf in self._shelves.items():
            gone[name] += self._store.extents(shelf) if shelf.blocks else []
        self._attic.assign(ids, gone)
        for name, shelf in self._shelves.items():
            covered = sorted([*gone[name], *self._attic.extents(name)])
            at = 0
            for first, last in covered:
                if first > at:
                    self._unreadable.append(Gap(name, at, min(first, shelf.next) - 1, "damaged"))
                at = max(at, last + 1)

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
        found = self._attic.oldest(home.name)
        home.oldest = home.oldest if found is None else min(home.oldest, found)

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
        # An offset that is nowhere, though no gap says so: what leads to its block is damaged, or there is none.
        self._malformed = self._malformed or f"offset {first} of {stream} cannot be found"
        raise LogDamaged(f"{stream}: offset {first} cannot be found in {self._options.path}/log.db; it is salvaged")

    def _stored(self, home: Stream, first: int) -> Batch | Gap | None:
        shelf = self._shelves.get(home.name)
        if shelf is None:
            return None
        with self._reading, self._noticing_damage("cannot read"):
            found = self._reader.block(shelf.id, home.name, first) or self._reader.gap(shelf.id, home.name, first)
        if found is None:
            found, extent = self._attic.read(home.name, first)
            if found is None and extent is not None:
                found = Gap(home.name, *extent, "damaged")
        if found is None or (isinstance(found, Gap) and found.cause != "damaged"):
            return found
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

    @property
    def full(self) -> bool:
        """The disk is full, and the log goes on in the room that it has."""
        return self._reserve.full

    @property
    def trouble(self) -> str:
        """What is wrong and being mended, in words; nothing where all is well."""
        if self._reserve.full:
            return (
                f"the disk that holds {self._options.path} is full, and the oldest records make room for the newest; "
                f"free some (df -h {self._options.path}), or lower log: size"
            )
        if left := len(self._attic):
            return f"the database was damaged; {left} blocks of the old one are still to come back"
        return ""

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
            "salvage_blocks": len(self._attic),
            "quarantine": self._attic.kept,
            "memory_bytes": self._memory,
        }

    def close(self) -> None:
        """BLOCKING. Leave everything closed; what was gathered and never written is gone."""
        with self._reading:
            self._reader.close()
        self._attic.close()
        try:
            with as_log_errors("cannot close the log"):
                self._store.close()
        finally:
            self._journal.close()
