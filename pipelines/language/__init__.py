"""The language of pipelines: a definition from the configuration becomes a program, or all of its mistakes.

    parse     expression text -> tree
    check     tree -> typed code; every type error is found when a configuration is loaded
    fields    a schema -> what to decode, and the lines that take it apart
    build     steps -> one generated function per stage; `Code` is the seam that steps are written against
    keyed     what steps keep of each key, and the moments that keys wait for
    progress  watermarks, idleness, and what waits for event time
    program   the generated functions with their state, as the house runs them
    runtime   what generated code calls
    cases     the tests that a pipeline carries

How a step is written: see the package `pipelines`.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Any

import msgspec

from gateway import decode, plugin
from gateway.decode import JSON
from gateway.plugin import Decoding, MissingExtra, Mistake, Program, UnknownPlugin
from gateway.quantity import Duration
from gateway.record import DEAD_LETTERS
from pipelines.language import fields
from pipelines.language.build import LANGUAGE, Clockwork, Code, Stage, State, assemble, first_stage
from pipelines.language.cases import Test, cases
from pipelines.language.check import BOOL, FEW, FLOAT, INT, STR, TIME, UNKNOWN, Scope, Type, Value, alike, few, nearest
from pipelines.language.keyed import Deadlines, Keyed
from pipelines.language.options import Expression, read
from pipelines.language.parse import Path, Wrong, write_path
from pipelines.language.program import Pipeline
from pipelines.language.progress import NEVER, Progress, Timed
from pipelines.language.runtime import Reject, reader_of_times

__all__ = [
    "BOOL",
    "FLOAT",
    "INT",
    "NEVER",
    "STR",
    "TIME",
    "UNKNOWN",
    "Code",
    "Deadlines",
    "Expression",
    "Keyed",
    "Reject",
    "Scope",
    "Stage",
    "State",
    "Timed",
    "Type",
    "Value",
    "compile_pipeline",
]


class Time(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pipeline tells the time.

    event: the field of the schema (its type is time) that says when it happened; without it, the arrival does.
    lateness: how far records may come behind the newest one: 5s where `event` is given, else none.
    max_ahead: a record whose time is further ahead of its arrival is a dead letter.
    idle: an input that is silent for this long is not waited for.
    zone: of times that are text without one, as `Europe/Berlin`, `UTC` or `+02:00`.
    """

    event: Expression | None = None
    lateness: Duration | None = None
    max_ahead: Duration = Duration(60)
    idle: Duration = Duration(60)
    zone: str | None = None


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """A pipeline as it is written.

    from: the stream it reads, or a list of them.
    to: the stream that gets what leaves the last step, or a list of them. It may be left out after a last step that
        sends by itself: `route` or `alarm`.
    start: where it begins when it is new: `earliest`, `latest`, a time as `2026-05-01T00:00:00Z`, or `7d` ago.
    schema: the fields that expressions may use, each with its type: `{temp: float, unit: "str = 'C'"}`.
    time: how it tells the time; without it, by the arrival of each record.
    key: whose record it is: an expression, or a list of them. What steps remember, they remember per key.
    max_keys: how many keys are remembered at a time; the least recently used ones make room.
    steps: what is done to each record, in this order; `[]` only copies.
    tests: what it must do, shown by examples; `tidegate test` runs them.
    """

    source: str | list[str] = []
    to: str | list[str] = []
    start: str | int = "earliest"
    schema: Annotated[dict[str, str], msgspec.Meta(examples=["schema: {temp: float}"])] = {}
    time: Annotated[dict[str, Any], msgspec.Meta(examples=["time: {event: ts}"], extra={"options": Time})] = {}
    key: Any = "key"
    max_keys: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    steps: Annotated[list[dict[str, Any]], msgspec.Meta(examples=["- filter: …"])] = []
    tests: Annotated[list[Any], msgspec.Meta(examples=["- {name: …}"], extra={"options": Test})] = []


def compile_pipeline(
    name: str, definition: Mapping[str, Any], decoders: Mapping[str, Decoding]
) -> Program | list[Mistake]:
    """gateway.plugin.Compiler: a program, or every mistake in the definition with its place."""
    read_definition, mistakes = read(Definition, definition, ())
    if read_definition is None:
        return mistakes
    it = read_definition
    read_time, wrong = read(Time, it.time, ("time",))
    time = read_time or Time()
    inputs, outputs = _streams(it.source), _streams(it.to)
    schema, wrong_schema = _schema(it.schema)
    zone, wrong_zone = _zone(time.zone)
    start, wrong_start = _start(it.start)
    mistakes += [*_wiring(name, inputs, outputs), *wrong_start, *wrong_schema, *wrong, *wrong_zone]
    mistakes += _decoding(inputs, decoders, schema)

    default_lateness = Duration(5) if time.event else Duration(0)
    lateness = default_lateness if time.lateness is None else time.lateness
    code = Code(name, it.max_keys, lateness.ns + (time.idle.ns if len(inputs) > 1 else 0), first_stage(schema))
    code.mistakes, code.inputs = mistakes, inputs
    event = _event(code, time)
    keys, one = (it.key, False) if isinstance(it.key, list) else ([it.key], True)
    clock_told = f"{time.event}: {it.schema.get(time.event)}, {time.zone}" if time.event else "arrival"
    code.set_key(keys, one, clock_told)
    whole = _write_steps(code, it.steps)
    _write_end(code, outputs, whole)
    texts = [stream for stream in inputs if decoders.get(stream, JSON).name != JSON.name]
    tests, wrong_tests = cases(it.tests, inputs, code.streams, texts)
    mistakes += wrong_tests
    if mistakes:
        return mistakes

    progress = Progress(len(inputs), lateness.ns, time.idle.ns, event is None, code.waiting)
    clock = Clockwork(event, time.max_ahead.ns, reader_of_times(zone))
    source, steps, namespace = assemble(code, schema, clock, progress)
    every_output = [*dict.fromkeys([*code.streams, DEAD_LETTERS])]
    signature = _signature(it, inputs, decoders)
    program = Pipeline(
        name, inputs, every_output, start, signature, source, steps, progress, clock_told, code.states, code.held
    )
    program.tests, program.doubts, program.alarms = tests, code.doubts, frozenset(code.alarms)
    for stage in code.stages:
        program.counts.update(dict.fromkeys(stage.counted, 0))
    namespace.update(counts=program.counts, failed=program.failed, row_failed=program.row_failed)
    exec(compile(source, "<pipeline>", "exec"), namespace)  # noqa: S102 - text that build.py wrote, and only that
    for state, number in code.handed:
        state.rows = namespace[f"stage{number}"]
    for i, stream in enumerate(inputs):
        try:
            reader = decode.reader(decoders.get(stream, JSON), namespace["Payload"])
        except Mistake as mistake:
            written = next((write_path(path) for path in schema if path[0] == mistake.path[0]), "")
            return [Mistake(("schema", written), f"stream `{stream}`: {mistake.message}")]
        program.entries[stream] = functools.partial(namespace["stage0"], source=i, decode=reader)
    return program


def _streams(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _wiring(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> list[Mistake]:
    mistakes = []
    for option, streams in (("from", inputs), ("to", outputs)):
        if "" in streams or (option == "from" and not streams):
            mistakes.append(Mistake((option,), f"`{option}` must name a stream, or a list of them"))
    for stream in outputs:
        if stream.startswith("_"):
            mistakes.append(Mistake(("to",), f"{stream} is the house's own; choose another name"))
    if DEAD_LETTERS in inputs:
        message = (
            f"a pipeline's own failures go to `{DEAD_LETTERS}`, so it cannot read that stream: they would come back"
        )
        mistakes.append(Mistake(("from",), message))
    for stream in inputs:
        if stream in outputs or stream == f"{name}.late":
            mistakes.append(Mistake(("from",), f"`{stream}` is also an output of this pipeline: it would feed itself"))
    return mistakes


def _decoding(
    inputs: Sequence[str], decoders: Mapping[str, Decoding], schema: Mapping[Path, fields.Declared]
) -> list[Mistake]:
    mistakes = []
    for stream in inputs:
        decoding = decoders.get(stream, JSON)
        try:
            names, kinds = decode.fields(decoding), decode.kinds(decoding)
        except UnknownPlugin as error:
            mistakes.append(Mistake(("from",), f"stream `{stream}`: {error}; there are {', '.join(error.known)}"))
            continue
        except MissingExtra as error:
            mistakes.append(Mistake(("from",), f"stream `{stream}`: {error}"))
            continue
        for path, field in schema.items() if names is not None else ():
            if field.required and path[0] not in (names or ()):  # what a field holds, only a payload can tell
                message = f"stream `{stream}` is decoded as {decoding.name}, which has {_carried(path[0], names or ())}"
                mistakes.append(Mistake(("schema", write_path(path)), message))
            elif other := fields.contradiction(field, kinds.get(path[0])):
                mistakes.append(Mistake(("schema", write_path(path)), f"stream `{stream}`: {other}"))
    return mistakes


def _carried(name: str, known: Sequence[str]) -> str:
    """What payloads have where they have no field of this name, in words."""
    if len(known) <= FEW:
        return f"only the field{'s' * (len(known) > 1)} {', '.join(known)}"
    return f"no field `{name}`{nearest(name, known)}; docs/language.md has a table of them"


def _schema(lines: Mapping[str, str]) -> tuple[dict[Path, fields.Declared], list[Mistake]]:
    found: dict[Path, fields.Declared] = {}
    mistakes = []
    for name, text in lines.items():
        try:
            field = fields.declared(name, text)
        except Wrong as wrong:
            mistakes.append(Mistake(("schema", name), wrong.message, max(wrong.at, 0)))
            # what follows may use the field: there is nothing more to say about it
            found[tuple(name.split("."))] = fields.Declared(tuple(name.split(".")), UNKNOWN)
            continue
        if field.path in found:
            mistakes.append(Mistake(("schema", name), "this field is declared twice"))
        found[field.path] = field
    for outer, inner in fields.overlaps(found.values()):
        path = write_path(inner.path)
        message = f"`{write_path(outer.path)}` is declared as {outer.type}, so nothing can lie inside it"
        mistakes.append(Mistake(("schema", path), message))
    return found, mistakes


def _zone(text: str | None) -> tuple[tzinfo | None, list[Mistake]]:
    """A time zone: an IANA name or an offset."""
    if text is None:
        return None, []
    try:
        offset = datetime.strptime(text, "%z").tzinfo
    except ValueError:
        pass
    else:
        return offset, []
    from zoneinfo import ZoneInfo  # reads the system's zones, which few pipelines need

    try:
        return ZoneInfo(text), []
    except (ValueError, OSError, LookupError):
        return None, [Mistake(("time", "zone"), "write a zone as Europe/Berlin, UTC or +02:00")]


def _start(value: str | int) -> tuple[str | int, list[Mistake]]:
    """earliest, latest, ns since 1970; a negative number is ns before now."""
    if value in {"earliest", "latest"}:
        return value, []
    try:
        return -Duration.parse(str(value)).ns, []
    except ValueError:
        pass
    try:
        return reader_of_times(UTC)(str(value)), []
    except Reject:
        message = "write earliest, latest, a time as 2026-11-23T10:00:00Z, or how far back, as 7d"
        return "earliest", [Mistake(("start",), message)]


def _event(code: Code, time: Time) -> str | None:
    """Code of the event time; None for the arrival."""
    if time.event is None:
        return None
    code.at = ("time",)
    value = code.value(time.event, "event")
    if value.type not in {TIME, UNKNOWN}:
        hint = " that is never missing" if value.type.missing else ""
        code.mistake(f"the event time must be a field of type time{hint}, and this is {value.type}", "event")
    elif not value.code.isidentifier():
        code.mistake("the event time must be a field", "event")
    code.at = ()
    return value.code


def _write_steps(code: Code, steps: Sequence[Mapping[str, Any]]) -> bool:
    """Have every step write its part. False: what the last one was meant to do is not known, for its mistakes."""
    whole = True
    for i, step in enumerate(steps):
        code.rest, whole = None, False
        if len(step) != 1:
            code.at = ()
            names = ", ".join(step) or "none"
            code.mistake(f"a step has one key, its name; this has {names}; begin each with `- `", "steps", i)
            continue
        ((kind, value),) = step.items()
        code.begin_step(("steps", i, kind))
        try:
            found = plugin.load("steps", kind)
        except plugin.UnknownPlugin as error:
            code.scope.partial = True
            hint = alike(kind, error.known) or f"; choose from {few(sorted(error.known))}"
            code.mistake(f"no step is called `{kind}`{hint}")
            continue
        except plugin.MissingExtra as error:
            code.mistake(str(error))
            continue
        if code.ended or (code.shaped and not getattr(found.build, "only_says_where", False)):
            code.mistake(code.ended or "nothing but `route` can follow `emit`; put this step before it")
            return True
        options, mistakes = read(found.options, value, code.at)
        code.mistakes += mistakes
        code.misread = bool(mistakes)
        if options is None and getattr(found.build, "names_fields", False):
            code.scope.partial = True
        if options is not None:
            found.build(options).write(code)
            code.end_step(value)
            whole = True
    return whole


def _write_end(code: Code, outputs: Sequence[str], whole: bool) -> None:
    """What becomes of a record that leaves the last step."""
    code.at = ("to",)
    if code.ended and outputs:
        code.mistake(code.ended)
    elif outputs:
        code.deliver(outputs, code.key)
    elif code.rest:
        code.count(code.rest)
    elif code.rest is None and whole and not code.ended:
        hint = "it may be missing only after a last step `route` or `alarm`"
        code.mistake(f"`to` must name a stream, or a list of them; {hint}")
    code.at = ()


def _signature(definition: Definition, inputs: Sequence[str], decoders: Mapping[str, Decoding]) -> str:
    """Of all that decides what a record comes to. Where a new reader starts does not, and tests do not."""
    told = msgspec.structs.replace(definition, start="", tests=[])
    kinds = [decoders.get(stream, JSON).plain() for stream in inputs]
    whole = msgspec.json.encode([LANGUAGE, told, kinds])
    return hashlib.sha256(whole).hexdigest()[:32]
