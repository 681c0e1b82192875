"""The fields a payload is declared to have: how a schema is written, and how its payloads become locals.

    schema:
      v: float                                  # must be there
      humidity: "float? [0..100]"               # may be missing (or null, which is the same); else in this range
      unit: "str = 'C'"                         # what it is where it is missing
      ts: time[ms]                              # ms since 1970; also s, us, ns; plain `time`: ISO-8601 or seconds
      SENSOR.'DS18B20-1'.Temperature: float     # a path

Decoding is checking: msgspec builds a Struct of the fields that are used, and nothing else of the payload is looked at.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from pipelines.language.check import UNKNOWN, Type, Value, alike
from pipelines.language.parse import Literal, Node, Path, Unary, Wrong, parse, parse_path, write_path
from pipelines.language.runtime import INT_MAX, LAST_SECOND, MAX_TEXT

_TYPES = ("int", "float", "str", "bool", "time")
_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_DECLARATION = re.compile(
    r"""\s*(?P<type>\w+) (?:\[(?P<unit>\w+)\])? \s*(?P<missing>\?)?
        \s*(?:\[\s*(?P<low>[^\]]*?)\s*\.\.\s*(?P<high>[^\]]*?)\s*\])?
        \s*(?:=\s*(?P<default>.*?))?\s*""",
    re.VERBOSE | re.DOTALL,
)


class Declared(NamedTuple):
    """One field of a schema."""

    path: Path
    type: Type  # as expressions see it: a field with a default is never missing
    unit: str = ""  # of a time that is a number: s, ms, us, ns; "" where text is understood too
    low: float | None = None
    high: float | None = None
    default: int | float | str | bool | None = None

    @property
    def required(self) -> bool:
        return not self.type.missing and self.default is None


def declared(name: str, text: str) -> Declared:
    """Read one line of a schema. Raises Wrong; its offset counts in `text`, or is -1 where `name` is wrong."""
    try:
        path = parse_path(name)
    except Wrong as wrong:
        raise Wrong(wrong.message, -1) from None
    for part in path:
        if re.search(r'["\\\x00-\x1f]', part):
            raise Wrong("a field's name cannot contain a quote, a backslash or a control character", -1)
    match = _DECLARATION.fullmatch(text)
    if match is None:
        raise Wrong("write a type, as in: float, int?, float [0..200], str = 'C', time[ms]", 0)
    kind, unit, default = match["type"], match["unit"] or "", match["default"]
    if kind not in _TYPES:
        known = {"string": "str", "text": "str", "number": "float", "double": "float", "integer": "int"}
        hint = f"; did you mean `{known[kind]}`?" if kind in known else alike(kind, _TYPES)
        raise Wrong(f"there is no type `{kind}`; there are {', '.join(_TYPES)}{hint}", match.start("type"))
    if unit and (kind != "time" or unit not in _PER_SECOND):
        raise Wrong("a unit belongs to a time: time[s], time[ms], time[us] or time[ns]", match.start("unit"))
    low, high = (_bound(match, side, kind) for side in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise Wrong("this range is empty", match.start("low"))
    if default is not None and match["missing"]:
        raise Wrong("a field with a default is never missing: leave out the `?`", match.start("missing"))
    value = None if default is None else _default(default, kind, match.start("default"))
    return Declared(path, Type(kind, bool(match["missing"])), unit, low, high, value)


def _bound(match: re.Match[str], side: str, kind: str) -> float | None:
    if not match[side]:
        return None
    if kind not in {"int", "float"}:
        raise Wrong(f"a range belongs to a number, and this is {kind}", match.start(side))
    try:
        value = int(match[side]) if kind == "int" else float(match[side])
    except ValueError:
        raise Wrong("write a range as [0..200], [0..] or [..200]", match.start(side)) from None
    if not abs(value) <= (INT_MAX if kind == "int" else sys.float_info.max):
        raise Wrong("this bound is too large", match.start(side))
    return value


def _default(text: str, kind: str, at: int) -> int | float | str | bool:
    try:
        node: Node = parse(text)
    except Wrong as wrong:
        raise Wrong(wrong.message, at + wrong.at) from None
    sign = 1
    if isinstance(node, Unary) and node.op == "-":
        node, sign = node.operand, -1
    value = node.value if isinstance(node, Literal) else None
    if type(value) in {int, float} and kind in {"int", "float"} and (kind == "float" or type(value) is int):
        return (float(value) if kind == "float" else int(value)) * sign  # type: ignore[arg-type]
    if kind == "time":
        raise Wrong("a time has no default; write time? and ask has(x)", at)
    if value is None or type(value).__name__ != kind or sign < 0:
        raise Wrong(f"the default must be {_A[kind]}, written out", at)
    return value


_A = {"int": "a whole number", "float": "a number", "str": "text in quotes", "bool": "true or false"}


class Shape(NamedTuple):
    """What to decode, and the lines that take it apart."""

    type: type[msgspec.Struct]
    lines: list[tuple[str, str]]  # (code, field it is about)


def shape(fields: Iterable[tuple[Declared, str]], record: str, constant: Callable[[object], str]) -> Shape:
    """The Struct of these fields, and the lines that put each into its local. `record` names the decoded Struct.

    `_when` is the name by which the lines reach the reader of times that are text.
    """
    tree = _tree(fields)
    lines: list[tuple[str, str]] = []
    made = _Maker(lines, constant).make(tree, record, 0)
    return Shape(made, lines)


def overlaps(fields: Iterable[Declared]) -> list[tuple[Declared, Declared]]:
    """Pairs of fields of which one lies inside the other: no payload can have both."""
    known = {field.path: field for field in fields}
    return [(known[path[:i]], field) for path, field in known.items() for i in range(1, len(path)) if path[:i] in known]


_HOLDS = {
    "int": ("a whole number", {"int", "float", "time"}),
    "float": ("a number", {"float", "time"}),
    "str": ("text", {"str"}),
    "bool": ("true or false", {"bool"}),
    "object": ("an object", set[str]()),
}


def contradiction(field: Declared, kind: str | None) -> str:
    """Why what a decoder knows to be there, a gateway.plugin.Kind, is never what is declared; empty if it may be."""
    if kind is None or field.type == UNKNOWN:
        return ""
    name, (what, fitting) = write_path(field.path[:1]), _HOLDS[kind]
    if len(field.path) > 1:
        return "" if kind == "object" else f"{name} is {what}, so nothing lies inside it"
    if field.type.name in fitting or (kind == "str" and field.type.name == "time" and not field.unit):
        return ""
    return f"{name} is {what}; write {f'{name}.NAME' if kind == 'object' else f'{name}: {kind}'}"


Tree = dict[str, "Tree | tuple[Declared, str]"]


def _tree(fields: Iterable[tuple[Declared, str]]) -> Tree:
    tree: Tree = {}
    for field, local in fields:
        node: Any = tree
        for name in field.path[:-1]:
            node = node.setdefault(name, {})
        node[field.path[-1]] = (field, local)
    return tree


def _leaves(tree: Tree) -> list[tuple[Declared, str]]:
    found = []
    for child in tree.values():
        found += _leaves(child) if isinstance(child, dict) else [child]
    return found


class _Maker:
    """Builds a Struct per object of the payload, and the lines that read it, outermost first."""

    def __init__(self, lines: list[tuple[str, str]], constant: Callable[[object], str]) -> None:
        self.lines, self.constant = lines, constant
        self.objects = 0

    def make(self, tree: Tree, owner: str, indent: int) -> type[msgspec.Struct]:
        required, optional, names = [], [], {}
        for i, (name, child) in enumerate(tree.items()):
            attribute = f"a{i}"
            names[attribute] = name
            needed = any(field.required for field, _ in _leaves({name: child}))
            if isinstance(child, dict):
                kind = self.object(child, f"{owner}.{attribute}", needed, indent)
            else:
                kind = _annotation(child[0])
                self.leaf(child[0], child[1], f"{owner}.{attribute}", indent)
            if needed:
                required.append((attribute, kind))
            else:
                optional.append((attribute, kind | None, None))
        return msgspec.defstruct("Payload", [*required, *optional], rename=names, gc=False)

    def object(self, tree: Tree, source: str, needed: bool, indent: int) -> Any:
        self.objects += 1
        local = f"n{self.objects}"
        leaves = _leaves(tree)
        self.line(indent, f"{local} = {source}", leaves[0][0])
        if needed:
            return self.make(tree, local, indent)
        self.line(indent, f"if {local} is None:", leaves[0][0])
        for field, name in leaves:
            self.line(indent + 1, f"{name} = {self.fallback(field)}", field)
        self.line(indent, "else:", leaves[0][0])
        return self.make(tree, local, indent + 1)

    def leaf(self, field: Declared, local: str, source: str, indent: int) -> None:
        self.line(indent, f"{local} = {source}", field)
        if field.type.name == "time":
            if not field.required and _TIME[field.unit]:
                self.line(indent, f"if {local} is not None:", field)
                indent += 1
            for code in _TIME[field.unit]:
                self.line(indent, code.format(local), field)
        elif field.default is not None:
            self.line(indent, f"if {local} is None: {local} = {self.fallback(field)}", field)

    def fallback(self, field: Declared) -> str:
        return self.constant(field.default) if isinstance(field.default, str) else repr(field.default)

    def line(self, indent: int, code: str, field: Declared) -> None:
        self.lines.append(("    " * indent + code, write_path(field.path)))


_TIME = {
    # whole seconds are the most frequent, so they are told apart here
    "": ("if type({0}) is int: {0} *= 1000000000", "else: {0} = _when({0})"),
    "s": ("{0} = {0} * 1000000000 if type({0}) is int else round({0} * 1e6) * 1000",),
    "ms": ("{0} = {0} * 1000000 if type({0}) is int else round({0} * 1e3) * 1000",),
    "us": ("{0} = {0} * 1000 if type({0}) is int else round({0}) * 1000",),
    "ns": (),
}


def _annotation(field: Declared) -> Any:
    match field.type.name:
        case "int":
            low = -INT_MAX - 1 if field.low is None else int(field.low)
            high = INT_MAX if field.high is None else int(field.high)
            return Annotated[int, msgspec.Meta(ge=low, le=high)]
        case "float":
            # JSON cannot say nan, other ways of writing can; comparing keeps it out everywhere
            low_f = -sys.float_info.max if field.low is None else float(field.low)
            high_f = sys.float_info.max if field.high is None else float(field.high)
            return Annotated[float, msgspec.Meta(ge=low_f, le=high_f)]
        case "str":
            return Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
        case "bool":
            return bool
        case _:
            top = LAST_SECOND * _PER_SECOND[field.unit or "s"]
            whole = Annotated[int, msgspec.Meta(ge=0, le=top)]
            if field.unit == "ns":
                return whole
            number = whole | Annotated[float, msgspec.Meta(ge=0.0, le=float(top))]
            return number if field.unit else number | Annotated[str, msgspec.Meta(max_length=64)]


def values(schema: Mapping[Path, Declared]) -> dict[Path, Value]:
    """The fields as expressions name them: f0, f1, … in the order of the schema."""
    return {path: Value(f"f{i}", field.type, True) for i, (path, field) in enumerate(schema.items())}
