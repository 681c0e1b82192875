"""The daemon on a small log that says what it promises: `python marked.py CONFIG [WEAK ...]`; see weak.py for the words."""

import os
import sys
from pathlib import Path

import weak
from marks import SMALL, MarkedLog

from gateway import daemon, plugin
from gateway.cli import main
from gateway.log import LogOptions


def prepare() -> None:
    """Every daemon of this process is like that."""
    daemon.Log = lambda options, clock, files: MarkedLog(LogOptions(options.path, **SMALL), clock, files)
    plugin.SITE_PLUGINS = Path(__file__).with_name("site")


if __name__ == "__main__":
    prepare()
    weak.weaken(sys.argv[2:])
    sys.argv = ["tidegate", "run", "--config", sys.argv[1]]
    os.umask(0o077)
    sys.exit(main())
