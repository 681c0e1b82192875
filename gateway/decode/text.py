"""The whole payload as text (`ON`, `21.5`, `online`): it becomes the field `v`, without blanks around it."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.plugin import Plugin


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Text:
    def __init__(self, options: Options) -> None:
        pass

    def fields(self) -> tuple[str, ...]:
        return ("v",)

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        convert = msgspec.convert

        def read(payload: bytes) -> Any:
            return convert({"v": payload.decode().strip()}, shape)

        return read


plugin = Plugin(Options, Text)
