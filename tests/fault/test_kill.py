"""kill -9 at random moments under a QoS 1 flood: what was acknowledged is delivered, once, and windows come out the same.

The same over websockets, with MQTT 3.1.1 on the way out, and at a broker that knows MQTT 3.1.1 only.
"""

import random
import threading
import time
from collections import Counter

import pytest
from older_broker import OlderBroker
from process import GatewayProcess
from wire import RecordingProxy

from gateway.derive import Outputs
from gateway.mqtt import THREE
from gateway.plugin import compiler
from gateway.record import Batch
from gateway.testing import Mosquitto, Publisher, Receiver, free_port, publish

pytestmark = [pytest.mark.fault, pytest.mark.integration]

MEANS = {
    "from": "readings",
    "schema": {"ts": "time[s]", "v": "float"},
    "time": {"event": "ts", "lateness": "1s", "max_ahead": "1000d"},
    "steps": [{"filter": "v > -50"}, {"window": {"tumbling": "10s", "agg": {"n": "count()", "mean": "mean(v)"}}}],
    "to": "means",
}

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
pipelines:
  means:
    from: readings
    schema: {{ts: "time[s]", v: float}}
    time: {{event: ts, lateness: 1s, max_ahead: 1000d}}
    steps:
      - filter: v > -50
      - window: {{tumbling: 10s, agg: {{n: count(), mean: mean(v)}}}}
    to: means
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "gw/{{stream}}", streams: [means, readings],
          batch: {{records: 500, age: 1s}}, format: ndjson+zstd}}
"""


def flood(count: int):
    rng = random.Random(4)
    for n in range(count):
        key = rng.randrange(50)
        yield f"plant/{key}", b'{"ts":%.3f,"v":%.2f,"n":%d}' % (1_790_000_000 + n / 1000, rng.uniform(-60, 60), n)


@pytest.mark.timeout(900)
def test_every_acknowledged_message_survives_kills_and_arrives_once(tmp_path, full):
    kills = 50 if full else 8
    count = kills * 4_000
    with (
        Mosquitto(tmp_path / "near") as near,
        Mosquitto(tmp_path / "far") as far,
        RecordingProxy(near.port) as proxy,
        Receiver(far.port) as receiver,
    ):
        gateway = GatewayProcess(tmp_path, CONFIG, near=proxy.port, far=far.port)
        sender = threading.Thread(target=publish, args=(near.port, flood(count), 2_500))
        recognised, newest = _ride(gateway, proxy, receiver, sender, kills, count)
        acknowledged = proxy.acknowledged()  # twice where the broker did not hear it the first time
        inputs = list(receiver.records("readings"))
        got = Counter((record.key, record.value) for record in inputs)
        assert not receiver.conflicts, "one batch id must never name two contents"
        assert not set(acknowledged) - set(got), "an acknowledged message is missing"
        assert [record.offset for record in inputs] == list(range(newest["readings"])), "every offset once, in order"
        assert got == Counter(flood(count)), "a message is missing or was recorded twice"
        told = {(one.reader, one.stream): one for one in gateway.accounts().readers}
        assert told["sink:cloud", "readings"].delivered == told["pipeline:means", "readings"].delivered == count
        _in_order(inputs)
        _same_windows(inputs, list(receiver.records("means")))
        print(
            f"{kills} kills, {count} messages: {len(acknowledged)} PUBACKs seen, 0 lost, 0 duplicated, "
            f"{receiver.repeats} batches repeated under their id, {recognised:.0f} redeliveries recognised"
        )


WEBSOCKETS = (
    CONFIG.replace('url: "mqtt://', 'url: "ws://')
    .replace("{near}", "{near}/mqtt")
    .replace('{far}", topic: "gw/{{stream}}"', '{far}/mqtt", version: 3, topic: "gw/{{id}}"')
)


@pytest.mark.timeout(900)
def test_over_websockets_every_acknowledged_message_survives_kills_and_arrives_once(tmp_path, full):
    """In by MQTT 5 over websockets; out by MQTT 3.1.1 over websockets, where a batch's id is in its topic."""
    kills = 20 if full else 3
    count = kills * 4_000
    ports = free_port(), free_port()
    near_web, far_web = (f"listener {port} 127.0.0.1\nprotocol websockets\n" for port in ports)
    with (
        Mosquitto(tmp_path / "near", extra=near_web) as near,
        Mosquitto(tmp_path / "far", extra=far_web) as far,
        RecordingProxy(ports[0], websocket=True) as proxy,
        Receiver(far.port) as receiver,
    ):
        gateway = GatewayProcess(tmp_path, WEBSOCKETS, near=proxy.port, far=ports[1])
        sender = threading.Thread(target=publish, args=(near.port, flood(count), 2_500))
        recognised, _ = _ride(gateway, proxy, receiver, sender, kills, count)
        acknowledged = proxy.acknowledged()
        inputs = list(receiver.records("readings"))
        assert not receiver.conflicts
        assert len(acknowledged) >= count - 2000
        assert Counter((record.key, record.value) for record in inputs) == Counter(flood(count))
        _in_order(inputs)
        print(f"{kills} kills, {count} messages: {len(acknowledged)} PUBACKs seen, 0 lost, {recognised:.0f} recognised")


@pytest.mark.timeout(900)
def test_at_a_broker_that_knows_an_older_mqtt_only_what_was_acknowledged_survives_kills(tmp_path, full):
    """amqtt forgets what it has sent when a connection ends, so what was under way at a kill is lost: by the broker.

    So it may lose what we never acknowledged, and nothing else; what it sends twice may be recorded twice.
    """
    kills = 20 if full else 3
    count = kills * 500
    arrived = threading.Event()

    def send():
        with Publisher(near.port, version=3) as publisher:  # amqtt drops what a publisher leaves behind
            publisher.publish(flood(count), 300)
            arrived.wait(60)

    with (
        OlderBroker(tmp_path / "near") as near,
        Mosquitto(tmp_path / "far") as far,
        RecordingProxy(near.port, THREE) as proxy,
        Receiver(far.port) as receiver,
    ):
        config = CONFIG.replace("driver: mqtt,", "driver: mqtt, version: 3,")
        gateway = GatewayProcess(tmp_path, config, near=proxy.port, far=far.port)
        recognised, _ = _ride(gateway, proxy, receiver, threading.Thread(target=send), kills, count, settle=arrived)
        got = Counter((record.key, record.value) for record in receiver.records("readings"))
        published, acknowledged = Counter(flood(count)), set(proxy.acknowledged())
        came = Counter((one.topic, one.payload) for one in proxy.seen if one.kind == "publish")
        lost = set(published) - set(got)
        assert not receiver.conflicts
        assert acknowledged
        assert not acknowledged - set(got), "an acknowledged message is missing"
        assert not set(got) - set(published)
        assert all(number <= came[one] for one, number in got.items()), "recorded twice, and it came once"
        under_way = sum(one in came for one in lost)
        print(
            f"{kills} kills, {count} messages: {len(acknowledged)} acknowledged, all there; the broker lost {len(lost)}: "
            f"{under_way} came, were not acknowledged and never came again, {len(lost) - under_way} never came"
        )


def _ride(gateway, proxy, receiver, sender, kills, count, settle=None):
    """Kill a gateway while messages are sent. Returns the redeliveries recognised, and each stream's next offset.

    `settle`: not all messages are sure to come; it is set when the rest has had its time.
    """
    rng = random.Random(11)
    gateway.start()
    time.sleep(0.5)
    sender.start()
    recognised = 0.0
    try:
        for kill in range(kills):
            until = time.monotonic() + rng.uniform(0.3, 2.4)
            while time.monotonic() < until:
                receiver.collect(0.05)
            recognised += gateway.metric("tidegate_redelivered_total")
            if kill % 2:  # a link that swallows acknowledgements: committed, but the broker never hears of it
                proxy.hold = True
                receiver.collect(rng.uniform(0.1, 0.5))
            gateway.kill()
            proxy.cut()
            proxy.hold = False
            gateway.start()
        if settle is None:
            while sender.is_alive():
                receiver.collect(0.1)
            receiver.until(count, "readings", 60)
        else:
            quiet = time.monotonic() + 4
            while time.monotonic() < quiet:
                if receiver.collect(0.1):
                    quiet = time.monotonic() + 4
            settle.set()
        recognised += gateway.metric("tidegate_redelivered_total")
        while gateway.json("/api/v1/status")["readers"] and _lag(gateway):
            receiver.collect(0.2)
        newest = {s["name"]: s["next"] for s in gateway.json("/api/v1/status")["streams"]}
    finally:
        if settle is not None:
            settle.set()
        sender.join(60)
        gateway.stop()
    return recognised, newest


def _lag(gateway: GatewayProcess) -> int:
    return sum(r["lag"] for r in gateway.json("/api/v1/status")["readers"] if r["reader"].startswith("sink:"))


def _in_order(records) -> None:
    newest: dict[str, int] = {}
    for record in records:
        n = int(record.value.rsplit(b":", 1)[1][:-1])
        assert newest.get(record.key, -1) < n, "per key, the order of publishing must be kept"
        newest[record.key] = n


def _same_windows(inputs, outputs) -> None:
    """What the killed gateway derived is, byte for byte, what one undisturbed run over the same records derives."""
    program = compiler()("means", MEANS, {})
    out = Outputs()
    program.run(
        Batch(
            "readings",
            0,
            [r.time for r in inputs],
            [r.key for r in inputs],
            [r.value for r in inputs],
            ((1, len(inputs)),),
        ),
        out,
    )
    times, keys, values = out.columns["means"]
    assert len(values) > 50
    got = [(r.offset, r.time, r.key, r.value) for r in outputs]
    assert got == list(zip(range(len(values)), times, keys, values, strict=True))
