r"""NMEA 0183 sentences, one per payload: `$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A`.

`time` is a moment, and only RMC and ZDA carry a date; what GGA, GLL and GNS carry is `time_of_day_s`, seconds since
midnight UTC, which cannot tell the day. An old receiver may send a date that is 1,024 weeks back.
"""

import re
from collections.abc import Callable, Sequence
from functools import reduce
from operator import xor
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.decode._sentences import KINDS, PAD, SENTENCES, STANDARD, Cells
from gateway.decode._text import converters, number
from gateway.errors import Malformed, NoRecord
from gateway.plugin import Kind, Mistake, Plugin

EXAMPLE = "decode: {nmea: {checksum: if_there}}"

LONGEST = 1024  # bytes of a sentence; the standard allows 82, and devices do not keep to it
ENVELOPE = ("talker", "type", "tag")  # what every sentence carries; of a proprietary one the talker is P
OTHERS = tuple(f"f{n}" for n in range(1, 65))  # of a type that is not known here
MOST_BEGINS = 8  # places in a line that are tried as the beginning of a sentence

_BEGIN = re.compile(rb"[$!]")
_ADDRESS = re.compile(r"P[A-Z0-9]{3,12}|[A-Z0-9]{2,5}[A-Z0-9]{3}", re.ASCII)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """NMEA 0183 sentences of GPS receivers and of ships' and weather instruments.

    checksum: `require` refuses a sentence without one, as it may have been cut off on its way; `if_there` takes it, for
        instruments that never send one. A wrong one is always refused.
    types: the sentences of interest, as `[RMC, GGA]`, with the talker (`GPRMC`) or without; `PGRMZ` is a proprietary
        one. All others are no records, counted as `no_record`. Without it, every sentence is read.
    """

    checksum: Literal["require", "if_there"] = "require"
    types: Annotated[list[Annotated[str, Meta(min_length=3, max_length=13)]], Meta(max_length=64)] = []

    def __post_init__(self) -> None:
        for i, kind in enumerate(self.types):
            if not re.fullmatch(r"[A-Z0-9]+", kind):
                raise Mistake(("types", i), f"{kind!r} is no type of sentence; write it in capitals, as RMC or PGRMZ")

    def warnings(self) -> list[Mistake]:
        """A type that no sentence has would keep everything out, and nobody would see why."""
        found = []
        for i, kind in enumerate(self.types):
            short = kind[-3:] if len(kind) >= 5 else kind
            if kind[0] != "P" and short not in STANDARD and kind not in STANDARD:
                told = f"no sentence is known as {kind}{_meant(short)}"
                found.append(Mistake(("types", i), told))
        return found


class Nmea:
    sorted_by = "type"

    def __init__(self, options: Options) -> None:
        self.options = options

    def fields(self) -> list[str]:
        known = dict.fromkeys(name for layout in SENTENCES.values() for name in layout)
        return [*ENVELOPE, *known, *OTHERS]

    def kinds(self) -> dict[str, Kind]:
        return KINDS

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        """A sentence that by its type cannot carry what the shape must have is no record: it was not meant to."""
        asked = msgspec.structs.fields(shape)
        must = {field.encode_name for field in asked if field.required}.difference(ENVELOPE)
        wanted = {field.encode_name for field in asked}
        layouts = {
            kind: [(name, take) for name, take in layout.items() if name in wanted] if must <= layout.keys() else None
            for kind, layout in SENTENCES.items()
        }
        others = [(name, make) for name, make in converters(shape).items() if name in OTHERS]
        foreign = must.issubset(OTHERS)
        if apart := _apart([field.encode_name for field in asked if field.required]):
            told = f"no sentence carries all of {', '.join(apart)}; write `?` behind what may be missing"
            raise Mistake((apart[-1],), told)
        split, convert = self._split, msgspec.convert

        def read(payload: bytes) -> Any:
            talker, kind, tag, cells = split(payload)
            layout = layouts.get(kind) if talker != "P" else None
            if layout is not None:
                row: dict[str, Any] = {"talker": talker, "type": kind, "tag": tag}
                for name, take in layout:
                    if (value := take(cells)) is not None:
                        row[name] = value
            elif foreign and (talker == "P" or kind not in layouts):
                row = {"talker": talker, "type": kind, "tag": tag}
                for name, make in others:
                    if (at := int(name[1:])) < len(cells) and (text := cells[at]):
                        row[name] = make(text)
            else:
                raise NoRecord(f"{kind} carries none of it")
            if tag is None:
                del row["tag"]
            return convert(row, shape)

        return read

    def explore(self, payload: bytes) -> dict[str, Any]:
        talker, kind, tag, cells = self._split(payload)
        found: dict[str, Any] = {"talker": talker, "type": kind, "tag": tag}
        if talker != "P" and kind in SENTENCES:
            found.update({name: take(cells) for name, take in SENTENCES[kind].items()})
        else:
            for name, text in zip(OTHERS, cells[1:], strict=False):
                found[name] = text if (value := number(text or "")) is None else value
        return {name: value for name, value in found.items() if value not in (None, "")}

    def _split(self, payload: bytes) -> tuple[str, str, str | None, Cells]:
        """Talker, type, tag block and cells of a sentence. Raises Malformed, NoRecord, UnicodeDecodeError."""
        line, tag = payload.strip(), None
        if not line:
            raise NoRecord("an empty line")
        if b"\n" in line or b"\r" in line:
            raise Malformed("more than one line")
        if line[:1] == b"\\":
            block, _, line = line[1:].partition(b"\\")
            tag = _checked(block, required=False).decode()
        cells: Cells = [*_sentence(line, self.options.checksum == "require").decode().split(",")]
        address = cells[0] or ""
        if _ADDRESS.fullmatch(address) is None:
            raise Malformed(f"{address[:20]!r} is no type of sentence")
        talker, kind = ("P", address[1:]) if address[0] == "P" else (address[:-3], address[-3:])
        types = self.options.types
        if types and kind not in types and address not in types:
            raise NoRecord(f"a sentence of type {kind}")
        return talker, kind, tag, cells + PAD


def _meant(kind: str) -> str:
    """`; did you mean RMC?`, first of what is read with names of its own; else what to try."""
    for known in (list(SENTENCES), sorted(STANDARD)):
        mixed = [one for one in known if sorted(one) == sorted(kind)]
        near = [one for one in known if one in kind or sum(a == b for a, b in zip(one, kind, strict=False)) == 2]
        if meant := [*mixed, *near]:
            return f"; did you mean {meant[0]}?"
    return "; a proprietary one begins with P, as PGRMZ"


def _sentence(line: bytes, required: bool) -> bytes:
    """What stands between the first sign and the checksum.

    The signs that begin a sentence are reserved for that, so one that was joined to the end of something else is found.
    What it was joined to was no record of its own any more: both came in one payload.
    """
    if len(line) > LONGEST:
        raise Malformed(f"more than {LONGEST} bytes")
    begins = [match.end() for match in _BEGIN.finditer(line)]
    if not begins:
        raise Malformed("no sentence: there is no $ and no !")
    problem: Malformed | None = None
    for begin in reversed(begins[-MOST_BEGINS:]):
        try:
            return _checked(line[begin:], required)
        except Malformed as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _checked(text: bytes, required: bool) -> bytes:
    """A text without its checksum, the two digits behind a star at its end. Raises Malformed where it is wrong."""
    if text[-3:-2] != b"*":
        if b"*" in text:
            raise Malformed("cut off in its checksum")
        if required:
            raise Malformed("no checksum; if the device sends none, write decode: {nmea: {checksum: if_there}}")
        return text
    body = text[:-3]
    if text[-2:].upper() != b"%02X" % checksum(body):
        raise Malformed(f"its checksum is {checksum(body):02X}, not {text[-2:].decode(errors='replace')}")
    return body


def checksum(body: bytes) -> int:
    """All bytes combined by exclusive or."""
    return reduce(xor, body, 0)


def _apart(required: Sequence[str]) -> Sequence[str]:
    """As many of these fields as show that no sentence carries them all; the last one is one too many."""
    layouts = [{*ENVELOPE, *layout} for layout in SENTENCES.values()] + [{*ENVELOPE, *OTHERS}]
    for i in range(len(required)):
        if not any(layout.issuperset(required[: i + 1]) for layout in layouts):
            return required[: i + 1]
    return ()


plugin = Plugin(Options, Nmea)
