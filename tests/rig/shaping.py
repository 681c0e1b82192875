"""What tests of pipelines share: compile one, feed it, and look at what comes out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.decode import decoding
from gateway.plugin import Decoding, Mistake, Program
from gateway.record import DEAD_LETTERS, Batch
from pipelines.language import compile_pipeline

S = 1_000_000_000
NOON = 1_763_899_200 * S  # 2025-11-23T12:00:00Z, at the start of a minute


class Event(NamedTuple):
    """One record on its way in."""

    key: str
    value: bytes
    time: int = NOON  # arrival
    stream: str = "in"
    flags: int = 0


class Letter(msgspec.Struct):
    """A dead letter. Its value stays as it is written: a payload may hold what no decoder takes, as 1e999."""

    by: str
    step: str
    reason: str
    stream: str
    offset: int
    time: int
    key: str
    value: msgspec.Raw


class Out:
    """Everything a program emitted, in order."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, int, str, bytes]] = []

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None:
        self.emitted.append((stream, time, key, value))

    def rows(self, stream: str = "out") -> list[Any]:
        return [msgspec.json.decode(value) for to, _, _, value in self.emitted if to == stream]

    def letters(self) -> list[tuple[str, str]]:
        """(step, reason) of every dead letter."""
        return [(letter.step, letter.reason) for letter in self.dead()]

    def dead(self) -> list[Letter]:
        return [msgspec.json.decode(value, type=Letter) for to, _, _, value in self.emitted if to == DEAD_LETTERS]


def decodings(decoders: Mapping[str, Any]) -> dict[str, Decoding]:
    return {stream: Decoding(said) if isinstance(said, str) else decoding(said) for stream, said in decoders.items()}


def program(steps: Sequence[Mapping[str, Any]] = (), *, decoders: Mapping[str, Any] = {}, **definition: Any) -> Program:
    """Compile, with defaults for what the test is not about."""
    made = compile_pipeline("p", {"from": "in", "to": "out", "steps": list(steps), **definition}, decodings(decoders))
    assert not isinstance(made, list), [(mistake.path, str(mistake)) for mistake in made]
    return made


def mistakes(steps: Sequence[Any] = (), *, decoders: Mapping[str, Any] = {}, **definition: Any) -> list[Mistake]:
    made = compile_pipeline("p", {"from": "in", "to": "out", "steps": list(steps), **definition}, decodings(decoders))
    assert isinstance(made, list), "it compiled"
    return made


def batches(events: Iterable[Event], size: int) -> list[Batch]:
    """Events as batches of at most `size` records of one stream, offsets counted per stream."""
    found: list[Batch] = []
    part: list[Event] = []
    next_offset: dict[str, int] = {}

    def cut() -> None:
        if part:
            stream = part[0].stream
            first = next_offset.get(stream, 0)
            next_offset[stream] = first + len(part)
            flags = bytes(event.flags for event in part)
            columns = [event.time for event in part], [event.key for event in part], [event.value for event in part]
            found.append(Batch(stream, first, *columns, flags=flags if any(flags) else None))
            part.clear()

    for event in events:
        if part and (len(part) == size or part[0].stream != event.stream):
            cut()
        part.append(event)
    cut()
    return found


def run(made: Program, events: Iterable[Event], size: int = 1000, out: Out | None = None) -> Out:
    out = out or Out()
    for batch in batches(events, size):
        made.run(batch, out)
    return out


def value_of(expression: str, schema: Mapping[str, str], payload: Mapping[str, Any], **definition: Any) -> Any:
    """What an expression comes to for one payload; the reason as text if it fails."""
    made = program([{"emit": {"x": expression}}], schema=dict(schema), **definition)
    out = run(made, [Event("site/a/temp", msgspec.json.encode(payload))])
    letters = out.letters()
    return letters[0][1] if letters else out.rows()[0].get("x")
