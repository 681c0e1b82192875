r"""A bare number as the whole payload (`21.5`, `+003`, ` 7\r\n`): it becomes the field `v`."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import Malformed

FIELDS = ("v",)

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_LONGEST = 64  # characters; int() and float() would happily chew on a payload of digits


def decoder(shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
    convert = msgspec.convert

    def decode(payload: bytes) -> Any:
        value = number(payload.decode("ascii", "replace").strip())
        if value is None:
            raise Malformed("no number")
        return convert({"v": value}, shape)

    return decode


def number(text: str) -> int | float | None:
    """Read a number as devices write it: a plus sign and leading zeros are fine, `nan`, `inf` and `1_000` are not."""
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:  # it has a point or an exponent
        return float(text)
