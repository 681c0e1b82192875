"""Frames whose beginning is looked for and whose length is then known: a fixed size, or a length prefix.

Where a frame proves wrong, by its length or its checksum, its beginning was none: the next one is looked for one byte
further on, so that a good frame inside what seemed to be one is found. That has a bound: bytes that look like the
beginning of a long frame again and again are given up, so that no garbage takes more than its share of the machine.
"""

import struct
from abc import abstractmethod

from gateway.framing.checksum import Check
from gateway.framing.framer import CUT, WRONG, Framer

IN_VAIN = 64  # bytes that may be summed up in vain for each byte that comes …
SAVED_UP = 1 << 20  # … and at most so many at a time


class Sought(Framer):
    """`start`: the bytes that a frame begins with; none: it may begin anywhere."""

    def __init__(self, check: Check | None, most: int, start: bytes) -> None:
        super().__init__(check, most)
        self._start = start
        self._in_vain = SAVED_UP  # bytes that may still be summed up in vain
        self._at = 0  # where the rest begins in all that came
        self._failed = -1  # up to where bytes are counted as part of something bad

    @abstractmethod
    def _size(self, data: bytes, at: int) -> int | None:
        """Bytes of the frame at `at`, 0 where there can be none, None where too little of it is there."""

    @abstractmethod
    def _value(self, frame: bytes) -> bytes:
        """The frame without its marks."""

    def feed(self, data: bytes) -> list[bytes]:
        self._in_vain = min(self._in_vain + IN_VAIN * len(data), SAVED_UP)
        return self._take(self._rest + data if self._rest else data, last=False)

    def flush(self) -> list[bytes]:
        return self._take(self._rest, last=True)

    def reset(self) -> None:
        if self._rest:
            self._fail(CUT, self._rest, 0, len(self._rest))  # where it is not left over from a frame that failed
        self._rest = b""
        self._at, self._failed = 0, -1

    def _take(self, data: bytes, last: bool) -> list[bytes]:
        start, check = self._start, self._check
        found: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            begin = self._begin(data, at, last) if start else at
            if begin > at:
                self._fail("bytes between frames", data, at, begin)
                at = begin
                continue
            if not data.startswith(start, at):
                break  # the beginning of a start: wait for the rest of it
            size = self._size(data, at)
            if size is None or (size and at + size > end):
                if not last:
                    break
                self._fail("cut off at the end", data, at, end)
                at += 1
                continue
            if not size:
                self._fail("no length that a frame can have", data, at, at + 1)
                at += 1
                continue
            frame = data[at : at + size]
            whole = frame if check is None else check(frame)
            if whole is None:
                self._fail(WRONG, data, at, at + size)
                self._in_vain -= size
                at = at + 1 if self._in_vain > 0 else end
                continue
            found.append(self._value(whole))
            at += size
        self._rest = data[at:]
        self._at += at
        return found

    def _begin(self, data: bytes, at: int, last: bool) -> int:
        """Where the next start is, or could be when more has come; the end of the data where there is none."""
        begin = data.find(self._start, at)
        if begin >= 0:
            return begin
        if not last:
            for size in range(min(len(self._start) - 1, len(data) - at), 0, -1):
                if data.endswith(self._start[:size]):
                    return len(data) - size
        return len(data)

    def _fail(self, reason: str, data: bytes, begin: int, end: int) -> None:
        """Count what is bad. What overlaps with it is the same trouble, and so is noise that goes on."""
        at = self._at + begin
        if at > self._failed or (at == self._failed and reason == WRONG):
            self._drop(reason, data[begin:end])
        self._failed = max(self._failed, self._at + end)


class Fixed(Sought):
    """Frames of one size, their start included."""

    def __init__(self, check: Check | None, size: int, start: bytes, keep: bool) -> None:
        super().__init__(check, size, start)
        self._whole_size, self._from = size, 0 if keep else len(start)

    def _size(self, data: bytes, at: int) -> int | None:
        return self._whole_size

    def _value(self, frame: bytes) -> bytes:
        return frame[self._from :]


class Length(Sought):
    """Frames that say how long they are, in a number at a fixed place.

    `code`: of that number, as Python's struct has it. `at`: where it stands. `plus`: what is added to it to have the
    length of the whole frame.
    """

    def __init__(
        self, check: Check | None, most: int, start: bytes, code: str, at: int, plus: int, keep: bool, least: int
    ) -> None:
        super().__init__(check, most, start)
        self._number, self._place, self._plus, self._keep = struct.Struct(code), at, plus, keep
        self._least = max(least, at + self._number.size)

    def _size(self, data: bytes, at: int) -> int | None:
        at += self._place
        if len(data) < at + self._number.size:
            return None
        size: int = self._number.unpack_from(data, at)[0] + self._plus
        return size if self._least <= size <= self._most else 0

    def _value(self, frame: bytes) -> bytes:
        if self._keep:
            return frame
        return frame[len(self._start) : self._place] + frame[self._place + self._number.size :]
