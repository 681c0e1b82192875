"""Reading: from the tails, from blocks that are still unpacked, from the store, from what is being salvaged.

Readers may be in any thread, and only look. What they meet that is damaged they note, for the log thread to mend.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import LogDamaged
from gateway.log.contents import Snapshot
from gateway.log.files import Files, as_log_errors
from gateway.log.recent import Recent
from gateway.log.salvage import Attic
from gateway.log.store_reader import StoreReader
from gateway.log.stream import Stream, Streams
from gateway.record import Batch, Gap


class Damage:
    """What was found damaged while the log is in use, until the log thread has mended it. Any thread may add to it."""

    def __init__(self) -> None:
        self.malformed = ""  # why the database is to be rebuilt
        self.gaps: list[Gap] = []  # blocks that do not read back

    @contextmanager
    def noticing(self, what: str) -> Iterator[None]:
        """Errors become ours; what SQLite calls malformed is rebuilt with the next commit or maintenance."""
        try:
            with as_log_errors(what):
                yield
        except LogDamaged as error:
            self.malformed = str(error)
            raise


class Reading:
    """`recent` is shared with the log thread, which puts in what it sealed."""

    def __init__(self, folder: str, files: Files, streams: Streams, attic: Attic, damage: Damage, memory: int) -> None:
        self._folder, self._streams, self._attic, self._damage = folder, streams, attic, damage
        self._reader = StoreReader(os.path.join(folder, "log.db"), files)
        self._lock = threading.Lock()  # one question at a time
        self.recent = Recent(memory)

    def peek(self, stream: str, first: int, limit: int) -> Batch | None:
        """As Log.peek()."""
        home = self._streams.homes[stream]
        piece = home.piece(first) or self.recent.at(stream, first)
        return piece.slice(first, first + limit) if piece else None

    def in_memory(self, stream: str, first: int) -> bool:
        """As Log.in_memory()."""
        home = self._streams.homes[stream]
        if first >= home.durable or home.piece(first) is not None:
            return True
        return home.gap(first) is not None or self.recent.at(stream, first) is not None

    def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None:
        """As Log.read()."""
        home = self._streams.homes[stream]
        durable = home.durable
        if first >= durable:
            return None
        # Between two looks a block may be sealed (it leaves the tail after it entered the store) or evicted (it leaves
        # the store as its gap enters it); so what one round does not see, the next one does.
        for _ in range(2):
            found = home.gap(first) or home.piece(first) or self.recent.at(stream, first) or self._stored(home, first)
            if isinstance(found, Batch):
                return found.slice(first, min(first + limit, durable))
            if found is not None:
                return found
        # An offset that is nowhere, though no gap says so: what leads to its block is damaged, or there is none.
        self._damage.malformed = self._damage.malformed or f"offset {first} of {stream} cannot be found"
        raise LogDamaged(f"{stream}: offset {first} cannot be found in {self._folder}/log.db; it is salvaged")

    def _stored(self, home: Stream, first: int) -> Batch | Gap | None:
        shelf = self._streams.shelves.get(home.name)
        if shelf is None:
            return None
        with self._lock, self._damage.noticing("cannot read"):
            found = self._reader.block(shelf.id, home.name, first) or self._reader.gap(shelf.id, home.name, first)
        if found is None:
            found, extent = self._attic.read(home.name, first)
            if found is None and extent is not None:
                found = Gap(home.name, *extent, "damaged")
        if found is None or (isinstance(found, Gap) and found.cause != "damaged"):
            return found
        if isinstance(found, Batch):
            self.recent.put(found)
            return found
        if found not in self._damage.gaps:
            self._damage.gaps.append(found)
        return Gap(found.stream, first, found.last, found.cause)

    def seek(self, stream: str, time_ns: int) -> int:
        """As Log.seek()."""
        home, shelf = self._streams.homes[stream], self._streams.shelves.get(stream)
        at = home.oldest
        if shelf is not None:
            with self._lock:
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
        """The stored state of a pipeline."""
        with self._lock:
            return self._reader.snapshot(pipeline)

    @contextmanager
    def shut_out(self) -> Iterator[None]:
        """The database is not open for reading, and nobody opens it meanwhile."""
        with self._lock:
            self._reader.close()
            yield

    def close(self) -> None:
        with self.shut_out():
            pass
