"""The tests that a pipeline carries: from what stands under `tests:` to cases that can be run, or all their mistakes.

Times in a test are virtual. Its first record arrives at START; every other one when its `time` or `after` says, else
together with the one before. A time is written as a duration since START (`2m`), or as a moment with its zone.
"""

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import Annotated, Any

import msgspec

from gateway.plugin import Case, Given, Mistake, Wanted, WantedLetter
from gateway.quantity import Duration
from gateway.record import DEAD_LETTERS, RETAINED
from pipelines.language.check import alike, few
from pipelines.language.options import Where, read
from pipelines.language.runtime import Reject, reader_of_times

START = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z

_BYTES = ("$text", "$hex", "$b")  # a map with one of these keys alone stands for bytes
_time_of = reader_of_times(UTC)


class Incoming(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that comes in.

    key: the record's key, as an MQTT topic.
    value: the payload: a JSON value; the text itself where the stream is not decoded as JSON; or bytes, as
        `{$text: not JSON}`, `{$hex: 00ff}` or `{$b: AP8=}` (base64).
    time: when it arrives: a duration since the test began, as `2m`, or a moment, as `2026-01-01T00:02:00Z`.
    after: instead of `time`: how long after the record before.
    stream: the input it comes by, where the pipeline has several.
    retained: whether a broker sent it as a retained message.
    """

    key: str = ""
    value: Any = None
    time: str | int | float | None = None
    after: Duration | None = None
    stream: str | None = None
    retained: bool = False


class Letter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dead letter that must come: each text that is given must be part of what it says."""

    key: str = ""
    step: str = ""
    reason: str = ""


class Test(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"given": "in"}):
    """One test of a pipeline, run by `tidegate test`.

    name: what it promises.
    in: the records that come in, in this order.
    out: what must come out, by stream: a list of payloads in their order. A payload may have more fields than are
        written here. `$key`, `$time` and `$value` name the record's key, its time, and a payload that is no map.
    dead: the dead letters that must come, in their order: a part of the reason, or `{step: …, reason: …, key: …}`.
        Without it, there must be none.
    wait: how long time passes after the last record; without it, until nothing waits for time any more.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, examples=["name: …"])]
    given: Annotated[list[Any], msgspec.Meta(min_length=1, examples=["in: [{value: …}]"], extra={"options": Incoming})]
    out: Annotated[dict[str, Any], msgspec.Meta(examples=["out: {STREAM: [{field: 1}]}"])] = {}
    dead: Annotated[list[Any], msgspec.Meta(examples=["dead: [division by zero]"])] | None = None
    wait: Duration | None = None


def cases(
    written: Sequence[Any], inputs: Sequence[str], outputs: Collection[str], texts: Collection[str]
) -> tuple[list[Case], list[Mistake]]:
    """The tests of a pipeline, and what is wrong with them. `texts`: inputs whose payloads are not JSON."""
    found: list[Case] = []
    mistakes: list[Mistake] = []
    names: set[str] = set()
    for i, one in enumerate(written):
        at: Where = ("tests", i)
        test, wrong = read(Test, one, at)
        mistakes += wrong
        if test is None:
            continue
        if test.name in names:
            mistakes.append(Mistake((*at, "name"), "another test has this name; give each its own"))
        names.add(test.name)
        reading = _Reading(at, inputs, outputs, texts)
        given = reading.given(test.given)
        wanted = {stream: reading.wanted(stream, rows) for stream, rows in test.out.items()}
        dead = reading.letters(test.dead or ())
        if not test.out and test.dead is None and not wrong:
            reading.mistake("it does not say what must come of it; write `out: {STREAM: […]}` or `dead: […]`")
        mistakes += reading.mistakes
        found.append(Case(test.name, START, given, wanted, dead, None if test.wait is None else test.wait.ns))
    return found, mistakes


class _Reading:
    """One test being read."""

    def __init__(self, at: Where, inputs: Sequence[str], outputs: Collection[str], texts: Collection[str]) -> None:
        self._at, self._inputs, self._texts = at, inputs, texts
        self._outputs = [stream for stream in outputs if stream != DEAD_LETTERS]
        self.mistakes: list[Mistake] = []

    def mistake(self, message: str, *where: str | int) -> None:
        self.mistakes.append(Mistake((*self._at, *where), message))

    def given(self, rows: Sequence[Any]) -> tuple[Given, ...]:
        records, now = [], START
        for i, row in enumerate(rows):
            where: Where = ("in", i)
            record, wrong = read(Incoming, row, (*self._at, *where))
            self.mistakes += wrong
            if record is None:
                continue
            if record.value is None and not wrong:
                self.mistake("`value` is missing; write `value: …`, or `{$text: 'null'}` for a null", *where)
            stream = self._stream(record, where)
            now = self._arrival(record, now, where)
            value = self._payload(record.value, stream in self._texts, (*where, "value"))
            records.append(Given(stream, now, record.key, value, RETAINED if record.retained else 0))
        return tuple(records)

    def _stream(self, record: Incoming, where: Where) -> str:
        if record.stream is None:
            if len(self._inputs) > 1:
                message = f"the pipeline reads several streams; write `stream:` with one of {few(self._inputs)}"
                self.mistake(message, *where)
            return self._inputs[0] if self._inputs else ""
        if self._inputs and record.stream not in self._inputs:
            hint = alike(record.stream, self._inputs) or f"; it reads {few(self._inputs)}"
            self.mistake(f"the pipeline does not read `{record.stream}`{hint}", *where, "stream")
        return record.stream

    def _arrival(self, record: Incoming, now: int, where: Where) -> int:
        if record.after is not None and record.time is not None:
            self.mistake("`time` and `after` exclude each other; remove one", *where, "after")
        if record.after is not None:
            return now + record.after.ns
        return now if record.time is None else self._moment(record.time, (*where, "time"), now)

    def _moment(self, written: Any, where: Where, otherwise: int) -> int:
        """A duration since START, or a moment; ns since 1970."""
        if isinstance(written, str):
            try:
                return START + Duration.parse(written).ns
            except ValueError:
                pass  # it may be a moment
            try:
                return _time_of(written)
            except Reject:
                pass  # told below
        self.mistake("write how long after the test began, as 90s, or a moment, as 2026-01-01T00:01:30Z", *where)
        return otherwise

    def _payload(self, value: Any, text: bool, where: Where) -> bytes:
        found = self._bytes(value, where)
        if found is not None:
            return found
        if text and isinstance(value, str):
            return value.encode()
        if text and isinstance(value, dict | list):
            self.mistake("this stream is not decoded as JSON; write the payload as the text that arrives", *where)
        return msgspec.json.encode(value)

    def _bytes(self, value: Any, where: Where) -> bytes | None:
        """What a map of one `$…` stands for; None for any other value."""
        if not isinstance(value, Mapping) or len(value) != 1:
            return None
        ((kind, text),) = value.items()
        if kind not in _BYTES:
            return None
        try:
            if not isinstance(text, str):
                raise TypeError
            if kind == "$text":
                return text.encode()
            return bytes.fromhex(text) if kind == "$hex" else base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            told = {"$text": "a text", "$hex": "an even number of hex digits in quotes", "$b": "base64"}[kind]
            self.mistake(f"`{kind}` takes {told}", *where, kind)
            return b""

    def wanted(self, stream: str, rows: Any) -> tuple[Wanted, ...]:
        if stream == DEAD_LETTERS:
            self.mistake("dead letters are expected by `dead: [part of the reason, …]`", "out", stream)
        elif stream not in self._outputs and self._outputs:
            hint = alike(stream, self._outputs) or f"; it feeds {few(self._outputs)}"
            self.mistake(f"the pipeline does not feed `{stream}`{hint}", "out", stream)
        if not isinstance(rows, list):
            self.mistake("this must be a list of payloads; write `[]` for none, one `- …` for each", "out", stream)
            return ()
        return tuple([self._wanted(row, ("out", stream, i)) for i, row in enumerate(rows)])

    def _wanted(self, row: Any, where: Where) -> Wanted:
        key, time, value = None, None, row
        if isinstance(row, Mapping) and any(name in row for name in ("$key", "$time", "$value")):
            value = {name: inner for name, inner in row.items() if name not in {"$key", "$time", "$value"}}
            if "$value" in row:
                if value:
                    self.mistake("`$value` is the whole payload: no field can stand beside it", *where, "$value")
                value, where = row["$value"], (*where, "$value")
            if "$key" in row:
                key = str(row["$key"])
            if "$time" in row:
                time = self._moment(row["$time"], (*where, "$time"), START)
        for name in value if isinstance(value, Mapping) else ():
            if name.startswith("$") and (name not in _BYTES or len(value) > 1):
                self.mistake(f"`{name}` is not known here; write $key, $time, $value, $text, $hex or $b", *where, name)
        return Wanted(key, time, value, self._bytes(value, where))

    def letters(self, rows: Sequence[Any]) -> tuple[WantedLetter, ...]:
        found = []
        for i, row in enumerate(rows):
            if isinstance(row, str):
                found.append(WantedLetter("", "", row))
                continue
            letter, wrong = read(Letter, row, (*self._at, "dead", i))
            self.mistakes += wrong
            if letter is not None:
                found.append(WantedLetter(letter.key, letter.step, letter.reason))
        return tuple(found)
