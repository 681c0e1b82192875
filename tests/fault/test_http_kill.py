"""Clients that post and repeat what was not answered, at a gateway that is killed, held up and cut off: what was answered
with 2xx is in the log, and with an Idempotency-Key it is there once.
"""

import http.client
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from process import GatewayProcess

from gateway.testing import free_port

pytestmark = pytest.mark.fault

HELD = [sys.executable, str(Path(__file__).parent.parent / "rig" / "held.py")]
CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB}}
drivers:
  posted: {{driver: http, listen: "127.0.0.1:{port}", stream: readings, paths: [/readings]}}
"""
GIVE_UP_S = 60.0


class Sensor(threading.Thread):
    """Posts requests of one to five readings, each until it is answered with 200. `cuts`: how often it hangs up before."""

    def __init__(self, number, port, requests, *, cuts=0.0):
        super().__init__()
        self._number, self._port, self._requests, self._cuts = number, port, requests, cuts
        self._rng = random.Random(number)
        self.answered: list[bytes] = []
        self.statuses: Counter = Counter()
        self.repeated = 0
        self.problem = ""

    def run(self):
        try:
            for at in range(self._requests):
                values = [b'{"s":%d,"n":%d,"i":%d}' % (self._number, at, i) for i in range(self._rng.randint(1, 5))]
                self._deliver(f"{self._number}-{at}", values)
                self.answered += values
        except Exception as error:  # for the test's thread
            self.problem = repr(error)

    def _deliver(self, name, values):
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": name}
        until = time.monotonic() + GIVE_UP_S
        connection = None
        while True:
            if time.monotonic() > until:
                raise TimeoutError(name)
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
                connection.request("POST", "/readings", b"\n".join(values), headers)
                if self._rng.random() < self._cuts:
                    time.sleep(self._rng.uniform(0, 0.15))
                    raise ConnectionError
                answer = connection.getresponse()
                said = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.02)
                continue
            self.statuses[answer.status] += 1
            if answer.status == 200:
                assert said["recorded"] == len(values)
                self.repeated += said.get("repeated", False)
                connection.close()
                return
            assert answer.status == 503, said
            time.sleep(min(float(answer.headers["retry-after"]), 0.2))


def recorded(gateway):
    found, at = [], 0
    while True:
        page = gateway.json(f"/api/v1/streams/readings/records?from={at}&limit=1000")
        found += [json.dumps(row["v"], separators=(",", ":")).encode() for row in page["records"]]
        if not page["records"]:
            return Counter(found)
        at = page["next"]


def joined(sensors):
    for sensor in sensors:
        sensor.join(GIVE_UP_S + 30)
    assert [sensor.problem for sensor in sensors if sensor.problem or sensor.is_alive()] == []
    return Counter(value for sensor in sensors for value in sensor.answered)


@pytest.mark.timeout(900)
def test_every_reading_that_was_answered_survives_kills(tmp_path, full):
    kills, clients = (20, 16) if full else (4, 8)
    rng, port = random.Random(3), free_port()
    gateway = GatewayProcess(tmp_path, CONFIG, port=port)
    gateway.start()
    sensors = [Sensor(n, port, kills * 12) for n in range(clients)]
    for sensor in sensors:
        sensor.start()
    for _ in range(kills):
        time.sleep(rng.uniform(0.3, 1.2))
        gateway.kill()
        gateway.start()
    answered = joined(sensors)
    found = recorded(gateway)
    gateway.stop()
    assert answered - found == Counter(), "answered with 200, and not in the log"
    assert found.keys() == answered.keys()
    # What was durable and not answered when the gateway was killed comes again, and the new one cannot know it.
    assert (found - answered).total() <= kills * clients * 5
    print(f"{answered.total()} readings, {kills} kills, {(found - answered).total()} recorded twice")


@pytest.mark.timeout(300)
def test_clients_that_hang_up_and_repeat_have_every_reading_recorded_once(tmp_path, full):
    port = free_port()
    gateway = GatewayProcess(tmp_path, CONFIG, port=port)
    gateway.start()
    sensors = [Sensor(n, port, 400 if full else 40, cuts=0.4) for n in range(8)]
    for sensor in sensors:
        sensor.start()
    answered = joined(sensors)
    assert recorded(gateway) == answered
    assert sum(sensor.repeated for sensor in sensors) > 10, "some answers were to be lost"
    gateway.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["hold", "full"])
def test_while_the_disk_is_held_or_full_clients_are_told_to_come_back_and_nothing_is_recorded_twice(tmp_path, trouble):
    port = free_port()
    gateway = GatewayProcess(tmp_path, CONFIG, launcher=HELD, port=port)
    gateway.start()
    (tmp_path / trouble).touch()
    sensors = [Sensor(n, port, 5) for n in range(8)]
    for sensor in sensors:
        sensor.start()
    until = time.monotonic() + 60
    while not all(sensor.statuses[503] > 2 for sensor in sensors):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not any(sensor.answered for sensor in sensors)
    (tmp_path / trouble).unlink()
    answered = joined(sensors)
    assert recorded(gateway) == answered
    gateway.stop()


@pytest.mark.timeout(120)
def test_a_stop_under_load_answers_what_it_took(tmp_path):
    port = free_port()
    gateway = GatewayProcess(tmp_path, CONFIG, port=port)
    gateway.start()
    sensors = [Sensor(n, port, 60) for n in range(8)]
    for sensor in sensors:
        sensor.start()
    time.sleep(1.0)
    assert gateway.stop() == 0
    gateway.start()
    answered = joined(sensors)
    assert recorded(gateway) == answered, "an ordered stop answers all it recorded, so nothing comes twice"
    gateway.stop()


@pytest.mark.timeout(120)
def test_an_edit_takes_the_address_over_and_a_client_notices_nothing_but_a_new_connection(tmp_path):
    port = free_port()
    gateway = GatewayProcess(tmp_path, CONFIG, port=port)
    gateway.start()
    sensors = [Sensor(n, port, 30) for n in range(4)]
    for sensor in sensors:
        sensor.start()
    for edit in range(3):
        time.sleep(0.5)
        gateway.write_config(CONFIG.replace("[/readings]", f"[/readings, /more{edit}]"), port=port)
        assert gateway.reload()
    answered = joined(sensors)
    assert recorded(gateway) == answered
    gateway.stop()


def test_a_port_that_a_client_only_looks_at_costs_nothing(tmp_path):
    port = free_port()
    with GatewayProcess(tmp_path, CONFIG, port=port) as gateway:
        for _ in range(200):
            socket.create_connection(("127.0.0.1", port), 5).close()
        sensor = Sensor(1, port, 1)
        sensor.start()
        assert recorded(gateway) == joined([sensor])
