"""Upkeep: tails are sealed into the store, the oldest blocks go, the journal turns over, what is damaged is rebuilt.

All of it belongs to the log thread, but `due`, `turning` and what they look at, which the event loop may ask for.

- whatever a seal changes is one transaction, and what memory knows changes after its COMMIT
- a seal that fails changes nothing and costs nothing but time: the journal still holds it all
- the journal starts again only after the store holds everything that was in it
"""

import os
import secrets
from contextlib import suppress

import msgspec

from gateway.clock import Clock
from gateway.errors import LogError, LogFull
from gateway.log.contents import Contents, Shelf
from gateway.log.files import Files, as_log_errors
from gateway.log.journal import Journal
from gateway.log.opening import Stood
from gateway.log.options import LogOptions
from gateway.log.reading import Damage, Reading
from gateway.log.rescue import bring_back
from gateway.log.reserve import Reserve
from gateway.log.salvage import Attic
from gateway.log.seal import Layouts, Sealing, blocks_of
from gateway.log.store import Store
from gateway.log.stream import Stream, Streams
from gateway.log.unsealed import Unsealed
from gateway.record import Gap

COMMIT_ROOM = 3 << 19  # 1.5 MiB: the largest record that a commit is expected to make
CHORES_S = 60.0  # between checkpoints, where no turnover makes one
SLICE = 4 << 20  # bytes of blocks that a seal brings back from a damaged database
SPARE = 16 * 4096  # bytes of pages that a transaction may need beside its blocks
RETRY_S = 1.0  # after a seal that failed


class Maintained(msgspec.Struct):
    """What maintain() did and the event loop has to hear of."""

    shelves: dict[str, Shelf]  # of every stream that changed
    gaps: list[Gap]


class Upkeep:
    """`epoch` is the log's; `clock_trusted` False: nothing expires by age."""

    def __init__(
        self,
        options: LogOptions,
        clock: Clock,
        files: Files,
        journal: Journal,
        store: Store,
        attic: Attic,
        reserve: Reserve,
        streams: Streams,
        unsealed: Unsealed,
        reading: Reading,
        damage: Damage,
    ) -> None:
        self._options, self._clock, self._files = options, clock, files
        self._journal, self._store, self._attic, self._reserve = journal, store, attic, reserve
        self._streams, self._unsealed, self._reading, self._damage = streams, unsealed, reading, damage
        self.epoch = ""
        self.clock_trusted = True
        self.seals = self.evicted = 0
        self.snapshot_bytes = 0  # of the pipelines' states that were stored last
        self.done: Maintained | None = None  # not yet handed over by maintain()
        self._layouts = Layouts()
        self._fresh: Contents | None = None  # what a new database begins with, until it is on the device
        self._in_doubt = False
        self._not_before = self._chores_at = 0.0

    def begin(self, stood: Stood, known: str) -> list[str]:
        """Go on from what opening found, and mend what cannot wait. Returns what was done, in words.

        `known` is the epoch by its own file, where there is one.
        """
        contents, journal = stood.contents, self._journal
        self.epoch = secrets.token_hex(16) if stood.moved else contents.epoch
        self._chores_at = self._clock.monotonic() + CHORES_S
        if stood.why or contents.malformed:
            self._damage.malformed = contents.malformed or stood.why
            self._rebuild(set_aside=bool(contents.malformed))
            return [f"{len(self._attic)} blocks of it were found, and come back while the log is in use"]
        # (Where nothing was sealed yet, a first record that does not read back is most likely a torn tail; and after a
        # move the journal may be of the epoch before: a start that was cut short.)
        lost = journal.lost and not stood.moved and (contents.generation > 1 or contents.shelves)
        if (known and journal.made) or lost:
            self.epoch = secrets.token_hex(16)
            self.seal(turnover=True)
            return ["the journal is gone, and with it the newest records: a new epoch begins"]
        told = []
        if self._attic.paths:  # a salvage that was interrupted
            self._attic.open()
            self._sort_out()
            told = [f"{len(self._attic)} blocks of a damaged database are still to come back"]
        if stood.moved:
            self.seal(turnover=True)
        return told

    # -- what is due ---------------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """maintain() would find something to do."""
        if self.done is not None:
            return True
        now = self._clock.monotonic()
        if now < self._not_before:
            return False
        chores = now >= self._chores_at and (self._store.unchecked or self._ages)
        if self._reserve.due(now) and (self._reserve.full or now >= self._chores_at):
            return True
        return self._seal_due or self.turning or self._store.wal_is_long or chores

    @property
    def _seal_due(self) -> bool:
        return (
            bool(self._streams.ripe)
            or bool(self._damage.gaps)
            or bool(self._damage.malformed)
            or self._fresh is not None
            or self._attic.done
            or self._salvage_room() > 0
            or self._unsealed.snapshots is not None
            or self._streams.memory > self._options.memory
        )

    @property
    def _ages(self) -> bool:
        return any(home.keep.age_s is not None for home in list(self._streams.homes.values()))

    @property
    def turning(self) -> bool:
        """The journal is used up, or nearly so and there are fresh snapshots to go with it."""
        return self._journal.free < self._room or (self.nearly_full and self._unsealed.snapshots is not None)

    @property
    def nearly_full(self) -> bool:
        """The journal will turn over soon."""
        return self._journal.free < self._room * 3 // 2

    @property
    def _room(self) -> int:
        return min(COMMIT_ROOM, self._journal.size // 4)

    # -- in the middle of commits --------------------------------------------------------------------------------------

    def mend(self) -> None:
        """A database that was found malformed is rebuilt."""
        if self._damage.malformed:
            self._rebuild(set_aside=True)

    def make_way(self, body: bytes) -> None:
        """Have the journal take a record with this body: turn over where it would not fit, or must not be written."""
        if self._in_doubt or self._fresh is not None or not self._journal.fits(body):
            self.seal(turnover=True)
            # Into the database's own file before the journal is used again: then a page of the WAL that the device lost
            # costs nothing. It need not succeed: what counts is on the device, and maintain() tries again.
            with suppress(LogError), as_log_errors("cannot checkpoint"):
                self._store.checkpoint(keep=self._reserve.full)

    # -- sealing -------------------------------------------------------------------------------------------------------

    def maintain(self) -> Maintained | None:
        """Seal and evict what is due, in one transaction; checkpoint at least every minute.

        Raises LogError or LogFull: then nothing was changed, and `due` tells when to try again.
        """
        chores = self._clock.monotonic() >= self._chores_at
        turnover = self.turning and self._journal.at > 0
        try:
            self.mend()
            if turnover or self._seal_due or (chores and self._ages):
                self.seal(turnover=turnover)
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
            if self.done is None:
                raise
            chores = False  # what was sealed is told first; what failed is tried again in a moment, and told then
        if chores:
            self._chores_at = self._clock.monotonic() + CHORES_S
        done, self.done = self.done, None
        return done

    def seal(self, *, turnover: bool) -> None:
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
        work = Sealing(self._store, self._streams.shelves, self._streams.homes, self._clock.now())
        unreadable, ripe = list(self._damage.gaps), set(self._streams.ripe)
        now = self._clock.now() if self.clock_trusted else None
        with self._damage.noticing("cannot seal"):
            try:
                with self._store.transaction():
                    if self._fresh is not None:
                        self._store.lay_out(self._fresh)
                    homes = self._to_seal(turnover)
                    blocks = [
                        (batch, self._layouts.encode(batch))
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
        self._streams.shelves = work.shelves
        for stream, first in back:
            self._attic.take(stream, first)
        for batch in work.batches:
            self._reading.recent.put(batch)
        for name, gaps in work.gaps.items():
            self._streams.homes[name].gaps = gaps
        if self._unsealed.snapshots is not None:
            self.snapshot_bytes = snapshot_bytes
        self._unsealed.forget_snapshots()
        self._unsealed.gaps = []
        del self._damage.gaps[: len(unreadable)]
        self._streams.ripe -= ripe
        if turnover:
            self._unsealed.turned_over()
            self._journal.restart(self.epoch)
        self.seals += 1
        self.evicted += work.evicted
        before = self.done or Maintained({}, [])
        self.done = Maintained({**before.shelves, **work.changed}, before.gaps + work.new_gaps)

    def _salvage_room(self) -> int:
        """Bytes of blocks that may come back now: never so many that a seal waits, or finds no room."""
        if not len(self._attic) or self._fresh is not None:
            return 0
        return SLICE if self._files.free(self._options.path) > 4 * SLICE + self._journal.size else 0

    def _to_seal(self, turnover: bool) -> list[Stream]:
        """Streams whose tails go now: all of them, or the ripe ones and, while memory is short, the largest."""
        waiting = [
            home for home in list(self._streams.homes.values()) if home.written > self._streams.sealed(home.name)
        ]
        if turnover:
            return waiting
        chosen = [home for home in waiting if home.name in self._streams.ripe]
        excess = self._streams.memory - sum([home.bytes for home in chosen])
        if self._streams.memory > self._options.memory:
            for home in sorted(waiting, key=lambda home: -home.bytes):
                if excess <= self._options.memory * 3 // 4:
                    break
                if home not in chosen:
                    chosen.append(home)
                    excess -= home.bytes
        return chosen

    # -- a database that is damaged ------------------------------------------------------------------------------------

    def _rebuild(self, *, set_aside: bool) -> None:
        """A new database around what memory knows. The old one is set aside, and its blocks come back from there.

        `set_aside`: that is still to be done.
        """
        path = self._options.path
        with as_log_errors(f"cannot salvage {path}/log.db"):
            with self._reading.shut_out():
                self._store.close()
                if set_aside:
                    self._attic.set_aside(os.path.join(path, "log.db"))
            if set_aside:
                self._attic.open()
        streams = self._streams
        streams.shelves = {name: Shelf(shelf.id, shelf.next, shelf.next) for name, shelf in streams.shelves.items()}
        self._sort_out()
        self._store.connect()
        self._fresh = Contents(
            self.epoch,
            self._journal.generation,
            self._unsealed.commit,
            streams.shelves,
            {name: home.gaps for name, home in list(streams.homes.items())},
            self._unsealed.places,
            self._attic.whole_snapshots(),
            [],
            {},
        )
        self._unsealed.store_all()
        self._damage.malformed = ""
        self.seal(turnover=True)

    def _sort_out(self) -> None:
        """What the attic has of each stream, and the gaps that remain."""
        beyond = 1 << 62
        ids = {name: shelf.id for name, shelf in self._streams.shelves.items()}
        gone = {
            name: [(gap.first, gap.last) for gap in self._streams.homes[name].gaps] + [(shelf.next, beyond)]
            for name, shelf in self._streams.shelves.items()
        }
        for name, shelf in self._streams.shelves.items():
            gone[name] += self._store.extents(shelf) if shelf.blocks else []
        self._attic.assign(ids, gone)
        for name, shelf in self._streams.shelves.items():
            covered = sorted([*gone[name], *self._attic.extents(name)])
            at = 0
            for first, last in covered:
                if first > at:
                    self._damage.gaps.append(Gap(name, at, min(first, shelf.next) - 1, "damaged"))
                at = max(at, last + 1)
