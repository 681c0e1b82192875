"""Lines of `key=value`: `t=21.5 unit=C, name="boiler room"; ok=true`. Blanks, commas and semicolons separate."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.decode.number import number
from gateway.errors import Malformed

FIELDS = None

_PAIR = re.compile(
    r"""[\s,;]*                                                     # what separates
        ([^\s,;="']+) \s*=\s*                                       # key =
        (?: "((?:[^"\\]|\\.)*)" | '((?:[^'\\]|\\.)*)' | ([^\s,;"']*) )  # "quoted", 'quoted' or plain
        (?=[\s,;]|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_SEPARATORS = re.compile(r"[\s,;]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def decoder(shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    # Text is all there is on such a line, so the shape says what is a number. strict=False then reads true and 1.
    numeric = {field.encode_name for field in msgspec.structs.fields(shape) if "str" not in _kinds(field.type)}
    convert = msgspec.convert

    def decode(payload: bytes) -> Any:
        found: dict[str, object] = dict(pairs(payload.decode()))
        for name in numeric & found.keys():
            value = number(str(found[name]))
            if value is not None:
                found[name] = value
        return convert(found, shape, strict=False)

    return decode


def pairs(text: str) -> list[tuple[str, str]]:
    """The keys and values of a line, in order. Raises Malformed where it is none."""
    found, at = [], 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            at = _SEPARATORS.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty text too
            if at < len(text):
                raise Malformed(f"no key=value at {text[at : at + 20]!r}")
            break
        key, double, single, plain = match.groups()
        if plain is None:
            plain = _ESCAPE.sub(r"\1", double if single is None else single)
        found.append((key, plain))
        at = match.end()
    return found


def _kinds(kind: Any) -> set[str]:
    """The names of the plain types in an annotation: {'int', 'NoneType'} for Annotated[int, …] | None."""
    parts = getattr(kind, "__args__", None)
    if hasattr(kind, "__metadata__"):
        return _kinds(kind.__origin__)
    if parts:
        return set().union(*map(_kinds, parts))
    return {getattr(kind, "__name__", "")}
