"""The tests that a pipeline carries: run one, compare, and say in words what differs.

A test runs twice: record by record with a restart before each, and in batches as large as can be. Both must give the
same, or a step breaks its promise that results depend on the order of records alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from gateway.plugin import Case, Given, Program, Wanted, WantedLetter
from gateway.record import DEAD_LETTERS, Batch
from gateway.trial.course import Course

MOST_WAITS = 1000  # moments at which time acts after the last record
FOREVER = 2**63 - 1
MOST_SHOWN = 20  # lines of one comparison
MOST_COMPARED = 250_000  # pairs looked at to find which record is meant by which expectation
NEAR_NS = 86_400 * 10**9  # a time within a day of the test's beginning is told from there


class Came(NamedTuple):
    """A record that came out; `time` is ns."""

    stream: str
    time: int
    key: str
    value: bytes


class Line(NamedTuple):
    """One line of a comparison: `mark` is "=" as expected, "-" missing, "+" not expected, "!" not quite."""

    mark: str
    text: str


class Difference(NamedTuple):
    """What is wrong with one stream, or with the dead letters."""

    stream: str
    summary: str
    lines: Sequence[Line]


class Outcome(NamedTuple):
    """How a test went; it passed if there are no differences."""

    case: Case
    differences: Sequence[Difference]

    @property
    def passed(self) -> bool:
        return not self.differences


def run_case(program: Program, case: Case) -> Outcome:
    """Run one test of a program. The program must be as it was compiled, and is left like that."""
    blank = program.snapshot()
    try:
        came, ticks, unfinished = _one_by_one(program, case)
        program.restore(blank)
        again = _in_batches(program, case, ticks)
    finally:
        program.restore(blank)
    differences = [*_compared(case, came)]
    if unfinished:
        summary = f"time still acts after {MOST_WAITS} moments; say with `wait:` how long the test lasts"
        differences.append(Difference("time", summary, ()))
    if again != came:
        summary = "it depends on how records are batched, or on a restart: a step keeps something in the wrong place"
        differences.append(Difference("batches", summary, _beside(came, again)))
    return Outcome(case, differences)


class _Emitted:
    """gateway.plugin.Outputs as one list."""

    def __init__(self) -> None:
        self.all: list[Came] = []

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None:
        self.all.append(Came(stream, time, key, value))


def _one_by_one(program: Program, case: Case) -> tuple[list[Came], list[tuple[int, int]], bool]:
    """What came, when time acted (after how many records, ns), and whether it would go on acting."""
    out, ticks = _Emitted(), []
    course = Course(program, out)

    def note(records: int) -> None:
        ticks.extend([(records, now) for now in course.ticks])
        course.ticks.clear()

    offsets: dict[str, int] = {}
    for i, given in enumerate(case.given):
        program.restore(program.snapshot())
        course.run(_batch([given], offsets))
        note(i)
    last = case.given[-1].arrival
    unfinished = course.wait(FOREVER if case.wait is None else last + case.wait, MOST_WAITS)
    note(len(case.given))
    return out.all, ticks, unfinished


def _in_batches(program: Program, case: Case, ticks: Sequence[tuple[int, int]]) -> list[Came]:
    """The same records and moments, cut only where the stream changes or time acts."""
    out = _Emitted()
    offsets: dict[str, int] = {}
    cuts = {records for records, _ in ticks}
    run: list[Given] = []
    waiting = list(ticks)
    for i, given in enumerate([*case.given, None]):
        if run and (given is None or given.stream != run[0].stream or i in cuts):
            program.run(_batch(run, offsets), out)
            run = []
        while waiting and waiting[0][0] == i:
            program.tick(waiting.pop(0)[1], out)
        if given is not None:
            run.append(given)
    return out.all


def _batch(run: Sequence[Given], offsets: dict[str, int]) -> Batch:
    """Records of one stream, with the offsets that follow."""
    first = offsets.get(run[0].stream, 0)
    offsets[run[0].stream] = first + len(run)
    flags = bytes([given.flags for given in run])
    return Batch(
        run[0].stream,
        first,
        [given.arrival for given in run],
        [given.key for given in run],
        [given.value for given in run],
        flags=flags if any(flags) else None,
    )


# -- comparing ---------------------------------------------------------------------------------------------------------


class _Letter(msgspec.Struct):
    """What a test looks at of a dead letter."""

    key: str
    step: str
    reason: str
    value: msgspec.Raw


def _compared(case: Case, came: Sequence[Came]) -> Iterator[Difference]:
    start = case.start
    for stream, wanted in case.out.items():
        rows = [record for record in came if record.stream == stream]
        pairing = _Pairing(wanted, rows, lambda want, row: list(_amiss(want, row, start)), _parts)
        if pairing.differs:
            lines = pairing.lines(lambda want: _told_wanted(want, start), lambda row: _told(row, start))
            yield Difference(stream, pairing.summary("record"), lines)
    letters = [msgspec.json.decode(record.value, type=_Letter) for record in came if record.stream == DEAD_LETTERS]
    pairing = _Pairing(case.dead, letters, lambda want, letter: list(_amiss_letter(want, letter)), len)
    if pairing.differs:
        lines = pairing.lines(
            lambda want: "; ".join(f"{name} with {part!r}" for name, part in want._asdict().items() if part) or "any",
            lambda letter: f"{letter.key}  {letter.step}: {letter.reason}  {_short(bytes(letter.value))}",
        )
        yield Difference(DEAD_LETTERS, pairing.summary("dead letter"), lines)


class _Pairing:
    """Which record is meant by which expectation, both in their order.

    `amiss` says in words what of a record is not as wanted, `parts` how many things an expectation says.
    """

    def __init__(
        self,
        wanted: Sequence[Any],
        came: Sequence[Any],
        amiss: Callable[[Any, Any], list[str]],
        parts: Callable[[Any], int],
    ) -> None:
        self._wanted, self._came, self._amiss, self._parts = wanted, came, amiss, parts
        in_order = list(zip(range(len(wanted)), range(len(came)), strict=False))
        told = [amiss(wanted[i], came[j]) for i, j in in_order]
        if (any(told) or len(wanted) != len(came)) and len(wanted) * len(came) <= MOST_COMPARED:
            self._pairs = self._nearest()
            told = [amiss(wanted[i], came[j]) for i, j in self._pairs]
        else:
            self._pairs = in_order
        self._told = told

    @property
    def differs(self) -> bool:
        return any(self._told) or not len(self._wanted) == len(self._came) == len(self._pairs)

    def summary(self, noun: str) -> str:
        came, wanted = len(self._came), len(self._wanted)
        if came != wanted:
            return f"{_several(came, noun)} came, {_several(wanted, noun)} expected"
        unlike = wanted - self._told.count([])
        if came == 1:
            return f"1 {noun} came, and not as expected"
        return f"{came} {noun}s came, {unlike} of them not as expected"

    def lines(self, told_wanted: Callable[[Any], str], told: Callable[[Any], str]) -> list[Line]:
        """Both lists beside each other, MOST_SHOWN lines of it."""
        lines: list[Line] = []
        i = j = 0
        for (a, b), amiss in zip([*self._pairs, (len(self._wanted), len(self._came))], [*self._told, []], strict=True):
            lines += [Line("-", told_wanted(want)) for want in self._wanted[i:a]]
            lines += [Line("+", told(row)) for row in self._came[j:b]]
            if b < len(self._came):
                lines.append(Line("!" if amiss else "=", told(self._came[b])))
                lines += [Line("", f"  {text}") for text in amiss]
            i, j = a + 1, b + 1
        if len(lines) > MOST_SHOWN:
            lines = [*lines[:MOST_SHOWN], Line("", f"… and {len(lines) - MOST_SHOWN} more lines")]
        return lines

    def _nearest(self) -> list[tuple[int, int]]:
        """The pairs, in the order of both lists, that are all in all nearest to what is expected."""
        wanted, came = self._wanted, self._came
        near = [[self._nearness(want, row) for row in came] for want in wanted]
        best = [[0.0] * (len(came) + 1) for _ in range(len(wanted) + 1)]
        for i in range(len(wanted) - 1, -1, -1):
            for j in range(len(came) - 1, -1, -1):
                best[i][j] = max(best[i + 1][j + 1] + near[i][j], best[i + 1][j], best[i][j + 1])
        pairs, i, j = [], 0, 0
        while i < len(wanted) and j < len(came):
            if best[i][j] == best[i + 1][j + 1] + near[i][j]:
                pairs.append((i, j))
                i, j = i + 1, j + 1
            elif best[i][j] == best[i + 1][j]:
                i += 1
            else:
                j += 1
        return pairs

    def _nearness(self, want: Any, row: Any) -> float:
        """1 where a record is as expected. Two that nearly are count for more than one that is, beside one that is
        left over; of a longer list of which one record is missing, the others still find their own.
        """
        amiss = len(self._amiss(want, row))
        parts = max(self._parts(want), 1)
        return 0.05 + 0.7 * max(1 - amiss / parts, 0.0) if amiss else 1.0


def _parts(want: Wanted) -> int:
    """How many things a test says of a record."""
    return (want.key is not None) + (want.time is not None) + (1 if want.raw is not None else _leaves(want.value))


def _leaves(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else sum(map(_leaves, inner))


def _amiss(want: Wanted, row: Came, start: int) -> Iterator[str]:
    """What of a record is not as wanted, in words."""
    if want.key is not None and row.key != want.key:
        yield f"$key: {row.key!r}, not {want.key!r}"
    if want.time is not None and row.time != want.time:
        yield f"$time: {since(row.time, start)}, not {since(want.time, start)}"
    if want.raw is not None:
        if row.value != want.raw:
            yield f"the payload is {_short(row.value)}, not {_short(want.raw)}"
        return
    yield from _unlike(want.value, _payload(row.value), "")


def _unlike(want: Any, have: Any, path: str) -> Iterator[str]:
    """The parts of `want` that `have` has not. Numbers agree to nine digits; null is the same as missing."""
    name = path or "the payload"
    if isinstance(want, dict):
        if not isinstance(have, dict):
            yield f"{name}: {_plain(have)}, not a map"
            return
        for key, inner in want.items():
            below = f"{path}.{key}" if path else key
            if key not in have and inner is not None:
                yield f"{below}: missing, not {_plain(inner)}"
            elif key in have:
                yield from _unlike(inner, have[key], below)
    elif isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        for i, (one, other) in enumerate(zip(want, have, strict=True)):
            yield from _unlike(one, other, f"{path}[{i}]")
    elif not _same(want, have):
        yield f"{name}: {_plain(have)}, not {_plain(want)}"


def _same(want: Any, have: Any) -> bool:
    if isinstance(want, bool) or isinstance(have, bool):
        return want is have
    if isinstance(want, int | float) and isinstance(have, int | float):
        return want == have or math.isclose(want, have, rel_tol=1e-9, abs_tol=1e-12)
    return bool(want == have)


def _amiss_letter(want: WantedLetter, letter: _Letter) -> Iterator[str]:
    for name, part in want._asdict().items():
        if part not in getattr(letter, name):
            yield f"{name}: {getattr(letter, name)!r} has no {part!r} in it"


# -- words -------------------------------------------------------------------------------------------------------------


def since(time: int, start: int) -> str:
    """A time (ns) of a test as people write it there: `+90s`, `+0.25s`; as a moment where it is of another day."""
    if abs(time - start) < NEAR_NS:
        return f"{(time - start) / 1e9:+.9g}s"
    fraction = f".{time % 10**9:09}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(time // 10**9, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _told(row: Came, start: int) -> str:
    return f"{since(row.time, start)}  {row.key}  {_short(row.value)}"


def _told_wanted(want: Wanted, start: int) -> str:
    parts = [] if want.time is None else [since(want.time, start)]
    parts += [] if want.key is None else [want.key]
    return "  ".join([*parts, _plain(want.value) if want.raw is None else _short(want.raw)])


def _several(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"


def _payload(value: bytes) -> Any:
    """A payload as plain data: what its JSON says, else its text, else its bytes."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return value.decode("utf-8", "backslashreplace")


def _short(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 300 else f"{text[:300]}…"


def _plain(value: Any) -> str:
    return _short(msgspec.json.encode(value))


def _beside(came: Sequence[Came], again: Sequence[Came]) -> list[Line]:
    """Where two runs part."""
    at = next((i for i, (a, b) in enumerate(zip(came, again, strict=False)) if a != b), min(len(came), len(again)))
    shown = [
        Line(mark, f"{rows[at].stream}  {rows[at].key}  {_short(rows[at].value)}")
        for mark, rows in (("-", came), ("+", again))
        if at < len(rows)
    ]
    return [*shown, Line("", "  - record by record, + in batches")]
