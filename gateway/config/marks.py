"""YAML in which every value remembers its place, so that a mistake can be shown where it stands.

- scalars are read by the core schema of YAML 1.2: `on`, `off`, `yes`, `no`, `NO`, dates and `1:30` are text
- anchors, aliases, merge keys and tags are refused: a value always stands where it is read
- `${NAME}` and `${NAME:-default}` are filled in after parsing, so a value from outside can never change the structure
- hostile input costs bounded memory and time: at most 1 MiB, 32 levels and 20,000 values
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from gateway.errors import Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
TYPOGRAPHIC = "“”„‟‘’‚‛«»"
MAX_NODES = 20_000

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FOLDED = re.compile(r"[ \t]*(?:\r\n|[\n\r\x85\u2028\u2029])[ \t]*")  # one line break in a plain scalar
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INT = re.compile(r"[-+]?[0-9]{1,100}")
_BASED_INT = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,100}|[0-9]{1,100}(?:\.[0-9]{0,100})?)(?:[eE][-+]?[0-9]{1,5})?")
_WORDS: Mapping[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Place(NamedTuple):
    """Where something stands; lines and columns count from 1."""

    file: str
    line: int
    column: int


class Source:
    """The text of one file, addressed by line and column."""

    __slots__ = ("_starts", "file", "text")

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]

    def index(self, line: int, column: int) -> int:
        """The position in the text of a place, clipped to the text."""
        if line > len(self._starts):  # the parser counts a line after the last one
            return len(self.text)
        return min(self._starts[line - 1] + column - 1, len(self.text))

    def place(self, index: int) -> Place:
        """The place of a position in the text."""
        line = bisect_right(self._starts, index)
        return Place(self.file, line, index - self._starts[line - 1] + 1)


class Filled(NamedTuple):
    """One `${…}` of a scalar: where its value is in the filled-in text, and where it was in the text as parsed."""

    start: int
    stop: int
    raw_start: int
    raw_stop: int


class Node:
    """One value (a dict of nodes, a list of nodes, or a scalar), and where it and its key stand."""

    __slots__ = ("_head", "_raw_length", "_start", "_stop", "broken", "filled", "source", "style", "text", "value")

    def __init__(
        self, source: Source, start: tuple[int, int], stop: tuple[int, int], head: tuple[int, int] | None, value: Any
    ) -> None:
        self.source, self._start, self._stop, self._head, self.value = source, start, stop, head, value
        self.broken = False  # its mistake is reported already: nothing more is said about it
        self.style = ""  # of a scalar: "" plain, "'", '"', "|" or ">"
        self.text = ""  # of a scalar: what it says, filled in, before it is taken for a number or the like
        self.filled: tuple[Filled, ...] = ()
        self._raw_length = 0  # of a scalar: how long its text was before it was filled in

    @property
    def place(self) -> Place:
        """Where the value begins; where it is a map, a list or nothing, and has a key, where the key stands."""
        plain = self.value is not None and not isinstance(self.value, (dict, list))
        return Place(self.source.file, *self._start) if plain else self.head

    @property
    def head(self) -> Place:
        """Where its key stands, or the value itself where there is no key (in a list, at the top)."""
        return Place(self.source.file, *(self._head or self._start))

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self) -> Iterator["Node"]:
        """This node and every one below it, in the order of the file."""
        yield self
        if isinstance(self.value, (dict, list)):
            for node in self.value.values() if isinstance(self.value, dict) else self.value:
                yield from node.walk()

    def find(self, path: Sequence[str | int]) -> "Node":
        """The node at `path` below this one, or the deepest there is on the way."""
        node = self
        for step in path:
            inside: Any = node.value
            here = (isinstance(inside, dict) and step in inside) or (
                isinstance(inside, list) and isinstance(step, int) and 0 <= step < len(inside)
            )
            if not here:
                break
            node = inside[step]
        return node

    def at(self, offset: int) -> Place:
        """Where character `offset` of the text stands in the file, whatever its quoting, folding or filling in."""
        if isinstance(self.value, (dict, list)):
            return self.place
        shift = 0
        for filled in self.filled:
            if offset < filled.start:
                break
            if offset < filled.stop:  # what came from outside stands where its ${…} stands
                offset, shift = filled.raw_start, 0
                break
            shift = filled.raw_stop - filled.stop
        offset = max(0, min(offset + shift, self._raw_length))
        start, stop = self.source.index(*self._start), self.source.index(*self._stop)
        if self.style in ("|", ">"):
            indices = _follow_block(self.source.text, start, stop, self.style, self._head[1] - 1 if self._head else 0)
        else:
            indices = _follow_flow(self.source.text, start, stop, self.style)
        # The walk retraces what the parser did; where they disagree, only the beginning is certain.
        if len(indices) < self._raw_length or not indices:
            return self.place
        return self.source.place(indices[offset] if offset < len(indices) else indices[-1] + 1)


def _follow_flow(text: str, at: int, stop: int, style: str) -> list[int]:
    """For each character of a plain or quoted scalar's value: where in the text it comes from."""
    indices: list[int] = []
    if style:
        at, stop = at + 1, stop - 1
    while at < stop:
        blank = re.compile(r"[ \t\r\n\x85\u2028\u2029]+").match(text, at, stop)
        if blank:
            breaks = len(_LINE_BREAK.findall(blank[0]))
            if breaks == 0:
                indices += range(at, blank.end())
            else:  # one line break is a space, each more is itself
                indices += [at] * max(1, breaks - 1)
            at = blank.end()
        elif style == "'" and text.startswith("''", at):
            indices.append(at)
            at += 2
        elif style == '"' and text[at] == "\\":
            folded = re.compile(r"\\[ \t]*(?:\r\n|[\r\n\x85\u2028\u2029])[ \t]*").match(text, at, stop)
            if folded:
                at = folded.end()
                continue
            indices.append(at)
            at += 2 + {"x": 2, "u": 4, "U": 8}.get(text[at + 1 : at + 2], 0)
        else:
            indices.append(at)
            at += 1
    return indices


def _follow_block(text: str, at: int, stop: int, style: str, outer: int) -> list[int]:
    """The same for a `|` or `>` scalar; `outer` is the indentation of what it belongs to."""
    lines: list[tuple[int, str]] = []  # (where it begins, what it says)
    header = _LINE_BREAK.search(text, at, stop)
    told = re.match(r"[|>][-+]?([1-9])", text[at:stop])
    at = header.end() if header else stop
    while at < stop:
        found = _LINE_BREAK.search(text, at, stop)
        end = found.start() if found else stop
        lines.append((at, text[at:end]))
        at = found.end() if found else stop
    seen = min((len(line) - len(line.lstrip(" ")) for _, line in lines if line.strip(" ")), default=0)
    indent = outer + int(told[1]) if told else seen
    indices: list[int] = []
    previous = ""  # the last line that was not empty
    empty = 0
    for start, line in lines:
        said = line[indent:]
        if said:
            fold = style == ">" and previous and previous[0] not in " \t" and said[0] not in " \t"
            if fold and empty:
                indices.pop()  # the first of several line breaks only ends its line
            previous, empty = said, 0
            indices += range(start + indent, start + len(line))
        else:
            empty += 1
        indices.append(start + len(line))  # the line break, or the space it is folded to
    return indices


class _Stop(Exception):
    """Nothing more can be read in this file; the problem is recorded."""


def resolve(text: str) -> str | int | float | bool | None:
    """What a plain scalar means in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def parse(file: str, data: bytes, environ: Mapping[str, str]) -> tuple[Node | None, list[Problem]]:
    """The tree of one file, and what is wrong with its YAML. No tree where nothing below could be trusted."""
    if len(data) > MAX_BYTES:
        return None, [Problem(file, 1, 1, "file", f"is larger than {MAX_BYTES >> 20} MiB; split it with include:")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = Source(file, data[: error.start].decode("utf-8-sig", "replace"))
        place = before.place(len(before.text))
        return None, [Problem(*place, "yaml", "is no UTF-8 text here; save the file as UTF-8")]
    builder = _Builder(Source(file, text), environ)
    try:
        root = builder.build()
    except _Stop:
        root = None
    return root, builder.problems


class _Level:
    """A map or list that is being filled."""

    __slots__ = ("cut", "flow", "head", "key", "name", "node", "repeated")

    def __init__(self, node: Node, name: str | int | None, flow: bool) -> None:
        self.node, self.name = node, name  # the name it has in the level above
        self.flow = flow  # it is written in { } or [ ]
        self.cut: Node | None = None  # the value that a comma has cut into pieces, which is told
        self.key: str | None = None  # of a map: the key whose value comes next
        self.head: tuple[int, int] | None = None
        self.repeated = False  # the key was there before: its value is read, checked and forgotten


class _Builder:
    """Builds the tree from the parser's events, without recursion."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self.source, self.environ = source, environ
        self.problems: list[Problem] = []
        self._levels: list[_Level] = []
        self._nodes = 0
        self._given = 0  # characters from the environment

    def build(self) -> Node:
        bad = _UNPRINTABLE.search(self.source.text)
        if bad:
            place = self.source.place(bad.start())
            self._stop(place, f"the character U+{ord(bad[0]):04X} cannot stand in YAML; remove it")
        root: Node | None = None
        try:
            # The parser in C is a hundred times as fast as the one in Python; both give the same events.
            for event in yaml.parse(self.source.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                node = self._take(event)
                if node is not None:
                    root = node
                elif isinstance(event, yaml.DocumentStartEvent) and root is not None:
                    self._stop(self._place(event.start_mark), "a second document begins; keep one per file")
        except yaml.MarkedYAMLError as error:
            self._explain(error)
        except yaml.YAMLError as error:  # the reader's own complaint; it has no place
            self._stop(Place(self.source.file, 1, 1), f"this is no YAML: {error}")
        return root or Node(self.source, (1, 1), (1, 1), None, None)

    def _take(self, event: Any) -> Node | None:
        """Act on one event; the node, if it ends the outermost one."""
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            node = self._levels.pop().node
            return node if not self._levels else None
        if not isinstance(event, yaml.NodeEvent):
            return None
        level = self._levels[-1] if self._levels else None
        if level and isinstance(level.node.value, dict) and level.key is None:
            self._key(level, event)
            return None
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(
                self._place(event.start_mark), f"more than {MAX_NODES} values in one file; split it with include:"
            )
        name = None if level is None else level.key if level.key is not None else len(level.node.value)
        start, stop = _pair(event.start_mark), _pair(event.end_mark)
        node = Node(self.source, start, stop, level.head if level else None, None)
        self._refuse(event, node)
        opens = isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
        if opens:
            node.value = {} if isinstance(event, yaml.MappingStartEvent) else []
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, node)
        if level:
            self._put(level, node)
        if opens:
            self._levels.append(_Level(node, name, bool(getattr(event, "flow_style", False))))
            if len(self._levels) > MAX_DEPTH:
                self._stop(Place(self.source.file, *start), f"nested more than {MAX_DEPTH} deep; flatten it")
            return None
        return node if level is None else None

    def _put(self, level: _Level, node: Node) -> None:
        if isinstance(level.node.value, list):
            level.node.value.append(node)
            return
        if not level.repeated:
            level.node.value[level.key] = node
        level.key, level.repeated = None, False

    def _key(self, level: _Level, event: Any) -> None:
        place = self._place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            if isinstance(event, yaml.AliasEvent):
                self._stop(place, f"an alias (*{str(event.anchor)[:40]}) as a key; write the key out")
            self._stop(place, "a map or list as a key; put quotes around text that begins with '{' or '['")
        key: str = event.value
        if level.flow and self._rejoin(level, event):
            level.key, level.repeated = key, True  # it was no key: there is no value to keep
            return
        level.head, level.key = (place.line, place.column), key
        if event.anchor or event.tag is not None:
            self._problem(place, "an anchor or a tag on a key; write the key alone")
        if key == "<<" and event.implicit[0]:
            self._problem(
                place, "merge keys are not supported; write the options out, or keep them in a file of their own"
            )
            level.repeated = True  # what it would merge is not an option
        earlier = level.node.value.get(key)
        if earlier is not None:
            first = earlier.head
            self._problem(place, f"given twice, first at line {first.line}, column {first.column}; remove one of them")
            level.repeated = True

    def _rejoin(self, level: _Level, event: Any) -> bool:
        """Whether this "key" is the rest of the value before it, as in `{c: round(v, 1)}`. That is told, and the value
        read as it was meant, so that nobody complains of its pieces.
        """
        if not level.node.value:
            return False
        name: str = next(reversed(level.node.value))
        node: Node = level.node.value[name]
        if not _open(node):
            return False
        text, end = self.source.text, self.source.index(*_pair(event.end_mark))
        first, last = self.source.index(*node._start), self.source.index(*node._stop)
        between = text[last : self.source.index(*_pair(event.start_mark))]
        if between.strip() != "," or text[end:].lstrip()[:1] == ":":
            return False
        if level.cut is not node:
            level.key, level.cut = name, node
            whole = _meant(text, first)
            quote = "'" if '"' in whole else '"'
            message = f"inside {{ }} a comma ends the value: put it in quotes, {name}: {quote}{whole}{quote}"
            self._problem(self.source.place(last), message)
        node.value = node.text = _FOLDED.sub(" ", text[first:end])
        node._stop, node._raw_length = _pair(event.end_mark), len(node.text)
        return True

    def _refuse(self, event: Any, node: Node) -> None:
        place = self._place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._problem(place, f"aliases (*{str(event.anchor)[:40]}) are not supported; write the value out")
            node.broken = True
        elif event.anchor:
            self._problem(place, f"anchors (&{event.anchor[:40]}) are not supported; write the value where it is used")
        tag = getattr(event, "tag", None)
        if tag is not None and not isinstance(event, yaml.AliasEvent):
            shown = tag.replace("tag:yaml.org,2002:", "!!")[:40]
            self._problem(place, f"tags ({shown}) are not supported; remove it, and quote what is meant as text")
            node.broken = True

    def _scalar(self, event: yaml.ScalarEvent, node: Node) -> None:
        node.style = event.style or ""
        text: str = event.value
        node._raw_length = len(text)
        if "${" in text:
            text = self._fill(text, node)
        node.text = text
        if not node.style and text and text[0] in TYPOGRAPHIC:
            self._problem(node.place, f'begins with the typographic quote {text[0]}; write straight ones: "text"')
            node.broken = True
        # An empty text from outside stays text: it was not left out.
        node.value = text if node.style or (node.filled and not text) else resolve(text)

    def _fill(self, text: str, node: Node) -> str:
        """The text with every `${…}` replaced. The first that cannot be is reported, and the text left as it is."""
        pieces: list[str] = []
        filled: list[Filled] = []
        at = length = 0
        for match in _REFERENCE.finditer(text):
            value = "${" if match[0] == "$${" else self._lookup(match[1], node, match.start())
            if value is None:
                node.broken = True
                return text
            start = length + match.start() - at
            pieces += (text[at : match.start()], value)
            filled.append(Filled(start, start + len(value), *match.span()))
            at, length = match.end(), start + len(value)
            self._given += len(value)
            if self._given > MAX_BYTES:
                self._stop(node.place, f"the environment fills in more than {MAX_BYTES >> 20} MiB; fill in less")
        node.filled = tuple(filled)
        return "".join([*pieces, text[at:]])

    def _lookup(self, inside: str | None, node: Node, at: int) -> str | None:
        match = _NAME.fullmatch(inside or "")
        if match is None:
            message = "'${' begins a name from the environment; write ${NAME}, ${NAME:-default}, or $${ for itself"
            self._problem(node.at(at), message)
            return None
        name, otherwise = match.groups()
        value = self.environ.get(name)
        if otherwise is not None:
            return value or otherwise
        if value is None:
            self._problem(node.at(at), f"the environment has no {name}; set it, or write ${{{name}:-default}}")
        return value

    def _place(self, mark: Any) -> Place:
        return Place(self.source.file, *_pair(mark))

    def _path(self) -> str:
        steps = [level.name for level in self._levels if level.name is not None]
        if self._levels and isinstance(self._levels[-1].node.value, list):
            steps.append(len(self._levels[-1].node.value))
        elif self._levels and self._levels[-1].key is not None:
            steps.append(self._levels[-1].key)
        return dotted(steps) or "yaml"

    def _problem(self, place: Place, message: str) -> None:
        self.problems.append(Problem(*place, self._path(), message))

    def _stop(self, place: Place, message: str) -> None:
        self.problems.append(Problem(*place, "yaml", message))
        raise _Stop

    def _explain(self, error: yaml.MarkedYAMLError) -> None:
        """The parser's complaint in plain words."""
        if self._levels and (cut := self._levels[-1].cut) is not None and _open(cut):
            raise _Stop  # it complains of the pieces of a value that is told already
        mark = error.problem_mark or error.context_mark
        place = self._place(mark) if mark else Place(self.source.file, 1, 1)
        text, at = self.source.text, self.source.index(place.line, place.column)
        begun = f" at line {error.context_mark.line + 1}" if error.context_mark else ""
        problem = error.problem or ""
        here = text[at : at + 1]
        if text[at - 1 : at + 1] == "${" or text[at : at + 2] == "${":
            message = 'inside { } or [ ], a ${NAME} needs quotes: "${NAME}"'
        elif text[at - 1 : at] == "}" and here and here not in " \r\n":
            message = 'text goes on after this }; quote text that holds { }, as in topic: "{stream}/x"'
        elif "',' or '}'" in problem and here == ":":
            message = "a second ':'; quote text that holds ':', or put a comma before the next key"
        elif "',' or " in problem and here in ("{", "["):
            message = 'inside { } or [ ], quote text that holds { } or [ ], as in topic: "gw/{stream}"'
        elif here == "\t":
            message = "a tab; indent with spaces"
        elif "cannot start any token" in problem:
            message = f"text cannot begin with {here!r}; put quotes around it"
        elif "mapping values are not allowed" in problem:
            message = "a ':' where none can stand; put quotes around text that has ': ' in it, or check the indentation"
        elif "could not find expected ':'" in problem or "did not find expected ':'" in problem:
            message = "no ':' after this key; write key: value"
        elif "block sequence entries" in problem:
            message = "a list item cannot begin here; put '- …' on a line of its own"
        elif "unexpected end of stream" in problem and "quoted" in (error.context or ""):
            message = f"the quote that begins{begun} is never closed"
            place = self._place(error.context_mark) if error.context_mark else place
        elif "unknown escape" in problem:
            message = r"no such escape; inside double quotes write \\ for a backslash, or use single quotes"
        elif "',' or '}'" in problem or "',' or ']'" in problem:
            message = f"a comma or the closing bracket of the '{{' or '['{begun} is missing"
            message = message.replace("'{' or '['", "'{'" if "'}'" in problem else "'['")
            if not text[at:].strip() and error.context_mark:  # at the end of the file there is nothing to see
                place = self._place(error.context_mark)
        elif "'-' indicator" in problem:
            message = f"does not belong to the list that begins{begun}; begin it with '- ', or check the indentation"
        elif "expected key" in problem or "<block end>" in problem:
            message = f"does not line up with the map that begins{begun}; check the indentation"
        elif "tag" in problem or "tag" in (error.context or ""):
            message = "tags (!…) are not supported; put quotes around text that begins with '!'"
        elif "<document start>" in problem:
            message = "nothing can follow here; check brackets and indentation"
        elif "directive" in (error.context or ""):
            message = "text cannot begin with '%'; put quotes around it"
            place = self._place(error.context_mark)
        elif "comment or line break" in problem:
            message = "text cannot follow '|' or '>' here; begin it on the next line, indented"
        elif "node content" in problem:
            message = (
                f"a value cannot begin with {here!r}; put quotes around text"
                if here
                else "a value or a closing bracket is missing"
            )
        else:
            message = f"this is no YAML: {problem}"
        self._stop(place, message)


def _open(node: Node) -> bool:
    """Whether this is plain text in which a parenthesis is not closed."""
    return isinstance(node.value, str) and not node.style and node.text.count("(") > node.text.count(")")


def _meant(text: str, at: int) -> str:
    """The value that begins there, over the commas in its parentheses; in one line."""
    depth, end = 0, at
    for char in text[at : at + 200]:
        depth += (char == "(") - (char == ")")
        if char in "{}" or (char == "," and depth <= 0):
            break
        end += 1
    return " ".join(text[at:end].split())


def _pair(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it, in one line: `sinks.cloud.streams[1]`."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        else:
            name = step if step.isprintable() and 0 < len(step) <= 64 else quoted(step)
            out += f".{name}" if out else name
    return out


def quoted(text: str) -> str:
    """A text as it is shown in a message: in quotes, in one line, not too long."""
    return repr(text if len(text) <= 60 else text[:60] + "…")
