"""The sealed part of the log in SQLite: the one connection that writes and checkpoints.

- WAL with synchronous=FULL: the journal starts again at 0 after a COMMIT, so that COMMIT has to be on the device
- whatever belongs together is one transaction
- what memory knows of the store changes only after its COMMIT
"""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import zstandard

from gateway.errors import LogDamaged, LogError, LogTooNew
from gateway.log.block import LEVEL
from gateway.log.contents import BlockRow, Contents, Shelf, Snapshot, checksum, contents_of
from gateway.log.files import Files, as_log_errors
from gateway.log.journal import Tick
from gateway.log.position import Place
from gateway.log.schema import FORMAT, MAGIC, MIGRATION, PAGE, PRAGMAS, SCHEMA, VERSION, WAL_KEPT, newer
from gateway.record import Batch, Gap

CHUNK = 1 << 20
WAL_BYTES = 1 << 20  # of a WAL that is long
BUSY_MS = 5000


class Store:
    """The connection that writes. Every method blocks and belongs to the log thread."""

    def __init__(self, path: str, files: Files) -> None:
        self._path, self._files = path, files
        self._connection: sqlite3.Connection | None = None
        self.bytes = 0  # of the database file, as of the last transaction
        self.used = 0  # of those, in pages that hold something
        self.estimated_bytes_written = 0
        self._estimated_at_checkpoint = 0
        self.unchecked = False  # the WAL holds something that was not checkpointed
        self.in_doubt = False  # the last COMMIT failed; a process started now might find it kept

    def refuse_newer(self) -> None:
        """Raise LogTooNew for a database of a later version, without changing it."""
        head = self._files.head(self._path, 100)
        marks = int.from_bytes(head[60:64], "big"), int.from_bytes(head[68:72], "big")
        # A rollback journal is there only where the making of the database was cut short: then it is of no version yet,
        # and cannot be read before it was rolled back.
        readable = head[:16] == MAGIC and not self._files.exists(self._path + "-journal")
        if readable and not newer(*marks) and self._files.head(self._path + "-wal", 1):
            with suppress(LogError), as_log_errors(f"cannot read {self._path}"):  # what is damaged is not newer
                db = self._files.connect(self._path, readonly=True)
                try:
                    marks = tuple(db.execute(f"PRAGMA {name}").fetchall()[0][0] for name in VERSION)
                finally:
                    db.close()
        if newer(*marks):
            raise LogTooNew(f"{self._path} has format {marks[0]}, this version knows up to {FORMAT}")

    @property
    def lost(self) -> bool:
        """There is no database, or nothing in it."""
        return not self._files.head(self._path, 1)

    def connect(self) -> None:
        """Open the file, made where it is missing."""
        with as_log_errors(f"cannot open {self._path}"):
            self._rewrite_wal()
            self._connection = self._files.connect(self._path)
            for pragma in PRAGMAS:
                self._db.execute(pragma).fetchall()

    def open(self, new_epoch: str, *, was: bool = False) -> Contents:
        """Open or create. The WAL is emptied into the database: what was only in the page cache is on the device.

        Raises LogDamaged where it does not read back as it was written, or is empty and `was` there before.
        """
        self.connect()
        with as_log_errors(f"cannot open {self._path}"):
            try:
                format_ = self._db.execute("PRAGMA user_version").fetchall()[0][0]
                if not format_ and not self._db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                    if was:
                        raise LogDamaged(f"{self._path} is empty")
                    with self.transaction():
                        self.lay_out(Contents(new_epoch, 1, 0, {}, {}, [], {}, [], {}))
                    self._files.sync_folder(os.path.dirname(self._path))
                elif format_ == 1:
                    with self.transaction():
                        for statement in MIGRATION.split(";")[:-1]:
                            self._db.execute(statement)
                elif format_ != FORMAT:
                    raise LogDamaged(f"{self._path} claims format {format_}, and was never of it")
                if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]:
                    raise sqlite3.OperationalError("the start-up checkpoint is blocked by another process")
                self.used_bytes()
                return contents_of(self._db, self._path)
            except (ValueError, TypeError, KeyError) as error:
                raise LogDamaged(f"{self._path} does not read back: {error}") from error
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:  # tables that are not there
                    raise LogDamaged(f"{self._path} does not read back: {error}") from error
                raise

    def lay_out(self, contents: Contents) -> None:
        """Inside a transaction, in an empty database: the tables, and what is known but blocks, snapshots and ticks."""
        for statement in SCHEMA.split(";")[:-1]:
            self._db.execute(statement)
        self._db.execute("INSERT INTO meta VALUES ('epoch', ?)", (contents.epoch,))
        self._set_meta(contents.generation, contents.commit)
        for name, shelf in contents.shelves.items():
            row = (shelf.id, name, shelf.next, shelf.oldest, shelf.blocks, shelf.bytes)
            self._db.execute("INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?)", row)
            for gap in contents.gaps.get(name, ()):
                self._db.execute(
                    "INSERT INTO gap VALUES (?, ?, ?, ?, ?)", (shelf.id, gap.first, gap.last, gap.cause, 0)
                )
        self._save_places(contents.places)
        for pipeline, (commit, snapshot) in contents.snapshots.items():
            self.save_snapshot(pipeline, commit, snapshot)

    def _rewrite_wal(self) -> None:
        """Make sure that the WAL is on the device and not only in the page cache, as Journal.barrier() does.

        The checkpoint that follows overwrites the database page by page and trusts in the WAL to do it again after a
        power cut; SQLite's own sync does nothing for pages that a failed one has marked clean.
        """
        path = self._path + "-wal"
        if not self._files.head(path, 1):
            return
        fd = self._files.open(path)
        try:
            for offset in range(0, self._files.size(fd), CHUNK):
                self._files.pwrite(fd, self._files.pread(fd, CHUNK, offset), offset)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside, or nothing. Raises sqlite3.Error; afterwards there is no open transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('sum', ?)", (checksum(self._db),))
            self.in_doubt = True
            self._db.execute("COMMIT")
        except BaseException:  # also a KeyboardInterrupt must not leave a transaction open
            if self._db.in_transaction:  # SQLite has rolled back by itself where the disk was full
                self._db.execute("ROLLBACK")
            raise
        self.in_doubt = False
        self.unchecked = True
        self.estimated_bytes_written += 2 * 8 * PAGE  # the few index and table pages that every transaction changes

    # -- inside a transaction ------------------------------------------------------------------------------------------

    def new_shelf(self, stream: str) -> Shelf:
        """The stream is seen here for the first time."""
        cursor = self._db.execute("INSERT INTO stream VALUES (NULL, ?, 0, 0, 0, 0)", (stream,))
        assert cursor.lastrowid is not None
        return Shelf(cursor.lastrowid, 0, 0)

    def put_block(self, shelf: Shelf, batch: Batch, blob: bytes) -> None:
        """Add a block at the end of its stream."""
        self._db.execute(
            "INSERT INTO block VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            (shelf.id, batch.first, len(batch), min(batch.times), max(batch.times), zlib.crc32(blob), blob),
        )
        if not shelf.blocks:
            shelf.oldest, shelf.oldest_time = batch.first, min(batch.times)
        shelf.newest_time = max(batch.times)
        shelf.blocks += 1
        shelf.bytes += len(blob)
        shelf.next = batch.next
        # once into the WAL and once into the database
        self.estimated_bytes_written += 2 * (len(blob) + -len(blob) % PAGE)

    def put_back(self, shelf: Shelf, block: BlockRow, crc: int, blob: bytes) -> None:
        """Add a block before others of its stream, as it was stored once."""
        self._db.execute(
            "INSERT INTO block VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            (shelf.id, block.first, block.n, block.min_time, block.max_time, crc, blob),
        )
        if not shelf.blocks or block.first < shelf.oldest:
            shelf.oldest, shelf.oldest_time = block.first, block.min_time
        if not shelf.blocks:
            shelf.newest_time = block.max_time
        shelf.blocks += 1
        shelf.bytes += len(blob)
        self.estimated_bytes_written += 2 * (len(blob) + -len(blob) % PAGE)

    def new_epoch(self, epoch: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))

    def extents(self, shelf: Shelf) -> list[tuple[int, int]]:
        """(first, last) of every block of a stream."""
        return [
            (first, first + n - 1)
            for first, n in self._db.execute(
                "SELECT first, n FROM block WHERE stream=? ORDER BY first", (shelf.id,)
            ).fetchall()
        ]

    def oldest_block(self, shelf: Shelf, first: int) -> BlockRow | None:
        """The first block of a stream that starts at or after `first`."""
        rows = self._db.execute(
            "SELECT id, first, n, min_time, max_time, length(data) FROM block WHERE stream=? AND first>=? "
            "ORDER BY first LIMIT 1",
            (shelf.id, first),
        ).fetchall()
        return BlockRow(*rows[0]) if rows else None

    def delete_block(self, shelf: Shelf, block: BlockRow) -> None:
        self._db.execute("DELETE FROM block WHERE id=?", (block.id,))
        shelf.blocks -= 1
        shelf.bytes -= block.bytes
        if block.first == shelf.oldest:
            following = self.oldest_block(shelf, block.first)
            shelf.oldest = following.first if following else shelf.next
            shelf.oldest_time = following.min_time if following else 0

    def save_shelf(self, shelf: Shelf) -> None:
        self._db.execute(
            "UPDATE stream SET next=?, oldest=?, blocks=?, bytes=? WHERE id=?",
            (shelf.next, shelf.oldest, shelf.blocks, shelf.bytes, shelf.id),
        )

    def save_gap(self, shelf: Shelf, gap: Gap, at: int) -> None:
        """Store a gap in place of every one that it has grown over; `at` (ns) is when it grew."""
        self._db.execute("DELETE FROM gap WHERE stream=? AND first BETWEEN ? AND ?", (shelf.id, gap.first, gap.last))
        self._db.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?)", (shelf.id, gap.first, gap.last, gap.cause, at))

    def save_snapshot(self, pipeline: str, commit: int, snapshot: Snapshot) -> int:
        """Returns the bytes it takes."""
        state = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(snapshot.state)
        self._db.execute(
            "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?)",
            (pipeline, commit, snapshot.signature, json.dumps(snapshot.positions), state),
        )
        self.estimated_bytes_written += 2 * (len(state) + -len(state) % PAGE)
        return len(state)

    def turn_over(
        self,
        generation: int,
        commit: int,
        places: Iterable[Place],
        ticks: Iterable[Tick],
        remembered: Iterable[tuple[str, bytes, bytes]],
    ) -> None:
        """Store what only the journal held, beside its records, and move its generation on."""
        self._save_places(places)
        self._db.execute("DELETE FROM tick")
        self._db.executemany(
            "INSERT INTO tick VALUES (NULL, ?, ?, ?, ?)",
            [(tick.pipeline, tick.now, json.dumps(tick.positions), tick.commit) for tick in ticks],
        )
        self._db.executemany("INSERT OR REPLACE INTO remembered VALUES (?, ?, ?)", remembered)
        self._set_meta(generation, commit)

    def _save_places(self, places: Iterable[Place]) -> None:
        encode = msgspec.json.Encoder().encode
        self._db.executemany(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    *(place.reader, place.stream, place.next),
                    *(encode(part).decode() for part in (place.beyond, place.cuts, place.ledger)),
                )
                for place in places
            ],
        )

    def _set_meta(self, generation: int, commit: int) -> None:
        rows = [("generation", generation), ("commit", commit)]
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something."""
        pages = self._db.execute("PRAGMA page_count").fetchall()[0][0]
        free = self._db.execute("PRAGMA freelist_count").fetchall()[0][0]
        self.bytes = int(pages) * PAGE
        self.used = int(pages - free) * PAGE
        return self.used

    # -- outside -------------------------------------------------------------------------------------------------------

    @property
    def wal_is_long(self) -> bool:
        """It is time for a checkpoint, whatever else is due."""
        return self.unchecked and self.estimated_bytes_written - self._estimated_at_checkpoint >= 2 * WAL_BYTES

    def checkpoint(self, *, keep: bool = False) -> None:
        """Move the WAL into the database, as far as readers allow; nobody is waited for. `keep`: its room, too.

        Where all of it was moved the WAL is emptied, and that is put on the device. What is left of one is applied
        again after a crash, up to a page that the device lost, and would mix what the database held before with what
        it holds now.
        """
        busy, in_wal, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
        self.unchecked = bool(busy) or moved < in_wal
        self._estimated_at_checkpoint = self.estimated_bytes_written
        self._db.execute(f"PRAGMA journal_size_limit={-1 if keep else WAL_KEPT}").fetchall()
        if not self.unchecked and not keep:
            self._db.execute("PRAGMA busy_timeout=0").fetchall()
            try:
                self.unchecked = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0])
            finally:
                self._db.execute(f"PRAGMA busy_timeout={BUSY_MS}").fetchall()
            fd = self._files.open(self._path + "-wal")
            try:
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)

    def widen(self, size: int) -> None:
        """Have the WAL take that much room now, before anybody else does; SQLite writes over it."""
        with suppress(OSError):  # what there was is taken
            fd = self._files.open(self._path + "-wal")
            try:
                for offset in range(self._files.size(fd), size, CHUNK):
                    self._files.pwrite(fd, bytes(min(CHUNK, size - offset)), offset)
            finally:
                self._files.close(fd)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
