"""`alarm: {name: hot, raise_when: c > -15, clear_when: c < -18, hold: 2m, to: alarms}`: once raised, once cleared.

It is raised when `raise_when` has been true of a key for `hold`, and cleared when `clear_when` is true; where that is
not given, when `raise_when` is not. Each is one record of `to`. The record that is looked at goes on as it is.

    {"name":"hot","state":"raised","key":"site/a","since":"2025-11-23T12:00:00Z","severity":"high","c":-12.5}

- A condition lasts from the record that began it to the one that ends it, by event time. If it lasted longer than
  `hold`, the alarm was raised at `since + hold`, whichever was there first: the record that shows it, or the watermark.
  A record at that very moment still counts.
- Where no record comes, time raises the alarm. Of a key whose records come from further back than the watermark, time
  waits for `hold` from there: what it sends next may still say that it was over.
- A record that is older than the newest of its key changes nothing here.
- What `with` lists is told as of the newest record up to that moment.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from gateway.plugin import Outputs, Plugin
from gateway.quantity import Duration
from pipelines.language import TIME, Code, Deadlines, Expression, Keyed, Value
from pipelines.language.parse import INT_MAX, Compare, Field, Literal, Unary, Wrong, parse, write_path
from pipelines.language.runtime import text_of_time

NEWEST, SINCE, TOLD, SHOWN = 1, 2, 3, 4  # places in what is kept of a key
OWN = ("name", "state", "key", "since", "severity", "reminder")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"show": "with"}):
    """`alarm: {name: hot, raise_when: c > -15, clear_when: c < -18, hold: 2m, to: alarms}`: once raised, once cleared.

    name: what the alarm is called in its records.
    raise_when: the condition that raises it.
    clear_when: the condition that clears it; without it, that `raise_when` is not true any more.
    hold: how long `raise_when` must be true of a key, by event time, until the alarm is raised.
    remind: while it is raised, a record that comes so long after it was last told tells it again, with
        `"reminder": true` in it.
    severity: a text that is told with it, such as `high`.
    with: fields that are told with it, as `[c, unit]`.
    to: the stream of the alarms, or a list of them.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256, examples=["name: too_warm"])]
    raise_when: Annotated[Expression, msgspec.Meta(examples=["raise_when: c > 8"])]
    clear_when: Expression | None = None
    hold: Duration = Duration(0)
    remind: Duration | None = None
    severity: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    show: list[Expression] = []
    to: Annotated[str | list[str], msgspec.Meta(examples=["to: alarms"])]


class Alarm:
    def __init__(self, options: Options) -> None:
        self.options = options

    def write(self, code: Code) -> None:
        options = self.options
        if options.remind is not None and options.remind.ns < 1_000_000:
            code.mistake("this must be at least 1ms", "remind")
        shown = self._shown(code)
        told = {"name": options.name, "state": "", "key": "", "since": ""}
        if options.severity is not None:
            told["severity"] = options.severity
        streams = code.outputs(options.to, "to")
        code.alarms.update(streams)
        alarms = Alarms(options.hold.ns, code.max_keys, streams, told, shown)
        state, key, time = code.state(alarms), code.key, code.stamp
        if options.hold:
            code.timed(alarms.deadlines)
        kept, hold = alarms.look_up(code), options.hold.ns
        waits = f"{kept}[{SINCE}] is not None and {kept}[{TOLD}] is None"
        with code.block(f"if {kept} is None or {time} >= {kept}[{NEWEST}]:"):
            if hold:
                with code.block(f"if {kept} is not None and {waits} and {time} > {kept}[{SINCE}] + {hold}:"):
                    code.write(f"{state}.lasted({key}, out)")  # whatever this record says
            hot = self._condition(code, kept)
            values = [code.assign(value, "with").code for value in shown.values()]
            with code.block(f"if {kept} is None:"):
                alarms.begin(code, time, "None", "None", *["None"] * len(values))
                code.write(f"{kept} = {code.constant(alarms.kept)}[{key}]")
            with code.block("else:"):
                code.write(f"{kept}[0] = {code.touch}")
                code.write(f"{kept}[{NEWEST}] = {time}")
            with code.block(f"if {hot}:"):
                with code.block(f"if {kept}[{SINCE}] is None:"):
                    self._keep(code, kept, [time, "None", *values])
                    if hold:
                        code.write(f"{state}.wait({key}, max({time}, {code.watermark}))")
                        code.reschedule()
                    else:
                        code.write(f"{state}.lasted({key}, out)")
                if hold:
                    with code.block(f"elif {kept}[{TOLD}] is None:"):
                        self._keep(code, kept, [f"{kept}[{SINCE}]", "None", *values])
                        code.write(f"if {time} == {kept}[{SINCE}] + {hold}: {state}.lasted({key}, out)")
                if options.remind:
                    with code.block(f"elif {time} >= {kept}[{TOLD}] + {options.remind.ns}:"):
                        self._keep(code, kept, [f"{kept}[{SINCE}]", time, *values])
                        code.write(f"{state}.remind({key}, out)")
            with code.block(f"elif {kept}[{SINCE}] is not None:"):
                self._keep(code, kept, [f"{kept}[{SINCE}]", f"{kept}[{TOLD}]", *values])
                code.write(f"{state}.over({key}, {time}, out)")
        code.leave()

    def _condition(self, code: Code, kept: str) -> str:
        """Code of whether the condition holds; computed before anything is changed, because it may fail."""
        hot = code.local()
        raised = code.condition(self.options.raise_when, "raise_when")
        if self.options.clear_when is None:
            code.write(f"{hot} = {raised}", "raise_when")
            return hot
        cleared = code.condition(self.options.clear_when, "clear_when")
        if (limit := _both(self.options.raise_when, self.options.clear_when)) is not None:
            message = "what raises the alarm would clear it at once: `raise_when` and `clear_when` are true together"
            code.doubt(f"{message}; write for example `clear_when: {limit}`", "clear_when")
        with code.block(f"if {kept} is None or {kept}[{TOLD}] is None:"):
            code.write(f"{hot} = {raised}", "raise_when")
        with code.block("else:"):
            code.write(f"{hot} = not {cleared}", "clear_when")
        return hot

    def _keep(self, code: Code, kept: str, values: Sequence[str]) -> None:
        """Since when the condition holds, when that was told, and what is shown."""
        for i, value in enumerate(values, SINCE):
            if value != f"{kept}[{i}]":
                code.write(f"{kept}[{i}] = {value}")

    def _shown(self, code: Code) -> dict[str, Value]:
        """The fields under `with`, by the names they are told by."""
        found: dict[str, Value] = {}
        for i, text in enumerate(self.options.show):
            try:
                node = parse(text)
            except Wrong as wrong:
                code.wrong([wrong], "with", i)
                continue
            name = write_path(node.path) if isinstance(node, Field) else ""
            if not name:
                code.mistake("list fields here; name a value in a `set` step before", "with", i)
            elif name in OWN:
                code.mistake(f"an alarm has a `{name}` of its own; `set` this to another name before", "with", i)
            else:
                found[name] = code.value_of(node, text, "with", i)
        return found


class _Limit(NamedTuple):
    """A condition that compares a field with a number."""

    field: str
    op: str
    number: float
    text: str  # of the number


def _limit(text: str) -> _Limit | None:
    """`c > -15` and `-15 < c` alike; None where a condition is anything else."""
    try:
        node = parse(text)
    except Wrong:
        return None
    if not isinstance(node, Compare) or len(node.parts) != 2 or node.ops[0] not in _TURNED:
        return None
    (left, right), op = node.parts, node.ops[0]
    if isinstance(right, Field):
        left, right, op = right, left, _TURNED[op]
    number = right.operand if isinstance(right, Unary) and right.op == "-" else right
    if not isinstance(left, Field) or not isinstance(number, Literal) or isinstance(number.value, str | bool):
        return None
    value = -number.value if number is not right else number.value
    return _Limit(write_path(left.path), op, value, text[right.at : right.end])


def _both(raised: str, cleared: str) -> str | None:
    """Where both can be true of one number: a `clear_when` with which they cannot."""
    up, down = _limit(raised), _limit(cleared)
    if up is None or down is None or up.field != down.field:
        return None
    apart = up.number - down.number if up.op[0] == ">" else down.number - up.number  # how far clearing lies behind
    meet = up.op[1:] == down.op[1:] == "="  # both are true at their limit
    if up.op[0] != down.op[0] and (apart > 0 or (apart == 0 and not meet)):
        return None
    behind = down if apart > 0 else up
    return f"{up.field} {_TURNED[up.op[0]]} {behind.text}"


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


class Alarms(Keyed):
    """key -> [moment, newest event time, since, when it was last told, values shown …].

    `since` is None where the condition does not hold; `told` is None where the alarm is not raised.
    """

    def __init__(
        self, hold: int, most: int, streams: Sequence[str], told: dict[str, Any], shown: dict[str, Value]
    ) -> None:
        super().__init__(most)
        self.hold = hold  # ns
        self.streams, self.told = streams, told
        self.names = list(shown)
        self.times = {name for name, value in shown.items() if value.type.name == TIME.name}
        self.deadlines = Deadlines(self.lasted)
        self.raised = self.alarms = 0

    def wait(self, key: str, time: int) -> None:
        """The condition began. `time` is when, or the watermark where that is beyond: what had passed says nothing."""
        self.deadlines.set(key, time + self.hold + 1)  # one more than the last moment at which a record may end it

    def lasted(self, key: str, out: Outputs) -> None:
        """The condition has lasted: raise the alarm."""
        self.deadlines.drop(key)
        kept = self.kept[key]
        kept[TOLD] = min(kept[SINCE] + self.hold, INT_MAX)
        self.alarms += 1
        self.raised += 1
        self._tell(out, key, "raised", kept[TOLD])

    def remind(self, key: str, out: Outputs) -> None:
        self._tell(out, key, "raised", self.kept[key][TOLD], reminder=True)

    def over(self, key: str, time: int, out: Outputs) -> None:
        """The condition, which held, does not any more."""
        kept = self.kept[key]
        if kept[TOLD] is None:
            self.deadlines.drop(key)
        else:
            self.raised -= 1
            self._tell(out, key, "cleared", time)
        kept[SINCE:] = [None] * (len(kept) - SINCE)

    def _tell(self, out: Outputs, key: str, state: str, time: int, reminder: bool = False) -> None:
        kept = self.kept[key]
        told = {**self.told, "state": state, "key": key, "since": text_of_time(kept[SINCE])}
        if reminder:
            told["reminder"] = True
        for name, value in zip(self.names, kept[SHOWN:], strict=True):
            if value is not None:
                told[name] = text_of_time(value) if name in self.times else value
        payload = msgspec.json.encode(told)
        for stream in self.streams:
            out.emit(stream, time, key, payload)

    # room

    def worth(self, key: str) -> Any:
        kept = self.kept[key]
        return (kept[SINCE] is not None, kept[0])  # those that are quiet go first

    def forget(self, key: str) -> None:
        self.deadlines.drop(key)
        self.raised -= self.kept[key][TOLD] is not None
        super().forget(key)

    def save(self) -> Any:
        return [self.kept, self.deadlines.save()]

    def load(self, saved: Any) -> None:
        kept, waiting = saved
        self.deadlines.load(waiting)
        super().load(kept)
        self.raised = sum(kept[TOLD] is not None for kept in self.kept.values())

    def stats(self) -> dict[str, int]:
        return {**super().stats(), "alarms": self.alarms, "raised": self.raised}


plugin = Plugin(Options, Alarm)
