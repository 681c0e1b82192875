"""What can be configured, told for people: the options of the house and of every plugin, from their own types.

What an option is for stands in the docstring of its struct (`name: what for.`, or `name, other: …`), in a
`Meta(description=…)`, or in a comment on its line.
"""

import inspect as python
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, inspect

import gateway.plugin
from gateway.config.convert import bare, credential, default, describe, holds_secret, spell
from gateway.config.load import Plugins
from gateway.plugin import MissingExtra, Plugin

WHOLE = "body"  # the one field of a step that takes its whole value: `filter: v > 3`


class Option(NamedTuple):
    """One option, in words."""

    name: str
    kind: str
    default: str | None  # None: it must be given
    limits: str
    text: str


class Entry(NamedTuple):
    """One plugin, in words."""

    family: str
    name: str
    summary: str
    options: tuple[Option, ...]
    example: str
    missing: str  # the command that installs what it needs, if that is not there


def summary(family: str, name: str, plugins: Plugins = gateway.plugin) -> str:
    """The first line of a plugin's docstring, or what must be installed first."""
    try:
        return _summary(plugins.load(family, name))
    except MissingExtra as error:
        return str(error)


def entry(family: str, name: str, plugins: Plugins = gateway.plugin) -> Entry:
    """A plugin in words. Raises UnknownPlugin."""
    try:
        plugin = plugins.load(family, name)
    except MissingExtra as error:
        return Entry(family, name, str(error), (), "", str(error))
    module = sys.modules.get(plugin.options.__module__)
    example = getattr(module, "EXAMPLE", "") if module else ""
    return Entry(family, name, _summary(plugin), tuple(options(plugin.options)), textwrap.dedent(example).strip(), "")


def options(kind: type, prefix: str = "") -> Iterator[Option]:
    """The options of a struct; those of a struct inside it as `name.inner`, of structs in a list as `name[].inner`."""
    info: Any = inspect.type_info(kind)
    texts = descriptions(kind)
    for field in info.fields:
        name = "(the value)" if field.name == WHOLE and len(info.fields) == 1 else f"{prefix}{field.encode_name}"
        value = default(field)
        shown = None if value is NODEFAULT else spell(value)
        inner = [] if holds_secret(field.type) else list(_structs(field.type))
        if inner and isinstance(value, msgspec.Struct):
            shown = ""  # said by the options inside
        yield Option(name, _kind(field.type), shown, limits(field.type), texts.get(field.name, ""))
        if holds_secret(field.type):
            yield Option(credential(name), "text", "null", "", f"a systemd credential, instead of `{name}`.")
        for many, struct in inner:
            inside = "" if name.startswith("(") else name
            yield from options(struct, f"{inside}[]." if many else f"{name}.")


def descriptions(kind: type) -> dict[str, str]:
    """What each field of a struct is for, by field name."""
    texts: dict[str, str] = {}
    info: Any = inspect.type_info(kind)
    names = {field.name: field.name for field in info.fields} | {field.encode_name: field.name for field in info.fields}
    for struct in reversed(kind.__mro__):
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct) and struct is not msgspec.Struct):
            continue
        texts |= _comments(struct, names)
        texts |= _told(struct.__dict__.get("__doc__") or "", names)
    for field in info.fields:
        described = (getattr(field.type, "extra_json_schema", None) or {}).get("description")
        if described:
            texts[field.name] = described
    return texts


def limits(kind: inspect.Type) -> str:
    """The range of an option, in words."""
    extra = kind.extra or {} if isinstance(kind, inspect.Metadata) else {}
    inner = bare(kind)
    if isinstance(inner, inspect.UnionType):
        return next((told for one in inner.types if (told := limits(one))), "")
    low, high = extra.get("ge", getattr(inner, "ge", None)), extra.get("le", getattr(inner, "le", None))
    above = getattr(inner, "gt", None)
    if above is not None:
        return f"more than {spell(above)}" + ("" if high is None else f", at most {spell(high)}")
    if low is not None and high is not None:
        return f"{spell(low)} … {spell(high)}"
    if low is not None or high is not None:
        return f"at least {spell(low)}" if low is not None else f"at most {spell(high)}"
    few, many = getattr(inner, "min_length", None), getattr(inner, "max_length", None)
    if many is not None:
        return f"{few or 0} … {many} long"
    return "not empty" if few else ""


def _kind(kind: inspect.Type) -> str:
    """A type in a word or two."""
    words = re.sub(r" like \S+| of a file that holds the secret", "", describe(kind))
    return words.removeprefix("a ").removeprefix("the ")


def _summary(plugin: Plugin[Any]) -> str:
    module = sys.modules.get(plugin.options.__module__)
    text = plugin.options.__dict__.get("__doc__") or (module.__doc__ if module else "") or ""
    return textwrap.dedent(text).strip().split("\n", 1)[0]


def _told(text: str, names: Mapping[str, str]) -> dict[str, str]:
    """What a docstring tells of fields: everything after `name:` or `name, other:` up to the next of these."""
    if not names:
        return {}
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    heads = list(re.finditer(rf"(?:^|(?<=\. ))[ \t]*((?:{one})(?:, (?:{one}))*): ", text, re.MULTILINE))
    told = {}
    for head, after in pairwise([*heads, None]):
        assert head is not None
        said = text[head.end() : after.start() if after else len(text)].split("\n\n", 1)[0]
        for name in head[1].split(", "):
            told[names[name]] = " ".join(said.split())
    return told


def _comments(struct: type, names: Mapping[str, str]) -> dict[str, str]:
    """The comments on the lines of fields."""
    try:
        source = python.getsource(struct)
    except (OSError, TypeError):
        return {}
    found = re.findall(r"^    (\w+): [^\n]*?  # ([^\n]+)$", source, re.MULTILINE)
    return {
        names[name]: text for name, text in found if name in names and not text.startswith(("noqa", "type:", "fmt:"))
    }


def _structs(kind: inspect.Type) -> Iterator[tuple[bool, type]]:
    """The structs that a value of a type may hold, and whether there may be several.

    A map or a list that its owner reads later says which by `Meta(extra={"options": STRUCT})`.
    """
    later = (kind.extra or {}).get("options") if isinstance(kind, inspect.Metadata) else None
    if later is not None:
        yield isinstance(bare(kind), inspect.ListType), later
    kind = bare(kind)
    if isinstance(kind, inspect.StructType):
        yield False, kind.cls
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _structs(one)
    elif isinstance(kind, (inspect.ListType, inspect.VarTupleType)):
        yield from ((True, struct) for _, struct in _structs(kind.item_type))
