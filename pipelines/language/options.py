"""From the plain data of a configuration to an options Struct, with every mistake in it and not only the first."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from gateway.plugin import Mistake
from gateway.quantity import option_hook
from pipelines.language.check import alike, few

Where = tuple[str | int, ...]
S = TypeVar("S", bound=msgspec.Struct)

_AT = re.compile(r" - at `(?:key in )?\$(.*)`$", re.DOTALL)


_WORD = re.compile(r"[\w.-]{1,40}")
_ASSIGNED = re.compile(r"\s*(\w+)\s*=(?!=)\s*([^,]*\S)\s*")  # what others write for a map of one


class Expression(str):
    """An option that is an expression of the language. A bare number or true in YAML is one, too."""

    __slots__ = ()


def read(kind: type[S], value: object, where: Where) -> tuple[S | None, list[Mistake]]:
    """The options in `value` and what is wrong with it; None instead of options where a required one is not to be had.

    A wrong option that has a default is read as that default, so that the mistakes that follow can be found, too.
    An options Struct whose only field is called `body` takes the whole value: `filter: v > 3`.
    """
    fields = msgspec.structs.fields(kind)
    if [field.name for field in fields] == ["body"]:
        body, mistakes = _convert(fields[0].type, value, where)
        return (None if mistakes else kind(body=body)), mistakes
    if not isinstance(value, Mapping):
        names = few(field.encode_name for field in fields)
        return None, [
            Mistake(where, f"this must be a map, and it is {_kind_of(value)}; write options below it: {names}")
        ]
    known = {field.encode_name: field for field in fields}
    found: dict[str, Any] = {}
    mistakes = [
        Mistake(
            (*where, str(name)), f"unknown option{alike(str(name), known) or f'; choose from {few(sorted(known))}'}"
        )
        for name in value
        if name not in known
    ]
    for name, field in known.items():
        if value.get(name) is None:  # an empty line in YAML; it says as much as no line
            if field.required:
                example = _example(field.type)
                mistakes.append(Mistake(where, f"`{name}` is missing{f'; write `{example}`' if example else ''}"))
            continue
        converted, wrong = _convert(field.type, value[name], (*where, name))
        mistakes += wrong
        if not wrong:
            found[field.name] = converted
    complete = all(field.name in found for field in fields if field.required)
    return (kind(**found) if complete else None), mistakes


def _convert(kind: Any, value: object, where: Where) -> tuple[Any, list[Mistake]]:
    named = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if named == dict[str, Expression] and isinstance(value, Mapping):
        read_values = {str(name): _convert(Expression, one, (*where, str(name))) for name, one in value.items()}
        wrong = [mistake for _, mistakes in read_values.values() for mistake in mistakes]
        return {name: expression for name, (expression, _) in read_values.items()}, wrong
    if isinstance(value, list) and (struct := _listed(kind)) is not None:
        items = [read(struct, item, (*where, i)) for i, item in enumerate(value)]
        return [item for item, _ in items], [mistake for _, mistakes in items for mistake in mistakes]
    try:
        return msgspec.convert(value, kind, dec_hook=_hook), []
    except msgspec.ValidationError as error:
        text = str(error)
        match = _AT.search(text)
        if match:
            text = text[: match.start()]
        steps = _steps(match[1] if match else "", value)
        if steps:
            return None, [Mistake((*where, *steps), _plain(text))]
        if text.startswith("Invalid enum value"):
            choices = ", ".join(map(str, get_args(kind)))
            return None, [Mistake(where, f"{str(value)!r} is none of its values; choose from {choices}")]
        example = _example(kind) if text.startswith("Expected") else ""
        if isinstance(value, str) and named == dict[str, Expression] and (match := _ASSIGNED.fullmatch(value)):
            example = f"{{{match[1]}: {match[2]}}}"
        if not example and isinstance(value, str) and text.startswith("Expected `array`,") and _WORD.fullmatch(value):
            example = f"[{value}]"
        return None, [Mistake(where, _plain(text) + (f"; write `{example}`" if example else ""))]


def _listed(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a list's items are: each is read by itself, so that all its mistakes are found."""
    listed = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    item = get_args(listed)[0] if get_origin(listed) is list else None
    return item if isinstance(item, type) and issubclass(item, msgspec.Struct) else None


def _hook(kind: type, value: object) -> object:
    if kind is Expression:
        if isinstance(value, bool):
            return Expression("true" if value else "false")
        if isinstance(value, str | int | float):
            return Expression(value)
        raise ValueError("write an expression here, as text")
    return option_hook(kind, value)


def _steps(path: str, value: object) -> Sequence[str | int]:
    """msgspec's `[0].name` as steps; it hides dictionary keys as `[...]`, so those end the path early."""
    steps: list[str | int] = []
    for index, name in re.findall(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)", path):
        if index == "...":
            break
        steps.append(int(index) if index else name)
    return steps


def _example(kind: Any) -> str:
    """The example that an option's type carries: `Annotated[…, Meta(examples=["agg: …"])]`."""
    for note in getattr(kind, "__metadata__", ()):
        if isinstance(note, msgspec.Meta) and note.examples:
            return str(note.examples[0])
    return ""


def _kind_of(value: object) -> str:
    return next(word for kind, word in _KINDS if isinstance(value, kind))


_KINDS = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    (list, "a list"),
    (Mapping, "a map"),
    (object, "nothing"),
)
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "array": "a list",
    "object": "a map",
    "null": "nothing",
}
_LIMITS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}


def _plain(text: str) -> str:
    """What msgspec says, in the words of those who write configurations."""
    if match := re.fullmatch(r"Expected `(.*)`, got `(.*)`", text):
        wanted, got = (" or ".join(_WORDS.get(one, one) for one in side.split(" | ")) for side in match.groups())
        return f"this must be {wanted}, and it is {got}"
    if match := re.fullmatch(r"Expected `.*` ([<>]=?) (.*)", text):
        return f"this must be {_LIMITS[match[1]]} {match[2].removesuffix('.0')}"
    if re.fullmatch(r"Expected `.*` of length >= 1", text):
        return "this must not be empty"
    if match := re.fullmatch(r"Expected `(.*)` of length ([<>]=?) (.*)", text):
        what = "characters" if match[1] == "str" else "entries"
        return f"this must have {_LIMITS[match[2]]} {match[3]} {what}"
    return text
