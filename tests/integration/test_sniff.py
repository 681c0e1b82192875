"""Sniffing at a real broker: everything is seen, nothing is taken from those who should get it, nothing is left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import mqtt5
import pytest
import yaml
from house import House, until

from drivers.mqtt import Options, Subscription, plugin
from gateway.clock import SystemClock
from gateway.config.model import DriverEntry
from gateway.decode import JSON
from gateway.quantity import Duration
from gateway.sniff import Findings, Listener
from gateway.testing import Client, Mosquitto, free_port, publish

pytestmark = pytest.mark.integration


class Told:
    def __init__(self):
        self.seen, self.states, self.frames = [], [], []

    def records(self, seen):
        self.seen += seen

    def state(self, state, detail):
        self.states.append((state, detail))

    def bad_frame(self, reason, sample, count):
        self.frames.append(reason)


def options(port, **more):
    return Options(url=f"mqtt://127.0.0.1:{port}", **{"subscribe": ["plant/#"], "stream": "s", **more})


class Sniffing:
    """A listener beside the test, until the block ends."""

    def __init__(self, opts, count=None):
        self.told, self.over = Told(), asyncio.Event()
        entry = DriverEntry(name="plant", driver="mqtt", options=opts, streams=tuple(opts.streams()))
        self.findings = Findings(dict.fromkeys(entry.streams, JSON), "UTC")
        self.listener = Listener(entry, "g1", SystemClock(), self.findings, self.told, count)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.listener.listen(plugin, self.over))
        await until(lambda: self.listener.state[0] == "up")
        return self

    async def __aexit__(self, *error):
        self.over.set()
        await self.task


def numbered(count, first=0):
    return [(f"plant/{n % 7}", b'{"n":%d}' % n) for n in range(first, first + count)]


def clients(broker):
    """How many sessions the broker keeps, ours for this question included."""
    client = Client(broker.port, "asks")
    client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("$SYS/broker/clients/total")]).write())
    packet = client.packet()
    while not isinstance(packet, mqtt5.PublishPacket):
        packet = client.packet()
    client.close()
    return int(packet.payload)


def test_the_running_gateway_misses_nothing_while_somebody_sniffs(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            own = options(broker.port, client_id="greenhouse")
            async with House(plugin, own) as house:
                await until(lambda: house.inlet.states and house.inlet.states[-1][0] == "up")
                async with Sniffing(own) as sniffing:
                    await asyncio.to_thread(publish, broker.port, numbered(500))
                    await until(lambda: len(house.inlet.committed) == 500 and sniffing.findings.count == 500)
                await asyncio.to_thread(publish, broker.port, numbered(100, 500))
                await until(lambda: len(house.inlet.committed) == 600)
                assert house.inlet.states[-1][0] == "up"
                assert not house.failures, "its session was not taken over"
                assert sorted(house.inlet.values) == sorted(value for _, value in numbered(600))

    asyncio.run(main())


def test_a_shared_subscription_is_listened_to_beside_its_group(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            own = options(broker.port, subscribe=["$share/gateways/plant/#"])
            async with House(plugin, own) as house:
                await until(lambda: house.inlet.states and house.inlet.states[-1][0] == "up")
                async with Sniffing(own) as sniffing:
                    await asyncio.to_thread(publish, broker.port, numbered(200))
                    await until(lambda: len(house.inlet.committed) == 200 and sniffing.findings.count == 200)

    asyncio.run(main())


def test_no_session_is_left_behind_and_two_may_sniff_at_once(tmp_path):
    async def main():
        with Mosquitto(tmp_path, extra="sys_interval 1") as broker:
            own = options(broker.port, client_id="greenhouse")
            async with Sniffing(own) as one, Sniffing(own) as other:
                await asyncio.to_thread(publish, broker.port, numbered(50))
                await until(lambda: one.findings.count == other.findings.count == 50)
            for _ in range(100):
                if await asyncio.to_thread(clients, broker) <= 1:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("a session stayed at the broker")

    asyncio.run(main())


def test_what_the_broker_kept_is_shown_and_marked_even_where_the_gateway_ignores_it(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            client = Client(broker.port, "retainer")
            client.send(mqtt5.PublishPacket("plant/kept", b'{"n":1}', retain=True).write())
            client.close()
            async with Sniffing(options(broker.port, retained="ignore")) as sniffing:
                await until(lambda: sniffing.findings.count == 1)
                await asyncio.to_thread(publish, broker.port, [("plant/news", b'{"n":2}')])
                await until(lambda: sniffing.findings.count == 2)
            assert [(one.key, one.retained) for one in sniffing.told.seen] == [
                ("plant/kept", True),
                ("plant/news", False),
            ]

    asyncio.run(main())


def test_the_gateways_status_topic_is_left_alone(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            client = Client(broker.port, "status")
            client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("gw/#")]).write())
            client.packet()
            async with Sniffing(options(broker.port, status_topic="gw/{gateway}/status")) as sniffing:
                await asyncio.to_thread(publish, broker.port, [*numbered(3), ("gw/end", b"")])
                await until(lambda: sniffing.findings.count == 3)
            packet = await asyncio.to_thread(client.packet)
            assert packet.topic == "gw/end", "nothing was announced before it"
            await asyncio.to_thread(publish, broker.port, [("gw/last", b"")])
            assert (await asyncio.to_thread(client.packet)).topic == "gw/last", "and no last will after it"
            client.close()

    asyncio.run(main())


def test_sniffing_options_are_a_session_of_their_own():
    written = ["a/#", Subscription(filter="$share/g/b/+", stream="t", qos=0)]
    own = options(1883, subscribe=written, client_id="me", session_expiry=Duration(3600))
    one, other = own.sniffing(), own.sniffing()
    assert one.client_id != other.client_id != own.client_id
    assert one.session_expiry == 0
    assert [(entry.filter, entry.stream, entry.qos) for entry in one.subscriptions()] == [
        ("a/#", "s", 1),
        ("b/+", "t", 0),
    ]


# -- the command -------------------------------------------------------------------------------------------------------

CONFIG = """\
gateway: {{id: g1, status: null}}
log: {{path: {folder}/log}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{port}", subscribe: ["plant/#"], stream: readings, decode: {decode}}}
"""


def sniff(*words, wait=True, **more):
    command = [sys.executable, "-m", "gateway", "sniff", *words]
    if not wait:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **more)


def written(folder, port, decode="json"):
    path = folder / "tidegate.yaml"
    path.write_text(CONFIG.format(folder=folder, port=port, decode=decode))
    return str(path)


def listening(process):
    """Return when it says that it is up."""
    for line in process.stderr:
        if line.startswith("-- up"):
            return
    raise AssertionError("it never was up")


def test_it_shows_every_record_and_what_does_not_decode_and_proposes_a_schema_that_loads(tmp_path):
    with Mosquitto(tmp_path / "broker") as broker:
        config = written(tmp_path, broker.port)
        process = sniff("plant", "-c", config, wait=False)
        listening(process)
        now = time.time()
        good = [(f"plant/{n % 3}/temp", json.dumps({"ts": now, "v": n / 2, "unit": "C"}).encode()) for n in range(40)]
        doors = [(f"plant/{n % 2}/door", b'{"open":true,"battery":{"mV":%d}}' % n) for n in range(20)]
        publish(broker.port, [*good, *doors, ("plant/x", b"\x1b[31mred\xff"), ("plant/y\u202e", b"21.5")])
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "\x1b" not in out, "a terminal must not obey a payload"
        assert "\u202e" not in out
        assert "\\x1b[31mred\\xff  !! not valid" in out
        assert "62 records" in out
        assert "96.8 % read as json" in out
        parts = out[out.index("# fits all") :]
        kinds = list(yaml.safe_load_all(parts.replace("\n# fits all", "\n---\n# fits all")))
        assert kinds[0] == {
            "from": "readings",
            "schema": {"ts": "time", "v": "float", "unit": "str"},
            "time": {"event": "ts"},
            "steps": [],
            "to": "readings-checked",
        }
        assert kinds[1]["schema"] == {"open": "bool", "battery.mV": "int"}
        assert "of plant/+/door" in out
        more = {"pipelines": {"a": kinds[0], "c": kinds[1]}}
        whole = tmp_path / "whole.yaml"
        whole.write_text((tmp_path / "tidegate.yaml").read_text() + yaml.safe_dump(more))
        checked = subprocess.run(
            [sys.executable, "-m", "gateway", "check", str(whole)], capture_output=True, text=True, timeout=30
        )
        assert checked.returncode == 0, checked.stdout
    assert not (tmp_path / "log").exists(), "nothing was recorded"


def test_it_says_when_another_decoder_would_do(tmp_path):
    with Mosquitto(tmp_path / "broker") as broker:
        process = sniff("-c", written(tmp_path, broker.port), "--count", "10", wait=False)
        listening(process)
        publish(broker.port, [("plant/a", b"%d.5" % n) for n in range(10)])
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "they can be read with `decode: number`" in out


def test_programs_get_lines_of_json_and_a_summary(tmp_path):
    with Mosquitto(tmp_path / "broker") as broker:
        config = written(tmp_path, broker.port, "keyvalue")
        process = sniff("plant", "-c", config, "--json", "--count", "3", wait=False)
        for line in process.stdout:
            if json.loads(line).get("state") == "up":
                break
        publish(broker.port, [("plant/a", b"t=%d unit=C" % n) for n in range(9)])
        lines = [json.loads(line) for line in process.communicate(timeout=30)[0].splitlines()]
        assert process.returncode == 0
        assert [line["fields"] for line in lines[:-1]] == [{"t": n, "unit": "C"} for n in range(3)]
        assert lines[-1]["summary"]["kinds"][0]["schema"] == {"t": "int", "unit": "str"}


def test_a_source_that_is_not_there_and_silence_are_told_and_exit_with_one(tmp_path):
    away = sniff("plant", "-c", written(tmp_path, free_port()), "--seconds", "0.5")
    assert away.returncode == 1
    assert "nothing came; the driver waits: 127.0.0.1" in away.stderr
    assert "Connection refused" in away.stderr
    with Mosquitto(tmp_path / "broker") as broker:
        silent = sniff("plant", "-c", written(tmp_path, broker.port), "--seconds", "1")
        assert silent.returncode == 1
        assert "nothing came; the driver is up" in silent.stderr


def test_without_a_configuration_a_driver_is_described_by_its_options(tmp_path):
    with Mosquitto(tmp_path / "broker") as broker:
        words = ["mqtt", f"url=mqtt://127.0.0.1:{broker.port}", "subscribe=plant/#", "subscribe=site/#", "--count", "2"]
        process = sniff(*words, wait=False, env={**os.environ, "TIDEGATE_CONFIG": "/nowhere"})
        listening(process)
        publish(broker.port, [("plant/a", b'{"v":1}'), ("site/b", b'{"v":2}')])
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "from: sniffed\nschema:\n  v: int" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mqtt", "url=mqtt://x", "subscrib=a"], 78, "did you mean subscribe"),
        (["mqtt", "url=nonsense", "subscribe=a"], 78, "url: 'nonsense' is no broker; write mqtt://host:1883"),
        (["mqttt", "url=x"], 78, "did you mean mqtt"),
        (["mqtt", "url"], 2, "is no OPTION=VALUE"),
        (["plnt", "-c", "CONFIG"], 2, "did you mean plant"),
        (["-c", "/nowhere.yaml"], 78, "/nowhere.yaml"),
        (["mqtt", "-c", "/nowhere.yaml"], 78, "there is no file /nowhere.yaml"),
        (["serial"], 78, "try: tidegate sniff serial port=/dev/"),
        (["mqtt"], 78, "try: tidegate sniff mqtt url=mqtts://broker.example:8883 'subscribe=["),
        (["mqtt", "url=mqtt://x"], 78, "try: tidegate sniff mqtt url=mqtt://x 'subscribe=["),
        (["mqtt", "url=mqtt://x"], 78, "subscribe: missing; add subscribe=…, a list"),
        (["gps"], 78, "-c FILE says where gps is; what needs none is exec, http, mqtt,"),
    ],
)
def test_mistakes_are_told_with_what_to_try(tmp_path, words, code, said):
    config = written(tmp_path, 1)
    ended = sniff(
        *[config if word == "CONFIG" else word for word in words], env={**os.environ, "TIDEGATE_CONFIG": "/nowhere"}
    )
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr


def test_what_needs_no_option_is_listened_to_without_a_configuration_and_beside_one(tmp_path):
    for path in ("/nowhere", written(tmp_path, 1)):
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", "sniff", "stdin", "--count", "1"],
            input='{"v":1}\n', capture_output=True, text=True, timeout=30, env={**os.environ, "TIDEGATE_CONFIG": path},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert "schema:\n  v: int" in ended.stdout


def test_it_ends_when_nobody_reads_any_more(tmp_path):
    process = sniff("simulated", "rate=200", wait=False)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    process.stderr.close()
