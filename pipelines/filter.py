"""`filter: condition`: only records for which it is true go on. The others are counted as `filtered`."""

import msgspec

from gateway.plugin import Plugin
from pipelines.language import Code, Expression


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: Expression


class Filter:
    def __init__(self, options: Options) -> None:
        self.condition = options.body

    def write(self, code: Code) -> None:
        with code.block(f"if not {code.condition(self.condition)}:"):
            code.count("filtered")
            code.write("continue")
        code.prove(self.condition)


plugin = Plugin(Options, Filter)
