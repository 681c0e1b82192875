"""Lines of `key=value`: `t=21.5 unit=C, name="boiler room"; ok=true`. Blanks, commas and semicolons separate."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.decode._text import converters, number
from gateway.errors import Malformed
from gateway.plugin import Plugin

_PAIR = re.compile(
    r"""[\s,;]*                                                     # what separates
        ([^\s,;="']+) \s*=\s*                                       # key =
        (?: "((?:[^"\\]|\\.)*)" | '((?:[^'\\]|\\.)*)' | ([^\s,;"']*) )  # "quoted", 'quoted' or plain
        (?=[\s,;]|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_SEPARATORS = re.compile(r"[\s,;]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class KeyValue:
    def __init__(self, options: Options) -> None:
        pass

    def fields(self) -> None:
        return None

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        made, convert = converters(shape), msgspec.convert

        def read(payload: bytes) -> Any:
            return convert({name: made[name](text) for name, text in pairs(payload.decode()) if name in made}, shape)

        return read

    def explore(self, payload: bytes) -> dict[str, Any]:
        found = {name: text if (value := number(text)) is None else value for name, text in pairs(payload.decode())}
        if not found:
            raise Malformed("no key=value")
        return found


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


plugin = Plugin(Options, KeyValue)
