"""Recipes over a real broker: what devices publish comes out of the daemon as typed records."""

import time

import pytest
import yaml
from process import GatewayProcess
from shaping import Event, Out, run

from gateway import plugin
from gateway.config import load_pipelines
from gateway.testing import Mosquitto, publish

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
include: [{recipes}]
drivers: {drivers}
pipelines:
  typed:
    from: readings
    schema: {{device: str, source: str, temperature_c: float?, power_w: float?, on: bool?, time: time}}
    steps: [{{emit: {{device: device, source: source, t: temperature_c, w: power_w, on: on, time: time}}}}]
    to: typed
"""


def drivers(port):
    """Every driver that the recipes show, at this broker."""
    found = {}
    for path in plugin.recipes().values():
        text = "\n".join(
            line.removeprefix("#") for line in path.read_text().split("\n\n")[0].split("#\n")[1].split("\n")
        )
        for name, options in yaml.safe_load(text)["drivers"].items():
            found[name] = {**options, "url": f"mqtt://127.0.0.1:{port}"}
    return found


def matches(pattern, topic):
    levels = zip(pattern.split("/"), topic.split("/"), strict=False)
    return pattern.count("/") == topic.count("/") and all(one in ("+", level) for one, level in levels)


def test_what_devices_publish_comes_out_typed(tmp_path):
    """All messages of the recipes' own tests, by the subscriptions that their beginnings show."""
    entries = [one for path in plugin.recipes().values() for one in load_pipelines(path, environ={}).pipelines.values()]
    programs = {}  # stream -> whoever reads it
    for entry in entries:
        for stream in entry.program.inputs:
            programs.setdefault(stream, []).append(entry.program)
    filters = [(one["filter"], one["stream"]) for driver in drivers(0).values() for one in driver["subscribe"]]
    messages, out = [], Out()
    for entry in entries:
        for given in (given for case in entry.program.tests for given in case.given):
            if any(stream == given.stream and matches(pattern, given.key) for pattern, stream in filters):
                messages.append((given.key, given.value))
                for made in programs[given.stream]:
                    run(made, [Event(given.key, given.value, given.arrival, given.stream)], out=out)
    wanted = {stream: len(out.rows(stream)) for stream in ("readings", "values", "states", "presence", "entities")}
    assert min(wanted.values()) > 1 and not out.letters()

    with Mosquitto(tmp_path / "near") as near:
        config = {"recipes": ", ".join(f"recipe:{name}" for name in plugin.recipes()), "drivers": drivers(near.port)}
        with GatewayProcess(tmp_path, CONFIG, **config) as gateway:
            until = time.monotonic() + 30
            while gateway.get("/readyz")[0] != 200:
                assert time.monotonic() < until
            publish(near.port, messages)

            def counts():
                streams = {one["name"]: one["next"] for one in gateway.json("/api/v1/streams")["streams"]}
                return {stream: streams[stream] for stream in wanted}

            while counts() != wanted:
                assert time.monotonic() < until, (counts(), wanted)
                time.sleep(0.1)
            typed = []
            while len(typed) < wanted["readings"]:
                assert time.monotonic() < until
                typed = gateway.json("/api/v1/streams/typed/records?limit=1000")["records"]
            assert {record["v"]["source"] for record in typed} == {"zigbee2mqtt", "tasmota", "shelly"}
            assert gateway.metric("tidegate_dead_total") == 0
