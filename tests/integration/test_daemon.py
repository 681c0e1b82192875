"""The daemon as systemd and its user see it: starts, says how it is, refuses what it must, stops in order."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from process import GatewayProcess

from gateway.testing import Mosquitto, free_port, publish

pytestmark = pytest.mark.integration

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
pipelines:
  typed: {{from: readings, schema: {{v: float}}, steps: [{{filter: v > 0}}, {{emit: {{v: v}}}}], to: positive}}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [positive],
          batch: {{age: 100ms}}, format: ndjson}}
"""


@pytest.fixture
def near(tmp_path):
    with Mosquitto(tmp_path / "near") as broker:
        yield broker


def wait_for(holds, timeout_s: float = 15) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_systemd_hears_ready_the_watchdog_and_the_stop(tmp_path, near, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        gateway = GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port())
        gateway.start()
        assert listener.recv(4096).startswith(b"READY=1")
        heard = b""
        while b"WATCHDOG=1" not in heard:
            heard = listener.recv(4096)
        assert gateway.stop() == 0
        while b"STOPPING=1" not in heard:
            heard = listener.recv(4096)


def test_it_stops_within_ten_seconds_with_its_cloud_away_and_work_left(tmp_path, near):
    gateway = GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port())
    gateway.start()
    publish(near.port, [("plant/a", b'{"v":%d}' % n) for n in range(1, 3000)])
    wait_for(lambda: gateway.json("/api/v1/streams")["streams"][1]["next"] > 0)
    started = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - started < 12


def test_a_hangup_takes_the_changed_configuration(tmp_path, near):
    with GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port()) as gateway:
        gateway.write_config(CONFIG.replace("v > 0", "v > 1"), near=near.port, far=free_port())
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_line("reloaded: pipeline typed changed, its state goes on; sink cloud changed")
        assert gateway.get("/healthz")[0] == 200


def test_a_hangup_with_a_mistake_changes_nothing(tmp_path, near):
    with GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port()) as gateway:
        gateway.write_config(CONFIG.replace("subscribe", "subscrbe"), near=near.port, far=free_port())
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_line("unknown option; did you mean subscribe?")
        assert gateway.get("/readyz")[0] == 200


def test_a_hangup_during_the_start_is_answered_when_it_is_ready(tmp_path, near):
    gateway = GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port())
    for _ in range(5):
        gateway.start(wait=False)
        until = time.monotonic() + 20
        while b"log open in" not in gateway.output.read_bytes()[gateway._mark :]:
            assert time.monotonic() < until
            time.sleep(0.001)
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_line("reloaded: nothing differs")
        assert gateway.stop() == 0
    assert b"could not be changed" not in gateway.output.read_bytes()


def test_a_hangup_during_the_stop_changes_nothing(tmp_path, near):
    with GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port()) as gateway:
        gateway.write_config(CONFIG.replace("plant/#", "other/#"), near=near.port, far=free_port())
        process = gateway.process
        process.send_signal(signal.SIGTERM)
        gateway.wait_for_line("stopping")
        process.send_signal(signal.SIGHUP)
        assert process.wait(20) == 0
        assert b"driver plant changed" not in gateway.output.read_bytes()


def test_systemd_hears_of_a_reload(tmp_path, near, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        gateway = GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port())
        gateway.start()
        os.kill(gateway.pid, signal.SIGHUP)
        heard = []
        while not heard or not heard[-1].startswith(b"RELOADING=1"):
            heard.append(listener.recv(4096))
        assert b"MONOTONIC_USEC=" in heard[-1]
        while not heard[-1].startswith(b"READY=1"):
            heard.append(listener.recv(4096))
        assert gateway.stop() == 0


def test_a_second_daemon_on_the_same_log_is_refused_with_words(tmp_path, near):
    with GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port()) as gateway:
        again = subprocess.run(
            [sys.executable, "-m", "gateway", "run", "--config", str(gateway.config)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert again.returncode == 1
        assert "another Tidegate has this log open" in again.stderr
        assert gateway.get("/readyz")[0] == 200


def test_mistakes_are_told_and_the_log_is_not_touched(tmp_path):
    gateway = GatewayProcess(tmp_path, CONFIG.replace("subscribe", "subscrbe"), near=1883, far=1883)
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "run", "--config", str(gateway.config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 78
    assert "did you mean" in ended.stderr
    assert f"{gateway.config}:4:" in ended.stderr
    assert not gateway.log_folder.exists()


def test_what_cannot_be_processed_is_counted_told_and_kept(tmp_path, near):
    with GatewayProcess(tmp_path, CONFIG, near=near.port, far=free_port()) as gateway:
        wait_for(lambda: gateway.get("/readyz")[0] == 200)
        publish(
            near.port,
            [("plant/a", b'{"v":1}'), ("plant/b", b"\xff\xfe"), ("plant/c", b'{"w":1}'), ("plant/d", b'{"v":-1}')],
        )
        wait_for(lambda: gateway.metric("tidegate_dead_total") == 2)
        status = gateway.json("/api/v1/status")
        assert "2 dead letters" in status["sentence"]
        (pipeline,) = status["pipelines"]
        assert (pipeline["dead"], pipeline["filtered"]) == (2, 1)
        detail = next(c["detail"] for c in status["components"] if c["name"] == "pipeline:typed")
        assert "decode" in detail
        letters = []
        while len(letters) < 2:  # they are read after their commit, like every record
            letters = gateway.json("/api/v1/streams/_dead/records")["records"]
        assert {letter["k"] for letter in letters} == {"plant/b", "plant/c"}
        assert gateway.metric("tidegate_pipeline_filtered") == 1


def test_a_refused_login_is_shown_with_the_brokers_reason_and_tried_again(tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o600)
    extra = f"password_file {passwords}\nallow_anonymous false"
    broker = Mosquitto(tmp_path / "near", extra=extra)
    broker.start()
    try:
        with GatewayProcess(tmp_path, CONFIG, near=broker.port, far=free_port()) as gateway:
            wait_for(lambda: b"not authorized" in gateway.get("/readyz")[1])
            code, _ = gateway.get("/readyz")
            assert code == 503
            wait_for(lambda: gateway.metric("tidegate_restarts_total") >= 1)
            assert "driver:plant waits" in gateway.output.read_text()
    finally:
        broker.stop()


def test_payloads_are_decoded_as_the_driver_says_and_a_comment_is_counted(tmp_path, near):
    config = CONFIG.replace(
        "stream: readings}}", "stream: readings, decode: {{csv: {{columns: [ts, v], delimiter: ';', skip: ['#']}}}}}}"
    )
    with GatewayProcess(tmp_path, config, near=near.port, far=free_port()) as gateway:
        wait_for(lambda: gateway.get("/readyz")[0] == 200)
        publish(
            near.port, [("plant/a", b"# ts;v"), ("plant/a", b"1;2.5\r\n"), ("plant/b", b"ts;v"), ("plant/b", b"1;2;3")]
        )
        records = []
        while not records:
            records = gateway.json("/api/v1/streams/positive/records")["records"]
        assert [(record["k"], record["v"]) for record in records] == [("plant/a", {"v": 2.5})]
        wait_for(lambda: gateway.metric("tidegate_pipeline_no_record") == 2)
        (pipeline,) = gateway.json("/api/v1/status")["pipelines"]
        assert (pipeline["dead"], pipeline["no_record"]) == (1, 2)


ALARMS = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
streams:
  alarms: {{priority: urgent}}
pipelines:
  watch:
    from: readings
    schema: {{v: float}}
    steps:
      - alarm: {{name: hot, raise_when: v > 8, hold: 1s, with: [v], to: alarms}}
      - route: [{{when: v > 100, to: broken}}]
"""


def test_an_alarm_of_a_sensor_that_fell_silent_is_raised_by_time_and_outlives_a_kill(tmp_path, near):
    with GatewayProcess(tmp_path, ALARMS, near=near.port, far=free_port()) as gateway:
        wait_for(lambda: gateway.get("/readyz")[0] == 200)
        publish(near.port, [("plant/a", b'{"v":9}'), ("plant/b", b'{"v":1}')])
        wait_for(lambda: gateway.metric("tidegate_pipeline_alarms") == 1)
        status = gateway.json("/api/v1/status")
        (pipeline,) = status["pipelines"]
        assert (pipeline["alarms"], pipeline["raised"], pipeline["unrouted"]) == (1, 1, 2)
        assert pipeline["detail"] == "1 alarm raised"
        assert status["sentence"].endswith("; 1 alarm raised")
        records = []
        while not records:
            records = gateway.json("/api/v1/streams/alarms/records")["records"]
        assert [(r["k"], r["v"]["state"], r["v"]["v"]) for r in records] == [("plant/a", "raised", 9.0)]
        gateway.kill()
        gateway.start()
        wait_for(lambda: gateway.get("/readyz")[0] == 200)
        assert gateway.metric("tidegate_pipeline_raised") == 1
        publish(near.port, [("plant/a", b'{"v":2}')])
        while len(records) < 2:
            records = gateway.json("/api/v1/streams/alarms/records")["records"]
        assert [r["v"]["state"] for r in records] == ["raised", "cleared"]
        status = gateway.json("/api/v1/status")
        assert (status["pipelines"][0]["detail"], "raised" in status["sentence"]) == ("", False)
        assert records[0]["v"]["since"] == records[1]["v"]["since"]
