"""`throttle: {every: 10s}`: at most one record per key and span of event time goes on, the first.

A span begins with the record that goes on when none is running, so two that go on are at least `every` apart. With
`n: 5` the first five of a span go on. The others are counted as `throttled`.

Records from further back than the span have spans of their own beside it: what a device kept while it was away is
thinned like everything else, and not lost as a whole. One of these begins with a record that is `every` away from all
that has gone on of what is older, from its earliest to its latest, since the span began. So it may come oldest first or
newest first, and old and new records that alternate never let one another through.

For the last or the mean of each span, use a window: `window: {tumbling: 10s, agg: {v: last(v)}}`.
"""

from typing import Annotated, Any

import msgspec

from gateway.plugin import Plugin
from gateway.quantity import Duration
from pipelines.language import Code, Keyed

BEGIN, COUNT, OLDER = 1, 2, 3  # places in what is kept of a key


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
        spans = Spans(every, n, code.max_keys)
        state = code.state(spans)
        span = spans.look_up(code)
        with code.block(f"if {span} is None:"):
            spans.begin(code, code.stamp, "1", "None")
        with code.block("else:"):
            code.write(f"{span}[0] = {code.touch}")
            with code.block(f"if -{every} < {code.stamp} - {span}[{BEGIN}] < {every}:"):
                with code.block(f"if {span}[{COUNT}] >= {n}:"):
                    code.count("throttled")
                    code.write("continue")
                code.write(f"{span}[{COUNT}] += 1")
            with code.block(f"elif {code.stamp} > {span}[{BEGIN}]:"):
                code.write(f"{span}[{BEGIN}] = {code.stamp}")
                code.write(f"{span}[{COUNT}] = 1")
                code.write(f"if {span}[{OLDER}] is not None: {state}.begun({span})")
            with code.block(f"elif not {state}.older_goes_on({span}, {code.stamp}):"):
                code.count("throttled")
                code.write("continue")


class Spans(Keyed):
    """key -> [moment, when the span began, how many of it went on, older].

    `older` is None, or of what went on from before the span: [earliest and latest since it began, the last one that
    began a span there, how many of that one went on].
    """

    def __init__(self, every: int, n: int, most: int) -> None:
        super().__init__(most)
        self.every, self.n = every, n

    def begun(self, span: list[Any]) -> None:
        """The span is a new one: of what is older only the last one still counts."""
        _, _, last, count = span[OLDER]
        span[OLDER] = [last, last, last, count]

    def older_goes_on(self, span: list[Any], time: int) -> bool:
        """Whether a record from before the span goes on."""
        every = self.every
        earliest, latest, last, count = span[OLDER] or (time + every, time - every, time, 0)
        if earliest - every < time < latest + every:
            if count >= self.n or not -every < time - last < every:
                return False
            span[OLDER][-1] += 1
        else:
            span[OLDER] = [min(earliest, time), max(latest, time), time, 1]
        return True


plugin = Plugin(Options, Throttle)
