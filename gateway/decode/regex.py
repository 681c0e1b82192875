r"""Text in a form of its own: the named groups of a regular expression are the fields, `(?P<t>[\d.]+) C`.

The expressions are RE2's: their time is in proportion to the payload. A payload has at most 4,096 bytes, because with
an expression such as `(.{1,100}){1,9}` that proportion is a large one.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.decode._text import converters, number, number_with_comma
from gateway.errors import Malformed
from gateway.plugin import Mistake, Plugin

EXAMPLE = r"decode: {regex: {pattern: 'T=(?P<t>[-\d.]+) (?P<unit>[CF])'}}"

MEMORY = 1 << 20  # bytes that an expression may take, compiled
LONGEST = 4096  # bytes of a payload


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text in a form of its own: the named groups of a regular expression (RE2) are the fields.

    pattern: the expression, for payloads of at most 4,096 bytes; `(?P<name>…)` makes a field. A group that takes no
        part, or is empty, is missing.
    match: `full`: the expression describes the whole payload, but for the line end; `search`: it may stand anywhere.
    decimal: how numbers are written: `21.5` with a point, `21,5` with a comma.
    """

    pattern: Annotated[str, Meta(min_length=1, max_length=1000)]
    match: Literal["full", "search"] = "full"
    decimal: Literal["point", "comma"] = "point"

    def __post_init__(self) -> None:
        if not compiled(self.pattern).groupindex:
            raise Mistake(("pattern",), "no group has a name, so there are no fields; write (?P<name>…) around a value")
        seen: set[str] = set()
        for group in re.finditer(r"\(\?P?<(\w+)>", self.pattern):  # RE2 would take one of them, unasked
            if group[1] in seen:
                raise Mistake(("pattern",), f"two groups are called {group[1]}; rename one", group.start(1))
            seen.add(group[1])


class Regex:
    def __init__(self, options: Options) -> None:
        self.options = options

    def fields(self) -> list[str]:
        return [name.decode() for name in compiled(self.options.pattern).groupindex]

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        expression = compiled(self.options.pattern)
        match = expression.fullmatch if self.options.match == "full" else expression.search
        numbers = {name.decode(): i for name, i in expression.groupindex.items()}
        made = converters(shape, number_with_comma if self.options.decimal == "comma" else number)
        places = [(name, numbers[name], make) for name, make in made.items() if name in numbers]
        convert = msgspec.convert

        def read(payload: bytes) -> Any:
            line = payload.rstrip(b"\r\n")
            if len(line) > LONGEST:
                raise Malformed(f"more than {LONGEST} bytes")
            found = match(line)
            if found is None:
                raise Malformed("the pattern does not match")
            return convert({name: make(part.decode()) for name, i, make in places if (part := found[i])}, shape)

        return read


def compiled(pattern: str) -> Any:
    """The expression, made ready once. Raises Mistake with the place of what is wrong in it."""
    try:
        import re2  # 6 MB that only this decoder needs
    except ModuleNotFoundError:
        message = "the library google-re2 is not installed, and regex needs it: pip install google-re2"
        raise Mistake((), message) from None
    options = re2.Options()
    options.max_mem, options.log_errors = MEMORY, False
    try:
        return re2.compile(pattern.encode(), options)  # bytes: places in the payload need no counting of characters
    except re2.error as error:
        text = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error.args[0])
        what, _, part = text.partition(": ")
        at = max(pattern.find(part), 0) if what else 0
        raise Mistake(("pattern",), f"this is no regular expression: {text}; correct it here", at) from None


plugin = Plugin(Options, Regex)
