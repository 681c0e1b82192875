"""What decoders of text share: numbers as devices write them, and named texts that become a shape."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

_NUMBER = re.compile(r"[+-]?(?:\d+(\.\d*)?|(\.\d+))([eE][+-]?\d+)?", re.ASCII)  # a group matches: it is a float
Number = Callable[[str], int | float | None]

_BOOLS = {"true": True, "1": True, "false": False, "0": False}
_LONGEST = 64  # characters; int() and float() would happily chew on a payload of digits


def number(text: str) -> int | float | None:
    """Read a number as devices write it: a plus sign and leading zeros are fine, `nan`, `inf` and `1_000` are not."""
    if len(text) > _LONGEST or (match := _NUMBER.fullmatch(text)) is None:
        return None
    return int(text) if match.lastindex is None else float(text)


def number_with_comma(text: str) -> int | float | None:
    """The same where the decimal sign is a comma; a point in it may divide thousands or not, so it is no number."""
    return None if "." in text else number(text.replace(",", "."))


def converters(shape: type[msgspec.Struct], number: Number = number) -> dict[str, Callable[[str], object]]:
    """What makes a value of a text, by the field of `shape`: text is all there is, so the shape says what is a number.

    What is no number stays text, so that the mistake can be told; true, false, 1 and 0 are read as bool. Where anything
    will do (Any), it is a number or text.
    """

    def numeric(text: str) -> object:
        value = number(text)
        return text if value is None else value

    def logical(text: str) -> object:
        return _BOOLS.get(text.lower(), text)

    made: dict[str, Callable[[str], object]] = {}
    for field in msgspec.structs.fields(shape):
        found = kinds(field.type)
        numbers, bools = found & {"int", "float", "Any"}, "bool" in found
        made[field.encode_name] = str if "str" in found else numeric if numbers else logical if bools else str
    return made


def kinds(kind: Any) -> set[str]:
    """The names of the plain types in an annotation: {'int', 'NoneType'} for Annotated[int, …] | None."""
    parts = getattr(kind, "__args__", None)
    if hasattr(kind, "__metadata__"):
        return kinds(kind.__origin__)
    if parts:
        return set().union(*map(kinds, parts))
    return {getattr(kind, "__name__", "")}
