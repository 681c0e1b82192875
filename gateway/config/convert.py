"""From marked YAML to options: every mistake of every field, each at its own place.

msgspec stops at the first mistake of a struct and knows no lines; so its description of the types (msgspec.inspect) is
walked here, field by field, and the struct is built when all of its fields are right.
"""

import difflib
import math
import os
import pwd
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import NODEFAULT, inspect

import gateway.plugin
from gateway import decode
from gateway.config.marks import Node, Place, dotted, quoted, resolve
from gateway.errors import Problem
from gateway.plugin import Decoding, Doubtful, MissingExtra, Mistake, UnknownPlugin
from gateway.quantity import DURATION_UNITS, EXAMPLES, SIZE_UNITS, Duration, LocalPath, Rate, Secret, Size

Steps = tuple[str | int, ...]

BROKEN: Any = object()  # what a value is whose mistake is already in `problems`

_SECRET_NAMES = re.compile(
    r"(.*_)?(password|passwd|passphrase|token|secret|api_?key|access_key|private_key)", re.IGNORECASE
)
_LOGIN_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:[^/@\s]*@")
_LONGEST_URL = 4096
_MOST_NAMED = 8  # names in one message
_COMPARISONS = 5_000  # between names: what suggestions may cost where everything is wrong


class Reader:
    """Reads nodes as types and collects what is wrong. Without `secrets` nobody looks whether their files are there."""

    def __init__(self, environ: Mapping[str, str], problems: list[Problem], *, secrets: bool = True) -> None:
        self._environ, self.problems, self._secrets = environ, problems, secrets
        self.warnings: list[Problem] = []  # what is legal, and yet may not be what was meant
        self._comparisons = 0

    def problem(self, place: Place, path: Sequence[str | int], message: str) -> None:
        self.problems.append(_problem(place, path, message))

    def warning(self, place: Place, path: Sequence[str | int], message: str) -> None:
        self.warnings.append(_problem(place, path, message))

    def doubts(self, node: Node, path: Sequence[str | int], options: Doubtful) -> None:
        """Report what is legal, and yet may not be what was meant."""
        for doubt in options.warnings():
            self.warning(node.find(doubt.path).at(doubt.offset), (*path, *doubt.path), str(doubt))

    def struct(self, node: Node, path: Steps, kind: type) -> Any:
        """`node` as a struct of type `kind`, or BROKEN."""
        return self.read(node, inspect.type_info(kind), path)

    def is_map(self, node: Node, path: Steps) -> bool:
        """Whether there is a map here; if not, that is reported."""
        if not isinstance(node.value, dict) and not node.broken:
            self.problem(node.place, path, f"expected a map, got {got(node)}; write `name: …` lines below it")
        return isinstance(node.value, dict)

    def unknown(
        self,
        node: Node,
        path: Steps,
        fields: Iterable[inspect.Field],
        more: Iterable[str] = (),
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Report every key of a map that is no field's name; whether there was any. `instead`: what is often meant."""
        known = [*(field.encode_name for field in fields), *more]
        secrets = {field.encode_name for field in fields if holds_secret(field.type)}
        known += sorted(credential(name) for name in secrets)
        found = False
        for name, child in node.value.items():
            if name in known:
                continue
            found = True
            by_file = f"{name}_file"
            if by_file in secrets:
                message = f"a secret is never written inline; put it in a file and write {by_file}: PATH"
            elif _SECRET_NAMES.fullmatch(name) and secrets:
                names = " or ".join(sorted(secrets))
                message = f"a secret is never written inline; put it in a file and name that with {names}"
            elif _SECRET_NAMES.fullmatch(name):
                message = "unknown option; there is no secret to give here, and none is ever written inline; remove it"
            elif name in instead:
                message = f"unknown option; write {instead[name]} here"
            else:
                message = f"unknown option; {self.suggest(name, known)}"
            self.problem(child.head, (*path, name), message)
        return found

    def suggest(self, name: str, known: Collection[str]) -> str:
        """What to try instead of a name that is not known."""
        before, colon, after = name.partition(":")
        if colon and before in known:
            return f"a blank is missing behind the colon: {before}: {after[:40]}"
        close = self.nearest(name, known)
        if close is not None:
            return f"did you mean {close}?"
        shown = sorted(known, key=lambda one: (one.startswith("_"), one))[:_MOST_NAMED]
        more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
        return f"choose from {', '.join(shown)}{more}" if shown else "there is none to choose from"

    def nearest(self, name: str, known: Collection[str]) -> str | None:
        """The known name that may have been meant."""
        self._comparisons += len(known)
        if self._comparisons > _COMPARISONS or len(name) > 64:
            return None
        # Short names are soon alike: then at least they begin alike.
        begun = [one for one in known if one[:1] == name[:1]]
        close = difflib.get_close_matches(name, known, 1, 0.7) or difflib.get_close_matches(name, begun, 1, 0.6)
        return close[0] if close else None

    def fields(self, node: Node, path: Steps, fields: Iterable[inspect.Field]) -> tuple[dict[str, Any], bool]:
        """The values of those fields that are right, and whether all are that must be."""
        values: dict[str, Any] = {}
        complete = True
        for field in fields:
            name = field.encode_name
            child: Node | None = node.value.get(name)
            if holds_secret(field.type) and credential(name) in node.value:
                value = self._from_credential(node, path, name)
            elif child is not None and not (child.value is None and not child.filled and not _takes_none(field.type)):
                value = self.read(child, field.type, (*path, name))
            elif child is not None and child.broken:
                value = BROKEN
            elif field.required:
                place = child.head if child is not None else node.head
                self.problem(place, (*path, name), f"missing; add `{name}: …`, {describe(field.type)}")
                value = BROKEN
            else:
                continue  # `name:` with nothing after it says as much as no line
            if value is BROKEN:
                complete = False
            else:
                values[field.name] = value
        return values, complete

    def build(self, node: Node, path: Steps, kind: Callable[..., Any], values: Mapping[str, Any], clean: bool) -> Any:
        """The struct, or BROKEN. What its own checks say is reported only where nothing else was wrong before."""
        try:
            return kind(**values)
        except Mistake as mistake:
            if clean:
                spot = node.find(mistake.path)
                self.problem(spot.at(mistake.offset), (*path, *mistake.path), str(mistake))
        except (ValueError, TypeError) as error:
            if clean:
                self.complaint(node, path, str(error))
        return BROKEN

    def complaint(self, node: Node, path: Steps, message: str) -> None:
        """Report what a plugin says of its options, at the one that it speaks of."""
        spot, where = _named_in(message, node)
        self.problem(spot.place, (*path, *where), message)

    def read(self, node: Node, kind: inspect.Type, path: Steps, extra: Mapping[str, Any] | None = None) -> Any:
        """`node` as a type, or BROKEN."""
        if node.broken:
            return BROKEN
        if isinstance(kind, inspect.Metadata):
            return self.read(node, kind.type, path, kind.extra)
        reader = _READERS.get(type(kind))
        if reader is None:
            raise TypeError(f"{dotted(path)}: options of type {kind} cannot be read from a configuration")
        return reader(self, node, kind, path, extra or {})

    # -- one method per kind of type -----------------------------------------------------------------------------------

    def _wrong(self, node: Node, kind: inspect.Type, path: Steps, hint: str) -> Any:
        self.problem(node.place, path, f"expected {describe(kind)}, got {got(node)}; {hint}")
        return BROKEN

    def _refuse(self, node: Node, path: Steps, message: str) -> Any:
        self.problem(node.place, path, message)
        return BROKEN

    def _any(self, node: Node, kind: inspect.Type, path: Steps, extra: Mapping[str, Any]) -> Any:
        return node.plain()

    def _none(self, node: Node, kind: inspect.Type, path: Steps, extra: Mapping[str, Any]) -> Any:
        return None if node.value is None else self._wrong(node, kind, path, "remove the value")

    def _bool(self, node: Node, kind: inspect.Type, path: Steps, extra: Mapping[str, Any]) -> Any:
        value = _meaning(node)
        if isinstance(value, bool):
            return value
        no = str(value).lower() in ("no", "off", "n", "false", "0")
        return self._wrong(node, kind, path, f"write {'false' if no else 'true'}")

    def _number(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        value = _meaning(node)
        whole = isinstance(kind, inspect.IntType)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            quoted = isinstance(value, str) and isinstance(resolve(value), int if whole else (int, float))
            return self._wrong(
                node, kind, path, "remove the quotes" if quoted else "write a plain number, without a unit"
            )
        if not whole:
            value = float(value)
            if not math.isfinite(value):
                return self._refuse(node, path, f"{got(node)} is no finite number; write another")
        for too_far, limit, word in (
            (kind.ge is not None and not value >= kind.ge, kind.ge, "at least"),
            (kind.gt is not None and not value > kind.gt, kind.gt, "more than"),
            (kind.le is not None and not value <= kind.le, kind.le, "at most"),
            (kind.lt is not None and not value < kind.lt, kind.lt, "less than"),
            (kind.multiple_of is not None and value % (kind.multiple_of or 1) != 0, kind.multiple_of, "a multiple of"),
        ):
            if too_far:
                return self._refuse(node, path, f"{got(node)} is out of range; write {word} {limit}")
        return value

    def _str(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        text = node.text if node.filled else node.value
        if not isinstance(text, str):
            scalar = isinstance(text, (int, float)) and len(node.text) <= 40
            if scalar and kind.pattern is not None and not re.search(kind.pattern, node.text) and "say" in extra:
                return self._refuse(node, path, f"{got(node)} does not fit; write {extra['say']}")
            return self._wrong(node, kind, path, f'put quotes around it: "{node.text}"' if scalar else "write a text")
        if _LOGIN_IN_URL.match(text[:_LONGEST_URL]):
            return self._refuse(node, path, "a password inside a url; take it out and use username: and password_file:")
        if kind.min_length is not None and len(text) < kind.min_length:
            message = (
                "is empty; write a text"
                if not text
                else f"{got(node)} is too short; write at least {kind.min_length} characters"
            )
            return self._refuse(node, path, message)
        if kind.max_length is not None and len(text) > kind.max_length:
            return self._refuse(node, path, f"is too long; write at most {kind.max_length} characters")
        if kind.pattern is not None and not re.search(kind.pattern, text):
            say = extra.get("say", f"a text that matches {kind.pattern}")
            return self._refuse(node, path, f"{got(node)} does not fit; write {say}")
        return text

    def _custom(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        """A duration, a size, a secret's file, or a plugin's own kind of text."""
        if kind.cls is Secret:
            return self._secret(node, path)
        if kind.cls is Decoding:
            return self._decoding(node, path)
        if kind.cls is LocalPath:
            written = self._str(node, inspect.StrType(min_length=1), path, extra)
            beside = os.path.dirname(node.source.file)
            return BROKEN if written is BROKEN else LocalPath(os.path.join(beside, written))
        text = node.text if node.filled else node.value
        if not isinstance(text, str):
            if kind.cls in EXAMPLES and type(text) in (int, float):
                return self._refuse(node, path, f"{got(node)} has no unit; {_with_unit(node, kind.cls, extra)}")
            return self._wrong(node, kind, path, "write a single value")
        try:
            value = kind.cls.parse(text) if hasattr(kind.cls, "parse") else kind.cls(text)
            if isinstance(value, float) and not math.isfinite(value):
                raise OverflowError
        except OverflowError:
            return self._refuse(node, path, f"{got(node)} is too much; write less")
        except ValueError as error:
            return self._refuse(node, path, str(error))
        low, high = extra.get("ge"), extra.get("le")
        if low is not None and value < low:
            return self._refuse(node, path, f"{text} is too little; write at least {spell(low)}")
        if high is not None and value > high:
            return self._refuse(node, path, f"{text} is too much; write at most {spell(high)}")
        return value

    def _decoding(self, node: Node, path: Steps) -> Any:
        """A decoder's name, or a map from the one name to its options."""
        told: Node | None = None
        if isinstance(node.value, dict):
            if len(node.value) != 1:
                return self._refuse(node, path, f"names {len(node.value)} decoders; write one, as {{csv: {{…}}}}")
            ((said, told),) = node.value.items()
            place, path = told.head, (*path, said)
        else:
            said, place = node.text if node.filled else node.value, node.place
        if not isinstance(said, str):
            return self._refuse(node, path, f"expected the name of a decoder, got {got(node)}; write it like json")
        name = decode.SPELLINGS.get(said, said)
        try:
            plugin = gateway.plugin.load("decoders", name)
        except UnknownPlugin as error:
            self.problem(place, path, f"no decoder is called {quoted(said)}; {self.suggest(said, error.known)}")
            return BROKEN
        except MissingExtra as error:
            self.problem(place, path, str(error))
            return BROKEN
        if told is None or (told.value is None and not told.broken):
            if missing := decode.needed(plugin.options):
                example = getattr(sys.modules.get(plugin.options.__module__), "EXAMPLE", "").strip()
                try_it = f"`tidegate plugins {name}` shows an example" if "\n" in example else f"write {example}"
                message = f"{name} must be told {' and '.join(missing)}; {try_it}"
                self.problem(place, path, message)
                return BROKEN
            return decode.with_options(name, plugin.options())
        options = self.struct(told, path, plugin.options)
        if options is BROKEN:
            return BROKEN
        if hasattr(options, "warnings"):
            self.doubts(told, path, options)
        return decode.with_options(name, options)

    def _secret(self, node: Node, path: Steps) -> Any:
        text = node.text if node.filled else node.value
        if not isinstance(text, str) or not text:  # the value is not shown: it may be the secret itself
            return self._refuse(node, path, "expected the path of a file that holds the secret; write a path")
        file = os.path.join(os.path.dirname(node.source.file), text)
        return self._readable_secret(node, path, file)

    def _from_credential(self, node: Node, path: Steps, name: str) -> Any:
        """`x_credential: NAME` instead of `x_file: PATH`: systemd put the secret into a folder only we can read."""
        option = credential(name)
        child: Node = node.value[option]
        path = (*path, option)
        if child.broken:
            return BROKEN
        if name in node.value:
            return self._refuse(child, path, f"the same secret is given by {name}; remove one of them")
        text = child.text if child.filled else child.value
        if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", text) or text in (".", ".."):
            return self._refuse(
                child, path, "expected the name of a systemd credential; write it as in LoadCredential=NAME:PATH"
            )
        folder = self._environ.get("CREDENTIALS_DIRECTORY", "" if self._secrets else "/")
        if not folder:
            message = f"there are no credentials here; start by systemd with LoadCredential={text}:PATH, or use {name}"
            return self._refuse(child, path, message)
        return self._readable_secret(child, path, os.path.join(folder, text))

    def _readable_secret(self, node: Node, path: Steps, file: str) -> Any:
        if not self._secrets:
            return Secret(file)
        try:
            if Path(file).is_file() or not Path(file).exists():
                empty = not Secret(file).read()
            else:
                return self._refuse(node, path, f"{file} is no file; write the path of a file that holds the secret")
        except (OSError, ValueError) as error:
            return self._refuse(node, path, unreadable(file, error))
        if empty:
            return self._refuse(node, path, f"{file} is empty; write the secret into it")
        return Secret(file)

    def _literal(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        possible = choices(kind)
        for value in (node.text, _meaning(node)) if node.filled else (node.value,):
            for choice in possible:
                if type(choice) is type(value) and choice == value:
                    return choice if isinstance(kind, inspect.LiteralType) else kind.cls(choice)
        shown = [str(choice) for choice in possible]
        close = self.nearest(node.text, shown) if isinstance(node.value, str) else None
        others = f"write {extra['say']}" if "say" in extra else f"choose from {', '.join(shown)}"
        hint = f"did you mean {close}?" if close is not None else others
        return self._refuse(node, path, f"{got(node)} is none of its values; {hint}")

    def _list(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        if not isinstance(node.value, list):
            short = isinstance(node.value, (str, int, float)) and len(node.text) <= 60
            return self._wrong(node, kind, path, f"write [{node.text}]" if short else "write one `- …` line for each")
        fixed = isinstance(kind, inspect.TupleType)
        if fixed and len(node.value) != len(kind.item_types):
            return self._refuse(node, path, f"has {len(node.value)} items; write {len(kind.item_types)}")
        low, high = (None, None) if fixed else (kind.min_length, kind.max_length)
        if low is not None and len(node.value) < low:
            return self._refuse(
                node, path, f"needs at least {low} item{'s' * (low > 1)}, has {len(node.value)}; add some"
            )
        if high is not None and len(node.value) > high:
            return self._refuse(node, path, f"takes at most {high} items, has {len(node.value)}; remove some")
        kinds = kind.item_types if fixed else [kind.item_type] * len(node.value)
        items = [
            self.read(child, one, (*path, i)) for i, (child, one) in enumerate(zip(node.value, kinds, strict=True))
        ]
        return BROKEN if any(item is BROKEN for item in items) else _COLLECTIONS[type(kind)](items)

    def _dict(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        if not isinstance(node.value, dict):
            return self._wrong(node, kind, path, "write `name: …` lines below it")
        values = {name: self.read(child, kind.value_type, (*path, name)) for name, child in node.value.items()}
        return BROKEN if any(value is BROKEN for value in values.values()) else values

    def _struct(self, node: Node, kind: Any, path: Steps, extra: Any) -> Any:
        if not isinstance(node.value, dict):
            names = ", ".join(field.encode_name for field in kind.fields)
            return self._wrong(
                node, kind, path, f"write lines below it like `{kind.fields[0].encode_name}: …`; it takes {names}"
            )
        strange = self.unknown(node, path, kind.fields, [kind.tag_field] if kind.tag_field else [])
        values, complete = self.fields(node, path, kind.fields)
        missing = any(field.required and field.name not in values for field in kind.fields)
        value = BROKEN if missing else self.build(node, path, kind.cls, values, complete and not strange)
        return value if complete and not strange else BROKEN

    def _union(self, node: Node, kind: Any, path: Steps, extra: Mapping[str, Any]) -> Any:
        kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if node.value is None and len(kinds) < len(kind.types):
            return None
        fitting = [one for one in kinds if _shape(one) in (_shape_of(node), "any")]
        tagged = [one for one in fitting if isinstance(one, inspect.StructType) and one.tag_field]
        if isinstance(node.value, dict) and tagged:
            tag = node.value.get(tagged[0].tag_field)
            fitting = [one for one in tagged if tag is not None and one.tag == tag.value] or fitting
        if len(fitting) == 1 or (fitting and len(kinds) == 1):
            return self.read(node, fitting[0], path)
        for one in fitting:
            trial = Reader(self._environ, [], secrets=self._secrets)
            value = trial.read(node, one, path)
            if not trial.problems:
                return value
        if len(kinds) == 1:
            return self.read(node, kinds[0], path)  # says what is wrong better than we could
        return self._wrong(node, kind, path, "write one of these")


_READERS: dict[type, Callable[..., Any]] = {
    inspect.AnyType: Reader._any,
    inspect.NoneType: Reader._none,
    inspect.BoolType: Reader._bool,
    inspect.IntType: Reader._number,
    inspect.FloatType: Reader._number,
    inspect.StrType: Reader._str,
    inspect.CustomType: Reader._custom,
    inspect.LiteralType: Reader._literal,
    inspect.EnumType: Reader._literal,
    inspect.ListType: Reader._list,
    inspect.VarTupleType: Reader._list,
    inspect.TupleType: Reader._list,
    inspect.SetType: Reader._list,
    inspect.FrozenSetType: Reader._list,
    inspect.DictType: Reader._dict,
    inspect.StructType: Reader._struct,
    inspect.UnionType: Reader._union,
}
_COLLECTIONS: dict[type, Callable[[list[Any]], Any]] = {
    inspect.ListType: list,
    inspect.VarTupleType: tuple,
    inspect.TupleType: tuple,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
}


def _with_unit(node: Node, kind: Any, limits: Mapping[str, Any]) -> str:
    """What to write instead of a number alone: each unit that can be meant, bytes where it is a number of bytes."""
    low, high = limits.get("ge", 0), limits.get("le", math.inf)
    if kind is Size and isinstance(node.value, int) and node.value >= max(low, 1024):
        size = Size(node.value)
        return f"write {spell(size)}" if spell(size) != f"{size}B" else f"write {size}B for bytes"
    units = {Duration: ("ms", "s", "m"), Rate: ("MB/day", "GB/day")}.get(kind, ("KiB", "MiB", "GiB"))
    possible = [f"{node.text}{unit}" for unit in units if re.fullmatch(r"\d+(\.\d+)?", node.text)]
    fitting = [text for text in possible if low <= kind.parse(text) <= high]
    if fitting:
        return f"write {', '.join(fitting)}" + (", as you mean it" if len(fitting) > 1 else "")
    return f"the smallest is {spell(low)}" if low else f"write it like {EXAMPLES[kind]}"


def bare(kind: inspect.Type) -> Any:
    """A type without what is noted about it."""
    return bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def choices(kind: Any) -> list[Any]:
    """The values of a literal or an enum."""
    return [one.value for one in kind.cls] if isinstance(kind, inspect.EnumType) else list(kind.values)


def holds_secret(kind: inspect.Type) -> bool:
    """Whether an option is (or may be) a secret's file."""
    kind = bare(kind)
    kinds = [bare(one) for one in kind.types] if isinstance(kind, inspect.UnionType) else [kind]
    return any(isinstance(one, inspect.CustomType) and one.cls is Secret for one in kinds)


def describe(kind: inspect.Type) -> str:
    """A type in words."""
    kind = bare(kind)
    if isinstance(kind, inspect.UnionType):
        return " or ".join(describe(one) for one in kind.types if not isinstance(one, inspect.NoneType))
    if isinstance(kind, (inspect.LiteralType, inspect.EnumType)):
        return f"one of {', '.join(map(str, choices(kind)))}"
    if isinstance(kind, inspect.CustomType):
        return _CUSTOM_WORDS.get(kind.cls, "text")
    if isinstance(kind, (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)):
        return (
            "a list"
            if isinstance(bare(kind.item_type), inspect.AnyType)
            else f"a list of {describe_many(kind.item_type)}"
        )
    return _WORDS.get(type(kind), "a value")


def describe_many(kind: inspect.Type) -> str:
    """Several of a type in words."""
    words = describe(kind)
    return {"text": "texts", "a map": "maps", "a whole number": "whole numbers", "a number": "numbers"}.get(
        words, words
    )


_CUSTOM_WORDS: Mapping[type, str] = {
    Duration: "a duration like 10s",
    Size: "a size like 512MiB",
    Rate: "a rate like 300MB/day",
    LocalPath: "a path",
    Secret: "the path of a file that holds the secret",
    Decoding: "a decoder",
}
_WORDS: Mapping[type, str] = {
    inspect.NoneType: "nothing",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.TupleType: "a list",
    inspect.DictType: "a map",
    inspect.StructType: "a map",
}


def got(node: Node) -> str:
    """A value in words, for a message."""
    if isinstance(node.value, dict):
        return "a map"
    if isinstance(node.value, list):
        return "a list"
    if node.value is None:
        return "nothing"
    return quoted(node.text) if isinstance(node.value, str) else node.text[:60]


def spell(value: object) -> str:
    """A default or limit as one would write it in the configuration."""
    if isinstance(value, Duration):
        for unit, seconds in reversed(DURATION_UNITS.items()):
            if value and value % seconds == 0:
                return f"{value / seconds:.0f}{unit}"
        return f"{value * 1000:g}ms" if value else "0s"
    if isinstance(value, (Size, Rate)):
        per = "/day" if isinstance(value, Rate) else ""
        for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB"):
            if value and value % SIZE_UNITS[unit] == 0:
                return f"{value // SIZE_UNITS[unit]}{unit}{per}"
        return f"{int(value)}B{per}"
    if isinstance(value, Decoding):
        return spell(value.plain())
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(spell, value))}]"
    if hasattr(value, "__struct_fields__"):
        return f"{{{', '.join(f'{name}: {spell(getattr(value, name))}' for name in value.__struct_fields__)}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {spell(one)}' for name, one in value.items())}}}"
    return str(value)


def default(field: inspect.Field) -> Any:
    """The default of a field, or NODEFAULT."""
    if field.default is not NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not NODEFAULT else NODEFAULT


def unreadable(file: str, error: OSError | ValueError) -> str:
    """Why a file cannot be read, and what to try."""
    if isinstance(error, FileNotFoundError):
        return f"there is no file {file}; create it, or correct the path"
    if isinstance(error, IsADirectoryError):
        return f"{file} is a folder; write the path of a file"
    me = _user(os.geteuid())
    if isinstance(error, PermissionError):
        try:
            found = os.stat(file)
        except OSError:
            return f"{file} lies in a folder that {me} may not enter; give {me} access to it"
        owner, mode = _user(found.st_uid), stat.S_IMODE(found.st_mode)
        return f"{me} may not read {file} (it belongs to {owner}, mode {mode:04o}); try: chown {me} {file}"
    return f"{file} cannot be read: {getattr(error, 'strerror', None) or error}; correct the path"


def _problem(place: Place, path: Sequence[str | int], message: str) -> Problem:
    return Problem(*place, dotted(path) or "file", " ".join(message.splitlines()))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def credential(name: str) -> str:
    """The option that names a systemd credential instead of the file that the option `name` names."""
    return f"{name.removesuffix('_file')}_credential"


def _meaning(node: Node) -> Any:
    """What a scalar means; what comes from the environment means the same inside quotes as without them."""
    return resolve(node.text) if node.filled else node.value


def _takes_none(kind: inspect.Type) -> bool:
    kind = bare(kind)
    kinds = [bare(one) for one in kind.types] if isinstance(kind, inspect.UnionType) else [kind]
    return any(isinstance(one, (inspect.NoneType, inspect.AnyType)) for one in kinds)


def _shape(kind: inspect.Type) -> str:
    kind = bare(kind)
    if isinstance(kind, (inspect.StructType, inspect.DictType)):
        return "map"
    if isinstance(kind, inspect.AnyType):
        return "any"
    return "list" if type(kind) in _COLLECTIONS else "scalar"


def _shape_of(node: Node) -> str:
    return "map" if isinstance(node.value, dict) else "list" if isinstance(node.value, list) else "scalar"


def _named_in(message: str, node: Node) -> tuple[Node, Steps]:
    """The option that a plugin's own complaint is about: the one whose value, or else whose name, it mentions."""
    for name, child in node.value.items():
        for inner in child.walk():
            if isinstance(inner.value, str) and inner.value and repr(inner.value) in message:
                return inner, (name,)
    words = re.findall(r"[A-Za-z0-9_]+", message)
    for word in words:
        if word in node.value:
            return node.value[word], (word,)
    return node, ()
