"""What is piped into the gateway: `producer | tidegate run -c tidegate.yaml`."""

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import msgspec

from drivers._pipe import Pipe
from gateway.errors import DriverUnavailable
from gateway.framing import FrameOptions
from gateway.plugin import Inlet, Mistake, Plugin

EXAMPLE = """\
driver: stdin
stream: readings
"""


class Options(FrameOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Read the gateway's own standard input, as in `producer | tidegate run -c tidegate.yaml`.

    stream: where the readings go.
    key: of every reading; the driver's name unless given.
    """

    stream: str
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None

    def streams(self) -> list[str]:
        return [self.stream]

    def claims(self, gateway: str, name: str) -> dict[str, str]:
        return {"driver": "the gateway's standard input"}

    def warnings(self) -> list[Mistake]:
        return self.frame_doubts()


class Stdin:
    """Reads until the input ends, and then stays, so that what it is and how it ended can be read."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._inlet = inlet
        self._pipe = Pipe(options, inlet, options.stream, options.key or inlet.name)

    async def run(self) -> None:
        inlet, pipe, fd = self._inlet, self._pipe, _own()
        what = _kind(fd)
        try:
            pipe.open(fd)
            inlet.up(f"reading {what}")
            await pipe.over.wait()
        finally:
            pipe.close(whole=pipe.over.is_set())
            os.close(fd)
        told = f"{what} has ended after {pipe.records} record{'s' * (pipe.records != 1)}"
        inlet.waiting(f"{told}; start the gateway again, as producer | tidegate run")
        await asyncio.Event().wait()

    def turn(self) -> None:
        self._pipe.turn()

    def pause(self) -> None:
        self._pipe.pause()

    def resume(self) -> None:
        self._pipe.resume()

    def acknowledge(self, receipts: Sequence[object]) -> None:
        """A pipe cannot be told, and sends nothing again."""


def _own() -> int:
    """Standard input, to be closed. Opened anew where it can be: not to block is a property that others would share.

    A file is not: it would be read from its beginning again.
    """
    try:
        if not stat.S_ISREG(os.fstat(0).st_mode):
            with suppress(OSError):  # a socket, or a pipe of another user
                return os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        return os.dup(0)
    except OSError as error:
        raise DriverUnavailable(f"there is no standard input: {error.strerror}") from error


def _kind(fd: int) -> str:
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return "the pipe at standard input"
    if stat.S_ISREG(mode):
        return "the file at standard input"
    return "the terminal at standard input" if os.isatty(fd) else "standard input"


plugin = Plugin(Options, Stdin)
