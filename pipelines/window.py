"""`window: {tumbling: 10s, agg: {mean: mean(v)}}`: records of a key and a span of event time become one row.

The steps that follow run on rows; a row has `key`, `start`, `end` and the aggregates. Windows are aligned to 1970 and
close as the watermark reaches their end. A record is late only if its window is closed already.

More keys than `max_keys`: the least recently used ones give their row early, marked `partial`, and are counted as
`evicted`; nothing is lost, but what such a key sends later in the same window becomes a second row.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from gateway.plugin import Outputs, Plugin
from gateway.quantity import Duration
from pipelines.language import (
    BOOL,
    FLOAT,
    INT,
    NEVER,
    STR,
    TIME,
    UNKNOWN,
    Code,
    Expression,
    Reject,
    Scope,
    Stage,
    Value,
)
from pipelines.language.check import alike
from pipelines.language.parse import INT_MAX, Call, Node, Wrong, children, parse
from pipelines.language.quantiles import EXACT, Spread, deviation, fold
from pipelines.language.runtime import text_of_time

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "first", "last", "stddev", *QUANTILES)
MOST_OPEN = 1000  # windows that `lateness` may keep open at a time


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`window: {tumbling: 10s, agg: {mean: mean(v)}}`: records of a key and a span of event time become one row.

    tumbling: how long each window is; windows follow one another without a gap, aligned to 1970 UTC.
    agg: the fields of the row, each an aggregate of the window's records: `{mean: mean(v), n: count()}`.
    late: what becomes of a record whose window is closed: `drop` counts it, `side` sends it to the stream
        `PIPELINE.late`, `error` makes it a dead letter.
    """

    tumbling: Annotated[Duration, msgspec.Meta(examples=["tumbling: 10s"])]
    agg: Annotated[dict[str, Expression], msgspec.Meta(examples=["agg: {mean: mean(v)}"])]
    late: Literal["drop", "side", "error"] = "drop"


class Window:
    names_fields = True

    def __init__(self, options: Options) -> None:
        self.options = options

    def write(self, code: Code) -> None:
        width = self.options.tumbling.ns
        if width < 1_000_000:
            code.mistake("a window must be at least 1ms wide", "tumbling")
            code.scope.partial = True
            return
        waiting = -(-code.held_back // width)
        if waiting > MOST_OPEN:
            code.mistake(f"lateness and idle would keep {waiting} windows of this width open at a time", "tumbling")
            code.scope.partial = True
            return
        panes = Panes(width, code.max_keys, code.max_keys * (1 + waiting))
        state, key = code.state(panes), code.key
        code.timed(panes)
        kept = Kept()
        asked = {name: _ask(code, kept, name, text) for name, text in self.options.agg.items()}
        kept.lay_out(code)
        places = {value: i for i, value in enumerate(kept.asked)}
        code.laid_out([(function, places.get(value)) for function, value in asked.values()])
        self._find_pane(code, state, width)
        self._update(code, state, key, kept)
        self._leave(code, panes, kept, asked)

    def _find_pane(self, code: Code, state: str, width: int) -> None:
        """Have the record's window in `pane`. Most records fall into the window of the one before."""
        code.cache("lo = hi = 0")
        with code.block(f"if not lo <= {code.time} < hi:"):
            code.write(f"lo = {code.time} - {code.time} % {width}")
            code.write("hi = 0")  # until the window is known to be open
            code.write(f"pane = {state}.open.get(lo)")
            with code.block("if pane is None:"):
                with code.block(f"if lo + {width} <= {code.watermark}:"):
                    self._late(code, width)
                code.write(f"pane = {state}.start(lo)")
                code.reschedule()
            code.write(f"hi = lo + {width}")

    def _late(self, code: Code, width: int) -> None:
        code.count("late")
        if self.options.late == "error":
            code.write(f"raise {code.constant(Late)}(lo + {width})", "late")
            return
        if self.options.late == "side":
            code.set_aside(f"{code.name}.late")
        code.write("continue")

    def _update(self, code: Code, state: str, key: str, kept: "Kept") -> None:
        code.write(f"total = pane.get({key})")
        with code.block("if total is None:"):
            with code.block(f"if {state}.full(pane):"):
                code.write(f"{state}.make_room(pane, out)")
                code.reschedule()
            code.write(f"{state}.held += 1")
            code.write(f"pane[{key}] = [{', '.join([code.touch, *kept.start])}]")
        with code.block("else:"):
            for line in (*kept.test, f"total[0] = {code.touch}", *kept.update):
                code.write(line, "agg")

    def _leave(self, code: Code, panes: "Panes", kept: "Kept", asked: dict[str, "Asked"]) -> None:
        built_in = {
            "key": Value("key", STR, True),
            "start": Value("start", TIME, True),
            "end": Value("end", TIME, True),
            "partial": Value("partial", BOOL, True),
        }
        what = "in a window's row, which has key, start, end and the aggregates"
        stage = Stage(
            Scope({}, built_in, what),
            each="key, total",
            given=("start", "end", "partial"),
            event="(end - 1)",  # the last moment of a window belongs to it, its end to the next
            stamp="end",
            touch="end",
        )
        stage.evidence = f"{code.constant(_evidence)}(start, end, total)"
        code.rows(panes, stage)
        for line in kept.spread:
            code.write(line, "agg")
        for name, (function, value) in asked.items():
            result = kept.result[function, value.code] if value.type != UNKNOWN else value
            code.define(name, code.assign(result, "agg", name), "agg", name)


class Asked(NamedTuple):
    function: str
    value: Value  # of what; UNKNOWN where the user made a mistake


def _ask(code: Code, kept: "Kept", name: str, text: str) -> Asked:
    """Read one aggregate and have its argument in a local."""
    where = ("agg", name)
    nothing = Asked("", Value("None", UNKNOWN, True))
    try:
        call = parse(text)
    except Wrong as wrong:
        code.wrong([wrong], *where)
        return nothing
    if not isinstance(call, Call) or call.name not in FUNCTIONS:
        close = alike(call.name, FUNCTIONS) if isinstance(call, Call) else ""
        inner = _aggregate_in(call)
        if inner is not None:
            todo = "round it" if isinstance(call, Call) and call.name == "round" else "calculate with it"
            message = f"{todo} in a `set` or `emit` after the window; here write `{text[inner.at : inner.end]}`"
        elif isinstance(call, Call) and close:
            message = f"no aggregate is called `{call.name}`{close}"
        else:
            message = f"an aggregate is one of {', '.join(f'{function}()' for function in FUNCTIONS)}"
        code.mistake(message, *where, offset=call.at)
        return nothing
    if call.name == "count":
        if call.args:
            code.mistake("count() counts records and takes nothing; filter before the window", *where, offset=call.at)
            return nothing
        return kept.ask("count", Value("", INT, True))
    if len(call.args) != 1:
        code.mistake(f"{call.name}() takes one value", *where, offset=call.at)
        return nothing
    argument = code.value_of(call.args[0], text, *where)
    if argument.type == UNKNOWN:
        return nothing
    if argument.type.missing:
        hint = "filter by has(…) before the window, or use default(…)"
        code.mistake(f"this may be missing: {hint}", *where, offset=call.args[0].at)
        return nothing
    if call.name not in {"first", "last"} and not argument.type.number:
        code.mistake(f"{call.name}() needs numbers, and this is {argument.type}", *where, offset=call.args[0].at)
        return nothing
    return kept.ask(call.name, code.assign(argument, *where))


def _aggregate_in(node: Node) -> Call | None:
    """The first aggregate inside an expression that is none itself."""
    if isinstance(node, Call) and node.name in FUNCTIONS and len(node.args) < 2:
        return node
    return next((found for child in children(node) if (found := _aggregate_in(child))), None)


class Kept:
    """What is kept per key and window: a list of numbers, laid out for the aggregates that were asked for.

    Without quantiles that is a running number or two per aggregate. With them, the values themselves are kept, and
    everything asked about them is computed once, when the window closes.
    """

    def __init__(self) -> None:
        self.asked: dict[Value, dict[str, None]] = {}  # argument -> functions, in the order they were asked
        self.start: list[str] = []  # code of the numbers after the first record; the moment of use stands before them
        self.test: list[str] = []  # what may refuse a record, before anything is changed
        self.update: list[str] = []  # what each further record changes
        self.spread: list[str] = []  # what is computed first of a closed window
        self.result: dict[tuple[str, str], Value] = {}  # (function, argument's code) -> the aggregate

    def ask(self, function: str, value: Value) -> Asked:
        self.asked.setdefault(value, {})[function] = None
        return Asked(function, value)

    def lay_out(self, code: Code) -> None:
        for value, functions in self.asked.items():
            if QUANTILES.keys() & functions.keys():
                self._sample(code, value, functions)
            else:
                for function in functions:
                    self._running(code, function, value)

    def _sample(self, code: Code, value: Value, functions: Iterable[str]) -> None:
        x = value.code
        values, folded = self._slot(f"[{x}]"), self._slot("None")
        self.update += [
            f"{values}.append({x})",
            f"if len({values}) > {EXACT}: {folded}, {values} = {code.constant(fold)}({values}, {folded}), []",
        ]
        spread = code.local()
        self.spread.append(f"{spread} = {code.constant(Spread)}({values}, {folded})")
        for function in functions:
            if function in QUANTILES:
                result = Value(f"{spread}.quantile({QUANTILES[function]})", FLOAT, True)
            else:
                kind = FLOAT if function in {"mean", "stddev"} else value.type
                result = Value(f"{spread}.{_OF_SPREAD[function]}", kind)
            self.result[function, x] = result

    def _running(self, code: Code, function: str, value: Value) -> None:
        if (function, value.code) in self.result:
            return
        x, kind = value.code, value.type
        match function:
            case "count":
                slot = self._slot("1")
                self.update.append(f"{slot} += 1")
                result = Value(slot, INT, True)
            case "first":
                result = Value(self._slot(x), kind, True)
            case "last":
                slot = self._slot(x)
                self.update.append(f"{slot} = {x}")
                result = Value(slot, kind, True)
            case "min" | "max":
                slot = self._slot(x)
                self.update.append(f"if {x} {'<' if function == 'min' else '>'} {slot}: {slot} = {x}")
                result = Value(slot, kind, True)
            case "sum":
                slot = self._slot(x)
                if kind == INT:
                    # refused before it could leave the 64 bits that results and snapshots have
                    self.test.append(f"if not {-INT_MAX} <= {slot} + {x} <= {INT_MAX}: raise TooLarge")
                self.update.append(f"{slot} += {x}")
                result = Value(slot, kind, kind == INT)
            case "mean":
                for part, of in (("sum", value), ("count", COUNTED)):
                    self._running(code, part, of)
                result = Value(f"({self.result['sum', x].code} / {self.result['count', ''].code})", FLOAT)
            case _:
                # deviations from the first value: sums of squares of large close values would lose every digit
                for part, of in (("first", value), ("count", COUNTED)):
                    self._running(code, part, of)
                d, s1, s2 = code.local(), self._slot("0.0"), self._slot("0.0")
                self.update += [f"{d} = float({x} - {self.result['first', x].code})", f"{s1} += {d}"]
                self.update.append(f"{s2} += {d} * {d}")
                count = self.result["count", ""].code
                result = Value(f"{code.constant(deviation)}({count}, {s1}, {s2})", FLOAT)
        self.result[function, x] = result

    def _slot(self, start: str) -> str:
        self.start.append(start)
        return f"total[{len(self.start)}]"


COUNTED = Value("", INT, True)
_OF_SPREAD = {
    "sum": "total",
    "mean": "mean()",
    "min": "low",
    "max": "high",
    "first": "first",
    "last": "last",
    "stddev": "deviation()",
}


class Late(Reject):
    def __init__(self, end: int) -> None:
        super().__init__(f"late: its window ended at {text_of_time(end)} and is closed")


class Panes:
    """The open windows: start -> key -> [moment of the last record, numbers …], keys in the order they came.

    `rows` is the loop that takes what is closed.
    """

    def __init__(self, width: int, most_keys: int, most: int) -> None:
        self.width = width  # ns
        self.most_keys = most_keys  # in one window
        self.most = most  # in all of them together
        self.open: dict[int, dict[str, list[Any]]] = {}
        self.due = NEVER
        self.held = 0
        self.evicted = 0
        self.rows: Callable[..., None]

    def start(self, lo: int) -> dict[str, list[Any]]:
        """Open the window that starts at `lo`."""
        pane: dict[str, list[Any]] = {}
        self.open[lo] = pane
        self.due = min(self.due, lo + self.width)
        return pane

    def fire(self, out: Outputs) -> None:
        """Close the window that is due."""
        start = self.due - self.width
        pane = self.open.pop(start)
        self.held -= len(pane)
        self.due = min(self.open) + self.width if self.open else NEVER
        self.rows(out, pane.items(), start, start + self.width, False)

    def full(self, pane: dict[str, list[Any]]) -> bool:
        return len(pane) >= self.most_keys or self.held >= self.most

    def make_room(self, pane: dict[str, list[Any]], out: Outputs) -> None:
        """Close those keys of the window (or of all, where all are too many) early that were used least recently."""
        among = [item for item in self.open.items() if item[1] is pane or self.held >= self.most]
        used = [(total[0], start, key) for start, pane in among for key, total in pane.items()]
        early: dict[int, list[str]] = {}
        # a few at a time, so that finding them costs little per key; all that is too much after max_keys was lowered
        excess = 1 + max(len(pane) - self.most_keys, self.held - self.most)
        for _, start, key in heapq.nsmallest(max(excess, self.most_keys // 64), used):
            early.setdefault(start, []).append(key)
        for start, keys in sorted(early.items()):
            rows = [(key, self.open[start].pop(key)) for key in keys]
            self.held -= len(rows)
            self.evicted += len(rows)
            self.rows(out, rows, start, start + self.width, True)

    def save(self) -> dict[int, dict[str, list[Any]]]:
        return self.open

    def load(self, saved: dict[int, dict[str, list[Any]]]) -> None:
        self.open = saved
        self.held = sum(map(len, saved.values()))
        self.due = min(saved) + self.width if saved else NEVER

    def stats(self) -> Mapping[str, int]:
        return {"keys": self.held, "windows": len(self.open), "evicted": self.evicted}


def _evidence(start: int, end: int, total: list[Any]) -> bytes:
    """What a dead letter shows of a row that could not be made or processed."""
    return msgspec.json.encode({"start": text_of_time(start), "end": text_of_time(end), "kept": total[1:]})


plugin = Plugin(Options, Window)
