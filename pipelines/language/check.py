"""The types of the language: every expression is checked when it is loaded, and becomes code that needs no checking.

The types are int (64 bits), float, str, bool and time, each of them possibly missing (`?`). int widens to float, `/` is
always float, nothing else is converted unasked. A value that may be missing enters no operator until has() has proven
it there or default() has replaced it; so nothing is missing silently. All mistakes of an expression are found: one that
has no type is `UNKNOWN`, and nothing more is said about what is built upon it.

Generated code consists of our templates, of names we made, and of numbers; a text literal becomes a constant by name.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipelines.language import runtime
from pipelines.language.parse import (
    Binary,
    Call,
    Choice,
    Compare,
    Field,
    Literal,
    Logic,
    Node,
    Path,
    Unary,
    Wrong,
    parse,
    write_path,
)


class Type(NamedTuple):
    name: str
    missing: bool = False  # may be missing

    def __str__(self) -> str:
        return self.name + "?" * self.missing

    @property
    def number(self) -> bool:
        return self.name in {"int", "float"}


INT, FLOAT, STR, BOOL, TIME = map(Type, ("int", "float", "str", "bool", "time"))
UNKNOWN = Type("unknown")


class Value(NamedTuple):
    """An expression ready to be written into generated code: an atom or in parentheses, and its type.

    `sound`: it is known to be in the bounds of its type, as a field that was decoded is and a product is not.
    """

    code: str
    type: Type
    sound: bool = False
    literal: int | float | str | bool | None = None


class Scope:
    """The fields that can be named at one place, and which of those that may be missing are proven to be there."""

    def __init__(self, fields: Mapping[Path, Value], built_in: Mapping[str, Value], what: str) -> None:
        self.fields = dict(fields)
        self.built_in = built_in
        self.what = what  # for messages: whose fields these are
        self.used: set[Path] = set()  # fields
        self.asked: set[str] = set()  # built-in names
        self.there: frozenset[Path] = frozenset()
        self.partial = False  # a step that names fields has a mistake: one that is not known here may be one of its

    def find(self, path: Path) -> tuple[Path, Value] | None:
        """The field that `path` names: as it stands, or without the word `payload` in front."""
        if len(path) == 1 and path[0] in self.built_in:
            self.asked.add(path[0])
            return path, self.built_in[path[0]]
        for name in (path, path[1:]):
            if name in self.fields:
                self.used.add(name)
                return name, self.fields[name]
            if path[0] != "payload":
                break
        return None

    def define(self, name: str, value: Value) -> None:
        """Name a new field, or give a new meaning to an old one."""
        self.fields[(name,)] = value
        self.there -= {(name,)}

    def names(self) -> list[str]:
        return [*map(write_path, self.fields), *self.built_in]


class Checked(NamedTuple):
    """What an expression came to: its value, and the fields proven to be there where it is true."""

    value: Value
    proves: frozenset[Path]
    mistakes: tuple[Wrong, ...]


def check(text: str, scope: Scope, constant: Callable[[object], str]) -> Checked:
    """Check one expression. `constant` binds an object and gives the name that generated code reads it by."""
    try:
        node = parse(text)
    except Wrong as wrong:
        return Checked(_NOTHING, frozenset(), (wrong,))
    return check_node(node, text, scope, constant)


def check_node(node: Node, text: str, scope: Scope, constant: Callable[[object], str]) -> Checked:
    """Check a part of an expression that was parsed already."""
    checker = _Checker(text, scope, constant)
    value = checker.value(node)
    return Checked(value, checker.proofs(node, True), tuple(checker.mistakes))


def widened(value: Value, kind: Type) -> Value:
    """An int as the float it stands for, where `kind` is float; everything else as it is."""
    if kind.name != "float" or value.type.name != "int":
        return value
    if value.literal is not None:
        return Value(repr(float(value.literal)), FLOAT, True)
    code = f"float({value.code})"
    if value.type.missing:
        code = f"(None if {value.code} is None else {code})"
    return Value(code, Type("float", value.type.missing), True)


FEW = 8  # names that one reads in a message


def alike(words: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or nothing."""
    import difflib  # only somebody who made a mistake needs it

    names = list(known)
    close = [_MEANT[words]] if _MEANT.get(words) in names else difflib.get_close_matches(words, names, 1, 0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def nearest(words: str, known: Iterable[str]) -> str:
    """As alike(), else up to three names of which a word begins as this one does: `latitude` for `lat`."""
    names = list(known)
    begin = words.lower().partition("_")[0]
    if hint := alike(words.lower(), names):
        return hint
    akin = [name for name in names if len(begin) > 2 and any(word.startswith(begin) for word in name.split("_"))]
    return f"; did you mean {' or '.join(f'`{name}`' for name in akin[:3])}?" if akin else ""


def few(names: Iterable[str]) -> str:
    """At most FEW names, for a message."""
    found = list(names)
    return ", ".join(found[:FEW]) + (f" and {len(found) - FEW} more" if len(found) > FEW else "")


_NOTHING = Value("None", UNKNOWN, True)


class _Function(NamedTuple):
    """A function that only needs its arguments' types: `number` is int or float, `any` everything."""

    takes: tuple[str, ...]
    gives: Type
    code: str
    sound: bool = False


_FUNCTIONS = {
    "sqrt": _Function(("number",), FLOAT, "_sqrt({0})", True),
    "log": _Function(("number",), FLOAT, "_log({0})", True),
    "floor": _Function(("number",), INT, "_floor({0})"),
    "ceil": _Function(("number",), INT, "_ceil({0})"),
    "pow": _Function(("number", "number"), FLOAT, "_pow({0}, {1})"),
    "len": _Function(("str",), INT, "len({0})", True),
    "lower": _Function(("str",), STR, "{0}.lower()"),
    "upper": _Function(("str",), STR, "{0}.upper()"),
    "startswith": _Function(("str", "str"), BOOL, "{0}.startswith({1})"),
    "endswith": _Function(("str", "str"), BOOL, "{0}.endswith({1})"),
    "contains": _Function(("str", "str"), BOOL, "({1} in {0})"),
    "replace": _Function(("str", "str", "str"), STR, "_replace({0}, {1}, {2})"),
    "is_number": _Function(("str",), BOOL, "_is_number({0})", True),
    "int": _Function(("number or str",), INT, "_int({0})", True),
    "float": _Function(("number or str",), FLOAT, "_float({0})", True),
}
_SPECIAL = ("abs", "round", "min", "max", "clamp", "str", "glob", "has", "default", "when", "one_of", "topic_part")
FUNCTIONS = (*_FUNCTIONS, *_SPECIAL)
_AGGREGATES = ("count", "sum", "mean", "first", "last", "stddev", "p50", "p90", "p95", "p99", "avg", "median")
_MEANT = {"avg": "mean", "average": "mean", "median": "p50"}  # what others call it -> what it is called here
_TEXT_OF = {"int": "str({0})", "float": "repr({0})", "bool": "_bool({0})", "time": "_time({0})", "str": "{0}"}
_WRITES = {  # what a function is written like, for messages
    "abs": "abs(x)",
    "round": "round(x) or round(x, digits)",
    "min": "min(a, b, …)",
    "max": "max(a, b, …)",
    "clamp": "clamp(x, low, high)",
    "str": "str(x)",
    "glob": "glob(text, 'pattern*')",
    "has": "has(field)",
    "default": "default(field, value)",
    "when": "when(condition, value)",
    "one_of": "one_of(x, 'a', 'b', …)",
    "topic_part": "topic_part(n)",
}

# the names by which generated code reaches the runtime
NAMESPACE: dict[str, object] = {
    "_sqrt": math.sqrt,
    "_log": math.log,
    "_floor": math.floor,
    "_ceil": math.ceil,
    "_pow": math.pow,
    "_int": runtime.to_int,
    "_float": runtime.to_float,
    "_bool": runtime.text_of_bool,
    "_time": runtime.text_of_time,
    "_part": runtime.part,
    "_replace": runtime.replace,
    "_is_number": runtime.is_number,
    "_span": runtime.span_ns,
    "Reject": runtime.Reject,
    "NotFinite": runtime.NotFinite,
    "TooLarge": runtime.TooLarge,
    "TooLong": runtime.TooLong,
    "PayloadTooLong": runtime.PayloadTooLong,
    "TooFarAhead": runtime.TooFarAhead,
}


class _Checker:
    """One walk over one tree. A method per kind of node; each gives the node's value and notes mistakes."""

    def __init__(self, text: str, scope: Scope, constant: Callable[[object], str]) -> None:
        self.text, self.scope, self.constant = text, scope, constant
        self.there = scope.there
        self.mistakes: list[Wrong] = []

    def wrong(self, node: Node, message: str) -> Value:
        self.mistakes.append(Wrong(message, node.at))
        return _NOTHING

    def quoted(self, node: Node) -> str:
        text = self.text[node.at : node.end]
        return f"`{text}`" if len(text) <= 40 else f"`{text[:37]}…`"

    def value(self, node: Node) -> Value:
        match node:
            case Literal():
                return self.literal(node)
            case Field():
                return self.field(node)
            case Unary():
                return self.unary(node)
            case Binary():
                return self.binary(node)
            case Compare():
                return self.compare(node)
            case Logic():
                return self.logic(node)
            case Choice():
                return self.choice(node)
            case Call():
                return self.call(node)

    def literal(self, node: Literal) -> Value:
        kind = Type(type(node.value).__name__)
        code = self.constant(node.value) if kind == STR else repr(node.value)
        return Value(code, kind, True, node.value)

    def field(self, node: Field) -> Value:
        found = self.scope.find(node.path)
        if found is None:
            if self.scope.partial:
                return _NOTHING
            written = write_path(node.path)
            if len(node.path) == 1 and (written in FUNCTIONS or written in _AGGREGATES):
                return self.wrong(node, f"`{written}` is a function; write {_WRITES.get(written, written + '(…)')}")
            if written.lower() in {"true", "false"}:
                return self.wrong(node, f"write `{written.lower()}`, in lower case")
            return self.wrong(node, f"no field `{written}` {self.scope.what}{self.declared(written)}")
        path, value = found
        if value.type.missing and path in self.there:
            return value._replace(type=Type(value.type.name))
        return value

    def declared(self, written: str) -> str:
        """What to try instead of a field there is not: one that is spelled alike, or a line in the schema."""
        close = alike(written, self.scope.names())
        if self.scope.what != "in the schema":
            return close
        return f", which declares {few(map(write_path, self.scope.fields))}{close or '; declare it in `schema:`'}"

    def needs(self, node: Node, what: str, ok: Callable[[Type], bool], wanted: str) -> Value:
        """The value of `node`, which must be there and of a type that `what` can take."""
        value = self.value(node)
        if value.type == UNKNOWN:
            return value
        if value.type.missing:
            name = self.quoted(node)[1:-1]
            hint = f"write default({name}, …), or ask has({name}) first"
            if not isinstance(node, Field):
                hint = "name it in a `set` step first, then ask has() of that name, or replace it with default()"
            return self.wrong(node, f"{self.quoted(node)} may be missing, and {what} needs it: {hint}")
        if not ok(value.type):
            return self.wrong(node, f"{what} needs {wanted}, and {self.quoted(node)} is {value.type}")
        return value

    def number(self, node: Node, what: str) -> Value:
        return self.needs(node, what, lambda kind: kind.number, "numbers")

    def condition(self, node: Node, what: str) -> Value:
        value = self.needs(node, what, lambda kind: True, "")
        if value.type in {UNKNOWN, BOOL}:
            return value
        example = f"{self.quoted(node)[1:-1]} != {'0' if value.type.number else chr(39) * 2}"
        hint = f"; to compare it, write for example {example}" if value.type.number or value.type == STR else ""
        return self.wrong(node, f"{what} needs true or false, and {self.quoted(node)} is {value.type}{hint}")

    def unary(self, node: Unary) -> Value:
        if node.op == "not":
            value = self.condition(node.operand, "`not`")
            return Value(f"(not {value.code})", BOOL, True)
        value = self.number(node.operand, f"`{node.op}`")
        if value.type == UNKNOWN or node.op == "+":
            return value
        if value.literal is not None:
            return Value(f"({-value.literal!r})", value.type, True, -value.literal)  # type: ignore[operator]
        return Value(f"(-{value.code})", value.type, value.sound and value.type == FLOAT)

    def binary(self, node: Binary) -> Value:
        op = node.op
        left, right = (self.needs(side, f"`{op}`", lambda kind: True, "") for side in (node.left, node.right))
        a, b = left.type, right.type
        if UNKNOWN in {a, b}:
            return _NOTHING
        code = f"({left.code} {op} {right.code})"
        if a.number and b.number:
            return Value(code, INT if a == b == INT and op != "/" else FLOAT)
        if op == "+" and a == b == STR:
            return Value(code, STR)
        if op == "-" and a == b == TIME:
            return Value(f"(({left.code} - {right.code}) / 1e9)", FLOAT, True)
        if op in {"+", "-"} and a == TIME and b.number:
            return Value(f"({left.code} {op} _span({right.code}))", TIME)
        if op == "+" and a.number and b == TIME:
            return Value(f"({right.code} + _span({left.code}))", TIME)
        hint = ""
        if op == "+" and STR in {a, b}:
            other = node.right if a == STR else node.left
            hint = f"; to join text, write str({self.quoted(other)[1:-1]})"
        elif STR in {a, b} and (a.number or b.number):
            text = node.left if a == STR else node.right
            hint = f"; to read a number from text, write float({self.quoted(text)[1:-1]})"
        return self.wrong(node, f"`{op}` cannot take {a} and {b}{hint}")

    def compare(self, node: Compare) -> Value:
        parts = [self.needs(part, f"`{node.ops[0]}`", lambda kind: True, "") for part in node.parts]
        for i, op in enumerate(node.ops):
            a, b = parts[i].type, parts[i + 1].type
            if UNKNOWN in {a, b}:
                continue
            if not (a == b or (a.number and b.number)):
                self.wrong(node.parts[i], f"`{op}` cannot compare {a} with {b}{_comparing(a, b)}")
            elif a == BOOL and op not in {"==", "!="}:
                self.wrong(node.parts[i], f"`{op}` cannot order true and false")
        code = parts[0].code + "".join(f" {op} {part.code}" for op, part in zip(node.ops, parts[1:], strict=True))
        return Value(f"({code})", BOOL, True)

    def logic(self, node: Logic) -> Value:
        before, codes = self.there, []
        for part in node.parts:
            codes.append(self.condition(part, f"`{node.op}`").code)
            # what stands to the right is only asked where the left was true (and) or false (or)
            self.there |= self.proofs(part, node.op == "and")
        self.there = before
        return Value(f"({f' {node.op} '.join(codes)})", BOOL, True)

    def choice(self, node: Choice) -> Value:
        before = self.there
        test = self.condition(node.test, "`if`")
        self.there = before | self.proofs(node.test, True)
        then = self.value(node.then)
        self.there = before | self.proofs(node.test, False)
        other = self.value(node.other)
        self.there = before
        return self.joined(node, then, other, "({} if " + test.code + " else {})")

    def joined(self, node: Node, a: Value, b: Value, code: str) -> Value:
        """Either of two values; they must be of one type, or numbers."""
        if UNKNOWN in {a.type, b.type}:
            return _NOTHING
        if a.type.name != b.type.name and not (a.type.number and b.type.number):
            return self.wrong(node, f"this is either {a.type} or {b.type}; both must be of one type")
        name = a.type.name if a.type.name == b.type.name else "float"
        kind = Type(name, a.type.missing or b.type.missing)
        a, b = widened(a, kind), widened(b, kind)
        return Value(code.format(a.code, b.code), kind, a.sound and b.sound)

    def call(self, node: Call) -> Value:
        if node.name in _SPECIAL:
            made: Value = getattr(self, f"call_{node.name}")(node)
            return made
        function = _FUNCTIONS.get(node.name)
        if function is None:
            for arg in node.args:
                self.value(arg)
            if node.name in _AGGREGATES:
                hint = f", as {_MEANT[node.name]}(…)" if node.name in _MEANT else ""
                message = f"{node.name}() summarises records; it belongs into the `agg` of a `window`{hint}"
                return self.wrong(node, message)
            if node.name.lower() in {"and", "or", "not"}:
                return self.wrong(node, f"write `{node.name.lower()}`, in lower case")
            return self.wrong(node, f"no function `{node.name}`{alike(node.name, FUNCTIONS)}")
        if len(node.args) != len(function.takes):
            return self.wrong(node, f"{node.name}() takes {_times(len(function.takes))}, not {len(node.args)}")
        args = [
            self.needs(arg, f"{node.name}()", _TAKES[takes], takes)
            for arg, takes in zip(node.args, function.takes, strict=True)
        ]
        if any(arg.type == UNKNOWN for arg in args):
            return _NOTHING
        code = function.code.format(*(arg.code for arg in args))
        return Value(code, function.gives, function.sound and (function.gives == INT or all(arg.sound for arg in args)))

    def arguments(self, node: Call, least: int, most: int) -> bool:
        if least <= len(node.args) <= most:
            return True
        self.wrong(node, f"write {_WRITES[node.name]}")
        return False

    def call_abs(self, node: Call) -> Value:
        if not self.arguments(node, 1, 1):
            return _NOTHING
        value = self.number(node.args[0], "abs()")
        return Value(f"abs({value.code})", value.type, value.sound and value.type == FLOAT)

    def call_round(self, node: Call) -> Value:
        if not self.arguments(node, 1, 2):
            return _NOTHING
        value = self.number(node.args[0], "round()")
        if len(node.args) == 1:
            return Value(f"round({value.code})", INT if value.type != UNKNOWN else UNKNOWN)
        digits = node.args[1]
        if not (isinstance(digits, Literal) and type(digits.value) is int and 0 <= digits.value <= 12):
            return self.wrong(digits, "the digits of round() must be a number from 0 to 12, written out")
        return Value(f"round({value.code}, {digits.value})", value.type, value.sound)

    def call_min(self, node: Call) -> Value:
        if not self.arguments(node, 2, 16):
            return _NOTHING
        values = [self.number(arg, f"{node.name}()") for arg in node.args]
        return self.numbers(values, f"{node.name}({', '.join(['{}'] * len(values))})")

    call_max = call_min

    def call_clamp(self, node: Call) -> Value:
        if not self.arguments(node, 3, 3):
            return _NOTHING
        return self.numbers([self.number(arg, "clamp()") for arg in node.args], "min(max({}, {}), {})")

    def numbers(self, values: list[Value], code: str) -> Value:
        """A function of several numbers that gives one of them."""
        kinds = {value.type for value in values}
        if UNKNOWN in kinds:
            return _NOTHING
        kind = INT if kinds == {INT} else FLOAT
        values = [widened(value, kind) for value in values]
        return Value(code.format(*(value.code for value in values)), kind, all(value.sound for value in values))

    def call_str(self, node: Call) -> Value:
        if not self.arguments(node, 1, 1):
            return _NOTHING
        value = self.needs(node.args[0], "str()", lambda kind: True, "")
        if value.type == UNKNOWN:
            return value
        return Value(_TEXT_OF[value.type.name].format(value.code), STR, value.sound)

    def call_glob(self, node: Call) -> Value:
        if not self.arguments(node, 2, 2):
            return _NOTHING
        text, pattern = self.needs(node.args[0], "glob()", _TAKES["str"], "str"), node.args[1]
        if not (isinstance(pattern, Literal) and isinstance(pattern.value, str)):
            return self.wrong(pattern, "the pattern of glob() must be written out, as in glob(unit, 'kW*')")
        matcher = self.constant(runtime.glob(pattern.value))
        return Value(f"({matcher}({text.code}) is not None)", BOOL, True)

    def call_has(self, node: Call) -> Value:
        if not self.arguments(node, 1, 1):
            return _NOTHING
        if not isinstance(node.args[0], Field):
            return self.wrong(node.args[0], "has() asks for a field, as in has(humidity)")
        value = self.field(node.args[0])
        return Value(f"({value.code} is not None)" if value.type.missing else "True", BOOL, True)

    def call_default(self, node: Call) -> Value:
        if not self.arguments(node, 2, 2):
            return _NOTHING
        if not isinstance(node.args[0], Field):
            # the value is written twice into the code, so it must be a name; a `set` step gives one to anything
            self.value(node.args[1])
            return self.wrong(node.args[0], "default() replaces a field; name this value in a `set` step first")
        value, other = self.field(node.args[0]), self.value(node.args[1])
        if not value.type.missing:
            self.joined(node, value, other, "{}{}")  # only to say where the types do not fit
            return value
        there = value._replace(type=Type(value.type.name))
        return self.joined(node, there, other, f"({{}} if {value.code} is not None else {{}})")

    def call_when(self, node: Call) -> Value:
        """The value where the condition is true, else missing: what is made of a `?` field can so be missing, too."""
        if not self.arguments(node, 2, 2):
            return _NOTHING
        before = self.there
        test = self.condition(node.args[0], "when()")
        self.there = before | self.proofs(node.args[0], True)
        value = self.value(node.args[1])
        self.there = before
        if UNKNOWN in {test.type, value.type}:
            return _NOTHING
        return Value(f"({value.code} if {test.code} else None)", Type(value.type.name, True), value.sound)

    def call_one_of(self, node: Call) -> Value:
        if not self.arguments(node, 2, 64):
            return _NOTHING
        value = self.needs(node.args[0], "one_of()", lambda kind: True, "")
        codes = []
        for arg in node.args[1:]:
            choice = self.value(arg)
            if choice.literal is None and choice.type != UNKNOWN:
                self.wrong(arg, "the choices of one_of() must be written out; compare with == instead")
            elif value.type != UNKNOWN and value.type != choice.type and not (value.type.number and choice.type.number):
                self.wrong(arg, f"one_of() cannot compare {value.type} with {choice.type}")
            codes.append(choice.code)
        return Value(f"({value.code} in ({', '.join(codes)},))", BOOL, True)

    def call_topic_part(self, node: Call) -> Value:
        if not self.arguments(node, 1, 1):
            return _NOTHING
        number = self.value(node.args[0])
        if type(number.literal) is not int or abs(number.literal) > 255:
            return self.wrong(node.args[0], "topic_part() counts from 0, as in topic_part(1); -1 is the last part")
        return Value(f"_part({self.scope.built_in['key'].code}, {number.literal})", STR, True)

    def proofs(self, node: Node, truth: bool) -> frozenset[Path]:
        """The fields that must be there where `node` is true (or false)."""
        match node:
            case Call(name="has", args=(Field() as field,)) if truth:
                found = self.scope.find(field.path)
                return frozenset({found[0]}) if found else frozenset()
            case Unary(op="not"):
                return self.proofs(node.operand, not truth)
            case Logic() if truth == (node.op == "and"):
                return frozenset().union(*(self.proofs(part, truth) for part in node.parts))
            case _:
                return frozenset()


_TAKES: dict[str, Callable[[Type], bool]] = {
    "number": lambda kind: kind.number,
    "str": lambda kind: kind == STR,
    "number or str": lambda kind: kind.number or kind == STR,
}


def _times(n: int) -> str:
    return "one value" if n == 1 else f"{n} values"


def _comparing(a: Type, b: Type) -> str:
    if STR in {a, b} and (a.number or b.number):
        return "; to read a number from text, write float(…)"
    if TIME in {a, b} and (a.number or b.number):
        return "; the difference of two times is a number of seconds: arrival - ts > 60"
    return ""
