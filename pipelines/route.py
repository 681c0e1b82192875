"""`route: [{when: c > 8, to: alarms}, {to: rest}]`: a record is sent to the streams of the first case that is true.

It is sent as it would leave the pipeline at this place: as it came, or with what was set, or as an `emit` before says.
A record that no case takes goes on to the steps after and to `to:`. Where there is neither, it counts as `unrouted`.
"""

from typing import Annotated

import msgspec

from gateway.plugin import Plugin
from pipelines.language import Code, Expression


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way a record can go.

    when: the condition; the last case may be without one, and takes every record that is left.
    to: the stream, or a list of them.
    """

    when: Expression | None = None
    to: Annotated[str | list[str], msgspec.Meta(examples=["to: alarms"])]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    body: Annotated[list[Case], msgspec.Meta(examples=["route: [{when: v > 8, to: high}, {to: rest}]"])]


class Route:
    only_says_where = True  # so it can follow `emit`

    def __init__(self, options: Options) -> None:
        self.cases = options.body

    def write(self, code: Code) -> None:
        key = code.key
        if not self.cases:
            code.mistake("there is no case; write for example `- {when: v > 8, to: high}` below it")
        for i, case in enumerate(self.cases):
            streams = code.outputs(case.to, i, "to")
            if code.ended:
                code.mistake("nothing comes here: the case before takes every record; give it a `when`", i)
            elif case.when is None:
                code.deliver(streams, key)
                code.ended = "nothing comes here: the last case of `route` takes every record; remove this"
            else:
                with code.block(f"if {code.condition(case.when, i, 'when')}:", i, "when"):
                    code.deliver(streams, key)
                    code.write("continue")
        code.leave("unrouted")


plugin = Plugin(Options, Route)
