"""Payload bytes to typed fields. One file per way of writing payloads; the file's name is what `decode:` says.

A decoder is built for a shape: a msgspec Struct of the fields somebody wants, so that nothing else is looked at. Its
module has

- `decoder(shape) -> Callable[[bytes], shape]`. The function raises msgspec.DecodeError, UnicodeDecodeError,
  RecursionError or Malformed for a payload that does not have that shape.
- `FIELDS`: the names a payload can carry, or None where a payload names its own fields.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import msgspec


class UnknownDecoder(LookupError):
    """There is no decoder of that name; the text lists those there are."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no decoder is called {name!r}; there are {', '.join(names())}")


def names() -> list[str]:
    """Every name that `decode:` may say, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def decoder(name: str, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    """A function from payload to `shape`. Raises UnknownDecoder."""
    made: Callable[[bytes], Any] = _module(name).decoder(shape)
    return made


def fields(name: str) -> tuple[str, ...] | None:
    """The field names a payload of this kind can carry, None for any. Raises UnknownDecoder."""
    known: tuple[str, ...] | None = _module(name).FIELDS
    return known


def _module(name: str) -> Any:
    if name not in names():
        raise UnknownDecoder(name)
    return importlib.import_module(f"{__name__}.{name}")
