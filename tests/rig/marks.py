"""What a process promises, said into the trace of its disk (disk.c), at exactly the moment of the promise."""

import os
from functools import cache

import msgspec

from gateway.log import Commit, Log

SMALL = {"journal": 48 << 10, "memory": 1 << 20, "seal": 64, "size": 140 << 10}  # much happens soon
_encode = msgspec.msgpack.Encoder().encode


@cache
def _channel(root: str) -> int:
    return os.open(os.path.join(root, "marks"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


ROOT = [os.environ.get("DISK_ROOT", "")]


def mark(**said: object) -> None:
    os.write(_channel(ROOT[0]), _encode(said))


def root(folder: str) -> None:
    """From now on the marks go to the trace of this folder."""
    if ROOT[0]:
        os.close(_channel(ROOT[0]))
    _channel.cache_clear()
    ROOT[0] = folder


class MarkedLog(Log):
    """Says what each commit holds before it is written, when it was, and what a seal forgot."""

    def __init__(self, options, clock, files=None) -> None:
        super().__init__(options, clock, files)
        honest, homes = self._upkeep.seal, self._streams.homes

        def seal(*, turnover: bool) -> None:
            honest(turnover=turnover)
            gaps = {name: [[gap.first, gap.last, gap.cause] for gap in home.gaps] for name, home in homes.items()}
            mark(kind="sealed", turnover=turnover, gaps=gaps)

        self._upkeep.seal = seal

    def open(self):
        recovery = super().open()
        mark(
            kind="opened",
            epoch=self.epoch,
            commit=self._unsealed.commit,
            next={stream: self.next(stream) for stream in self.streams()},
        )
        return recovery

    def gather(self, snapshots=None) -> Commit:
        commit = super().gather(snapshots)
        mark(
            kind="gathered",
            epoch=self.epoch,
            commit=commit.number,
            records={
                stream: [[p.first, list(p.times), list(p.keys), list(p.values)] for p in pieces]
                for stream, pieces in commit.pieces.items()
            },
            places=[[p.reader, p.stream, p.next, p.cuts] for p in commit.places],
            snapshots={name: [s.signature, s.state, s.positions] for name, s in (commit.snapshots or {}).items()},
        )
        return commit

    def write(self, commit: Commit) -> None:
        super().write(commit)
        mark(kind="written", commit=commit.number)
