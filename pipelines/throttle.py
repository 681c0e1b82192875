"""`throttle: {every: 10s}`: at most one record per key and span of event time goes on, the first.

A span begins with the record that goes on when none is running, so two that go on are at least `every` apart. With
`n: 5` the first five of a span go on. The others are counted as `throttled`. A record from further back than a span
begins one of its own: what a device kept while it was away is thinned like everything else, not lost as a whole.

For the last or the mean of each span, use a window: `window: {tumbling: 10s, agg: {v: last(v)}}`.
"""

from typing import Annotated

import msgspec

from gateway.plugin import Plugin
from gateway.quantity import Duration
from pipelines.language import Code, Keyed


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`throttle: {every: 10s}`: at most one record per key and span of event time goes on, the first.

    every: how long a span is; it begins with the first record that goes on.
    n: how many records of a span go on.
    """

    every: Annotated[Duration, msgspec.Meta(examples=["every: 10s"])]
    n: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class Throttle:
    def __init__(self, options: Options) -> None:
        self.options = options

    def write(self, code: Code) -> None:
        every, n = self.options.every.ns, self.options.n
        if every < 1_000_000:
            code.mistake("a span must be at least 1ms long", "every")
        spans = Keyed(code.max_keys)  # key -> [moment, start of the span, records of it that went on]
        code.state(spans)
        span = spans.look_up(code)
        with code.block(f"if {span} is None:"):
            spans.begin(code, code.stamp, "1")
        with code.block("else:"):
            code.write(f"{span}[0] = {code.touch}")
            with code.block(f"if -{every} < {code.stamp} - {span}[1] < {every}:"):
                with code.block(f"if {span}[2] >= {n}:"):
                    code.count("throttled")
                    code.write("continue")
                code.write(f"{span}[2] += 1")
            with code.block("else:"):
                code.write(f"{span}[1] = {code.stamp}")
                code.write(f"{span}[2] = 1")


plugin = Plugin(Options, Throttle)
