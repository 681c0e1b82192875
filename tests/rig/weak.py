"""Takes away, one by one, what the promises rest on. A proof that does not notice proves nothing."""

import os
import sqlite3

from gateway.intake import Inlet
from gateway.log import SystemFiles, store
from gateway.log.journal import Journal


def weaken(words: list[str]) -> None:
    """In this process, for good.

    normal, off      SQLite's `synchronous`
    no-sync          the journal is not synced
    no-checkpoint    the WAL is never moved into the database
    no-barrier       what a start recovers is neither written again nor checkpointed
    early-ack        readings are acknowledged before their commit
    """
    for word in words:
        _WAYS[word]()


def _synchronous(level: str) -> None:
    store.PRAGMAS = tuple(
        f"PRAGMA synchronous={level}" if pragma.startswith("PRAGMA synchronous") else pragma for pragma in store.PRAGMAS
    )


def _no_journal_sync() -> None:
    SystemFiles.fdatasync = lambda self, fd: None


def _no_barrier() -> None:
    Journal.barrier = lambda self: None
    store.Store._rewrite_wal = lambda self: None
    _no_checkpoint()


class _Unchecked(sqlite3.Connection):
    def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
        return super().execute("SELECT 0, 0, 0" if sql.startswith("PRAGMA wal_checkpoint") else sql, *rest)


def _no_checkpoint() -> None:
    connect = SystemFiles.connect

    def without(self: SystemFiles, path: str, *, readonly: bool = False) -> sqlite3.Connection:
        if readonly:
            return connect(self, path, readonly=True)
        os.close(self.open(path))
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Unchecked)

    SystemFiles.connect = without


def _early_ack() -> None:
    honest = Inlet.record

    def early(self, stream, times, keys, values, *, flags=None, ids=None, receipt=None):
        honest(self, stream, times, keys, values, flags=flags, ids=ids)
        if receipt is not None:
            self._intake._drivers[self.name].acknowledge([receipt])

    Inlet.record = early


_WAYS = {
    "normal": lambda: _synchronous("NORMAL"),
    "off": lambda: _synchronous("OFF"),
    "no-sync": _no_journal_sync,
    "no-barrier": _no_barrier,
    "no-checkpoint": _no_checkpoint,
    "early-ack": _early_ack,
}
