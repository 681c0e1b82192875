"""`set: {name: expression, …}`: name values, each of which may use those before it."""

from typing import Annotated

import msgspec

from gateway.plugin import Plugin
from pipelines.language import Code, Expression


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: Annotated[dict[str, Expression], msgspec.Meta(examples=["set: {c: v - 15}"])]


class Set:
    names_fields = True

    def __init__(self, options: Options) -> None:
        self.fields = options.body

    def write(self, code: Code) -> None:
        for name, text in self.fields.items():
            code.define(name, code.assign(code.value(text, name), name), name)


plugin = Plugin(Options, Set)
