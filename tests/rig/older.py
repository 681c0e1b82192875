"""Makes of a log one of the first format, as an older Tidegate left it: `python older.py FOLDER`."""

import sqlite3
import sys

db = sqlite3.connect(f"{sys.argv[1]}/log.db", isolation_level=None)
for statement in (
    "PRAGMA synchronous=FULL",
    "BEGIN IMMEDIATE",
    "ALTER TABLE gap DROP COLUMN at",
    "ALTER TABLE position DROP COLUMN ledger",
    "DELETE FROM meta WHERE name='sum'",
    "PRAGMA application_id=0",
    "PRAGMA user_version=1",
    "COMMIT",
):
    db.execute(statement).fetchall()
db.close()
