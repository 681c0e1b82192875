"""Bytes in fixed places, as a device's manual describes them: numbers, flags and texts of a fixed length.

A payload is exactly as long as its layout says; any other length is refused, so that nothing is read out of place.
"""

import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.errors import Malformed
from gateway.plugin import Kind, Mistake, Plugin

EXAMPLE = """\
decode:
  struct:
    order: big
    layout:
      - {name: t, type: i16, scale: 0.1}
      - {skip: 1}
      - {type: u8, bits: {alarm: 0, mode: "4..6"}}
      - {name: serial, type: text, length: 8}
"""

MAX_BYTES = 65536  # the longest payload that a pipeline looks at

_CODES = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q",
    "f32": "f", "f64": "d",
}  # fmt: skip


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next bytes of a payload.

    name: of the field; it may be left out where only `bits` are of interest.
    type: an unsigned or signed whole number, a float, or a text, by its bits.
    length: of a text, in bytes; zeros and blanks at its end are left out.
    scale: what a number is multiplied with.
    offset: what is added to it then.
    bits: fields that are bits of an unsigned number, counted from 0, the lowest: `{alarm: 0, mode: "4..6"}`. One bit is
        true or false, several are a number.
    skip: this many bytes are of no interest; then nothing else is said.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    type: Literal["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "text"] | None = None
    length: Annotated[int, Meta(ge=1, le=4096)] | None = None
    scale: float = 1.0
    offset: float = 0.0
    bits: dict[str, int | str] = {}
    skip: Annotated[int, Meta(ge=1, le=MAX_BYTES)] | None = None

    def __post_init__(self) -> None:
        plain = self.scale == 1 and self.offset == 0
        if self.skip is not None:
            if self.name or self.type or self.length or self.bits or not plain:
                raise Mistake(("skip",), "bytes that are skipped have no name and no type; remove these, or `skip`")
        elif self.type is None:
            raise Mistake((), "missing; add `type: u8`, or `skip: 1` for bytes of no interest")
        elif not self.name and not self.bits:
            raise Mistake((), "missing; add `name: …`, or write `skip` for bytes of no interest")
        elif (self.length is not None) != (self.type == "text"):
            raise Mistake(
                ("length",) if self.length else ("type",), "a text has a length, and nothing else has; add or remove it"
            )
        elif not plain and self.type == "text":
            raise Mistake(("type",), "a text cannot be scaled; remove `scale` and `offset`")
        elif self.scale == 0:
            raise Mistake(("scale",), "everything times 0 is 0; write another scale")
        elif self.bits and self.type[0] != "u":
            raise Mistake(("type",), "bits belong to an unsigned number; write u8, u16, u32 or u64")
        for name, said in self.bits.items():
            self._bits(name, said)

    @property
    def code(self) -> str:
        """In the words of Python's struct."""
        if self.skip is not None:
            return f"{self.skip}x"
        return f"{self.length}s" if self.type == "text" else _CODES[self.type or ""]

    def values(self) -> dict[str, Callable[[Any], Any]]:
        """What is made of the one value that these bytes are, by the name of the field."""
        found: dict[str, Callable[[Any], Any]] = {name: self._bits(name, said) for name, said in self.bits.items()}
        if self.name:
            found[self.name] = _text if self.type == "text" else _scaled(self.scale, self.offset)
        return found

    def kinds(self) -> dict[str, Kind]:
        """What these fields hold."""
        found: dict[str, Kind] = {name: "int" if ".." in str(said) else "bool" for name, said in self.bits.items()}
        if self.name:
            whole = self.type not in ("f32", "f64") and self.scale.is_integer() and self.offset.is_integer()
            found[self.name] = "str" if self.type == "text" else "int" if whole else "float"
        return found

    def _bits(self, name: str, said: int | str) -> Callable[[int], int | bool]:
        """Take one bit, or a range of them, out of a number."""
        width = int((self.type or "")[1:])
        low, _, high = str(said).partition("..")
        if not (low.isdecimal() and (high or low).isdecimal() and int(low) <= int(high or low) < width):
            message = f'{said!r} are no bits of {self.type}; write one from 0 to {width - 1}, or several as "4..6"'
            raise Mistake(("bits", name), message)
        shift = int(low)
        if not high:
            return lambda value: bool(value >> shift & 1)
        mask = (1 << int(high) - shift + 1) - 1
        return lambda value: value >> shift & mask


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes in fixed places: numbers, flags and texts of a fixed length, as a device's manual describes them.

    order: of the bytes of a number: `big` sends the highest first, as Modbus and most networks do.
    layout: all bytes of a payload, from the first to the last.
    """

    order: Literal["big", "little"]
    layout: Annotated[list[Part], Meta(min_length=1, max_length=1024)]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for i, part in enumerate(self.layout):
            for name in part.values():
                if name in seen:
                    raise Mistake(("layout", i), f"{name!r} names two fields; rename one")
                seen.add(name)
        if not seen:
            raise Mistake(("layout",), "every byte is skipped; name those you want")
        if struct.calcsize(self.format) > MAX_BYTES:
            raise Mistake(("layout",), f"is longer than {MAX_BYTES} bytes, the most that a payload may have")

    @property
    def format(self) -> str:
        """In the words of Python's struct."""
        return (">" if self.order == "big" else "<") + "".join(part.code for part in self.layout)


class Struct:
    def __init__(self, options: Options) -> None:
        self.options = options

    def fields(self) -> list[str]:
        return [name for part in self.options.layout for name in part.values()]

    def kinds(self) -> dict[str, Kind]:
        return {name: kind for part in self.options.layout for name, kind in part.kinds().items()}

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        layout = struct.Struct(self.options.format)
        asked = {field.encode_name for field in msgspec.structs.fields(shape)}
        parts = [part for part in self.options.layout if part.skip is None]
        takes = [
            (name, i, take) for i, part in enumerate(parts) for name, take in part.values().items() if name in asked
        ]
        unpack, size, convert = layout.unpack, layout.size, msgspec.convert

        def read(payload: bytes) -> Any:
            if len(payload) != size:
                raise Malformed(f"{len(payload)} bytes, not {size}")
            values = unpack(payload)
            return convert({name: take(values[i]) for name, i, take in takes}, shape)

        return read


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode()


def _scaled(scale: float, offset: float) -> Callable[[Any], Any]:
    """A number times `scale` plus `offset`; as it is where there is nothing to do."""
    if scale == 1:
        return (lambda value: value) if offset == 0 else (lambda value: value + offset)
    parts = round(1 / scale) if abs(scale) < 1 else 0
    if parts and 1 / parts == scale:  # 2158 / 100 is 21.58, and 2158 * 0.01 is not
        return lambda value: value / parts + offset
    return lambda value: value * scale + offset


plugin = Plugin(Options, Struct)
