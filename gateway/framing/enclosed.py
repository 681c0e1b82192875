"""Frames between a start and an end, as STX and ETX; with DLE stuffing these may occur inside, after a DLE."""

import re

from gateway.framing.checksum import Check
from gateway.framing.framer import Framer

DLE = b"\x10"
BETWEEN = b"\r\n\t \0"  # what may stand between frames without being noise
_AFTER_DLE = re.compile(rb"\x10(.)", re.DOTALL)


class Enclosed(Framer):
    """Frames between `start` and `end`; a start inside a frame begins another one."""

    def __init__(self, check: Check | None, most: int, start: bytes, end: bytes, keep: bool) -> None:
        super().__init__(check, most)
        self._start, self._end = start, end
        self._marks = (start, end) if keep else (b"", b"")
        self._open = False  # the rest is the inside of a frame …
        self._skipping = False  # … that is too long, and counted
        self._noisy = False  # what came last was no frame, and is counted

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data
        found: list[bytes] = []
        at = 0
        while True:
            if not self._open:
                begin = data.find(self._start, at)
                if begin < 0:
                    held = _beginning(data, at, self._start)
                    self._between(data[at : len(data) - held])
                    self._rest = data[len(data) - held :]
                    break
                self._between(data[at:begin])
                at = begin + len(self._start)
                self._open, self._noisy = True, False
            stop = self._close(data, at)
            if stop < 0:
                rest = data[at:]
                if not self._skipping and len(rest) > self._longest + len(self._end):
                    self._drop_long(rest)
                    self._skipping = True
                self._rest = self._tail(rest) if self._skipping else rest
                break
            if data.startswith(self._end, stop):
                if not self._skipping and (value := self._inside(data[at:stop])):
                    found.append(value)
                at = stop + len(self._end)
            else:  # outside again, where another frame begins, or nothing that we know
                if not self._skipping:
                    self._drop("a frame that was not ended before the next", data[at:stop])
                self._noisy, at = True, stop
            self._open = self._skipping = False
        return self._finished(found) if found else []

    def flush(self) -> list[bytes]:
        if not self._open:
            self._between(self._rest)
        elif not self._skipping:
            self._drop("cut off at the end", self._rest)
        self._rest, self._open, self._skipping, self._noisy = b"", False, False, False
        return []

    def reset(self) -> None:
        if self._skipping:
            self._rest = b""
        super().reset()
        self._open = self._skipping = self._noisy = False

    @property
    def _longest(self) -> int:
        """Bytes that a frame may have as it comes."""
        return self._most

    def _close(self, data: bytes, at: int) -> int:
        """Where the frame is over whose inside begins at `at`, by its end or by another start; -1 if nowhere yet."""
        stop = data.find(self._end, at)
        again = data.find(self._start, at, stop if stop >= 0 else len(data))
        return again if again >= 0 else stop

    def _tail(self, rest: bytes) -> bytes:
        """As much of the end of a frame as is needed to recognise its end or another start."""
        overlap = max(len(self._start), len(self._end)) - 1
        return rest[-overlap:] if overlap else b""

    def _inside(self, inside: bytes) -> bytes:
        """The frame; empty if it is none."""
        if len(inside) > self._most:
            self._drop_long(inside)
            return b""
        return inside

    def _finished(self, found: list[bytes]) -> list[bytes]:
        before, after = self._marks
        values = self._checked(found)
        return [before + value + after for value in values] if before else values

    def _between(self, data: bytes) -> None:
        if data.strip(BETWEEN):
            if not self._noisy:
                self._drop("bytes between frames", data)
            self._noisy = True


class Stuffed(Enclosed):
    """The same with DLE before start and end, and a DLE inside written twice."""

    def __init__(self, check: Check | None, most: int, start: bytes, end: bytes, keep: bool) -> None:
        super().__init__(check, most, DLE + start, DLE + end, keep)

    @property
    def _longest(self) -> int:
        return 2 * self._most

    def _close(self, data: bytes, at: int) -> int:
        return next((pair.start() for pair in _AFTER_DLE.finditer(data, at) if pair[1] != DLE), -1)

    def _tail(self, rest: bytes) -> bytes:
        lone = (len(rest) - len(rest.rstrip(DLE))) % 2  # a DLE whose second byte has not come
        return DLE * lone

    def _inside(self, inside: bytes) -> bytes:
        return super()._inside(inside.replace(DLE + DLE, DLE))


def _beginning(data: bytes, at: int, mark: bytes) -> int:
    """How many of the last bytes may be the beginning of a mark."""
    for size in range(min(len(mark) - 1, len(data) - at), 0, -1):
        if data.endswith(mark[:size]):
            return size
    return 0
