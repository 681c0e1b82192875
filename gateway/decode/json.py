"""JSON objects. Decoding into a shape is checking it: msgspec reads only the fields that are asked for, in C."""

from collections.abc import Callable
from typing import Any

import msgspec

FIELDS = None


def decoder(shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(shape, strict=True).decode
