"""The cloud is away, and the gateway is restarted meanwhile: nothing is lost, nothing comes twice, order is kept."""

import threading
import time
from collections import Counter

import pytest
from process import GatewayProcess

from gateway.testing import Mosquitto, Receiver, publish

pytestmark = [pytest.mark.fault, pytest.mark.integration]

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [readings],
          batch: {{records: 500, age: 1s}}, format: msgpack+zstd}}
"""


def flood(count: int):
    return ((f"plant/{n % 50}", b'{"n":%d}' % n) for n in range(count))


@pytest.mark.timeout(240)
def test_an_outage_with_a_restart_in_the_middle_loses_and_repeats_nothing(tmp_path, full):
    away = 60.0 if full else 6.0
    rate = 500.0
    count = int(rate * (away + 6))
    with (
        Mosquitto(tmp_path / "near") as near,
        Mosquitto(tmp_path / "far") as far,
        Receiver(far.port) as receiver,
    ):
        with GatewayProcess(tmp_path, CONFIG, near=near.port, far=far.port) as gateway:
            time.sleep(0.5)
            sender = threading.Thread(target=publish, args=(near.port, flood(count), rate))
            sender.start()
            _collect(receiver, 3)
            far.stop()
            _collect(receiver, away / 2)
            assert gateway.stop() == 0
            gateway.start()
            _collect(receiver, away / 2)
            far.start()
            receiver.until(count, "readings", 90)
            sender.join()
        assert [(one.delivered, one.pending) for one in gateway.accounts().readers] == [(count, 0)]
        records = list(receiver.records("readings"))
        print(f"away {away:.0f} s: {len(records)} records, {receiver.repeats} batches repeated under their id")
        assert not receiver.conflicts
        assert Counter((r.key, r.value) for r in records) == Counter(flood(count))
        newest: dict[str, int] = {}
        for record in records:
            n = int(record.value[5:-1])
            assert newest.get(record.key, -1) < n
            newest[record.key] = n


def _collect(receiver: Receiver, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        receiver.collect(0.2)
