"""Recipes: every test in them passes, the driver in each one's beginning is right, and what comes out is typed."""

import re

import msgspec
import pytest
from shaping import Event, Out, program, run

from gateway import plugin
from gateway.config import load, load_pipelines
from gateway.errors import ConfigError
from gateway.trial import run_case

RECIPES = plugin.recipes()
DOCUMENT = next(iter(RECIPES.values())).parents[2] / "docs" / "recipes.md"
# What a consumer may rely on: the type of every field of every stream that recipes write to.
TYPES = {
    "readings": {
        "device": "str", "source": "str", "time": "time",
        **dict.fromkeys(
            "temperature_c humidity_pct pressure_hpa co2_ppm voc pm25_ug_m3 illuminance_lx soil_moisture_pct power_w energy_kwh "
            "voltage_v current_a power_factor frequency_hz battery_pct link_quality rssi_dbm chip_temperature_c uptime_s "
            "dimmer_pct".split(), "float?",
        ),
        **dict.fromkeys("on on_2 on_3 on_4 occupied closed leak smoke tampered battery_low".split(), "bool?"),
        **dict.fromkeys("state action part".split(), "str?"),
    },
    "values": {"device": "str", "quantity": "str", "source": "str", "value": "float", "time": "time"},
    "states": {"device": "str", "quantity": "str", "source": "str", "state": "str", "on": "bool?", "time": "time"},
    "presence": {"device": "str", "source": "str", "online": "bool", "time": "time"},
    "entities": {
        "entity": "str", "component": "str", "source": "str", "time": "time",
        **dict.fromkeys(
            "name device manufacturer model quantity kind unit state_topic template".split(), "str?",
        ),
    },
}  # fmt: skip


def head(name):
    """The configuration that the beginning of a recipe shows."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in RECIPES[name].read_text().split("\n")]
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("include:"))
    block = lines[start : lines.index("", start)]
    return "\n".join(line.removeprefix("  ") for line in block) + "\n"


def cases():
    for name, path in RECIPES.items():
        for entry in load_pipelines(path, environ={}).pipelines.values():
            for case in entry.program.tests:
                yield pytest.param(entry.program, case, id=f"{name}: {entry.name}: {case.name}")


def test_there_is_one_for_each_of_these():
    assert set(RECIPES) == {"zigbee2mqtt", "tasmota", "shelly", "esphome", "homeassistant"}


@pytest.mark.parametrize(("made", "case"), list(cases()))
def test_its_own_tests_pass(made, case):
    outcome = run_case(made, case)
    assert outcome.passed, outcome.differences


@pytest.mark.parametrize("name", RECIPES)
def test_every_pipeline_of_it_has_a_test(name):
    for entry in load_pipelines(RECIPES[name], environ={}).pipelines.values():
        assert entry.program.tests, entry.name


@pytest.mark.parametrize(("made", "case"), list(cases()))
def test_what_comes_out_has_the_fields_and_types_that_are_promised(made, case):
    """A typed pipeline over each output takes every record, and no field is there that is not in the promise."""
    out = Out()
    for given in case.given:
        run(made, [Event(given.key, given.value, given.arrival, given.stream, given.flags)], out=out)
    for stream in {to for to, *_ in out.emitted}:
        schema = TYPES[stream]
        typed = program([{"emit": {name: name for name in schema}}], schema=schema, time={"event": "time"})
        rows = [(time, key, value) for to, time, key, value in out.emitted if to == stream]
        again = run(typed, [Event(key, value, time) for time, key, value in rows])
        assert again.letters() == []
        for _, _, value in rows:
            assert msgspec.json.decode(value).keys() <= schema.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_the_configuration_in_its_beginning_loads_and_feeds_every_stream_it_reads(name, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("gateway: {id: g}\n" + head(name))
    config = load(path, environ={})
    fed = {stream for driver in config.drivers.values() for stream in driver.streams}
    read = {stream for pipeline in config.pipelines.values() for stream in pipeline.program.inputs}
    assert read <= fed


def test_all_of_them_together_and_the_example_of_the_document_load(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"gateway: {{id: g}}\ninclude: [{', '.join(f'recipe:{name}' for name in RECIPES)}]\n")
    config = load(path, environ={"TASMOTA_ZONE": "Europe/Berlin"})
    assert set(config.streams) >= set(TYPES)
    path.write_text("gateway: {id: g}\n" + re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0])
    assert "freezer-warm" in load(path, environ={}).pipelines


def test_the_document_tells_every_stream_and_every_field():
    text = DOCUMENT.read_text()
    for name, path in RECIPES.items():
        assert f"`recipe:{name}`" in text
        for stream in load_pipelines(path, environ={}).pipelines.values():
            assert all(f"`{one}`" in text for one in stream.program.inputs)
    for stream, fields in TYPES.items():
        assert f"`{stream}`" in text
    for field in TYPES["readings"]:
        assert re.search(rf"\b{field}\b", text), field


def test_a_zone_from_the_environment_is_that_of_tasmotas_times(tmp_path):
    made = (
        load_pipelines(RECIPES["tasmota"], environ={"TASMOTA_ZONE": "Europe/Berlin"})
        .pipelines["tasmota-sensor"]
        .program
    )
    payload = b'{"Time":"2025-11-23T13:00:00","DS18B20":{"Temperature":61.2},"TempUnit":"C"}'
    out = run(made, [Event("tele/boiler/SENSOR", payload, stream="tasmota-sensor")])
    assert out.rows("readings")[0]["time"] == "2025-11-23T12:00:00Z"
    wrong = load_pipelines(RECIPES["tasmota"], environ={}).pipelines["tasmota-sensor"].program
    out = run(wrong, [Event("tele/boiler/SENSOR", payload, stream="tasmota-sensor")])
    assert "too far ahead of the arrival" in out.letters()[0][1]


def test_a_recipe_there_is_none_of_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("gateway: {id: g}\ninclude: [recipe:tasmoto]\n")
    with pytest.raises(ConfigError) as caught:
        load("c.yaml", environ={})
    assert str(caught.value) == "c.yaml:2:11: include[0]: no recipe is called 'tasmoto'; did you mean tasmota?"
