"""Frames that end with a mark, found by splitting: lines, delimiters, SLIP (RFC 1055), COBS (Cheshire and Baker 1999).

Empty frames are dropped uncounted: they are two marks in a row, as many devices send them.
"""

from gateway.framing.checksum import Check
from gateway.framing.framer import Framer


class Marked(Framer):
    """Frames before a mark. `keep`: the mark stays part of them."""

    def __init__(self, check: Check | None, most: int, mark: bytes, keep: bool = False) -> None:
        super().__init__(check, most)
        self._mark, self._kept = mark, mark if keep else b""
        self._skipping = False  # inside a frame that is too long: drop all up to its end

    def feed(self, data: bytes) -> list[bytes]:
        parts = (self._rest + data).split(self._mark)
        rest = parts.pop()
        if parts and self._skipping:
            del parts[0]
            self._skipping = False
        overlap = len(self._mark) - 1  # the rest may end with the beginning of a mark
        if not self._skipping and len(rest) > self._longest + overlap:
            self._drop_long(rest)
            self._skipping = True
        if self._skipping:
            rest = rest[-overlap:] if overlap else b""
        self._rest = rest
        return self._whole(parts) if parts else []

    def flush(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        if self._skipping:
            self._skipping = False
            return []
        return self._whole([rest]) if rest else []

    def reset(self) -> None:
        if self._skipping:  # counted when it became too long
            self._rest, self._skipping = b"", False
        super().reset()

    @property
    def _longest(self) -> int:
        """Bytes that a frame may have before it is unpacked."""
        return self._most

    def _whole(self, parts: list[bytes]) -> list[bytes]:
        if max(map(len, parts)) > self._longest:
            for part in parts:
                if len(part) > self._longest:
                    self._drop_long(part)
            parts = [part for part in parts if len(part) <= self._longest]
        values = self._checked(self._unpacked([part for part in parts if part]))
        return [value + self._kept for value in values] if self._kept else values

    def _unpacked(self, parts: list[bytes]) -> list[bytes]:
        return parts


class Line(Marked):
    """Lines that end with LF, CR LF or CR alone."""

    def __init__(self, check: Check | None, most: int) -> None:
        super().__init__(check, most, b"\n")

    def feed(self, data: bytes) -> list[bytes]:
        return super().feed(data.replace(b"\r", b"\n"))


class Packed(Marked):
    """Frames that are packed so that their mark does not occur in them; without that mark their end is not known."""

    def flush(self) -> list[bytes]:
        if self._rest and not self._skipping:
            self._drop("cut off at the end", self._rest)
        self._rest, self._skipping = b"", False
        return []

    def _unpacked(self, parts: list[bytes]) -> list[bytes]:
        values = []
        for part in parts:
            value = self._unpack(part)
            if value is None:
                self._drop(f"no {type(self).__name__.upper()}", part)
            elif len(value) > self._most:
                self._drop_long(value)
            elif value:
                values.append(value)
        return values

    def _unpack(self, part: bytes) -> bytes | None:
        raise NotImplementedError


class Slip(Packed):
    def __init__(self, check: Check | None, most: int) -> None:
        super().__init__(check, most, b"\xc0")

    @property
    def _longest(self) -> int:
        return 2 * self._most

    def _unpack(self, part: bytes) -> bytes | None:
        escapes = part.count(b"\xdb")
        if not escapes:
            return part
        if escapes != part.count(b"\xdb\xdc") + part.count(b"\xdb\xdd"):
            return None
        return part.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")


class Cobs(Packed):
    def __init__(self, check: Check | None, most: int) -> None:
        super().__init__(check, most, b"\0")

    @property
    def _longest(self) -> int:
        return self._most + self._most // 254 + 1

    def _unpack(self, part: bytes) -> bytes | None:
        at, size, blocks = 0, len(part), []
        while at < size:
            code = part[at]
            end = at + code
            if end > size:
                return None
            blocks.append(part[at + 1 : end])
            if code < 0xFF and end < size:
                blocks.append(b"\0")
            at = end
        return b"".join(blocks)
