"""A copy of a log, as of one moment, while its gateway goes on recording.

Everything small is read in one short transaction that changes nothing, then the journal; if its generation is still the
same, both together hold every commit up to that moment. Blocks never change, so they are copied afterwards, a few at a
time, each few in a transaction of their own: the owner can be stopped, started and checkpointed meanwhile. A block
that the ring takes before we come to it is a gap in the copy, as it is in the log.

The copy is marked as one (gateway.log.identity): opened, it begins a new epoch.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from gateway.errors import LogError
from gateway.log.archive import CLOSED, PAUSE_S, TRIES, Archive, Looking
from gateway.log.contents import checksum
from gateway.log.files import Files, SystemFiles, as_log_errors
from gateway.log.identity import mark_copy
from gateway.log.journal import LARGEST, Journal
from gateway.log.schema import FORMAT, SCHEMA, VERSION

TABLES = {  # all but blocks
    "meta": "name, value",
    "stream": "id, name, next, oldest, blocks, bytes",
    "gap": "stream, first, last, cause, at",
    "position": "reader, stream, next, beyond, cuts, ledger",
    "snapshot": "pipeline, recorded, signature, positions, state",
    "tick": "id, pipeline, now, positions, recorded",
    "remembered": "source, ids, fingerprints",
}
BLOCK = "id, stream, first, n, min_time, max_time, crc, data"
AT_ONCE = 32  # blocks
CUT_AWAY = """
UPDATE stream SET blocks=(SELECT count(*) FROM block WHERE block.stream=stream.id),
  bytes=(SELECT coalesce(sum(length(data)), 0) FROM block WHERE block.stream=stream.id),
  oldest=coalesce((SELECT min(first) FROM block WHERE block.stream=stream.id), next)
"""


class Copied(NamedTuple):
    """What a backup holds."""

    epoch: str  # that of the log; the copy begins its own
    written: int  # ns since 1970: when its newest commit was made; 0 where the journal does not say
    blocks: int
    bytes: int  # of all of it
    live: bool  # a gateway was at work, or its end was not an orderly one


class _Moment(NamedTuple):
    tables: dict[str, list[tuple[object, ...]]]
    blocks: list[tuple[int, int, int, int]]  # id, stream, first, n
    written: int


def back_up(
    folder: str,
    target: str,
    told: Callable[[int, int], None] = lambda done, of: None,
    *,
    files: Files | None = None,
    now: Callable[[], int] = time.time_ns,
    pause: Callable[[float], None] = time.sleep,
) -> Copied:
    """Copy the log in `folder` to `target`, an empty folder. `told`: (blocks copied, of how many) as it goes on.

    Raises LogError and its kin, with what to try; what is in `target` then is no log.
    """
    files = files or SystemFiles()
    Archive(folder, files, pause).open()  # whatever keeps us from reading it is told now
    if files.listing(os.path.join(folder, "salvage")):
        raise LogError(f"{folder} was damaged, and what was saved of it is still coming back; try again when it is")
    looking = Looking(os.path.join(folder, "log.db"), files, pause)
    before = looking.state()
    moment = _moment(folder, target, looking, files, pause)
    path = os.path.join(target, "log.db")
    with as_log_errors(f"cannot write {path}"), closing(files.connect(path)) as db:
        db.execute("PRAGMA synchronous=OFF")  # it is synced as a whole
        for statement in SCHEMA.split(";")[:-1]:
            db.execute(statement)
        _fill(db, moment, looking, told, now())
        db.execute("INSERT OR REPLACE INTO meta VALUES ('sum', ?)", (checksum(db),))
    meta = {str(name): value for name, value in moment.tables["meta"]}
    live = before[0] != CLOSED or looking.state() != before
    with as_log_errors(f"cannot write {target}"):
        files.replace(os.path.join(target, "epoch"), f"{meta['epoch']}\n".encode())
        mark_copy(target, files, live=live)
        fd = files.open(path)
        try:
            files.fdatasync(fd)
        finally:
            files.close(fd)
        files.sync_folder(target)
    size = sum(files.taken(os.path.join(target, name)) for name in files.listing(target))
    return Copied(str(meta["epoch"]), moment.written, len(moment.blocks), size, live)


def _moment(folder: str, target: str, looking: Looking, files: Files, pause: Callable[[float], None]) -> _Moment:
    """Everything but the blocks' bytes; the journal is in `target` afterwards."""
    questions = [(f"SELECT {columns} FROM {table}",) for table, columns in TABLES.items()]
    for attempt in range(TRIES):
        if attempt:
            pause(PAUSE_S)
        ((format_,),) = looking.together((f"PRAGMA {VERSION[0]}",))[0]
        if format_ != FORMAT:
            raise LogError(f"{folder} is of format {format_}; start the gateway once, it brings it to {FORMAT}")
        blocks, *tables = looking.together(("SELECT id, stream, first, n FROM block ORDER BY id",), *questions)
        found = dict(zip(TABLES, tables, strict=True))
        meta = {str(name): value for name, value in found["meta"]}
        journal = os.path.join(target, "journal")
        with as_log_errors(f"cannot copy {folder}/journal"):
            files.replace(journal, files.head(os.path.join(folder, "journal"), LARGEST))
        commit, missing, written = int(str(meta["commit"])), 0, 0
        for record in Journal(journal, 0, files).look(str(meta["epoch"]), int(str(meta["generation"]))):
            missing, commit, written = missing + record.commit - commit - 1, record.commit, record.entry.moment.wall_ns
        ((generation,),) = looking.together(("SELECT value FROM meta WHERE name='generation'",))[0]
        # A commit that seems to be missing may have been written while we read past its place.
        if generation == meta["generation"] and (not missing or attempt > 2):
            return _Moment(found, blocks, written)  # type: ignore[arg-type]
    raise LogError(f"{folder} changes faster than it can be read; try again")


def _fill(
    db: sqlite3.Connection, moment: _Moment, looking: Looking, told: Callable[[int, int], None], now_ns: int
) -> None:
    for table, columns in TABLES.items():
        places = ", ".join("?" * (columns.count(",") + 1))
        db.executemany(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({places})", moment.tables[table])
    gone = False
    for at in range(0, len(moment.blocks), AT_ONCE):
        wanted = {id_: (stream, first, n) for id_, stream, first, n in moment.blocks[at : at + AT_ONCE]}
        question = f"SELECT {BLOCK} FROM block WHERE id IN ({', '.join('?' * len(wanted))})"
        rows = [row for row in looking.together((question, *wanted))[0] if wanted[int(str(row[0]))] == row[1:4]]
        db.execute("BEGIN")
        db.executemany(f"INSERT INTO block ({BLOCK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        for id_ in wanted.keys() - {row[0] for row in rows}:
            stream, first, n = wanted[id_]
            gone = True
            db.execute("INSERT INTO gap VALUES (?, ?, ?, 'evicted', ?)", (stream, first, first + n - 1, now_ns))
        db.execute("COMMIT")
        told(at + len(wanted), len(moment.blocks))
    if gone:
        db.execute(CUT_AWAY)
