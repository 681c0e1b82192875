r"""A bare number as the whole payload (`21.5`, `+003`, ` 7\r\n`): it becomes the field `v`."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.decode._text import number
from gateway.errors import Malformed
from gateway.plugin import Plugin


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Number:
    def __init__(self, options: Options) -> None:
        pass

    def fields(self) -> tuple[str, ...]:
        return ("v",)

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        convert = msgspec.convert

        def read(payload: bytes) -> Any:
            value = number(payload.decode("ascii", "replace").strip())
            if value is None:
                raise Malformed("no number")
            return convert({"v": value}, shape)

        return read


plugin = Plugin(Options, Number)
