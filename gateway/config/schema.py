"""The configuration as JSON Schema (2020-12), so that editors complete and check it while it is written.

Every installed plugin's options are in it, chosen by `driver:`, `sink:` or the step's key. A value may always be
`${NAME}` instead, because the schema sees the file before the environment fills it in.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

import gateway.plugin
from gateway import decode
from gateway.config.convert import bare, choices, credential, default, holds_secret, spell
from gateway.config.load import Plugins
from gateway.config.model import (
    NAME,
    DriverKeys,
    GatewayOptions,
    LogSettings,
    SinkKeys,
    Start,
    StreamKeys,
)
from gateway.config.reference import WHOLE, descriptions, summary
from gateway.plugin import Decoding, MissingExtra
from gateway.quantity import Duration, LocalPath, Rate, Secret, Size

Schema = dict[str, Any]

REFERENCE = r"\$\{"
_NUMBER = r"^[0-9]+(\.[0-9]+)?\s*"
_CUSTOM: dict[type, Schema] = {
    Duration: {"type": "string", "pattern": rf"{_NUMBER}(ms|s|m|h|d)$|{REFERENCE}", "examples": ["250ms", "10s"]},
    Size: {"type": "string", "pattern": rf"{_NUMBER}([KMGT]i?B|B)$|{REFERENCE}", "examples": ["100KiB", "512MiB"]},
    Rate: {
        "type": "string",
        "pattern": rf"{_NUMBER}([KMGT]i?B|B)\s*/\s*(day|h)$|{REFERENCE}",
        "examples": ["300MB/day"],
    },
    Start: {"type": "string", "examples": ["earliest", "latest", "2026-05-01T00:00:00Z", "7d"]},
    LocalPath: {"type": "string", "minLength": 1},
    Secret: {"type": "string", "minLength": 1},
}


def schema(plugins: Plugins = gateway.plugin) -> Schema:
    """The schema of the whole file."""
    definitions: Schema = {}
    made = _Maker(definitions)
    entry = {"propertyNames": {"pattern": NAME}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidegate configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "gateway": made.struct(GatewayOptions),
            "log": made.struct(LogSettings),
            "drivers": _section({**entry, "additionalProperties": made.chosen("drivers", DriverKeys, plugins)}),
            "streams": _section({"additionalProperties": {**made.struct(StreamKeys), "type": ["object", "null"]}}),
            "pipelines": _section({**entry, "additionalProperties": made.pipeline(plugins)}),
            "sinks": _section({**entry, "additionalProperties": made.chosen("sinks", SinkKeys, plugins)}),
            "include": {
                "type": "array",
                "items": {"type": "string"},
                "description": "files or globs, relative to this",
            },
        },
        "$defs": definitions,
    }


def _section(entries: Schema) -> Schema:
    return {"type": ["object", "null"], **entries}


class _Maker:
    """Makes schemas of types; what is used by name is put into `definitions`."""

    def __init__(self, definitions: Schema) -> None:
        self.definitions = definitions

    def struct(self, kind: type) -> Schema:
        properties, required, either = self._properties(kind)
        return _object(properties, required, either)

    def chosen(self, family: str, house: type, plugins: Plugins) -> Schema:
        """An entry that names its plugin: the house's keys and that plugin's, and no others."""
        choice = family[:-1]
        own, required, _ = self._properties(house)
        names = plugins.names(family)
        rules = []
        for name in names:
            title = f"{choice}.{name}"
            self.definitions[title] = self._entry(family, name, own, required, plugins)
            condition = {"properties": {choice: {"const": name}}, "required": [choice]}
            rules.append({"if": condition, "then": {"$ref": f"#/$defs/{title}"}})
        told = own[choice].get("description", "")
        return {
            "type": "object",
            "required": [choice],
            "properties": {choice: {"enum": names, "description": told}},
            "allOf": rules,
        }

    def _entry(self, family: str, name: str, own: Schema, needed: list[str], plugins: Plugins) -> Schema:
        told = summary(family, name, plugins)
        try:
            options = plugins.load(family, name).options
        except MissingExtra:
            return {"type": "object", "description": told}  # its options are known when its library is installed
        theirs, required, either = self._properties(options)
        result = _object({**theirs, **own}, [*needed, *(one for one in required if one not in own)], either)
        return {"description": told, **result}

    def decoding(self) -> Schema:
        """What `decode:` may say: a name, where nothing must be told; or a map from one name to its options."""
        if "decode" not in self.definitions:
            named, told = [], {}
            for name in decode.names():
                options = gateway.plugin.load("decoders", name).options
                named += [] if decode.needed(options) else [name]
                told[name] = {"description": summary("decoders", name), **self.struct(options)}
            named += [said for said, meant in decode.SPELLINGS.items() if meant in named]
            self.definitions["decode"] = {
                "anyOf": [
                    {"enum": named},
                    {"type": "object", "minProperties": 1, "maxProperties": 1, **_object(told, (), ())},
                    _reference(),
                ]
            }
        return {"$ref": "#/$defs/decode"}

    def pipeline(self, plugins: Plugins) -> Schema:
        """A pipeline; what its expressions mean is for the compiler to say."""
        steps: Schema = {}
        for name in plugins.names("steps"):
            try:
                options: Any = plugins.load("steps", name).options
            except MissingExtra:
                steps[name] = {}
                continue
            fields: Any = inspect.type_info(options)
            whole = [field.name for field in fields.fields] == [WHOLE]
            steps[name] = {
                "description": summary("steps", name, plugins),
                **(self.of(fields.fields[0].type) if whole else self.struct(options)),
            }
        step = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
            "properties": steps,
        }
        schema = self.struct(plugins.definition())
        schema["properties"]["steps"] = {"type": "array", "items": step}
        return schema

    def _properties(self, kind: type) -> tuple[Schema, list[str], list[tuple[str, str]]]:
        """Schemas of a struct's options, those that must be given, and pairs of which one must be given."""
        info: Any = inspect.type_info(kind)
        told = descriptions(kind)
        properties: Schema = {}
        required, either = [], []
        for field in info.fields:
            name = field.encode_name
            properties[name] = self.of(field.type)
            if field.name in told:
                properties[name]["description"] = told[field.name]
            value = _plain(default(field))
            if value is not NODEFAULT:
                properties[name]["default"] = value
            if holds_secret(field.type):
                text = f"a systemd credential, instead of `{name}`"
                properties[credential(name)] = {"type": "string", "description": text}
            if field.required and holds_secret(field.type):
                either.append((name, credential(name)))
            elif field.required:
                required.append(name)
        if info.tag_field is not None:
            properties[info.tag_field] = {"const": info.tag}
            required.append(info.tag_field)
        return properties, required, either

    def of(self, kind: inspect.Type) -> Schema:
        """The schema of a type."""
        if isinstance(kind, inspect.Metadata) and "options" in (kind.extra or {}):
            inside = self.struct((kind.extra or {})["options"])
            return {"type": "array", "items": inside} if isinstance(bare(kind), inspect.ListType) else inside
        kind = bare(kind)
        if isinstance(kind, inspect.UnionType):
            return {"anyOf": [self.of(one) for one in kind.types]}
        if isinstance(kind, inspect.StructType):
            return self.struct(kind.cls)
        if isinstance(kind, inspect.CustomType) and kind.cls is Decoding:
            return self.decoding()
        if isinstance(kind, inspect.CustomType):
            return dict(_CUSTOM.get(kind.cls, {"type": ["string", "number", "boolean"]}))
        if isinstance(kind, (inspect.LiteralType, inspect.EnumType)):
            return {"anyOf": [{"enum": choices(kind)}, _reference()]}
        if isinstance(kind, inspect.StrType):
            text = _given(type="string", minLength=kind.min_length, maxLength=kind.max_length)
            return {**text, "pattern": f"{kind.pattern}|{REFERENCE}"} if kind.pattern else text
        if isinstance(kind, (inspect.IntType, inspect.FloatType)):
            number = _given(
                type="integer" if isinstance(kind, inspect.IntType) else "number",
                minimum=kind.ge,
                maximum=kind.le,
                exclusiveMinimum=kind.gt,
                exclusiveMaximum=kind.lt,
                multipleOf=kind.multiple_of,
            )
            return {"anyOf": [number, _reference()]}
        if isinstance(kind, inspect.BoolType):
            return {"anyOf": [{"type": "boolean"}, _reference()]}
        if isinstance(kind, inspect.NoneType):
            return {"type": "null"}
        if isinstance(kind, inspect.DictType):
            return {"type": "object", "additionalProperties": self.of(kind.value_type)}
        if isinstance(kind, inspect.TupleType):
            items = [self.of(one) for one in kind.item_types]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        if isinstance(kind, (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)):
            return _given(
                type="array", items=self.of(kind.item_type), minItems=kind.min_length, maxItems=kind.max_length
            )
        return {}


def _object(properties: Schema, required: Iterable[str], either: Iterable[tuple[str, str]]) -> Schema:
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if needed := list(required):
        schema["required"] = needed
    if pairs := [{"anyOf": [{"required": [one]} for one in pair]} for pair in either]:
        schema["allOf"] = pairs
    return schema


def _reference() -> Schema:
    return {"type": "string", "pattern": REFERENCE}


def _given(**facts: Any) -> Schema:
    return {name: fact for name, fact in facts.items() if fact is not None}


def _plain(value: Any) -> Any:
    """A default as it would stand in the file; NODEFAULT where it is said by the options inside."""
    if value is NODEFAULT or isinstance(value, (msgspec.Struct, Secret)):
        return NODEFAULT
    if isinstance(value, (Duration, Size, Rate)):
        return spell(value)
    if isinstance(value, Decoding):
        return value.plain()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, str) else value
