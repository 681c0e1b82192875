"""`deadband: {field: c, delta: 0.2, heartbeat: 15m}`: a record goes on only if its value has moved far enough.

It is compared with the last one of the key that went on, so that a slow drift is not lost. The first record of a key
goes on. Those that do not are counted as `unchanged`.
"""

import math
from typing import Annotated

import msgspec

from gateway.plugin import Plugin
from gateway.quantity import Duration
from pipelines.language import Code, Expression, Keyed, Value

# 21.2 - 21.0 is 0.1999999999999993: what is equal as it is written must be equal here
ALMOST = 1 - 1e-9


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`deadband: {field: c, delta: 0.2, heartbeat: 15m}`: a record goes on only if its value has moved far enough.

    field: the number to look at, a field or an expression.
    delta: how far it must be from the last value of the key that went on. Give this or `percent`.
    percent: how far it must be from it in percent of it.
    heartbeat: a record also goes on when the last one that did is this long ago, by event time.
    """

    field: Annotated[Expression, msgspec.Meta(examples=["field: v"])]
    delta: Annotated[float, msgspec.Meta(gt=0)] | None = None
    percent: Annotated[float, msgspec.Meta(gt=0)] | None = None
    heartbeat: Duration | None = None


class Deadband:
    def __init__(self, options: Options) -> None:
        self.options = options

    def write(self, code: Code) -> None:
        options = self.options
        for name, number in (("delta", options.delta), ("percent", options.percent)):
            if number is not None and not math.isfinite(number):
                code.mistake("this must be a finite number", name)
        if (options.delta is None) == (options.percent is None) and not code.misread:
            code.mistake("give either `delta` or `percent`, as in `delta: 0.2`")
        if options.heartbeat is not None and options.heartbeat.ns < 1_000_000:
            code.mistake("this must be at least 1ms", "heartbeat")
        value = _number(code, options.field)
        passed = Keyed(code.max_keys)  # key -> [moment, value that went on, time of that record]
        code.state(passed)
        last = passed.look_up(code)
        with code.block(f"if {last} is None:"):
            passed.begin(code, value.code, code.stamp)
        with code.block("else:"):
            code.write(f"{last}[0] = {code.touch}")
            with code.block(f"if {self._far(code, value.code, last)}:"):
                code.write(f"{last}[1] = {value.code}")
                # a record from further back tells no newer time
                code.write(f"if {code.stamp} > {last}[2]: {last}[2] = {code.stamp}")
            with code.block("else:"):
                code.count("unchanged")
                code.write("continue")

    def _far(self, code: Code, value: str, last: str) -> str:
        options = self.options
        if options.percent is not None:
            share = code.constant(options.percent / 100 * ALMOST)
            test = f"{value} != {last}[1] and abs({value} - {last}[1]) >= {share} * abs({last}[1])"
        else:
            test = f"abs({value} - {last}[1]) >= {code.constant((options.delta or 0) * ALMOST)}"
        if options.heartbeat:
            test += f" or {code.stamp} - {last}[2] >= {options.heartbeat.ns}"
        return test


def _number(code: Code, text: str) -> Value:
    value = code.value(text, "field")
    if value.type.missing:
        code.mistake("this may be missing: put `filter: has(…)` before, or use default(…)", "field")
    elif not value.type.number and value.type.name != "unknown":
        hint = "; to read a number from text, write float(…)" if value.type.name == "str" else ""
        code.mistake(f"a deadband needs a number, and this is {value.type}{hint}", "field")
    return code.assign(value, "field")


plugin = Plugin(Options, Deadband)
