"""What drivers of pipes share: bytes that come out of one, as records of one stream and key."""

import asyncio
import fcntl
import os

from gateway.framing import FrameOptions, Framer
from gateway.plugin import Inlet
from gateway.tap import READ, Tap

_HOLDS = 65536  # bytes in a pipe, where the kernel does not say


class Pipe:
    """One pipe at a time, from open() to close(). It is read at the turns; while paused, its writer waits."""

    def __init__(self, options: FrameOptions, inlet: Inlet, stream: str, key: str) -> None:
        self._options, self._inlet, self._stream, self._key = options, inlet, stream, key
        self.records = 0  # of this pipe
        self.over = asyncio.Event()  # its end was read
        self._framer: Framer | None = None
        self._tap: Tap | None = None
        self._fd = -1
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def paused(self) -> bool:
        return not self._flowing.is_set()

    def open(self, fd: int) -> None:
        """Read this from now on. Its owner closes it, after close()."""
        inlet, framer = self._inlet, self._options.framer()
        self._fd, self._framer, self.records = fd, framer, 0
        self.over.clear()
        os.set_blocking(fd, False)
        self._tap = Tap(
            fd,
            self._took,
            self._ended,
            holds=_holds(fd),
            urgent=inlet.urgent,
            idle_s=framer.idle_s,
            idle=self._flush,
        )
        if self.paused:
            self._tap.pause()
        self._tap.open()

    def turn(self) -> None:
        if self._tap is not None:
            self._tap.turn()

    def pause(self) -> None:
        self._flowing.clear()
        if self._tap is not None:
            self._tap.pause()

    def resume(self) -> None:
        self._flowing.set()
        if self._tap is not None:
            self._tap.resume()

    async def emptied(self) -> None:
        """Read all that is in it, now that nobody writes any more; that someone still holds it open is no matter."""
        assert self._tap is not None
        self._tap.close()
        while not self.over.is_set():
            await self._flowing.wait()
            try:
                data = os.read(self._fd, READ)
            except BlockingIOError:
                return
            if not data:
                self.over.set()
                return
            self._took(data)
            await asyncio.sleep(0)  # whoever has enough may say so

    def close(self, whole: bool) -> None:
        """Leave it. `whole`: its writer ended in order, so what it wrote last is a frame though no end mark follows."""
        if self._tap is None or self._framer is None:
            return
        self._tap.close()
        if whole:
            self._flush()
        else:
            self._framer.reset()
            self._tell_bad()
        self._tap = self._framer = None

    def _took(self, data: bytes) -> None:
        if self._framer is not None:
            self._record(self._framer.feed(data))

    def _flush(self) -> None:
        if self._framer is not None:
            self._record(self._framer.flush())

    def _record(self, values: list[bytes]) -> None:
        if values:
            n = len(values)
            self.records += n
            self._inlet.record(self._stream, [self._inlet.clock.now()] * n, [self._key] * n, values)
        self._tell_bad()

    def _tell_bad(self) -> None:
        for reason, sample, count in self._framer.bad() if self._framer is not None else ():
            self._inlet.bad_frame(reason, sample, count)

    def _ended(self, words: str) -> None:
        self.over.set()


def _holds(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:  # a terminal, a file, a socket
        return _HOLDS
