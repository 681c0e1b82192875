"""JSON objects. Decoding into a shape is checking it: msgspec reads only the fields that are asked for, in C."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.plugin import Plugin


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Json:
    def __init__(self, options: Options) -> None:
        pass

    def fields(self) -> None:
        return None

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        return msgspec.json.Decoder(shape, strict=True).decode

    def explore(self, payload: bytes) -> dict[str, Any]:
        return msgspec.json.decode(payload, type=dict[str, Any])


plugin = Plugin(Options, Json)
