"""The status of a real daemon: its numbers, its events, its control socket."""

import contextlib
import http.client
import json
import os
import stat

import pytest
from process import GatewayProcess
from status_rig import ControlConnection, Server, events, wait_for

CONFIG = """
gateway: {{id: plant, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  sim: {{driver: simulated, rate: {rate}, sensors: 5, stream: raw}}
pipelines:
  warm: {{from: raw, schema: {{v: float}}, steps: [{{filter: v > -1000}}, {{emit: {{v: v}}}}], to: warm}}
  broken: {{from: raw, schema: {{w: float}}, steps: [{{emit: {{w: w}}}}], to: never}}
sinks:
  out: {{sink: file, path: {out}, streams: [warm], batch: {{age: 100ms}}}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("status")
    with GatewayProcess(folder, CONFIG, rate=500, out=folder / "out") as running:
        yield running


@contextlib.contextmanager
def follow(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200
    yield events(answer)
    answer.close()
    connection.close()


def test_the_numbers_of_parts_streams_and_the_log_are_told(gateway):
    wait_for(lambda: gateway.json("/api/v1/status")["sinks"][0]["delivered"] > 500)
    status = gateway.json("/api/v1/status")
    (driver,) = status["drivers"]
    assert (driver["name"], driver["kind"], driver["streams"], driver["state"]) == ("sim", "simulated", ["raw"], "up")
    assert driver["records"] >= 500
    warm, broken = status["pipelines"]
    assert (warm["inputs"], warm["outputs"], broken["dead"] > 0) == (["raw"], ["warm", "_dead"], True)
    (sink,) = status["sinks"]
    assert (sink["name"], sink["kind"], sink["streams"]) == ("out", "file", ["warm"])
    assert status["level"] == "attention"
    assert "dead letters since the start" in status["sentence"]
    streams = {stream["name"]: stream for stream in status["streams"]}
    assert abs(streams["raw"]["newest"] - status["now"]) < 10e9
    assert 0 < status["log"]["horizon_s"] <= status["uptime_s"] + 1
    assert status["config"] == {
        "files": [str(gateway.config)],
        "loaded": status["config"]["loaded"],
        "reloads": 0,
        "problems": [],
    }
    pipelines = gateway.json("/api/v1/pipelines")["pipelines"]
    assert pipelines[0]["definition"]["steps"] == [{"filter": "v > -1000"}, {"emit": {"v": "v"}}]


def test_events_bring_status_and_records_as_they_come(gateway):
    with follow(gateway.status, "/api/v1/events?stream=warm") as found:
        name, status = next(found)
        assert (name, status["viewers"]) == ("status", 1)
        told = [data for name, data in (next(found) for _ in range(6)) if name == "records"]
        assert len(told) >= 3
        offsets = [record["o"] for event in told for record in event["records"]]
        assert offsets == sorted(set(offsets))
        for before, after in zip(told, told[1:], strict=False):
            assert after["records"][0]["o"] == before["records"][-1]["o"] + 1 + after["skipped"]


def test_a_flood_of_dead_letters_keeps_the_answer_small(gateway):
    wait_for(lambda: gateway.json("/api/v1/dead")["total"] > 1000)
    answer = gateway.json("/api/v1/dead?limit=200")
    assert answer["suppressed"] > 0
    assert len(json.dumps(answer)) < 300_000
    (reason,) = answer["reasons"]
    assert (reason["by"], reason["step"], reason["reason"]) == ("broken", "decode", "missing w")
    newest = answer["records"][0]
    assert newest["stream"] == "raw"
    assert json.loads(newest["raw"])["seq"] == newest["value"]["seq"]
    assert len(answer["records"]) <= 200


def test_the_control_socket_is_there_while_the_daemon_is(tmp_path):
    with GatewayProcess(tmp_path, CONFIG, rate=1, out=tmp_path / "out") as gateway:
        socket = gateway.log_folder / "control"
        assert stat.S_IMODE(os.stat(socket).st_mode) == 0o660
        answer = Server.ask(ControlConnection(gateway.log_folder), "/api/v1/status")
        assert json.loads(answer.text)["gateway"] == "plant"
        gateway.kill()
        assert socket.exists()
        gateway.start()
        assert Server.ask(ControlConnection(gateway.log_folder), "/healthz").status == 200
        assert gateway.stop() == 0
        assert not socket.exists()


def test_a_reload_of_a_file_with_mistakes_is_refused_and_told(tmp_path):
    with GatewayProcess(tmp_path, CONFIG, rate=1, out=tmp_path / "out") as gateway:
        good = gateway.config.read_text()
        gateway.config.write_text(good.replace("sensors: 5", "sensors: many"))
        answer = Server.ask(ControlConnection(gateway.log_folder), "/api/v1/reload", "POST")
        told = json.loads(answer.text)
        assert (answer.status, told["ok"]) == (422, False)
        assert told["problems"][0]["path"] == "drivers.sim.sensors"
        assert told["problems"][0]["line"] == 5
        status = gateway.json("/api/v1/status")
        assert status["config"]["problems"] == told["problems"]
        assert "The last reload was refused for 1 mistake" in status["sentence"]
        gateway.config.write_text(good)
        answer = Server.ask(ControlConnection(gateway.log_folder), "/api/v1/reload", "POST")
        assert (answer.status, json.loads(answer.text)["ok"]) == (200, True)
        assert gateway.json("/api/v1/status")["config"]["problems"] == []


def test_a_stop_does_not_wait_for_those_who_follow(tmp_path):
    with GatewayProcess(tmp_path, CONFIG, rate=1, out=tmp_path / "out") as gateway, contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(follow(gateway.status, "/api/v1/events")) for _ in range(8)]
        for found in viewers:
            assert next(found)[0] == "status"
        assert gateway.stop() == 0
        for found in viewers:
            with contextlib.suppress(ConnectionError):
                list(found)
