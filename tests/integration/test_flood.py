"""A flood through the whole gateway, with a small and a large window at the near broker: all of it, once, in order."""

import threading
import time

import pytest
from process import GatewayProcess

from gateway.testing import Mosquitto, Receiver, cpu_seconds, publish, rss_mb

pytestmark = pytest.mark.integration

# mosquitto takes our Receive Maximum for its in-flight window, so both are set.
CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB}}
drivers:
  plant:
    driver: mqtt
    url: mqtt://127.0.0.1:{near}
    subscribe: ["plant/#"]
    stream: readings
    receive_maximum: {window}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [readings],
          batch: {{records: 500, age: 1s}}, format: ndjson+zstd}}
"""


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("window", "count"), [(20, 4_000), (2_000, 40_000)])
def test_a_flood_arrives_once_and_in_order_per_key(tmp_path, full, window, count):
    if full:
        count = 200_000
    messages = [
        (f"plant/{n % 200}", b'{"ts":%d,"v":21.5,"unit":"C","seq":%d}' % (1_790_000_000 + n, n)) for n in range(count)
    ]
    with (
        Mosquitto(tmp_path / "near", in_flight=window) as near,
        Mosquitto(tmp_path / "far") as far,
        Receiver(far.port) as receiver,
    ):
        with GatewayProcess(tmp_path, CONFIG, near=near.port, far=far.port, window=window) as gateway:
            time.sleep(0.5)
            before, started = cpu_seconds(gateway.pid), time.monotonic()
            sender = threading.Thread(target=publish, args=(near.port, messages))
            sender.start()
            receiver.until(count, "readings", 360)
            took, cpu, memory = time.monotonic() - started, cpu_seconds(gateway.pid) - before, rss_mb(gateway.pid)
            sender.join()
        assert [(one.delivered, one.pending) for one in gateway.accounts().readers] == [(count, 0)]
        got = [(record.key, record.value) for record in receiver.records("readings")]
        print(
            f"window {window}: {len(got)} messages in {took:.0f} s, {cpu / count * 1e6:.1f} us each, RSS {memory:.0f} MB, "
            f"{receiver.repeats} repeats"
        )
        assert not receiver.conflicts
        assert len(got) == count
        by_key: dict[str, list[bytes]] = {}
        wanted: dict[str, list[bytes]] = {}
        for key, value in got:
            by_key.setdefault(key, []).append(value)
        for key, value in messages:
            wanted.setdefault(key, []).append(value)
        assert by_key == wanted, "every message once, and in order per key"
