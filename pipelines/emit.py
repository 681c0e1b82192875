"""`emit: {name: expression, …}`: the JSON object that is sent. A value that is missing is left out.

It is the last step, but for a `route` that says where it is sent.
"""

from typing import Annotated

import msgspec

from gateway.plugin import Plugin
from pipelines.language import Code, Expression


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: Annotated[dict[str, Expression], msgspec.Meta(examples=["emit: {c: v - 15}"])]


class Emit:
    def __init__(self, options: Options) -> None:
        self.fields = options.body

    def write(self, code: Code) -> None:
        values = {name: code.assign(code.value(text, name), name) for name, text in self.fields.items()}
        code.shape(code.json(values))


plugin = Plugin(Options, Emit)
