"""From checked steps to one generated function per stage, and what a step's author sees while that happens: `Code`.

A stage is a loop over records. The first one takes the batches of the inputs: it decodes, tells the time, and runs the
steps up to the first window. What leaves a window's state is the records of the next stage. A stage is generated in the
order of its steps; its head (what to decode, whether anything waits for time) is written last, when that is known.

Generated text consists of templates from this code base, of names we made, and of numbers. Everything a user wrote, a
stream's name or a text literal, is bound as a constant and reached by its name.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from gateway.plugin import Mistake
from pipelines.language import fields
from pipelines.language.check import BOOL, INT, NAMESPACE, STR, TIME, UNKNOWN, Scope, Type, Value, check, check_node
from pipelines.language.options import Where
from pipelines.language.parse import Node, Path, Wrong, is_word, write_path
from pipelines.language.progress import Progress, Timed
from pipelines.language.runtime import CLOCK_SET, INT_MAX, LAST_SECOND, MAX_PAYLOAD, MAX_TEXT


class State(Protocol):
    """What a step remembers: a value per key, made of lists, dicts, text, numbers and None."""

    def save(self) -> Any:
        """All of it as plain data; it may share what it gives, which is encoded at once."""
        ...

    def load(self, saved: Any) -> None:
        """Become what save() gave, the order of the keys included."""
        ...

    def stats(self) -> Mapping[str, int]:
        """What the status shows, such as keys held."""
        ...


LANGUAGE = 4  # raised when the same definition may come to mean something else, or keep its state differently


class Held(NamedTuple):
    """Whose a state is."""

    step: str  # as dead letters name it: steps[1].window
    signature: str  # of all that decides what the state means


class Stage:
    """One loop in the making."""

    def __init__(self, scope: Scope, *, each: str, given: Sequence[str], event: str, stamp: str, touch: str) -> None:
        self.scope = scope
        self.each = each  # what the loop unpacks a record into
        self.given = tuple(given)  # further arguments, the same for all records of one call
        self.event = event  # code of the event time
        self.stamp = stamp  # code of the time that a derived record carries
        self.touch = touch  # code of the moment a record came by, for what was used least recently
        self.lines: list[tuple[str, str]] = []  # (code, which step of the pipeline it belongs to)
        self.caches: list[str] = []
        self.counted: dict[str, str] = {}  # counter -> local
        self.evidence = "b''"  # code of what a dead letter shows of a record


class Code:
    """Where a step writes itself. One object per pipeline; `at` says which step is writing.

    Reading:  value() and condition() check an expression; `time`, `key`, `touch` and `watermark` are code.
    Naming:   define() names a field for the steps that follow.
    Writing:  write() a line, block() an indented part, assign() a checked local; `continue` drops the record and
              `raise Reject('why')` makes it a dead letter. State is changed last, so that a failure changes nothing.
    State:    state() adds what is saved, timed() what also waits for event time; cache() declares a local that lives
              until time passes.
    Leaving:  rows() starts the stage that takes what leaves a state; shape() says what is sent, deliver() sends it.
    """

    def __init__(self, name: str, max_keys: int, held_back: int, stage: Stage) -> None:
        self.name = name
        self.max_keys = max_keys  # the most keys that a state may hold at a time
        self.held_back = held_back  # ns of event time that an open window may wait for late records and slow inputs
        self.stages = [stage]
        self.at: Where = ()
        self.misread = False  # some of the step's options are wrong, and are taken as their defaults
        self.mistakes: list[Mistake] = []
        self.doubts: list[Mistake] = []
        self.namespace: dict[str, Any] = dict(NAMESPACE)
        self.states: list[State] = []
        self.held: list[Held] = []  # of each state: which step holds it, and when another definition may take it over
        self.waiting: list[Timed] = []
        self.inputs: Sequence[str] = ()
        self.streams: list[str] = []  # outputs, in the order they were named
        self.alarms: set[str] = set()  # those of them that alarms go to
        self.ended = ""  # why no record is left for a step that follows
        self.rest: str | None = None  # of what leaves the last step where there is no `to:`: see leave()
        self.changed = False  # a field was named: the payload as received no longer says everything
        self.shaped = ""  # code of the bytes to send, where a step has said what they are
        self.handed: list[tuple[Any, int]] = []  # (state, stage that takes its rows)
        self._asked: list[str] = []  # what the step that is writing itself asked of its records, with types
        self._kept_by: list[str] = []  # the clock and the key that every state is kept by
        self._indent = 0
        self._names = 0
        self._key: str | None = None
        self._key_parts: list[Value] = []

    # reading

    @property
    def stage(self) -> Stage:
        return self.stages[-1]

    @property
    def scope(self) -> Scope:
        return self.stage.scope

    @property
    def time(self) -> str:
        """The record's event time, ns."""
        return self.stage.event

    @property
    def stamp(self) -> str:
        """The time that is told of the record, ns: its event time, or a row's end."""
        return self.stage.stamp

    @property
    def touch(self) -> str:
        """When the record came by, ns: states keep it to know what was used least recently."""
        return self.stage.touch

    @property
    def watermark(self) -> str:
        """The event time that has passed, ns; what waited for it has acted."""
        return "progress.mark" if len(self.stages) > 1 else "progress.watermark(source, top, seen)"

    @property
    def key(self) -> str:
        """The pipeline's key of this record, text. Ask outside of blocks: it is computed where it is first needed."""
        if len(self.stages) > 1:
            return "key"
        if self._key is None:
            assert self._indent == 0
            self._key = "key"
            if self._key_parts:
                here, self.at = self.at, ("key",)
                self._key = self.local()
                self.write(f"{self._key} = {' + _slash + '.join(part.code for part in self._key_parts)}")
                self.write(f"if len({self._key}) > {MAX_TEXT}: raise TooLong")
                self.at = here
        return self._key

    def value(self, text: str, *where: str | int) -> Value:
        """Check an expression of the step's options. A mistake is noted; then the type is UNKNOWN."""
        checked = check(text, self.scope, self.constant)
        self.wrong(checked.mistakes, *where)
        self._asked.append(f"{text}: {checked.value.type}")
        return checked.value

    def value_of(self, node: Node, text: str, *where: str | int) -> Value:
        """The same for a part of an expression that parse() gave."""
        checked = check_node(node, text, self.scope, self.constant)
        self.wrong(checked.mistakes, *where)
        self._asked.append(f"{text}: {checked.value.type}")
        return checked.value

    def condition(self, text: str, *where: str | int) -> str:
        """Code of an expression that must be true or false."""
        value = self.value(text, *where)
        if value.type not in {BOOL, UNKNOWN}:
            may = ", and it may be missing" if value.type.missing else ""
            self.mistake(f"this must be true or false, and it is {value.type.name}{may}", *where)
        return value.code

    def prove(self, text: str) -> None:
        """From here on only records are left for which `text` is true."""
        self.scope.there |= check(text, self.scope, self.constant).proves

    # naming

    def define(self, name: str, value: Value, *where: str | int) -> None:
        """Name a field for the steps that follow."""
        if not is_word(name):
            self.mistake(f"{name!r} cannot name a field: use letters, digits and _", *where)
        elif name in self.scope.built_in:
            self.mistake(f"`{name}` is built in and cannot be set", *where)
        else:
            self.scope.define(name, value)
            self.changed = True

    def constant(self, thing: object) -> str:
        """Bind an object; generated code reads it by the name this gives."""
        name = f"c{len(self.namespace)}"
        self.namespace[name] = thing
        return name

    def local(self) -> str:
        """A new name."""
        self._names += 1
        return f"v{self._names}"

    # writing

    def write(self, line: str, *where: str | int) -> None:
        """One line of the loop; a failure in it is reported as of this step, at `where` in its options."""
        self.stage.lines.append(("    " * self._indent + line, label((*self.at, *where))))

    @contextlib.contextmanager
    def block(self, head: str, *where: str | int) -> Iterator[None]:
        """`if …:`, `else:` and so on, with what is written inside."""
        self.write(head, *where)
        self._indent += 1
        yield
        self._indent -= 1

    def assign(self, value: Value, *where: str | int) -> Value:
        """Put a value into a local, within the bounds of its type, so that it can be kept and sent."""
        if value.sound and (value.code.isidentifier() or value.literal is not None):
            return value
        name, kind = self.local(), value.type
        self.write(f"{name} = {value.code}", *where)
        if not value.sound:
            test, error = _BOUNDS.get(kind.name, ("", ""))
            if test:
                there = f"{name} is not None and " if kind.missing else ""
                self.write(f"if {there}{test.format(name)}: raise {error}", *where)
        return Value(name, kind, True)

    def count(self, counter: str, *where: str | int) -> None:
        """Count this record under a name of the pipeline's stats()."""
        local = self.stage.counted.setdefault(counter, f"n_{len(self.stage.counted)}")
        self.write(f"{local} += 1", *where)

    # state

    def state(self, state: State) -> str:
        """Add a state, and give the name that code reaches it by."""
        self.states.append(state)
        return self.constant(state)

    def begin_step(self, at: Where) -> None:
        """What is written from now on belongs to the step that stands there."""
        self.at, self._asked = at, []

    def end_step(self, options: object) -> None:
        """The step is written. What it holds may be taken over by a step that says the same and means the same by it:
        the same options, over fields of the same types, laid out alike, for the same keys and by the same clock.
        """
        meant = [LANGUAGE, self.at[-1], options, self._asked, self._kept_by]
        signature = hashlib.sha256(msgspec.json.encode(meant)).hexdigest()[:16]
        self.held += [Held(label(self.at), signature)] * (len(self.states) - len(self.held))

    def laid_out(self, layout: object) -> None:
        """How what the step keeps is laid out (plain data), where its options and the types of fields do not tell."""
        self._asked.append(repr(layout))

    def timed(self, state: Timed) -> None:
        """This state waits for event time: its fire() is called as the watermark reaches its `due`."""
        self.waiting.append(state)

    def reschedule(self) -> None:
        """To be written after code that may have made a `due` earlier."""
        if len(self.stages) == 1:
            self.write("progress.leave(source, top, seen)")
            self.write("bound, low, wake = progress.plan(source)")

    def cache(self, line: str) -> None:
        """A line such as `lo = hi = 0` that runs before the first record of a batch, and after time has passed."""
        self.stage.caches.append(line)

    # leaving

    def stream(self, name: str) -> str:
        """Name an output stream; gives code for its name."""
        if name not in self.streams:
            self.streams.append(name)
        return self.constant(name)

    def outputs(self, to: str | Sequence[str], *where: str | int) -> list[str]:
        """Name the output streams that stand at `where` in the step's options; gives those that can be."""
        found: dict[str, None] = {}
        named = [(to, where)] if isinstance(to, str) else [(name, (*where, i)) for i, name in enumerate(to)]
        for name, place in named or [("", where)]:
            if not name:
                self.mistake("name a stream, or a list of them", *place)
            elif name in self.inputs:
                message = f"`{name}` is an input of this pipeline: it would feed itself; choose another stream"
                self.mistake(message, *place)
            elif name.startswith("_"):
                self.mistake(f"{name} is the house's own; choose another name", *place)
            else:
                self.stream(name)
                found[name] = None
        return list(found)

    def rows(self, state: Any, stage: Stage) -> None:
        """Start the stage that takes what leaves `state`: its `rows(out, records, *given)` is set to that loop."""
        self.stages.append(stage)
        self.handed.append((state, len(self.stages) - 1))
        self.changed = True

    def shape(self, payload: str) -> None:
        """From here on what is sent is these bytes. Only a step that says where to can follow."""
        self.shaped = self.local()
        self.write(f"{self.shaped} = {payload}")

    def payload(self) -> str:
        """Code of what is sent: as it was shaped, or the payload as it came, or every field once one was named."""
        return self.shaped or (self.json(self.everything()) if self.changed else "payload")

    def deliver(self, streams: Sequence[str], key: str) -> None:
        """Send the record as it is now, with code's key. What else becomes of it is the step's to say."""
        payload = self.payload()
        if len(streams) > 1 and not payload.isidentifier():
            self.write(f"x = {payload}")
            payload = "x"
        for name in streams:
            self.write(f"emit({self.stream(name)}, {self.stage.stamp}, {key}, {payload})")

    def leave(self, counter: str = "") -> None:
        """If this step is the last and there is no `to:`, a record that leaves it ends here, counted by that name."""
        self.rest = counter

    def set_aside(self, stream: str) -> None:
        """Send the record to another stream as it came, or a row as it is."""
        name = self.stream(stream)
        if len(self.stages) == 1:
            self.write(f"emit({name}, ts, key, payload)")
        else:
            self.write(f"emit({name}, {self.stage.stamp}, key, {self.json(self.everything())})")

    def everything(self) -> dict[str, Value]:
        """Every field that can be named here."""
        self.scope.used |= set(self.scope.fields)
        found = {write_path(path): value for path, value in self.scope.fields.items()}
        if len(self.stages) == 1:
            return found
        # a row's built-in facts, such as `partial`, are told only where they are true
        built_in = self.scope.built_in
        row = {name: value for name, value in built_in.items() if value.type != BOOL}
        facts = {
            name: Value(f"({value.code} or None)", Type("bool", True), True)
            for name, value in built_in.items()
            if value.type == BOOL
        }
        return {**row, **found, **facts}

    def json(self, values: Mapping[str, Value]) -> str:
        """Code of a JSON object of these values as bytes. What is missing is left out, a time becomes RFC 3339 text."""
        kinds, names, codes = [], {}, []
        for i, (name, value) in enumerate(values.items()):
            code = value.code
            if value.type.name == "time":
                code = f"(None if {code} is None else _time({code}))" if value.type.missing else f"_time({code})"
            kinds.append((f"a{i}", Any, None if value.type.missing else _REQUIRED))
            names[f"a{i}"] = name
            codes.append(code)
        try:
            row = msgspec.defstruct("Row", kinds, rename=names, gc=False, omit_defaults=True)
        except ValueError:
            self.mistake("a field's name cannot contain a quote, a backslash or a control character")
            return "b''"
        return f"_encode({self.constant(row)}({', '.join(codes)}))"

    # mistakes

    def mistake(self, message: str, *where: str | int, offset: int = 0) -> None:
        """Note what the user should correct, at `where` in the step's options."""
        self.mistakes.append(Mistake((*self.at, *where), message, offset))

    def doubt(self, message: str, *where: str | int) -> None:
        """Note what is legal, and yet may not be what was meant: `tidegate check` warns of it."""
        self.doubts.append(Mistake((*self.at, *where), message))

    def wrong(self, mistakes: Sequence[Wrong], *where: str | int) -> None:
        for wrong in mistakes:
            self.mistake(wrong.message, *where, offset=wrong.at)

    def set_key(self, texts: Sequence[object], one: bool, clock: str) -> None:
        """The pipeline's key, from the record's fields. `clock` says by what time everything is kept."""
        self._kept_by = [clock]
        for i, text in enumerate(texts):
            where: Where = ("key",) if one else ("key", i)
            value = self.value(str(text), *where)
            self._kept_by.append(self._asked[-1])
            if value.type not in {STR, INT, BOOL, UNKNOWN}:
                hint = "; give it a default" if value.type.missing else ""
                self.mistake(f"a key is text, a whole number or true/false, and this is {value.type}{hint}", *where)
            conversion = {INT: "str({})", BOOL: "_bool({})"}.get(value.type, "{}")
            self._key_parts.append(value._replace(code=conversion.format(value.code)))
        if [part.code for part in self._key_parts] == ["key"]:
            self._key_parts = []


_REQUIRED = object()  # the default of what is always there: nothing is equal to it, so nothing is left out
_BOUNDS = {
    "float": ("{0} - {0} != 0.0", "NotFinite"),
    "int": (f"not {-INT_MAX - 1} <= {{0}} <= {INT_MAX}", "TooLarge"),
    "str": (f"len({{0}}) > {MAX_TEXT}", "TooLong"),
    "time": (f"not 0 <= {{0}} <= {LAST_SECOND}000000000", "Reject('the time is before 1970 or after 2262')"),
}


def label(where: Where) -> str:
    """A path as dead letters show it: steps[1].set.f"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def first_stage(schema: Mapping[Path, fields.Declared]) -> Stage:
    """The loop over the inputs' batches. Its fields are the schema's, its locals `at key payload flag ts`."""
    built_in = {
        "key": Value("key", STR, True),
        "arrival": Value("at", TIME, True),
        "retained": Value("(flag & 1 == 1)", BOOL, True),
    }
    what = "in the schema" if schema else "in the schema, which declares none: write for example `schema: {v: float}`"
    scope = Scope(fields.values(schema), built_in, what)
    return Stage(scope, each="at, key, payload", given=(), event="ts", stamp="ts", touch="at")


class Clockwork:
    """How the first stage tells the time."""

    def __init__(self, event: str | None, max_ahead: int, when: Callable[[str | float], int]) -> None:
        self.event = event  # code of the event time, or None for the arrival
        self.max_ahead, self.when = max_ahead, when


def assemble(
    code: Code, schema: Mapping[Path, fields.Declared], clock: Clockwork, progress: Progress
) -> tuple[str, dict[int, str], dict[str, Any]]:
    """The source of all stages, which step each of its lines belongs to, and the namespace to run it in."""
    lines: list[tuple[str, str]] = []
    for number, stage in enumerate(code.stages):
        lines += _first(code, schema, clock) if number == 0 else _later(stage, number)
    code.namespace |= {"progress": progress, "_when": clock.when, "_slash": "/"}
    code.namespace["_encode"] = msgspec.json.Encoder().encode
    source = "".join(line + "\n" for line, _ in lines)
    return source, {i: where for i, (_, where) in enumerate(lines, 1)}, code.namespace


def _first(code: Code, schema: Mapping[Path, fields.Declared], clock: Clockwork) -> list[tuple[str, str]]:
    stage, timed = code.stages[0], bool(code.waiting)
    used = [(schema[path], f"f{i}") for i, path in enumerate(schema) if path in stage.scope.used]
    decoded = fields.shape(used, "r", code.constant)
    code.namespace["Payload"] = decoded.type
    record: list[tuple[str, str]] = []
    if timed:
        record += [
            ("if not low <= at < wake:", "time"),
            ("    bound, low, wake = progress.silence(source, at, top, seen, out)", "time"),
            ("    seen = -1", "time"),  # told; it must not be told again as news
            *((f"    {cache}", "time") for cache in stage.caches),
        ]
    if used:
        record.append((f"if len(payload) > {MAX_PAYLOAD}: raise PayloadTooLong", "decode"))
        record.append(("r = decode(payload)", "decode"))
        record += [(line, label(("schema", name))) for line, name in decoded.lines]
    record.append((f"ts = {clock.event or 'at'}", "time.event"))
    ahead = f"if ts > at + {clock.max_ahead} and at > {CLOCK_SET}: raise TooFarAhead(ts, at)" if clock.event else ""
    if timed:
        record += [
            ("if ts > top:", "time"),
            *([(f"    {ahead}", "time.max_ahead")] if ahead else []),
            ("    top = ts", "time"),
            ("    if at > seen: seen = at", "time"),
            ("    if ts >= bound:", "time"),
            ("        bound, low, wake = progress.reach(source, top, seen, out)", "time"),
            *((f"        {cache}", "time") for cache in stage.caches),
            ("elif at > seen: seen = at", "time"),
        ]
    elif ahead:
        record.append((ahead, "time.max_ahead"))
    body = [*record, *stage.lines]
    flags = "retained" in stage.scope.asked
    columns = "times, keys, left" + ", batch.flags or bytes(len(values))" * flags
    enter = ["seen = -1", "top, bound, low, wake = progress.enter(source, times[0])"] if timed else []
    return [
        ("def stage0(batch, out, source, decode):", ""),
        *_indented(1, ["emit = out.emit", "times = batch.times", "keys = batch.keys", "values = batch.values"]),
        *_indented(1, ["left = iter(values)", f"records = zip({columns})", *enter, *stage.caches]),
        *_indented(1, [f"{local} = 0" for local in stage.counted.values()]),
        *_indented(1, ["while True:", "    try:"]),
        *_indented(3, [f"for {stage.each}{', flag' * flags} in records:"]),
        *[("    " * 4 + line, where) for line, where in body],
        # One bad record must not stop the stream, and what decoding alone can raise is a long list.
        *_indented(1, ["        break", "    except Exception as error:"]),
        # zip() took as many values as it took records, so the iterator knows where we are, at no cost per record
        *_indented(3, ["failed(error, batch, len(values) - left.__length_hint__() - 1, out)"]),
        *_indented(1, ["progress.leave(source, top, seen)"] if timed else []),
        *_counts(stage),
    ]


def _later(stage: Stage, number: int) -> list[tuple[str, str]]:
    given = "".join(f", {name}" for name in stage.given)
    return [
        (f"def stage{number}(out, rows{given}):", ""),
        *_indented(1, ["emit = out.emit", "rows = iter(rows)", *stage.caches]),
        *_indented(1, [f"{local} = 0" for local in stage.counted.values()]),
        *_indented(1, ["while True:", "    try:"]),
        *_indented(3, [f"for {stage.each} in rows:"]),
        *[("    " * 4 + line, where) for line, where in stage.lines],
        *_indented(1, ["        break", "    except Exception as error:"]),
        *_indented(3, [f"row_failed(error, key, {stage.stamp}, {stage.evidence}, out)"]),
        *_counts(stage),
    ]


def _counts(stage: Stage) -> list[tuple[str, str]]:
    return _indented(1, [f"counts[{counter!r}] += {local}" for counter, local in stage.counted.items()])


def _indented(depth: int, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [("    " * depth + line, "") for line in lines]
