"""The JSON Schema, the reference and docs/config.md are made from the types the loader reads by, and say the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import decode, plugin
from gateway.config import load, reference
from gateway.config.handbook import markdown
from gateway.config.marks import parse
from gateway.config.schema import schema

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "config"
TYPES = {
    "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


def faults(value: Any, rule: Any, root: Any, path: str = "") -> list[str]:
    """What JSON Schema 2020-12 would say, for the keywords we use; an unknown keyword is an error here."""
    found = []
    for word, told in rule.items():
        match word:
            case "type":
                names = [told] if isinstance(told, str) else told
                if not any(
                    isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names
                ):
                    return [f"{path}: type"]
            case "enum" | "const":
                if value not in (told if word == "enum" else [told]):
                    found.append(f"{path}: {word}")
            case "pattern":
                if isinstance(value, str) and not re.search(told, value):
                    found.append(f"{path}: pattern")
            case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
                if isinstance(value, int | float):
                    good = {"minimum": value >= told, "maximum": value <= told}
                    good |= {"exclusiveMinimum": value > told, "exclusiveMaximum": value < told}
                    if not good[word]:
                        found.append(f"{path}: {word}")
            case "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties":
                kind = {"Length": str, "Items": list, "Properties": dict}[word[3:]]
                if isinstance(value, kind) and (len(value) < told if word.startswith("min") else len(value) > told):
                    found.append(f"{path}: {word}")
            case "properties":
                if isinstance(value, dict):
                    for name, inner in told.items():
                        if name in value:
                            found += faults(value[name], inner, root, f"{path}.{name}")
            case "additionalProperties":
                for name in (value if isinstance(value, dict) else {}).keys() - rule.get("properties", {}).keys():
                    if told is False:
                        found.append(f"{path}.{name}: unknown")
                    else:
                        found += faults(value[name], told, root, f"{path}.{name}")
            case "propertyNames":
                for name in value if isinstance(value, dict) else ():
                    found += faults(name, told, root, f"{path}.{name}")
            case "required":
                found += [f"{path}.{name}: missing" for name in told if isinstance(value, dict) and name not in value]
            case "items":
                for i, item in enumerate(value if isinstance(value, list) else ()):
                    found += faults(item, told, root, f"{path}[{i}]")
            case "anyOf":
                if all(faults(value, one, root, path) for one in told):
                    found.append(f"{path}: none of {len(told)}")
            case "allOf":
                for one in told:
                    found += faults(value, one, root, path)
            case "if":
                if not faults(value, told, root, path):
                    found += faults(value, rule["then"], root, path)
            case "$ref":
                found += faults(value, root["$defs"][told.removeprefix("#/$defs/")], root, path)
            case "then" | "$schema" | "$defs" | "title" | "description" | "default" | "examples":
                pass
            case _:
                raise AssertionError(f"keyword {word}")
    return found


def plain(path: Path) -> Any:
    root, _ = parse(path.name, path.read_bytes(), {})
    assert root is not None
    return root.plain()


@pytest.fixture(scope="module")
def whole():
    return schema()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("good_*.yaml")), ids=lambda path: path.name)
def test_a_good_configuration_fits_the_schema(path, whole):
    assert faults(plain(path), whole, whole) == []


def test_the_schema_sees_what_needs_no_other_file(whole):
    found = faults(plain(CONFIGS / "bad_eight.yaml"), whole, whole)
    assert {fault.split(":")[0] for fault in found} == {
        ".drivers.sensors.subscribe[1]",
        ".drivers.sensors.qos",
        ".drivers.sensors.password",
        ".streams.freezers.keep.age",
        ".sinks.cloud.batch.age",
    }


def test_a_value_may_always_come_from_the_environment(whole):
    text = "gateway: {id: '${A}'}\nlog: {size: '${B}'}\nsinks: {s: {sink: file, path: '${C}', streams: [a], in_flight: '${D}', format: '${E}'}}"
    root, _ = parse("f", text.replace("${", "$${").encode(), {})
    assert root is not None
    assert faults(root.plain(), whole, whole) == []


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in ("drivers", "sinks") for name in plugin.names(family)]
)
def test_the_example_of_a_plugin_loads_and_fits_the_schema(family, name, tmp_path, whole):
    entry = reference.entry(family, name)
    assert entry.summary
    assert entry.example
    assert [option.name for option in entry.options if not option.text and "." not in option.name] == []
    secret = tmp_path / "secret"
    secret.write_text("s" * 16)
    example = yaml.safe_load(re.sub(r"(_file: )\S+", rf"\g<1>{secret}", entry.example))
    config = {"gateway": {"id": "g"}, family: {"it": example}}
    config["streams"] = {stream: {} for stream in example.get("streams", ())}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    assert getattr(load(path), family)["it"].options is not None
    assert faults(config, whole, whole) == []


@pytest.mark.parametrize("name", decode.names())
def test_a_decoder_and_its_example_load_and_fit_the_schema(name, tmp_path, whole):
    entry = reference.entry("decoders", name)
    assert entry.summary
    assert [option.name for option in entry.options if not option.text] == []
    said = yaml.safe_load(entry.example)["decode"] if entry.example else name
    config = {"gateway": {"id": "g"}, "streams": {"s": {"decode": said}}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    assert load(path).streams["s"].decode.name == name
    assert faults(config, whole, whole) == []
    config["streams"]["s"] = {"decode": {name: {"strange": 1}}}
    assert faults(config, whole, whole)
    config["streams"]["s"] = {"decode": name}
    alone = not decode.needed(plugin.load("decoders", name).options)
    assert (faults(config, whole, whole) == []) is alone


def test_docs_config_md_is_fresh():
    """If not: `tidegate plugins --markdown > docs/config.md`."""
    assert (ROOT / "docs" / "config.md").read_text() == markdown()


def test_a_default_is_shown_as_one_would_write_it(whole):
    assert json.loads(json.dumps(whole)) == whole
    families = [(family, name) for family in plugin.FAMILIES for name in plugin.names(family)]
    options = [option for family, name in families for option in reference.entry(family, name).options]
    assert [option for option in options if re.search(r"\w\(|^<", option.default or "")] == []
    assert {option.default for option in options if option.kind == "decoder"} == {"json"}


def test_the_example_in_docs_config_md_loads(tmp_path):
    (first, *_) = re.findall(r"```yaml\n(.*?)```", markdown(), re.DOTALL)
    path = tmp_path / "c.yaml"
    path.write_text(first)
    load(path)


def test_the_reference_of_pipelines_names_their_options_and_those_of_time():
    text = markdown()
    for option in ("from", "to", "start", "schema", "time.event", "time.lateness", "key", "max_keys", "steps"):
        assert f"\n| `{option}` |" in text, option
    for decoder in decode.names():
        assert f"\n### `decode: {decoder}`\n" in text
    assert "$TIDEGATE_CONFIG" in text
    pipeline = schema()["properties"]["pipelines"]["additionalProperties"]["properties"]
    assert set(pipeline["time"]["properties"]) == {"event", "lateness", "max_ahead", "idle", "zone"}
