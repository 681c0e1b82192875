"""What a configuration says of frames: `frame:`, `checksum:`, `max_frame:`; for every plugin that reads bytes."""

import struct
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.framing.checksum import Check, Checksum, ChecksumKind
from gateway.framing.enclosed import Enclosed, Stuffed
from gateway.framing.framer import Framer
from gateway.framing.gap import Gap as GapFramer
from gateway.framing.marked import Cobs, Line, Marked, Slip
from gateway.framing.sought import Fixed as FixedFramer
from gateway.framing.sought import Length as LengthFramer
from gateway.plugin import Mistake
from gateway.quantity import Duration, Octets, Size

_PLAIN: dict[str, Callable[[Check | None, int], Framer]] = {"line": Line, "slip": Slip, "cobs": Cobs}
_LEAST_S, _MOST_S = Duration(0.001), Duration(10.0)


class Delimiter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Bytes that end a frame.

    end: these bytes, as `;` or `\r\n`.
    keep: they stay part of the value.
    """

    end: Octets
    keep: bool = False

    def __post_init__(self) -> None:
        _some(self.end, "end")


class Fixed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Frames of one size.

    size: bytes of a frame, with its start and its checksum.
    start: the bytes that it begins with, as `\xAA\x55`; where bytes were lost, the next frame is found by them.
    keep: the start stays part of the value.
    """

    size: Annotated[int, Meta(ge=1, le=65536)]
    start: Octets = Octets("")
    keep: bool = False

    def __post_init__(self) -> None:
        if len(self.start.raw) >= self.size:
            raise Mistake(("size",), f"leaves no room behind a start of {len(self.start.raw)} bytes; write more")


class Length(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Frames that say how long they are.

    type: the number that says it; `be` has its highest byte first, `le` its lowest.
    at: so many bytes stand before it, the start among them.
    counts: what it counts: `after`, the bytes that follow it; or `frame`, all of them.
    plus: bytes that belong to the frame and are not counted, as a checksum.
    start: the bytes that a frame begins with, as `\x7E`; where bytes were lost, the next frame is found by them.
    keep: start and length stay part of the value.
    """

    type: Literal["u8", "u16be", "u16le", "u32be", "u32le"]
    at: Annotated[int, Meta(ge=0, le=1024)] | None = None
    counts: Literal["after", "frame"] = "after"
    plus: Annotated[int, Meta(ge=-1024, le=1024)] = 0
    start: Octets = Octets("")
    keep: bool = False

    def __post_init__(self) -> None:
        if self.at is not None and self.at < len(self.start.raw):
            raise Mistake(("at",), f"the start alone has {len(self.start.raw)} bytes; write at least that")

    @property
    def code(self) -> str:
        """The number, in the words of Python's struct."""
        return {"u8": "B", "u16be": ">H", "u16le": "<H", "u32be": ">I", "u32le": "<I"}[self.type]

    @property
    def place(self) -> int:
        """Where it stands."""
        return len(self.start.raw) if self.at is None else self.at

    @property
    def more(self) -> int:
        """What is added to it to have the length of the whole frame."""
        return self.plus + (self.place + struct.calcsize(self.code) if self.counts == "after" else 0)


class Stx(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    r"""Frames between a start and an end.

    start: STX unless given, `\x02`.
    end: ETX unless given, `\x03`.
    dle: a DLE, `\x10`, stands before start and end, and a DLE inside is written twice.
    keep: start and end stay part of the value.
    """

    start: Octets = Octets("\\x02")
    end: Octets = Octets("\\x03")
    dle: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        start, end = _some(self.start, "start"), _some(self.end, "end")
        if start == end:
            raise Mistake(("end",), "start and end are the same; write frame: {delimiter: {end: …}} for that")
        if start in end or end in start:
            raise Mistake(("end",), "one of start and end is part of the other; write others")
        if self.dle:
            for name, mark in (("start", start), ("end", end)):
                if len(mark) != 1 or mark == b"\x10":
                    raise Mistake((name,), "behind a DLE stands one byte, and no other DLE; write one as \\x02")


class Gap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frames that end with silence.

    silence: how long it is quiet between two frames. Below about 5ms what else the machine does is in the way.
    """

    silence: Annotated[Duration, Meta(extra={"ge": _LEAST_S, "le": _MOST_S})]


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where frames end, one of these.

    delimiter: at these bytes.
    fixed: after so many bytes.
    length: after as many bytes as they say themselves.
    stx: they have a start and an end.
    gap: with silence.
    """

    delimiter: Delimiter | None = None
    fixed: Fixed | None = None
    length: Length | None = None
    stx: Stx | None = None
    gap: Gap | None = None

    def __post_init__(self) -> None:
        given = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if not given:
            raise Mistake((), "names no framing; write line, or one of delimiter, fixed, length, stx, gap with options")
        if len(given) > 1:
            raise Mistake((given[1],), f"a frame has one kind of end, and {given[0]} is given too; remove one")

    @property
    def kind(self) -> Delimiter | Fixed | Length | Stx | Gap:
        """The one that is given."""
        one = self.delimiter or self.fixed or self.length or self.stx or self.gap
        assert one is not None
        return one


Usual = Literal["line", "slip", "cobs", "stx", "delimiter", "fixed", "length", "gap"]
_EXAMPLES = {
    "delimiter": 'frame: {delimiter: {end: ";"}}',
    "fixed": "frame: {fixed: {size: 16}}",
    "length": "frame: {length: {type: u16be}}",
    "gap": "frame: {gap: {silence: 20ms}}",
}


class FrameOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where readings end in a flow of bytes.

    frame: where one ends: `line`, `slip`, `cobs` or `stx`; or `{KIND: {options}}`.
    checksum: how the last bytes of a frame prove that it is whole: `xor`, `sum`, `crc16-modbus` or `crc16-ccitt`, or a
        map. They are taken off; a frame whose checksum is wrong is counted as bad.
    max_frame: no frame is longer; what goes on without an end is dropped up to the next one.
    """

    frame: Usual | Frame = "line"
    checksum: ChecksumKind | Checksum | None = None
    max_frame: Annotated[Size, Meta(extra={"ge": Size(16), "le": Size(65536)})] = Size(4096)

    def __post_init__(self) -> None:
        kind = self._kind
        if isinstance(kind, str) and kind in _EXAMPLES:
            raise Mistake(("frame",), f"{kind} must be told more; write {_EXAMPLES[kind]}")
        if isinstance(kind, Fixed):
            if kind.size > self.max_frame:
                raise Mistake(("frame", "fixed", "size"), f"is more than max_frame, {self.max_frame}; raise that")
            if self._checksum is not None and kind.size <= self._checksum.width:
                raise Mistake(("frame", "fixed", "size"), "leaves no room for a value before the checksum; write more")

    def framer(self) -> Framer:
        """A framer of this kind, for one source."""
        most, checksum = int(self.max_frame), self._checksum
        check = checksum.check() if checksum is not None else None
        match self._kind:
            case Delimiter() as kind:
                return Marked(check, most, kind.end.raw, kind.keep)
            case Fixed() as kind:
                return FixedFramer(check, kind.size, kind.start.raw, kind.keep)
            case Length() as kind:
                least = checksum.width if checksum is not None else 0
                return LengthFramer(
                    check, most, kind.start.raw, kind.code, kind.place, kind.more, keep=kind.keep, least=least
                )
            case Stx() as kind:
                enclosed = Stuffed if kind.dle else Enclosed
                return enclosed(check, most, kind.start.raw, kind.end.raw, kind.keep)
            case Gap() as kind:
                return GapFramer(check, most, float(kind.silence))
            case name:
                return _PLAIN[name](check, most)

    def sealed(self, frame: bytes) -> bytes:
        """What is to be sent, with the checksum behind it; before the end mark of a line that has one.

        Raises ValueError, in words, where there is no checksum, or where it does not stand at the end.
        """
        checksum, kind = self._checksum, self._kind
        if checksum is None:
            raise ValueError("there is no checksum; write the driver's checksum: as crc16-modbus, or remove this")
        if isinstance(kind, Stx) or kind in ("slip", "cobs"):
            name = kind if isinstance(kind, str) else "stx"
            raise ValueError(f"frames of {name} are not made here; write the whole question in send, and remove this")
        end = b""
        if isinstance(kind, Delimiter):
            end = kind.end.raw if frame.endswith(kind.end.raw) else b""
        elif kind == "line":
            end = frame[len(frame.rstrip(b"\r\n")) :]
        return checksum.seal(frame[: len(frame) - len(end)]) + end

    def frame_doubts(self) -> list[Mistake]:
        """What is legal, and yet may not be what was meant."""
        kind = self._kind
        if isinstance(kind, Fixed) and not kind.start and self.checksum is None:
            told = "without start and checksum nobody sees where a frame begins: one lost byte shifts all that follow"
            return [Mistake(("frame", "fixed"), told)]
        return []

    @property
    def _kind(self) -> Delimiter | Fixed | Length | Stx | Gap | str:
        if isinstance(self.frame, Frame):
            return self.frame.kind
        return Stx() if self.frame == "stx" else self.frame

    @property
    def _checksum(self) -> Checksum | None:
        return Checksum(kind=self.checksum) if isinstance(self.checksum, str) else self.checksum


def _some(octets: Octets, name: str) -> bytes:
    if not octets.raw:
        raise Mistake((name,), "is empty; write at least one byte")
    return octets.raw
