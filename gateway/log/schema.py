"""The tables of the store, how its database is opened, and how its version is told."""

FORMAT = 2
APPLICATION = 0x54470000  # "TG"; in application_id, with the format: a newer format is believed where both tell of it
PAGE = 4096
WAL_KEPT = 4 << 20  # bytes of the WAL's file that are kept for the next time
PRAGMAS = (
    "PRAGMA page_size=4096",
    "PRAGMA auto_vacuum=NONE",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA secure_delete=OFF",  # Debian's default is ON: a quarter more bytes for every evicted block
    "PRAGMA wal_autocheckpoint=0",  # checkpoint() does it, in a way that SQLite's own does not
    f"PRAGMA journal_size_limit={WAL_KEPT}",
    "PRAGMA cache_size=-1024",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA mmap_size=0",
)
MAGIC = b"SQLite format 3\0"
VERSION = ("user_version", "application_id")
SCHEMA = f"""
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE stream(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, next INTEGER NOT NULL, oldest INTEGER NOT NULL,
  blocks INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE block(id INTEGER PRIMARY KEY, stream INTEGER NOT NULL REFERENCES stream, first INTEGER NOT NULL,
  n INTEGER NOT NULL, min_time INTEGER NOT NULL, max_time INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL)
  STRICT;
CREATE UNIQUE INDEX block_at ON block(stream, first, n, max_time);
CREATE TABLE gap(stream INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, cause TEXT NOT NULL,
  at INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(stream, first)) STRICT, WITHOUT ROWID;
CREATE TABLE position(reader TEXT NOT NULL, stream TEXT NOT NULL, next INTEGER NOT NULL, beyond TEXT NOT NULL,
  cuts TEXT NOT NULL, ledger TEXT NOT NULL DEFAULT 'null', PRIMARY KEY(reader, stream)) STRICT, WITHOUT ROWID;
CREATE TABLE snapshot(pipeline TEXT PRIMARY KEY, recorded INTEGER NOT NULL, signature TEXT NOT NULL,
  positions TEXT NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE tick(id INTEGER PRIMARY KEY, pipeline TEXT NOT NULL, now INTEGER NOT NULL, positions TEXT NOT NULL,
  recorded INTEGER NOT NULL) STRICT;
CREATE TABLE remembered(source TEXT PRIMARY KEY, ids BLOB NOT NULL, fingerprints BLOB NOT NULL) STRICT;
PRAGMA application_id={APPLICATION + FORMAT};
PRAGMA user_version={FORMAT};
"""
MIGRATION = f"""
ALTER TABLE gap ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN ledger TEXT NOT NULL DEFAULT 'null';
PRAGMA application_id={APPLICATION + FORMAT};
PRAGMA user_version={FORMAT};
"""
SMALL = (  # everything that a wrong bit in would do harm unseen: blocks and snapshots have checksums of their own
    "SELECT name, value FROM meta WHERE name<>'sum' ORDER BY name",
    "SELECT id, name, next, oldest, blocks, bytes FROM stream ORDER BY id",
    "SELECT stream, first, last, cause, at FROM gap ORDER BY stream, first",
    "SELECT reader, stream, next, beyond, cuts, ledger FROM position ORDER BY reader, stream",
)


def newer(user_version: int, application_id: int) -> bool:
    """Whether a database was written by a later version. One mark alone may be a bit that has flipped."""
    return user_version > FORMAT and application_id == APPLICATION + user_version
