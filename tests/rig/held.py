"""The daemon on a disk that can be held: `python held.py CONFIG`, steered and observed through files beside the configuration.

hold        while this file exists, every fdatasync of the journal waits
full        while this file exists, every fdatasync of the journal finds no room
durable     one line per commit: monotonic time at which fdatasync returned, and messages that are durable since the start
stalls      longest time, in ms, that the event loop did not breathe
early-ack   if this file exists at the start, messages are acknowledged before their commit: a proof must notice
"""

import asyncio
import contextlib
import errno
import os
import sys
import time
from pathlib import Path

from gateway import intake, logs
from gateway.config import load
from gateway.daemon import Daemon
from gateway.log import Commit, Log, SystemFiles

config_path = Path(sys.argv[1])
folder = config_path.parent


class HeldFiles(SystemFiles):
    def fdatasync(self, fd: int) -> None:
        while (folder / "hold").exists():
            time.sleep(0.02)
        if (folder / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().fdatasync(fd)


class WatchedLog(Log):
    """Says when how many messages with delivery ids became durable."""

    durable_messages = 0
    gathering = 0

    def append(self, stream, times, keys, values, *, flags=None, ids=None, source=None):
        if ids is not None:
            self.gathering += len(values)
        return super().append(stream, times, keys, values, flags=flags, ids=ids, source=source)

    def gather(self, snapshots=None) -> Commit:
        commit = super().gather(snapshots)
        self.sizes = getattr(self, "sizes", {})
        self.sizes[commit.number], self.gathering = self.gathering, 0
        return commit

    def write(self, commit: Commit) -> None:
        super().write(commit)
        self.durable_messages += self.sizes.pop(commit.number, 0)
        with (folder / "durable").open("a") as file:
            file.write(f"{time.monotonic():.6f} {self.durable_messages}\n")


async def watch_stalls() -> None:
    longest = 0.0
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.01)
        late = (time.monotonic() - before - 0.01) * 1e3
        if late > longest:
            longest = late
            (folder / "stalls").write_text(f"{longest:.1f}")


async def main() -> None:
    logs.configure("info")
    daemon = Daemon(load(config_path), files=HeldFiles())
    daemon.log.__class__ = WatchedLog
    task = asyncio.create_task(watch_stalls())
    await daemon.run()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


if (folder / "early-ack").exists():
    honest = intake.Inlet.record

    def early(self, stream, times, keys, values, *, flags=None, ids=None, receipt=None):
        honest(self, stream, times, keys, values, flags=flags, ids=ids)
        if receipt is not None:
            self._intake._drivers[self.name].acknowledge([receipt])

    intake.Inlet.record = early

asyncio.run(main())
