"""From payloads to the schema they have: what `tidegate sniff` proposes.

Every payload adds to what is known of its fields; a proposal says of each what it is, in the words of the language, so
that it can be pasted and every payload that was seen decodes. What the language cannot reach (lists, fields that are
text now and a number then) is left out, and said.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pipelines.language.fields import declared
from pipelines.language.parse import Path, Wrong, is_word, write_path
from pipelines.language.runtime import INT_MAX, MAX_TEXT, Reject, reader_of_times

MOST_FIELDS = 64  # of a proposal; twice as many are looked at
DEEPEST = 8
MOST_TEXTS = 8  # different texts of a field that are remembered
LONGEST_NAME = 200  # characters of a path
LONGEST_TEXT = 24  # characters of a text that is shown
BUILT_IN = {
    "key",
    "arrival",
    "retained",
    "payload",
}  # names that mean something else in an expression
AHEAD_NS = 30_000_000_000  # a clock that is further ahead would make dead letters soon (`max_ahead`)
CLOSE_NS = 600_000_000_000  # what a time that is text is off its arrival at most where its zone is right
NEAR_NS = 2 * 86_400_000_000_000  # what a number is off its arrival at most to be taken for a time
PLAUSIBLE = 1_262_304_000_000_000_000, 4_102_444_800_000_000_000  # 2010 to 2100, for numbers with a telling name

Readers = tuple[Callable[[str | float], int], ...]  # of times that are text, by zone

_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_TELLING = re.compile(r"(?i)(^|[^a-z])(ts|at)$|time|date|stamp|epoch")
_WORDS = {
    "int": "a number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "list": "a list",
}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*")
_NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # what some YAML reads as no text


class Proposal(NamedTuple):
    """A schema that fits, and what there is to say about it."""

    schema: dict[str, str]  # field as the language writes it -> its type
    comments: dict[str, str]  # field -> what was seen of it
    event: str | None  # the field that can tell the time
    zone: str | None  # of times that are text without one
    notes: list[str]  # what was left out and why

    def yaml(self) -> str:
        """`schema:` and `time:` to be pasted into a pipeline."""
        lines = ["schema:" if self.schema else "schema: {}"]
        told = {_quoted(name): kind for name, kind in self.schema.items()}
        width = max((len(name) + len(kind) for name, kind in told.items()), default=0)
        for (name, kind), comment in zip(told.items(), map(self.comments.get, self.schema), strict=True):
            space = " " * (width - len(name) - len(kind))
            lines.append(f"  {name}: {kind}" + (f"{space}  # {comment}" if comment else ""))
        said = {"event": self.event, "zone": self.zone}
        if parts := [f"{option}: {_quoted(value)}" for option, value in said.items() if value is not None]:
            lines.append(f"time: {{{', '.join(parts)}}}")
        return "\n".join(lines) + "\n"


class Inference:
    """What is known of the fields of payloads. Bounded, whatever the payloads are."""

    def __init__(self, zone: str = "UTC") -> None:
        self.zone = zone  # what times that are text without a zone are taken to be of: an IANA name
        self.payloads = 0
        self._readers = (reader_of_times(ZoneInfo(zone)), reader_of_times(UTC))
        self._fields: dict[Path, _Field] = {}
        self._crowded = False  # there were more fields than are looked at

    def add(self, payload: Mapping[str, object], arrival: int) -> None:
        """One decoded payload, and when it arrived (ns)."""
        self.payloads += 1
        for path, value in _walk(payload, ()):
            field = self._field(path)
            if field is not None:
                field.add(value, arrival, self._readers)

    def _field(self, path: Path) -> "_Field | None":
        field = self._fields.get(path)
        if field is None:
            if len(self._fields) >= 2 * MOST_FIELDS:
                self._crowded = True
                return None
            field = self._fields[path] = _Field()
        return field

    def merge(self, other: "Inference") -> None:
        """Add all that another one knows."""
        self.payloads += other.payloads
        self._crowded |= other._crowded
        for path, theirs in other._fields.items():
            field = self._field(path)
            if field is not None:
                field.merge(theirs)

    def fits(self, other: "Inference") -> bool:
        """Whether both may well be one kind of payload: most fields are the same, and none is something else."""
        mine, theirs = self._fields.keys(), other._fields.keys()
        both = mine & theirs
        if 2 * len(both) < len(mine | theirs):
            return False
        return all(_together(self._fields[path].kinds | other._fields[path].kinds) for path in both)

    def propose(self) -> Proposal:
        """The schema of everything that was added."""
        schema: dict[str, str] = {}
        comments: dict[str, str] = {}
        notes: list[str] = []
        times: list[tuple[int, Path]] = []
        naive: list[_Field] = []
        ahead: list[str] = []
        zone, fits = self._zone()
        for path, field in self._fields.items():
            if any(self._fields[path[:i]].kinds - {"object", "null"} for i in range(1, len(path))):
                continue  # inside of something that is not always an object
            name = write_path(path)
            if why := field.unsayable() or _unsayable(path):
                if why != "nothing":
                    notes.append(f"{_named(name)} is left out: {why}")
                continue
            if len(schema) >= MOST_FIELDS:
                self._crowded = True
                break
            always = field.count == self.payloads
            kind, unit = field.type(_telling(path))
            comment = field.comment(kind, unit)
            if not always:
                comment = f"in {max(round(100 * field.count / self.payloads), 1)} %{'; ' if comment else ''}{comment}"
            if reach(path) != name:
                comment += f"{'; ' if comment else ''}in expressions {reach(path)}"
            schema[name] = kind + ("" if always else "?")
            comments[name] = comment
            if kind.startswith("time"):
                if unit == "text" and field.naive:
                    naive.append(field)
                    unit = "UTC" if zone == "UTC" else unit
                if always:
                    times.append((len(path), path))
                    if field.ahead.get(unit, 0) > AHEAD_NS:
                        ahead.append(name)
        usable = [path for _, path in sorted(times, key=lambda one: one[0]) if write_path(path) not in ahead]
        event = reach(usable[0]) if usable else None
        notes += [f"{_named(name)} runs ahead of our clock, so it is not proposed as the event time" for name in ahead]
        if self._crowded:
            notes.append(f"there are more than {len(schema)} fields; the others are left out")
        if naive:
            doubt = "" if fits else "; correct `zone:` if the device differs"
            notes.append(f"times without a zone {'fit' if fits else 'are taken to be of'} {zone}{doubt}")
        return Proposal(schema, comments, event, zone if naive else None, notes)

    def _zone(self) -> tuple[str, bool]:
        """The zone of times that have none, ours or UTC; and whether it brings them close to their arrival."""
        naive = [field for field in self._fields.values() if field.timely and field.naive]
        for zone, label in ((self.zone, "text"), ("UTC", "UTC")):
            if naive and all(field.off[label] <= CLOSE_NS for field in naive):
                return zone, True
        return self.zone, False


def reach(path: Path) -> str:
    """A field's path as an expression."""
    other = path[0] in BUILT_IN or (len(path) == 1 and not is_word(path[0]))
    return f"payload.{write_path(path)}" if other else write_path(path)


class _Field:
    """What is known of one field."""

    __slots__ = (
        "ahead",
        "count",
        "high",
        "kinds",
        "longest",
        "low",
        "naive",
        "near",
        "off",
        "plausible",
        "texts",
        "timely",
    )

    def __init__(self) -> None:
        self.count = 0  # payloads that have it, and not as null
        self.kinds: set[str] = set()
        self.low, self.high = math.inf, -math.inf  # of all numbers
        self.near, self.plausible = set(_UNITS), set(_UNITS)  # units in which all numbers are times: just now, our days
        self.longest = 0  # characters of the longest text
        self.texts: dict[str, None] = {}  # the first few texts; one more than MOST_TEXTS: there are many
        self.timely = True  # every text is a time …
        self.naive = False  # … and some has no zone
        # by unit, by `text` in our zone and by `UTC`: how far a time was ahead of its arrival, or off it, at most (ns)
        self.ahead: dict[str, int] = {}
        self.off: dict[str, int] = {}

    def add(self, value: object, arrival: int, readers: Readers) -> None:
        kind = _kind(value)
        self.kinds.add(kind)
        self.count += kind != "null"
        if isinstance(value, str):
            self._add_text(value, arrival, readers)
        elif kind in {"int", "float"}:
            assert isinstance(value, int | float)
            self._add_number(value, arrival)

    def _add_number(self, value: float, arrival: int) -> None:
        self.low, self.high = min(self.low, value), max(self.high, value)
        for unit in tuple(self.plausible):
            time = int(value * _UNITS[unit]) if 0 < value < INT_MAX else 0
            if not PLAUSIBLE[0] <= time <= PLAUSIBLE[1] or (unit == "ns" and isinstance(value, float)):
                self.plausible.discard(unit)
                self.near.discard(unit)
            else:
                if abs(time - arrival) > NEAR_NS:
                    self.near.discard(unit)
                self.ahead[unit] = max(self.ahead.get(unit, 0), time - arrival)

    def _add_text(self, value: str, arrival: int, readers: Readers) -> None:
        self.longest = max(self.longest, len(value))
        if len(self.texts) <= MOST_TEXTS:
            self.texts[value[: LONGEST_TEXT + 1]] = None
        if self.timely:
            self.timely = len(value) <= 64 and _ISO.match(value) is not None
        if self.timely:
            try:
                times = [when(value) for when in readers]
            except Reject:
                self.timely = False
                return
            self.naive |= datetime.fromisoformat(value).tzinfo is None
            for label, time in zip(("text", "UTC"), times, strict=True):
                self.ahead[label] = max(self.ahead.get(label, 0), time - arrival)
                self.off[label] = max(self.off.get(label, 0), abs(time - arrival))

    def merge(self, other: "_Field") -> None:
        self.count += other.count
        self.kinds |= other.kinds
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.near &= other.near
        self.plausible &= other.plausible
        self.longest = max(self.longest, other.longest)
        for text in other.texts:
            if len(self.texts) <= MOST_TEXTS:
                self.texts[text] = None
        self.timely &= other.timely
        self.naive |= other.naive
        for mine, theirs in ((self.ahead, other.ahead), (self.off, other.off)):
            for unit, span in theirs.items():
                mine[unit] = max(mine.get(unit, 0), span)

    def unsayable(self) -> str:
        """Why no schema can have this field; empty if one can. `nothing` where nobody misses it."""
        kinds = self.kinds - {"null"}
        if kinds == {"object"}:
            return "nothing"  # its fields stand for it
        if not kinds:
            return "it was always null"
        if kinds == {"list"}:
            return "it is a list, and there are no lists in the language"
        if "huge" in kinds:
            return "some of its numbers are too large"
        if "deep" in kinds:
            return "what it holds is nested too deeply"
        if not _together(kinds):
            return f"it is {' and sometimes '.join(dict.fromkeys(_WORDS[kind] for kind in sorted(kinds)))}"
        if self.longest > MAX_TEXT:
            return f"some of its texts have more than {MAX_TEXT} characters"
        return ""

    def type(self, telling: bool) -> tuple[str, str]:
        """Its type in the words of the language, and the unit of a time: s, ms, us, ns, or `text`."""
        kinds = self.kinds - {"null"}
        if kinds == {"str"}:
            return ("time", "text") if self.timely else ("str", "")
        if kinds == {"bool"}:
            return "bool", ""
        for unit in self.near or (self.plausible if telling else ()):
            return ("time" if unit == "s" else f"time[{unit}]"), unit
        return ("int" if kinds == {"int"} else "float"), ""

    def comment(self, kind: str, unit: str) -> str:
        """What was seen of it."""
        if kind.startswith("time"):
            text = "ISO-8601 without a zone" if self.naive else "ISO-8601"
            return {"text": text, "s": "seconds since 1970"}.get(unit, f"{unit} since 1970")
        if kind in {"int", "float"}:
            return f"{self.low:.6g}" if self.low == self.high else f"{self.low:.6g} to {self.high:.6g}"
        if kind == "str":
            few = len(self.texts) <= MOST_TEXTS and self.count >= 2 * len(self.texts)
            return " or ".join(map(_shown, self.texts)) if few else f"as {_shown(next(iter(self.texts)))}"
        return ""


def _walk(value: Mapping[str, object], path: Path) -> Iterator[tuple[Path, object]]:
    """Every field, objects before what is in them."""
    for name, inner in value.items():
        here = (*path, name)
        deep = isinstance(inner, Mapping) and len(here) >= DEEPEST
        yield here, _DEEP if deep else inner
        if isinstance(inner, Mapping) and not deep:
            yield from _walk(inner, here)


_DEEP = object()


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if -INT_MAX - 1 <= value <= INT_MAX else "huge"
        case float():
            return "float" if math.isfinite(value) else "huge"
        case str():
            return "str"
        case Mapping():
            return "object"
        case _:
            return "deep" if value is _DEEP else "list"


def _together(kinds: set[str]) -> bool:
    """Whether one type can be all of these."""
    return len(kinds - {"null"}) <= 1 or kinds <= {"int", "float", "null"}


def _unsayable(path: Path) -> str:
    """Why a field of this name cannot be written; empty if it can."""
    if sum(map(len, path)) > LONGEST_NAME:
        return "its name is too long"
    if not all(part.isprintable() for part in path):
        return "its name holds what cannot be printed"
    try:
        declared(write_path(path), "str")
    except Wrong as wrong:
        return wrong.message
    return ""


def _telling(path: Path) -> bool:
    return _TELLING.search(path[-1]) is not None


def _shown(text: str) -> str:
    """A text from outside, short and without anything that does not print."""
    short = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    return repr(short)


def _named(name: str) -> str:
    """A field's name in a sentence."""
    return name if name.isprintable() and len(name) <= 80 else repr(name)[:80]


def _quoted(text: str) -> str:
    """A scalar of YAML."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    return json.dumps(text, ensure_ascii=False)
