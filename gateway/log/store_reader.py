"""The sealed part of the log, looked at: a connection that only reads."""

import sqlite3
import zlib
from contextlib import suppress

from gateway.errors import LogDamaged
from gateway.log.block import decode_block
from gateway.log.contents import Snapshot, snapshot_of
from gateway.log.files import Files, as_log_errors
from gateway.record import Batch, Gap


class StoreReader:
    """The connection that reads: `mode=ro`, one statement at a time, so that it never holds up a checkpoint."""

    def __init__(self, path: str, files: Files) -> None:
        self._path, self._files = path, files
        self._db: sqlite3.Connection | None = None

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with as_log_errors(f"cannot read {self._path}"):
            if self._db is None:
                self._db = self._files.connect(self._path, readonly=True)
                self._db.execute("PRAGMA cache_size=-256").fetchall()
            return self._db.execute(sql, values).fetchall()

    def block(self, shelf_id: int, stream: str, offset: int) -> "Batch | Gap | None":
        """The block that holds an offset; as a Gap of cause `damaged` where it does not read back."""
        rows = self._rows(
            "SELECT first, n, crc, data FROM block WHERE stream=? AND first<=? ORDER BY first DESC LIMIT 1",
            shelf_id,
            offset,
        )
        if not rows:
            return None
        first, n, crc, blob = rows[0]
        assert isinstance(first, int)
        assert isinstance(n, int)
        if offset >= first + n:
            return None
        try:
            if not isinstance(blob, bytes) or zlib.crc32(blob) != crc:
                raise LogDamaged(f"{stream}: the block at {first} fails its checksum")
            batch = decode_block(blob, stream)
            if (batch.first, len(batch)) != (first, n):
                raise LogDamaged(f"{stream}: the block at {first} holds other records")
        except LogDamaged:
            return Gap(stream, first, first + n - 1, "damaged")
        return batch

    def gap(self, shelf_id: int, stream: str, offset: int) -> Gap | None:
        """The stored gap that holds an offset, from this offset on."""
        rows = self._rows(
            "SELECT last, cause FROM gap WHERE stream=? AND first<=? ORDER BY first DESC LIMIT 1", shelf_id, offset
        )
        if not rows:
            return None
        last, cause = rows[0]
        assert isinstance(last, int)
        return Gap(stream, offset, last, str(cause)) if last >= offset else None

    def block_after(self, shelf_id: int, offset: int) -> int | None:
        """Where the first block behind an offset starts."""
        rows = self._rows("SELECT min(first) FROM block WHERE stream=? AND first>?", shelf_id, offset)
        first = rows[0][0]
        return first if isinstance(first, int) else None

    def snapshot(self, pipeline: str) -> Snapshot | None:
        """The stored state of a pipeline; None also where it does not read back."""
        rows = self._rows("SELECT signature, positions, state FROM snapshot WHERE pipeline=?", pipeline)
        with suppress(ValueError):
            return snapshot_of(*rows[0]) if rows else None
        return None

    def block_since(self, shelf_id: int, time_ns: int) -> int | None:
        """Where the first block starts that holds a record of that time or later."""
        rows = self._rows(
            "SELECT first FROM block WHERE stream=? AND max_time>=? ORDER BY first LIMIT 1", shelf_id, time_ns
        )
        return int(str(rows[0][0])) if rows else None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
