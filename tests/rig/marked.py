"""The daemon on a small log that says what it promises: `python marked.py CONFIG [weak ...]`.

A word after the configuration takes something away that the promise needs; a proof must notice each:
normal, off       SQLite's `synchronous`
no-sync           the journal is not synced
no-checkpoint     the WAL is never moved into the database
no-barrier        what was recovered is not written again, and not checkpointed at the start
early-ack         readings are acknowledged before their commit
"""

import os
import sys
from pathlib import Path

import weak
from marks import SMALL, MarkedLog

from gateway import daemon, plugin
from gateway.cli import main
from gateway.log import LogOptions


def small(options, clock, files):
    return MarkedLog(LogOptions(options.path, **SMALL), clock, files)


daemon.Log = small
plugin.SITE_PLUGINS = Path(__file__).with_name("site")
weak.weaken(sys.argv[2:])
sys.argv = ["tidegate", "run", "--config", sys.argv[1]]
os.umask(0o077)
sys.exit(main())
