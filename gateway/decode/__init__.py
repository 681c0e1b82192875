"""Payload bytes to typed fields. One file per way of writing payloads; the file's name is what `decode:` says.

A decoder is a plugin like others (gateway.plugin.Decoder): `Options`, the class, `plugin = Plugin(Options, Class)`. Its
reader is built for a shape: a msgspec Struct of the fields somebody wants, so that nothing else is looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway import plugin
from gateway.decode._columns import Columns as Columns
from gateway.plugin import Decoder, Decoding, Exploring, Kind, Sorting, Typed
from gateway.quantity import option_hook

SPELLINGS = {"key=value": "keyvalue"}  # what else `decode:` may say -> what it means
JSON = Decoding("json")


def names() -> list[str]:
    """Every name that `decode:` may say, sorted."""
    return plugin.names("decoders")


def decoding(said: object) -> Decoding:
    """What `decode:` says as plain data, a name or {name: options}. Raises UnknownPlugin, MissingExtra, ValueError.

    For those who have no file to show a mistake in; gateway.config reads it with places.
    """
    name, options = next(iter(said.items())) if isinstance(said, dict) and len(said) == 1 else (said, {})
    name = SPELLINGS.get(str(name), str(name))
    kind = plugin.load("decoders", name).options
    return with_options(name, msgspec.convert(options, kind, dec_hook=option_hook))


def with_options(name: str, options: msgspec.Struct) -> Decoding:
    """A decoding with these options."""
    usual = not needed(type(options)) and options == type(options)()
    return Decoding(name, None if usual else options)


def needed(options: type[msgspec.Struct]) -> list[str]:
    """The options of a decoder that must be given: one that has any cannot be said by its name alone."""
    return [field.encode_name for field in msgspec.structs.fields(options) if field.required]


def fields(decoding: Decoding) -> Sequence[str] | None:
    """The field names a payload of this kind can carry, None for any. Raises as plugin.load."""
    return _built(decoding).fields()


def kinds(decoding: Decoding) -> Mapping[str, Kind]:
    """What is known of the types of fields, by their names. Raises as plugin.load."""
    built = _built(decoding)
    return built.kinds() if isinstance(built, Typed) else {}


def reader(decoding: Decoding, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    """A function from payload to `shape`. Raises as plugin.load."""
    return _built(decoding).reader(shape)


def explorer(decoding: Decoding) -> Callable[[bytes], Mapping[str, Any]]:
    """A function from payload to all its fields, as plain data. Raises as plugin.load; the function as a reader."""
    built = _built(decoding)
    if isinstance(built, Exploring):
        return built.explore
    names = [(f"a{i}", Any, None) for i in range(len(built.fields() or ()))]
    called = {f"a{i}": name for i, name in enumerate(built.fields() or ())}
    read = built.reader(msgspec.defstruct("Everything", names, rename=called))

    def explore(payload: bytes) -> Mapping[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(read(payload))
        return {name: value for name, value in found.items() if value is not None}

    return explore


def sorted_by(decoding: Decoding) -> str | None:
    """The field that tells sorts of payloads apart, each of which has fields of its own; None where there is none."""
    built = _built(decoding)
    return built.sorted_by if isinstance(built, Sorting) else None


def _built(decoding: Decoding) -> Decoder:
    found = plugin.load("decoders", decoding.name)
    made: Decoder = found.build(found.options() if decoding.options is None else decoding.options)
    return made
