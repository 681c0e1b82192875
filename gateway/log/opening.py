"""Opening: what is left of a log is checked and read, and everything stands as it stood. Nothing of it is in use yet.

The database, or what stands in for it, tells where things stood at the last turnover; the journal tells the rest. What
has to be mended then is for upkeep.py.
"""

import os
import secrets
from collections.abc import Iterable

import msgspec

from gateway.errors import LogDamaged
from gateway.log.contents import Contents, Snapshot
from gateway.log.files import Files, as_log_errors
from gateway.log.identity import new_epoch_because
from gateway.log.journal import Found, Journal, Tick
from gateway.log.position import Positions
from gateway.log.replay import replay
from gateway.log.rescue import known_epoch, refuse_foreign, stood
from gateway.log.reserve import Reserve
from gateway.log.salvage import Attic
from gateway.log.store import Store
from gateway.log.stream import Stream, Streams
from gateway.log.unsealed import Unsealed
from gateway.plugin import Remembered
from gateway.record import Gap


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


class Stood(msgspec.Struct):
    """Where everything stands, as far as what is left of a log leads."""

    contents: Contents  # of the database, or what stands in for it
    why: str  # the database cannot be used; empty where it can
    told: list[str] = []  # of that, in words
    live: dict[str, int] = {}  # stream -> next, of those that the journal mentions
    gaps: list[Gap] = []  # that nobody knew
    damaged: int = 0  # these three as in Recovery
    commits: int = 0
    moved: str = ""


class Opening:
    """BLOCKING, once. What it finds goes into `streams`, `positions` and `unsealed`."""

    def __init__(
        self,
        folder: str,
        files: Files,
        journal: Journal,
        store: Store,
        attic: Attic,
        streams: Streams,
        positions: Positions,
        unsealed: Unsealed,
    ) -> None:
        self._folder, self._files = folder, files
        self._journal, self._store, self._attic = journal, store, attic
        self._streams, self._positions, self._unsealed = streams, positions, unsealed
        self.boot = ""
        self.known = ""  # the epoch by its own file, where there is one

    def check(self, reserve: Reserve) -> None:
        """Refuse what is not ours to open, having changed nothing but that the folder is there."""
        with as_log_errors(f"cannot open {self._folder}"):
            self._files.make_folder(self._folder)
            refuse_foreign(self._folder, self._files)
            self.boot = self._files.boot_id()
            reserve.open()
            self._attic.look()
            self._store.refuse_newer()
            self.known = known_epoch(self._folder, self._files)
            if self.known:
                self._journal.refuse_newer(self.known)

    def recover(self) -> Stood:
        """Lock the log and read what is there. All of it is on the device when this returns."""
        self._journal.open()
        moved = new_epoch_because(self._folder, self._files)
        found, records = self._found()
        found.moved = moved
        self._take(found.contents)
        for record in records:
            found.commits += 1
            found.damaged += record.commit - self._unsealed.commit - 1
            self._replay(record, found)
        for place in self._unsealed.places:  # whoever had finished an offset had been given it
            last = max([last for _, last in (*place.beyond, *place.cuts)], default=-1)
            home = self._streams.home(place.stream)
            self._unsealed.gaps += self._streams.skip(home, max(place.next, last + 1))
            home.written = home.durable = max(home.durable, home.next)
        with as_log_errors(f"cannot keep what is damaged in {self._folder}"):
            if found.damaged:
                self._attic.keep("journal", self._journal.content())
            self._files.sync_folder(self._folder)
        self._journal.barrier()
        found.gaps = list(self._unsealed.gaps)
        return found

    def _found(self) -> tuple[Stood, Iterable[Found]]:
        """(where things stood at the last turnover, what the journal has since: unpacked one by one)."""
        path, known = os.path.join(self._folder, "log.db"), self.known
        contents, why = self._open_store()
        if contents is not None:
            return Stood(contents, ""), self._journal.scan(contents.epoch, contents.generation)
        self._store.close()
        with as_log_errors(f"cannot salvage {path}"):
            self._attic.set_aside(path)
            self._attic.open()
        everything = list(self._journal.scan(known, 0)) if known else []
        records = [found for found in everything if found.generation == self._journal.generation]
        contents, exact = stood(records, self._attic, known, self._journal.generation)
        told = [] if exact else ["the journal does not tell where all streams stood: a new epoch begins"]
        return Stood(contents, why, [why, *told]), records

    def _open_store(self) -> tuple[Contents | None, str]:
        """(what it holds, "") or (None, why it cannot be used)."""
        if self.known and self._store.lost:
            return None, f"{self._folder}/log.db is gone or empty"
        try:
            return self._store.open(secrets.token_hex(16), was=bool(self.known)), ""
        except LogDamaged as error:
            return None, str(error)

    def _take(self, contents: Contents) -> None:
        """Start from what the store holds."""
        self._streams.shelves = contents.shelves
        self._unsealed.take(contents)
        for name, shelf in contents.shelves.items():
            self._streams.homes[name] = Stream(name, shelf.next, contents.gaps.get(name, ()))
        for place in contents.places:
            self._positions.restore(place)

    def _replay(self, record: Found, found: Stood) -> None:
        """Apply one journal record: its records from each stream's `next` on, and everything else."""
        entry, replayed = record.entry, replay(self._streams, record)
        for section, batch in replayed.sections:
            for marks in section.marks:
                self._unsealed.note_ids(marks, batch.keys[marks.at :], batch.values[marks.at :])
            found.live[section.stream] = self._streams.home(section.stream).next
        for name in entry.nexts:
            found.live[name] = self._streams.home(name).next
        self._unsealed.gaps += replayed.gaps
        self._unsealed.note_places(entry.places)
        for place in entry.places:
            self._positions.restore(place)
        self._unsealed.note_ticks(entry.ticks)
        self._unsealed.commit = record.commit
