"""Checksums at the end of frames: what they are, where they stand, and how they are taken off.

crc16-modbus is the reflected polynomial 0x8005, as Modbus over Serial Line 1.02 (6.2.2) has it; crc16-ccitt is 0x1021,
highest bit first. Both begin at 0xFFFF unless told. xor and sum are one byte.
"""

import binascii
import struct
from array import array
from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.plugin import Mistake
from gateway.quantity import Octets

ChecksumKind = Literal["xor", "sum", "crc16-modbus", "crc16-ccitt"]
Check = Callable[[bytes], bytes | None]  # a frame -> the same without its checksum; None: it is wrong


class Checksum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last bytes of a frame, before its end mark.

    kind: how it is computed.
    order: of its two bytes: `little` (the low one first) for crc16-modbus, `big` for crc16-ccitt, unless given.
    init: what a CRC begins with, 65535 unless given.
    hex: it is written in hexadecimal digits.
    after: what stands before it and is taken off with it, as `*`.
    skip: so many bytes at the start of a frame are not part of it: 1 for the `$` of NMEA.
    """

    kind: ChecksumKind
    order: Literal["little", "big"] | None = None
    init: Annotated[int, Meta(ge=0, le=0xFFFF)] | None = None
    hex: bool = False
    after: Octets = Octets("")
    skip: Annotated[int, Meta(ge=0, le=64)] = 0

    def __post_init__(self) -> None:
        if not self.kind.startswith("crc"):
            for name in ("order", "init"):
                if getattr(self, name) is not None:
                    raise Mistake((name,), f"{self.kind} is one byte and has no {name}; remove it")
        elif self.hex and self.order == "little":
            raise Mistake(("order",), "hexadecimal digits are written the highest first; remove `order` or `hex`")

    @property
    def width(self) -> int:
        """Bytes that it takes at the end of a frame, `after` included."""
        size = 2 if self.kind.startswith("crc") else 1
        return (size * 2 if self.hex else size) + len(self.after.raw)

    def seal(self, frame: bytes) -> bytes:
        """The frame with its checksum behind it, as check() wants it."""
        mark = self.after.raw
        size = self.width - len(mark)
        number = self._compute()(frame[self.skip :])
        written = b"%0*X" % (size, number) if self.hex else number.to_bytes(size, self._order)
        return frame + mark + written

    def check(self) -> Check:
        compute, width, skip = self._compute(), self.width, self.skip
        mark, as_hex, order = self.after.raw, self.hex, self._order

        def check(frame: bytes) -> bytes | None:
            end = len(frame) - width
            if end < skip or not frame.startswith(mark, end):
                return None
            written = frame[end + len(mark) :]
            if as_hex:
                try:
                    written = binascii.unhexlify(written)
                except binascii.Error:
                    return None
                found = int.from_bytes(written)
            else:
                found = int.from_bytes(written, order)
            return frame[:end] if compute(frame[skip:end]) == found else None

        return check

    @property
    def _order(self) -> Literal["little", "big"]:
        return self.order or ("little" if self.kind == "crc16-modbus" else "big")

    def _compute(self) -> Callable[[bytes], int]:
        init = 0xFFFF if self.init is None else self.init
        if self.kind == "xor":
            return _xor
        if self.kind == "sum":
            return lambda data: sum(data) & 0xFF
        if self.kind == "crc16-ccitt":
            return lambda data: binascii.crc_hqx(data, init)
        return lambda data: _modbus(data, init)


def _xor(data: bytes) -> int:
    """All bytes, exclusive-ored: by folding one long number, since a loop would take each byte in its hand."""
    number, size = int.from_bytes(data), len(data)
    while size > 1:
        half = (size + 1) // 2
        number = (number >> 8 * half) ^ (number & (1 << 8 * half) - 1)
        size = half
    return number


def _modbus(data: bytes, crc: int) -> int:
    table = _modbus_table()
    if len(data) % 2:
        crc, data = _one(crc, data[0]), data[1:]
    for word in struct.unpack(f"<{len(data) // 2}H", data):
        crc = table[crc ^ word]
    return crc


def _one(crc: int, byte: int) -> int:
    """One step of the reflected 0x8005."""
    crc ^= byte
    for _ in range(8):
        crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


@cache
def _modbus_table() -> "array[int]":
    """What 16 bits of remainder become after two bytes: half the steps of the usual table, for 128 KiB."""
    ones = [_one(0, byte) for byte in range(256)]
    table = array("H")
    for high in range(256):
        table.extend([ones[(crc ^ high) & 0xFF] ^ crc >> 8 for crc in ones])
    return table
