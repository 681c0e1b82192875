r"""InfluxDB line protocol, one line per payload: `weather,site=roof temp=21.5,n=3i,ok=t 1763899200000000000`.

It becomes the fields `measurement`, `tags.site`, `fields.temp` and `timestamp`. Tags and fields are told apart by their
names, as InfluxDB does: one may be called like the other. The timestamp becomes ns whatever `precision` the line has,
so that a schema says `timestamp: time[ns]`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from gateway.decode._text import converters, number
from gateway.errors import Malformed, NoRecord
from gateway.plugin import Plugin

EXAMPLE = "decode: {influx: {precision: s}}"

_UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000}
_BOOLS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), False),
}
# what may be escaped in names differs from what may be in texts; any other backslash is one
_NAME = r"(?:[^\\,= ]|\\.|\\\Z)+"
_MEASUREMENT = re.compile(r"(?:[^\\, ]|\\.)+", re.DOTALL)
_TAG = re.compile(rf",({_NAME})=({_NAME})", re.DOTALL)
_FIELD = re.compile(rf'({_NAME})=(?:"((?:[^"\\]|\\.)*)"|([^\\,= "]+))(?:,(?=[^ ])|(?= |\Z))', re.DOTALL)
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_TEXT = re.compile(r'\\(["\\])')
_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """InfluxDB line protocol: the fields are `measurement`, `tags.NAME`, `fields.NAME` and `timestamp: time[ns]`.

    precision: the unit of timestamps on the line.
    """

    precision: Literal["ns", "us", "ms", "s"] = "ns"


class Influx:
    def __init__(self, options: Options) -> None:
        self.options = options

    def fields(self) -> tuple[str, ...]:
        return ("measurement", "tags", "fields", "timestamp")

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        asked = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}
        tags, fields = (_inside(asked.get(name)) for name in ("tags", "fields"))
        unit = _UNITS[self.options.precision]
        convert = msgspec.convert
        return lambda payload: convert(_row(payload, tags, fields, unit), shape)

    def explore(self, payload: bytes) -> dict[str, Any]:
        return _row(payload, _All(), _All(), _UNITS[self.options.precision])


class _All(dict[str, Callable[[str], object]]):
    """Asked for names it was not told, it wants them, as text."""

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Callable[[str], object]:
        return str


Wanted = Mapping[str, Callable[[str], object]]


def _row(payload: bytes, tags: Wanted, fields: Wanted, unit: int) -> dict[str, Any]:
    """A line with those of its tags and fields that are wanted."""
    line = payload.decode().strip("\r\n ")
    if not line or line[0] == "#":
        raise NoRecord("a comment or an empty line")
    head = _MEASUREMENT.match(line)
    if head is None:
        raise Malformed("no measurement at the beginning of the line")
    row: dict[str, Any] = {"measurement": _name(head[0])}
    at = head.end()
    found: dict[str, Any] = {}
    while tag := _TAG.match(line, at):
        at = tag.end()
        if (name := _name(tag[1])) in tags:
            found[name] = tags[name](_name(tag[2]))  # tags are text, so the shape says what is a number
    if tags:
        row["tags"] = found
    if line[at : at + 1] != " ":
        raise Malformed(f"no tag at {line[at : at + 20]!r}" if line[at : at + 1] else "no fields")
    at = _blanks(line, at)
    found, more = {}, True
    while more:
        field = _FIELD.match(line, at)
        if field is None:
            raise Malformed(f"no field=value at {line[at : at + 20]!r}")
        at = field.end()
        more = line[at - 1] == ","
        if (name := _name(field[1])) in fields:
            found[name] = _plain(field[3]) if field[2] is None else _ESCAPED_TEXT.sub(r"\1", field[2])
    if fields:
        row["fields"] = found
    if rest := line[at:].strip(" "):
        if not _WHOLE.fullmatch(rest):
            raise Malformed("more than one line" if "\n" in rest else f"{rest[:20]!r} is no timestamp")
        row["timestamp"] = int(rest) * unit
    return row


def _inside(kind: Any) -> dict[str, Callable[[str], object]]:
    """The fields of a Struct in an annotation, and what makes a value of a text for each."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return converters(one)
    return {}


def _name(text: str) -> str:
    return _ESCAPED_NAME.sub(r"\1", text) if "\\" in text else text


def _blanks(line: str, at: int) -> int:
    while line[at : at + 1] == " ":
        at += 1
    return at


def _plain(text: str) -> int | float | bool:
    """A field's value that stands without quotes."""
    if text in _BOOLS:
        return _BOOLS[text]
    if text[-1] in "iu":
        if _WHOLE.fullmatch(text[:-1]) and not (text[-1] == "u" and text[0] == "-"):
            return int(text[:-1])
    elif (value := number(text)) is not None:
        return float(value)
    raise Malformed(f"{text[:40]!r} is no value; a text stands in quotes")


plugin = Plugin(Options, Influx)
