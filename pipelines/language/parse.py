"""Expression text to a tree. The grammar below is all there is: what it cannot say cannot be asked of a pipeline.

It reads as Python's operators do, with Python's precedence:

    choice  = either ["if" either "else" choice]
    either  = either "or" either | either "and" either | "not" either
            | sum (("==" | "!=" | "<" | "<=" | ">" | ">=") sum)*
    sum     = sum ("+" | "-" | "*" | "/" | "//" | "%") sum | ("-" | "+") sum | atom
    atom    = number | 'text' | true | false | path | name "(" [choice ("," choice)*] ")" | "(" choice ")"
    path    = part ("." part)*            part = name | 'quoted name'

We parse ourselves instead of asking Python's `ast`: no text from a configuration reaches a compiler that can do more
than this, quoted path parts are part of the grammar, offsets are characters of the text as written, and the hints can
speak about what people type here (`&&`, `=`, `null`).
"""

import math
import re
from typing import NamedTuple

MAX_LENGTH = 1000  # characters of one expression
MAX_NODES = 200
MAX_DEPTH = 64  # CPython refuses 200 nested parentheses, and generated code adds some of its own
MAX_LITERAL = 256  # characters of one text literal
INT_MAX = 2**63 - 1

Path = tuple[str, ...]


class Wrong(Exception):
    """This text is no expression: what is wrong, and at which character."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message, self.at = message, at


class Literal(NamedTuple):
    value: int | float | str | bool
    at: int
    end: int


class Field(NamedTuple):
    path: Path
    at: int
    end: int


class Unary(NamedTuple):
    op: str  # "-" | "+" | "not"
    operand: "Node"
    at: int
    end: int


class Binary(NamedTuple):
    op: str  # + - * / // %
    left: "Node"
    right: "Node"
    at: int
    end: int


class Compare(NamedTuple):
    """A chain as in `0 <= v < 10`: one operator fewer than parts."""

    ops: tuple[str, ...]
    parts: tuple["Node", ...]
    at: int
    end: int


class Logic(NamedTuple):
    op: str  # and | or
    parts: tuple["Node", ...]
    at: int
    end: int


class Choice(NamedTuple):
    then: "Node"
    test: "Node"
    other: "Node"
    at: int
    end: int


class Call(NamedTuple):
    name: str
    args: tuple["Node", ...]
    at: int
    end: int


Node = Literal | Field | Unary | Binary | Compare | Logic | Choice | Call


class _Token(NamedTuple):
    kind: str  # number | name | text | op | end
    text: str
    at: int
    end: int


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<op>===|!==|//|==|!=|<=|>=|=>|=<|<>|&&|\|\||\*\*|<<|>>|:=|[-+*/%<>(),.=!?:&|^~\[\]{}])""",
    re.VERBOSE,
)
_NAME = re.compile(r"[^\W\d]\w*")
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t"}
TYPOGRAPHIC = "“”„‟‘’‚‛«»"
_POWER = {
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and",), 2),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), 4),
    **dict.fromkeys(("+", "-"), 5),
    **dict.fromkeys(("*", "/", "//", "%"), 6),
}
_NOT, _SUM, _SIGN = 3, 5, 7
_BOOLS = {"true": True, "True": True, "false": False, "False": False}
_NULLS = {"null", "None", "none", "nil", "undefined", "NULL"}
_WORDS = {"and", "or", "not", "if", "else", "in", "is", "lambda", "for", *_BOOLS, *_NULLS}
_HINTS = {
    "&&": "write `and` instead of `&&`",
    "||": "write `or` instead of `||`",
    "&": "write `and` instead of `&`",
    "|": "write `or` instead of `|`",
    "!": "write `not` instead of `!`",
    "=": "to compare, write `==`",
    ":=": "to name a value, use a `set` step",
    "===": "write `==` instead of `===`",
    "!==": "write `!=` instead of `!==`",
    "=>": "write `>=` instead of `=>`",
    "=<": "write `<=` instead of `=<`",
    "<>": "write `!=` instead of `<>`",
    "**": "write pow(a, b) instead of `a ** b`",
    "?": "write `a if condition else b` instead of `condition ? a : b`",
    "[": "there are no lists here; a nested field is written with dots, as in SENSOR.Temperature",
    "{": "there are no dictionaries here",
    "in": "write one_of(x, 'a', 'b') instead of `x in ('a', 'b')`",
    "not": "write not one_of(x, 'a', 'b') instead of `x not in ('a', 'b')`",
    "is": "write `==`, or has(x) for a value that may be missing",
    "lambda": "there are no functions of your own here",
    "for": "there are no loops here",
    "AND": "write `and`, in lower case",
    "And": "write `and`, in lower case",
    "OR": "write `or`, in lower case",
    "Or": "write `or`, in lower case",
    "NOT": "write `not`, in lower case",
    "Not": "write `not`, in lower case",
    "^": "there are no bit operations here; write pow(a, b) for powers",
    "~": "there are no bit operations here",
    "<<": "there are no bit operations here",
    ">>": "there are no bit operations here",
}
_NULL_HINT = "a missing value is asked for with has(x) and replaced with default(x, …); there is no null to write"


def parse(text: str) -> Node:
    """The tree of an expression. Raises Wrong."""
    if len(text) > MAX_LENGTH:
        raise Wrong(f"the expression has {len(text)} characters; {MAX_LENGTH} are the most", MAX_LENGTH)
    parser = _Parser(text)
    node = parser.choice()
    parser.expect_end()
    if _depth(node) > MAX_DEPTH:
        raise Wrong(_TOO_DEEP, node.at)
    return node


def parse_path(text: str) -> Path:
    """The parts of a field's path: `SENSOR.'DS18B20-1'.Temperature`. Raises Wrong."""
    parser = _Parser(text)
    token = parser.peek
    if token.kind not in {"name", "text"}:
        raise Wrong("a field's name starts with a letter; put any other name in quotes, as in 'switch:0'", token.at)
    path, _ = parser.path(parser.take())
    if parser.peek.kind != "end":
        raise Wrong("put a name that is more than letters, digits and _ in quotes, as in 'switch:0'", parser.peek.at)
    return path


def write_path(path: Path) -> str:
    """A path as it is written in an expression."""
    return ".".join(part if is_word(part) else _quote(part) for part in path)


def is_word(name: str) -> bool:
    """True where `name` can stand in an expression without quotes."""
    return bool(_NAME.fullmatch(name)) and name not in _WORDS


def _quote(part: str) -> str:
    return "'" + part.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Parser:
    """Precedence climbing: a method per rule of the grammar would cost the stack nine frames per parenthesis."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0
        self.nodes = 0
        self.open = 0

    @property
    def peek(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def sees(self, kind: str, *texts: str) -> bool:
        token = self.tokens[self.at]
        return token.kind == kind and token.text in texts

    def expect_end(self) -> None:
        if self.peek.kind != "end":
            raise self.unexpected(self.peek)

    def unexpected(self, token: _Token) -> Wrong:
        """What to say of a token that cannot stand where it is; the mistake may be the one before it."""
        before = self.tokens[: self.tokens.index(token)]
        if before and before[-1].text in {"NOT", "Not"}:
            return Wrong(_HINTS["NOT"], before[-1].at)
        if len(before) > 1 and before[-1].text == "%" and before[-2].kind == "number":
            number = before[-2].text
            return Wrong(f"`%` is the rest of a division; for {number} percent write {number}, alone", before[-1].at)
        return _unexpected(token)

    def choice(self) -> Node:
        then = self.operand(1)
        if not self.sees("name", "if"):
            return then
        word = self.take()
        test = self.operand(1)
        if not self.sees("name", "else"):
            raise Wrong("`if` needs an `else`: write `a if condition else b`", word.at)
        self.enter(self.take())
        other = self.choice()
        self.open -= 1
        return self.made(Choice(then, test, other, then.at, other.end))

    def operand(self, power: int) -> Node:
        """Everything that binds at least as strongly as `power`."""
        left = self.prefix(power)
        while self.peek.kind in {"op", "name"} and (binds := _POWER.get(self.peek.text, 0)) >= power:
            op = self.take().text
            if op in {"and", "or"}:
                parts = [left, self.operand(binds + 1)]
                while self.sees("name", op):
                    self.take()
                    parts.append(self.operand(binds + 1))
                left = self.made(Logic(op, tuple(parts), left.at, parts[-1].end))
            elif binds < _SUM:
                ops, parts = [op], [left, self.operand(_SUM)]
                while self.sees("op", *_COMPARISONS):
                    ops.append(self.take().text)
                    parts.append(self.operand(_SUM))
                left = self.made(Compare(tuple(ops), tuple(parts), left.at, parts[-1].end))
            else:
                right = self.operand(binds + 1)
                left = self.made(Binary(op, left, right, left.at, right.end))
        return left

    def prefix(self, power: int) -> Node:
        token = self.take()
        if token.kind == "op" and token.text in {"-", "+"}:
            self.enter(token)
            operand = self.operand(_SIGN)
            self.open -= 1
            return self.made(Unary(token.text, operand, token.at, operand.end))
        if token.kind == "name" and token.text == "not":
            if power > _NOT:
                raise Wrong("put `not …` in parentheses here", token.at)
            self.enter(token)
            operand = self.operand(_NOT)
            self.open -= 1
            return self.made(Unary("not", operand, token.at, operand.end))
        if token.kind == "op" and token.text == "(":
            self.enter(token)
            inner = self.choice()
            self.open -= 1
            return inner._replace(at=token.at, end=self.close(token))  # so that it is quoted as it was written
        return self.made(self.atom(token))

    def atom(self, token: _Token) -> Node:
        if token.kind == "number":
            return Literal(_number(token), token.at, token.end)
        dotted = self.sees("op", ".")
        if token.kind == "text" and not dotted:
            return Literal(_text(token), token.at, token.end)
        if token.kind == "name" and not dotted:
            if token.text in _BOOLS:
                return Literal(_BOOLS[token.text], token.at, token.end)
            if token.text in _NULLS:
                raise Wrong(_NULL_HINT, token.at)
            if token.text in _WORDS:
                raise self.unexpected(token)
            if self.sees("op", "("):
                return self.call(token)
            if self.peek.kind == "text" and self.peek.at == token.end:
                raise Wrong("text has no prefix here; write it in plain quotes", token.at)
        if token.kind in {"name", "text"}:
            path, end = self.path(token)
            if self.sees("op", "("):
                raise Wrong(f"values have no methods; write {path[-1]}({write_path(path[:-1])}, …)", self.peek.at)
            return Field(path, token.at, end)
        raise self.unexpected(token)

    def path(self, token: _Token) -> tuple[Path, int]:
        """The rest of a path that begins with `token`, and where it ends."""
        parts = [_text(token) if token.kind == "text" else token.text]
        while self.sees("op", "."):
            self.take()
            token = self.take()
            if token.kind not in {"name", "text"}:
                raise Wrong("a field's name must follow the dot; put one that is no word in quotes", token.at)
            parts.append(_text(token) if token.kind == "text" else token.text)
        return tuple(parts), token.end

    def call(self, name: _Token) -> Node:
        opened = self.take()
        args: list[Node] = []
        self.enter(opened)
        if not self.sees("op", ")"):
            args.append(self.choice())
            while self.sees("op", ","):
                self.take()
                args.append(self.choice())
        self.open -= 1
        return Call(name.text, tuple(args), name.at, self.close(opened))

    def close(self, opened: _Token) -> int:
        token = self.take()
        if token.kind == "end":
            raise Wrong(f"the parenthesis at character {opened.at + 1} is never closed", token.at)
        if token.kind != "op" or token.text != ")":
            raise self.unexpected(token)
        return token.end

    def enter(self, token: _Token) -> None:
        """One level down. Guards the stack while parsing; the tree's own depth is checked afterwards."""
        self.open += 1
        if self.open > MAX_DEPTH:
            raise Wrong(_TOO_DEEP, token.at)

    def made(self, node: Node) -> Node:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Wrong(f"the expression has more than {MAX_NODES} parts; split it with a `set` step", node.at)
        return node


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep; split it with a `set` step"
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "'\"":
                raise Wrong("this quote is never closed", at)
            if text[at] in TYPOGRAPHIC:
                raise Wrong("a typographic quote; write straight ones: 'text'", at)
            raise Wrong(f"{text[at]!r} means nothing here", at)
        if match.lastgroup != "space":
            tokens.append(_Token(str(match.lastgroup), match[0], at, match.end()))
        at = match.end()
    tokens.append(_Token("end", "", len(text.rstrip()), len(text)))
    return tokens


def _number(token: _Token) -> int | float:
    if token.text.isdigit():
        if len(token.text) > 19 or int(token.text) > INT_MAX:
            raise Wrong("this number does not fit into 64 bits", token.at)
        return int(token.text)
    value = float(token.text)
    if not math.isfinite(value):
        raise Wrong("this number is too large", token.at)
    return value


def _text(token: _Token) -> str:
    def unescape(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            at = token.at + 1 + match.start()
            raise Wrong(f"{match[0]} means nothing in text; write two backslashes for one", at)
        return _ESCAPES[match[1]]

    value = re.sub(r"\\(.)", unescape, token.text[1:-1])
    if len(value) > MAX_LITERAL:
        raise Wrong(f"this text has {len(value)} characters; {MAX_LITERAL} are the most", token.at)
    return value


def children(node: Node) -> tuple[Node, ...]:
    """What a node is made of."""
    match node:
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Compare() | Logic():
            return node.parts
        case Choice():
            return (node.then, node.test, node.other)
        case Call():
            return node.args
    return ()


def _depth(node: Node) -> int:
    return 1 + max(map(_depth, children(node)), default=0)


def _unexpected(token: _Token) -> Wrong:
    if token.kind == "end":
        return Wrong("the expression ends too early", token.at)
    if token.text in _HINTS:
        return Wrong(_HINTS[token.text], token.at)
    if token.text in _NULLS:
        return Wrong(_NULL_HINT, token.at)
    return Wrong(f"`{token.text}` was not expected here", token.at)
