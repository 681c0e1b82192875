"""What decoders of text share: numbers as devices write them, and named texts that become a shape."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_LONGEST = 64  # characters; int() and float() would happily chew on a payload of digits


def number(text: str) -> int | float | None:
    """Read a number as devices write it: a plus sign and leading zeros are fine, `nan`, `inf` and `1_000` are not."""
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:  # it has a point or an exponent
        return float(text)


def number_with_comma(text: str) -> int | float | None:
    """The same where the decimal sign is a comma; a point in it may divide thousands or not, so it is no number."""
    return None if "." in text else number(text.replace(",", "."))


def typed(
    shape: type[msgspec.Struct], number: Callable[[str], int | float | None] = number
) -> Callable[[Mapping[str, str]], Any]:
    """A function from named texts to `shape`. Text is all there is, so the shape says what is a number.

    What is no number stays text, so that the mistake can be told; true, false, 1 and 0 are read as bool.
    """
    numeric = {field.encode_name for field in msgspec.structs.fields(shape) if not kinds(field.type) & {"str", "bool"}}
    convert = msgspec.convert

    def read(found: Mapping[str, str]) -> Any:
        values: dict[str, object] = {**found}
        for name in numeric & found.keys():
            value = number(found[name])
            if value is not None:
                values[name] = value
        return convert(values, shape, strict=False)

    return read


def kinds(kind: Any) -> set[str]:
    """The names of the plain types in an annotation: {'int', 'NoneType'} for Annotated[int, …] | None."""
    parts = getattr(kind, "__args__", None)
    if hasattr(kind, "__metadata__"):
        return kinds(kind.__origin__)
    if parts:
        return set().union(*map(kinds, parts))
    return {getattr(kind, "__name__", "")}


def wanted(shape: type[msgspec.Struct]) -> list[str]:
    """The names of the fields of a shape."""
    return [field.encode_name for field in msgspec.structs.fields(shape)]
