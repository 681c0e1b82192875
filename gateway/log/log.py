"""The log: what was appended becomes durable by one journal record per commit, and is sealed into SQLite later.

- a record is acknowledged, and read, only after the commit that holds it is on the device
- an offset names one content for ever, also after damage: what is lost becomes a gap, and its offsets are not reused
- the journal starts again only after SQLite holds everything that was in it
- a seal that fails changes nothing and costs nothing but time: the journal still holds it all
- damage never stops it: what cannot be read is declared, a database that is malformed is rebuilt around what is left

Three threads meet here, each in rooms of its own. The event loop owns what is gathered and the tails (`gathering`,
`stream`); the log thread owns the journal, the store and what it has seen written (`writing`, `upkeep`, `unsealed`);
readers only look (`reading`). What passes between them is immutable or replaced whole. `opening` comes before them all.
"""

import os
from collections.abc import Mapping, Sequence

from gateway.clock import Clock
from gateway.log.contents import Snapshot
from gateway.log.files import Files, SystemFiles, as_log_errors
from gateway.log.gaps import gaps_between
from gateway.log.gathering import Commit, Gathering
from gateway.log.identity import bind_if_due
from gateway.log.journal import Journal
from gateway.log.opening import Opening, Recovery
from gateway.log.options import LogOptions
from gateway.log.position import Positions
from gateway.log.reading import Damage, Reading
from gateway.log.reserve import Reserve
from gateway.log.salvage import Attic
from gateway.log.seal import BLOCK_BYTES
from gateway.log.store import Store
from gateway.log.stream import Keep, Stream, Streams
from gateway.log.unsealed import Unsealed
from gateway.log.upkeep import Maintained, Upkeep
from gateway.log.writing import Writing
from gateway.plugin import Remembered
from gateway.record import Batch, Gap

SNAPSHOT_EVERY = 200_000  # records that a restart may have to run again, at about 5 µs each on a small board
SNAPSHOT_SHARE = 10  # snapshots are at most this part of the bytes written, unless the journal turns over
QUARANTINE = 64 << 20  # bytes of damaged files that are kept at most


class Log:
    """All methods belong to the event loop and return at once, but those marked BLOCKING: they belong to ONE thread
    of their own, except read() and seek(), which may run anywhere.
    """

    def __init__(self, options: LogOptions, clock: Clock, files: Files | None = None) -> None:
        files = files or SystemFiles()
        path, database = options.path, os.path.join(options.path, "log.db")
        self._options, self._clock, self._files = options, clock, files
        self.positions = Positions()
        self._streams, self._unsealed, damage = Streams(), Unsealed(), Damage()
        self._journal = Journal(os.path.join(path, "journal"), options.journal, files)
        self._store = Store(database, files)
        self._attic = Attic(path, files, min(QUARANTINE, options.size // 4))
        self._reserve = Reserve(path, options.journal * 3 // 2, files)
        self._opening = Opening(
            *(path, files, self._journal, self._store, self._attic, self._streams, self.positions, self._unsealed)
        )
        self._gathering = Gathering(self._streams, self.positions, clock)
        self._reading = Reading(path, files, self._streams, self._attic, damage, options.memory // 2)
        self._upkeep = Upkeep(
            *(options, clock, files, self._journal, self._store, self._attic, self._reserve),
            *(self._streams, self._unsealed, self._reading, damage),
        )
        self._writing = Writing(path, files, self._journal, self._upkeep, self._streams, self._unsealed)
        self._bytes_at_snapshots = 0

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self) -> Recovery:
        """BLOCKING. Recover, and make sure that all that was recovered is on the device. Once, before anything else.

        Raises LogTooNew, having changed nothing; LogError, also where another process has the log; LogFull.
        """
        started = self._clock.monotonic()
        self._opening.check(self._reserve)
        try:
            recovery = self._recover()
            bind_if_due(self._options.path, self._files)
        except BaseException:  # whatever it was, the lock must go
            self.close()
            raise
        recovery.took_s = self._clock.monotonic() - started
        return recovery

    def _recover(self) -> Recovery:
        known, stood = self._opening.known, self._opening.recover()
        self._gathering.begin(self._opening.boot, self._unsealed.commit + 1, stood.live, stood.gaps)
        told = stood.told + self._upkeep.begin(stood, known)
        self._writing.told_epoch = known
        if known and self.epoch != known:  # with a record in it, the journal is not taken for lost the next time
            self.write(self.gather())
        for home in self._streams.homes.values():
            self._move_oldest(home)
        return Recovery(
            0.0,
            {name: snapshot for name, (_, snapshot) in stood.contents.snapshots.items()},
            self._unsealed.ticks,
            self._unsealed.remembered,
            stood.gaps,
            self._journal.torn,
            stood.damaged,
            stood.commits,
            "; ".join(told),
            stood.moved,
        )

    @property
    def epoch(self) -> str:
        """32 hex digits: offsets of one epoch are given once."""
        return self._upkeep.epoch

    @property
    def clock_trusted(self) -> bool:
        """False: nothing expires by age."""
        return self._upkeep.clock_trusted

    @clock_trusted.setter
    def clock_trusted(self, trusted: bool) -> None:
        self._upkeep.clock_trusted = trusted

    def declare(self, stream: str, keep: Keep) -> None:
        """The stream exists and is kept like this from the next seal on. May be repeated."""
        self._streams.home(stream).keep = keep

    # -- what is there -------------------------------------------------------------------------------------------------

    def streams(self) -> list[str]:
        """Every stream that was ever declared or written, sorted."""
        return sorted(self._streams.homes)

    def oldest(self, stream: str) -> int:
        """The first offset that can still be read; `next` where none can."""
        return self._streams.homes[stream].oldest

    def next(self, stream: str) -> int:
        """The offset that the next record gets."""
        return self._streams.homes[stream].next

    def durable(self, stream: str) -> int:
        """The offset after the last durable record."""
        return self._streams.homes[stream].durable

    def gaps(self, stream: str, first: int, last: int) -> list[Gap]:
        """What is missing of first..last, clipped to it."""
        return gaps_between(self._streams.homes[stream].gaps, first, last)

    def oldest_time(self, stream: str) -> int | None:
        """Time (ns) of the oldest record that is kept, as far as it is known without asking the disk."""
        home, shelf = self._streams.homes[stream], self._streams.shelves.get(stream)
        if shelf is not None and shelf.blocks:
            return shelf.oldest_time
        return home.pieces[0].times[0] if home.pieces else None

    def newest_time(self, stream: str) -> int | None:
        """Time (ns) of the newest durable record; None where nothing is kept."""
        home, shelf = self._streams.homes[stream], self._streams.shelves.get(stream)
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
        return self._gathering.append(stream, times, keys, values, flags, ids, source)

    def tick(self, pipeline: str, now_ns: int) -> None:
        """Time passed for a pipeline, which stands where its reader `pipeline:NAME` stands now."""
        self._gathering.tick(pipeline, now_ns)

    @property
    def pending_bytes(self) -> int:
        """What was appended since the last gather(), uncompressed: keys, values, and a little per record."""
        return self._gathering.pending_bytes

    @property
    def pending(self) -> bool:
        """There is something to commit."""
        return self._gathering.pending

    @property
    def turnover_due(self) -> bool:
        """The coming gather() should be given snapshots."""
        if self._upkeep.nearly_full:
            return True
        written = self._journal.bytes_written - self._bytes_at_snapshots
        enough = SNAPSHOT_SHARE * self._upkeep.snapshot_bytes
        return self._gathering.since_snapshots >= SNAPSHOT_EVERY and written >= enough

    def gather(self, snapshots: Mapping[str, Snapshot] | None = None) -> Commit:
        """Take everything appended and noted so far. `snapshots` are the pipelines' states at exactly this commit."""
        if snapshots is not None:
            self._bytes_at_snapshots = self._journal.bytes_written
        return self._gathering.take(snapshots)

    # -- committing ----------------------------------------------------------------------------------------------------

    def write(self, commit: Commit) -> None:
        """BLOCKING. Make a commit durable. Raises LogError or LogFull; then call again with the same commit."""
        self._writing.write(commit)

    def committed(self, commit: Commit) -> None:
        """The commit was written: its records may be read and acknowledged."""
        for name in commit.pieces:
            home = self._streams.homes[name]
            self._streams.settle(home)
            waiting = home.durable - home.pieces[0].first if home.pieces else 0
            if waiting >= self._options.seal or home.bytes >= 2 * BLOCK_BYTES:
                self._streams.ripe.add(name)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    @property
    def maintenance_due(self) -> bool:
        """maintain() would find something to do."""
        return self._upkeep.due

    def maintain(self) -> Maintained | None:
        """BLOCKING. Seal and evict what is due, in one transaction; checkpoint at least every minute.

        Raises LogError or LogFull: then nothing was changed, and maintenance_due tells when to try again.
        """
        return self._upkeep.maintain()

    def maintained(self, done: Maintained) -> list[Gap]:
        """What was sealed leaves the tails, what was evicted is gone. Returns the gaps that are new."""
        for name, shelf in done.shelves.items():
            home = self._streams.homes[name]
            self._streams.drop(home, shelf.next)
            self._move_oldest(home)
        self._gathering.forget_sealed()
        return done.gaps

    def _move_oldest(self, home: Stream) -> None:
        shelf = self._streams.shelves.get(home.name)
        if shelf and shelf.blocks:
            home.oldest = shelf.oldest
        else:
            home.oldest = home.pieces[0].first if home.pieces else home.next
        found = self._attic.oldest(home.name)
        home.oldest = home.oldest if found is None else min(home.oldest, found)

    # -- reading -------------------------------------------------------------------------------------------------------

    def peek(self, stream: str, first: int, limit: int) -> Batch | None:
        """Records from memory, those not committed yet among them; None where `first` is not in memory."""
        return self._reading.peek(stream, first, limit)

    def in_memory(self, stream: str, first: int) -> bool:
        """read() would not touch the disk."""
        return self._reading.in_memory(stream, first)

    def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None:
        """BLOCKING unless in_memory(); any thread. Durable records from `first` on, at most `limit` and never beyond a
        block; a Gap, from `first` on, where offsets will never come; None at the end. Raises LogError.
        """
        return self._reading.read(stream, first, limit)

    def seek(self, stream: str, time_ns: int) -> int:
        """BLOCKING, any thread. The first durable offset whose record has that time or a later one; else the end."""
        return self._reading.seek(stream, time_ns)

    def snapshot(self, pipeline: str) -> Snapshot | None:
        """BLOCKING, any thread. The newest durable state of a pipeline, which may be one that no longer runs."""
        written = self._unsealed.snapshots
        if written is not None and pipeline in written[1]:
            return written[1][pipeline]
        return self._reading.snapshot(pipeline)

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
        shelves = self._streams.shelves
        return {
            "log_bytes": self._journal.size + self._store.bytes,
            "used_bytes": self._store.used,
            "device_bytes": self._journal.bytes_written + self._store.estimated_bytes_written,
            "journal_free_bytes": self._journal.free,
            "commits": self._writing.commits,
            "seals": self._upkeep.seals,
            "blocks": {name: shelf.blocks for name, shelf in shelves.items()},
            "block_records": {name: shelf.next - shelf.oldest for name, shelf in shelves.items()},
            "block_bytes": {name: shelf.bytes for name, shelf in shelves.items()},
            "evicted_blocks": self._upkeep.evicted,
            "salvage_blocks": len(self._attic),
            "quarantine": self._attic.kept,
            "memory_bytes": self._streams.memory,
        }

    def close(self) -> None:
        """BLOCKING. Leave everything closed; what was gathered and never written is gone."""
        self._reading.close()
        self._attic.close()
        try:
            with as_log_errors("cannot close the log"):
                self._store.close()
        finally:
            self._journal.close()
