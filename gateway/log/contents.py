"""What the store holds beside its blocks, as one reads it; and what is said of a block."""

import json
import sqlite3
import zlib
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from gateway.errors import LogDamaged
from gateway.log.block import unpacked
from gateway.log.journal import Tick
from gateway.log.position import Ledger, Place, Range
from gateway.log.schema import SMALL
from gateway.record import Gap


class Shelf(msgspec.Struct):
    """What the store holds of one stream: everything before `next` that is in no gap."""

    id: int
    next: int
    oldest: int  # the first offset that has a block; `next` where none has
    blocks: int = 0
    bytes: int = 0
    oldest_time: int = 0  # ns, of the first record that has a block; of interest where there are blocks …
    newest_time: int = 0  # … and the latest time in the last one


class Snapshot(msgspec.Struct, frozen=True):
    """A pipeline's state, and the next offset of each of its inputs that it is the state at."""

    signature: str
    state: bytes
    positions: dict[str, int]


class BlockRow(NamedTuple):
    """A block without its bytes."""

    id: int
    first: int
    n: int
    min_time: int
    max_time: int
    bytes: int


class Contents(msgspec.Struct):
    """Everything of the store but its blocks, as open() finds it."""

    epoch: str
    generation: int
    commit: int  # everything up to this commit is here; what the journal says of later ones counts
    shelves: dict[str, Shelf]
    gaps: dict[str, tuple[Gap, ...]]
    places: list[Place]
    snapshots: dict[str, tuple[int, Snapshot]]  # pipeline -> (commit, state)
    ticks: list[Tick]
    remembered: dict[str, tuple[bytes, bytes]]  # source -> (ids u16, fingerprints u32), oldest first
    malformed: str = ""  # why blocks cannot be found by SQLite, where that is so


def contents_of(db: sqlite3.Connection, path: str) -> Contents:
    """Raises LogDamaged for what was not written like that; ValueError, TypeError or KeyError for other nonsense."""
    query = db.execute
    meta = dict(query("SELECT name, value FROM meta").fetchall())
    if meta.get("sum", "") not in ("", checksum(db)):
        raise LogDamaged(f"{path} fails its checksum")
    shelves, names, gaps = {}, {}, dict[str, tuple[Gap, ...]]()
    for id_, name, next_, oldest, blocks, size in query("SELECT * FROM stream ORDER BY id").fetchall():
        shelves[name] = Shelf(id_, next_, oldest, blocks, size)
        names[id_] = name
    join = "SELECT s.name, {} FROM stream s JOIN block b ON b.stream=s.id AND b.first={}"
    malformed = ""
    try:
        for name, time in query(join.format("b.min_time", "s.oldest")).fetchall():
            shelves[name].oldest_time = time
        newest = "(SELECT max(first) FROM block WHERE stream=s.id)"
        for name, time in query(join.format("b.max_time", newest)).fetchall():
            shelves[name].newest_time = time
        snapshot_rows = query("SELECT pipeline, recorded, signature, positions, state FROM snapshot").fetchall()
        tick_rows = query("SELECT pipeline, now, positions, recorded FROM tick ORDER BY id").fetchall()
        remembered = {
            source: (ids, fingerprints) for source, ids, fingerprints in query("SELECT * FROM remembered").fetchall()
        }
    except sqlite3.DatabaseError as error:
        malformed, snapshot_rows, tick_rows, remembered = str(error), [], [], {}
    for id_, first, last, cause in query(
        "SELECT stream, first, last, cause FROM gap ORDER BY stream, first"
    ).fetchall():
        gaps[names[id_]] = (*gaps.get(names[id_], ()), Gap(names[id_], first, last, cause))
    places = [
        place_of(*row) for row in query("SELECT reader, stream, next, beyond, cuts, ledger FROM position").fetchall()
    ]
    snapshots = {}
    for pipeline, commit, signature, positions, state in snapshot_rows:
        # One that fails its checksum is no snapshot: the pipeline starts with an empty state, and says so.
        with suppress(ValueError):
            snapshots[pipeline] = (commit, snapshot_of(signature, positions, state))
    ticks = [Tick(pipeline, now, json.loads(at), commit) for pipeline, now, at, commit in tick_rows]
    return Contents(
        meta["epoch"],
        meta["generation"],
        meta["commit"],
        shelves,
        gaps,
        places,
        snapshots,
        ticks,
        remembered,
        malformed,
    )


def checksum(db: sqlite3.Connection) -> str:
    """Over everything small, as `sum` in `meta` has it."""
    total = 0
    for query in SMALL:
        total = zlib.crc32(repr(db.execute(query).fetchall()).encode("utf-8", "surrogatepass"), total)
    return f"{total:08x}"


def snapshot_of(signature: Any, positions: Any, state: Any) -> Snapshot:
    """Raises ValueError for one that does not read back."""
    return Snapshot(signature, unpacked(state), json.loads(positions))


def place_of(reader: str, stream: str, next_: int, beyond: str, cuts: str, ledger: str) -> Place:
    """A row of the table of positions. Raises ValueError for one that does not read back."""
    ranges = tuple[Range, ...]
    decode = msgspec.json.decode
    standing = decode(beyond, type=ranges), decode(cuts, type=ranges), decode(ledger, type=Ledger | None)
    return Place(reader, stream, next_, *standing)
