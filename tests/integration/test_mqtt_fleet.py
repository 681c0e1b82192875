"""Many gateways at one broker: shared subscriptions, and the status topic by which others see who is there."""

import asyncio
import json
import time

import mqtt5
import msgspec
import pytest
from house import FakeInlet, FakeOutlet, House, delivery, sent, until
from process import GatewayProcess

from drivers.mqtt import Options, plugin
from gateway.mqtt import announce
from gateway.quantity import Duration
from gateway.testing import Client, Mosquitto, Publisher, free_port, publish
from sinks.mqtt import Options as SinkOptions
from sinks.mqtt import plugin as sink_plugin

pytestmark = pytest.mark.integration

TOPIC = "gw/g1/status"


class Watcher:
    """Somebody who subscribed to the status of everyone; what he was told, in order."""

    def __init__(self, port, client_id="watcher"):
        self._client = Client(port, client_id)
        self._client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("gw/+/status", max_qos=mqtt5.QoS(0))]).write())
        self.told, self.packets = [], []

    def collect(self, timeout_s=0.0):
        self.packets += [p for p in self._client.packets(timeout_s) if isinstance(p, mqtt5.PublishPacket)]
        self.told = [json.loads(packet.payload) for packet in self.packets]
        return self.told

    def states(self):
        return [one["state"] for one in self.collect()]

    def wait_for(self, state, timeout_s=20.0):
        end = time.monotonic() + timeout_s
        while not self.told or self.told[-1]["state"] != state:
            assert time.monotonic() < end, self.told
            self.collect(0.2)
        return self.told[-1]

    def close(self):
        self._client.close()


@pytest.fixture
def broker(tmp_path):
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


def options(port, **more):
    more = {"subscribe": ["plant/#"], "stream": "s", **more}
    return Options(url=f"mqtt://127.0.0.1:{port}", **more)


def up(house):
    return house.inlet.states and house.inlet.states[-1][0] == "up"


def numbered(count, first=0):
    return [(f"plant/{n % 7}", b'{"n":%d}' % n) for n in range(first, first + count)]


async def published(port, messages):
    await asyncio.to_thread(publish, port, messages)


# -- shared subscriptions ----------------------------------------------------------------------------------------------


def test_two_members_of_a_group_get_each_message_once_and_both_get_some(broker):
    async def main():
        def member(name):
            return House(plugin, options(broker.port, subscribe=["$share/plant/plant/#"]), name=name)

        async with member("a") as a, member("b") as b:
            await until(lambda: up(a) and up(b))
            await published(broker.port, numbered(2000))
            await until(lambda: len(a.inlet.rows) + len(b.inlet.rows) == 2000)
            assert sorted(a.inlet.values + b.inlet.values) == sorted(value for _, value in numbered(2000))
            assert a.inlet.rows
            assert b.inlet.rows
            assert {row[0] for row in a.inlet.rows} == {"s"}
            assert not a.inlet.bad

    asyncio.run(main())


def test_a_shared_and_a_plain_subscription_go_to_the_streams_of_their_inner_filters(broker):
    async def main():
        subscribe = ["$share/plant/plant/+", {"filter": "door/#", "stream": "doors"}]
        mixed = msgspec.convert(
            {"url": f"mqtt://127.0.0.1:{broker.port}", "subscribe": subscribe, "stream": "s"}, Options
        )
        await published(broker.port, [("plant/old", b"x")])
        async with House(plugin, mixed) as house:
            await until(lambda: up(house))
            await published(broker.port, [("plant/1", b"1"), ("door/a/b", b"2")])
            await until(lambda: len(house.inlet.rows) == 2)
            assert {row[:3] for row in house.inlet.rows} == {("s", "plant/1", b"1"), ("doors", "door/a/b", b"2")}

    asyncio.run(main())


def test_a_shared_subscription_brings_no_retained_messages(broker):
    async def main():
        client = Client(broker.port, "retainer")
        client.send(mqtt5.PublishPacket("plant/old", b"old", qos=mqtt5.QoS(1), packet_id=1, retain=True).write())
        client.packet()
        client.close()
        async with House(plugin, options(broker.port, subscribe=["$share/plant/plant/#"])) as house:
            await until(lambda: up(house))
            await published(broker.port, [("plant/new", b"new")])
            await until(lambda: house.inlet.values == [b"new"])

    asyncio.run(main())


def test_what_a_member_did_not_acknowledge_comes_again_and_is_recognised(broker, monkeypatch):
    """A member is cut off with messages committed whose PUBACKs never left; nothing is lost or recorded twice."""
    monkeypatch.setattr("drivers.mqtt.DECIDE_S", 20)

    async def main():
        shared = {"subscribe": ["$share/plant/plant/#"]}
        first = FakeInlet("a")
        first.driver = plugin.build(options(broker.port, **shared), first)
        life = asyncio.create_task(first.driver.run())
        async with House(plugin, options(broker.port, **shared), name="b") as b:
            await until(lambda: first.states and up(b))

            def arrived(count):
                first.driver.turn()
                return len(first.rows) + len(b.inlet.rows) >= count

            await published(broker.port, numbered(100))
            await until(lambda: arrived(100))
            first.commit()  # and acknowledged
            before = len(first.rows)
            await published(broker.port, numbered(300, 100))
            await until(lambda: arrived(400))
            assert 0 < before < len(first.rows)
            first.receipts.clear()
            first.commit()
            first.driver._link.drop("crash")
            await asyncio.gather(life, return_exceptions=True)
            await published(broker.port, numbered(100, 400))  # while a is away: kept for it, or dealt to b
            async with House(plugin, options(broker.port, **shared), memory=first.remembered, name="a") as a:
                await until(lambda: up(a))
                await published(broker.port, numbered(100, 500))
                everything = lambda: first.values + a.inlet.values + b.inlet.values  # noqa: E731
                await until(lambda: len(set(everything())) == 600)
                await asyncio.sleep(0.2)
                assert sorted(everything()) == sorted(value for _, value in numbered(600))
                assert a.inlet.counts["redelivered_total"] == len(first.rows) - before

    asyncio.run(main())


def test_a_broker_without_shared_subscriptions_is_told_apart():
    async def main():
        async def serve(reader, writer):
            await reader.read(1000)
            writer.write(mqtt5.ConnAckPacket(shared_subscription_available=False).write())
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with House(plugin, options(port, subscribe=["$share/g/plant/#"])) as house:
            await until(lambda: house.failures)
            assert "no shared subscriptions; write 'plant/#' for '$share/g/plant/#'" in house.failures[0]
        server.close()

    asyncio.run(main())


# -- the status topic, driver and sink by themselves -------------------------------------------------------------------


class Sink:
    """A sink with its `run()` under way; looks like a House."""

    def __init__(self, port, **more):
        self.inlet = FakeOutlet()
        self.sink = sink_plugin.build(SinkOptions(url=f"mqtt://127.0.0.1:{port}", topic="out", **more), self.inlet)

    @property
    def link(self):
        return self.sink._link

    async def __aenter__(self):
        self._task = asyncio.create_task(self.sink.run())
        return self

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Driver(House):
    def __init__(self, port, **more):
        super().__init__(plugin, options(port, **more))

    @property
    def link(self):
        return self.driver._link


@pytest.fixture(params=[Driver, Sink], ids=["driver", "sink"])
def member(request):
    return lambda port, **more: request.param(port, **{"status_topic": "gw/{gateway}/status", **more})


async def told(watcher, state):
    return await asyncio.to_thread(watcher.wait_for, state)


def test_a_gateway_says_that_it_is_there_and_at_an_ordered_stop_that_it_is_not(broker, member):
    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port) as one:
            said = await told(watcher, "online")
            assert set(said) >= {
                "gateway",
                "state",
                "since",
                "version",
                "sentence",
                "level",
                "waiting",
                "oldest_s",
                "at",
            }
            assert (said["gateway"], said["sentence"], said["level"]) == ("g1", "all is well", "ok")
            late = Watcher(broker.port, "late")
            assert await told(late, "online") == said
            assert late.packets[0].retain
            late.close()
            one.inlet.says |= {"state": "stopping", "waiting": 3}
        said = await told(watcher, "offline")
        assert (said["gateway"], said["reason"], said["waiting"]) == ("g1", "stopped", 3)
        await asyncio.sleep(0.2)
        assert watcher.states() == ["online", "offline"]
        late = Watcher(broker.port, "late")
        assert await told(late, "offline") == said
        for one in (late, watcher):
            one.close()

    asyncio.run(main())


def test_a_connection_that_breaks_and_comes_back_in_time_is_no_news(broker, member):
    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port, offline_after=Duration(3)) as one:
            await told(watcher, "online")
            for n in range(2, 4):
                one.link.drop("cut")
                await until(lambda n=n: [state for state, _ in one.inlet.states].count("up") >= n)
            await asyncio.sleep(4)
            assert set(watcher.states()) == {"online"}
            one.inlet.says["state"] = "stopping"
        watcher.close()

    asyncio.run(main())


def test_with_an_older_version_the_last_will_comes_at_once_and_an_ordered_stop_takes_it_back(broker, member):
    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port, version=3) as one:
            await told(watcher, "online")
            one.link.drop("cut")
            await until(lambda: [state for state, _ in one.inlet.states].count("up") >= 2)
            await until(lambda: watcher.states() == ["online", "offline", "online"])
            assert watcher.told[1]["reason"] == "connection lost"
            one.inlet.says["state"] = "stopping"
        await told(watcher, "offline")
        await asyncio.sleep(0.2)
        assert watcher.states()[3:] == ["offline"]
        assert watcher.told[3]["reason"] == "stopped"
        async with member(broker.port, version=3):
            await until(lambda: watcher.states()[4:] == ["online"])
        await told(watcher, "offline")
        assert watcher.told[-1]["reason"] == "connection lost", "who leaves without an order leaves its will"
        watcher.close()

    asyncio.run(main())


def test_a_member_that_a_reload_takes_out_says_so_itself_and_has_no_will_left(broker, member):
    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port, offline_after=Duration(1)) as one:
            await told(watcher, "online")
            one.inlet.leaving = True
        async with member(broker.port, offline_after=Duration(1), client_id="another"):
            await asyncio.sleep(3)
        said = await told(watcher, "offline")
        assert said["reason"] == "connection lost"
        reasons = [(one["state"], one.get("reason")) for one in watcher.told]
        assert reasons == [
            ("online", None),
            ("offline", "configuration changed"),
            ("online", None),
            ("offline", "connection lost"),  # of the other one, which was not taken out
        ]
        watcher.close()

    asyncio.run(main())


def test_a_member_that_ends_in_any_other_way_leaves_its_will_to_the_broker(broker, member):
    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port, offline_after=Duration(2)):
            await told(watcher, "online")
        async with member(broker.port, offline_after=Duration(2)):  # as when it was started again after a crash
            await asyncio.sleep(4)
            assert set(watcher.states()) == {"online"}
        said = await told(watcher, "offline")
        assert said["reason"] == "connection lost"
        watcher.close()

    asyncio.run(main())


def test_what_changes_is_told_soon_what_only_grows_is_not_and_silence_is_broken_in_time(broker, member, monkeypatch):
    monkeypatch.setattr(announce, "LOOK_S", 0.05)

    async def main():
        watcher = Watcher(broker.port)
        async with member(broker.port) as one:
            await told(watcher, "online")
            one.inlet.says |= {"level": "attention", "sentence": "the cloud is away, 17 readings wait", "waiting": 17}
            await until(lambda: watcher.collect()[-1]["waiting"] == 17)
            one.inlet.says |= {"sentence": "the cloud is away, 1,234 readings wait", "waiting": 1234}
            await asyncio.sleep(0.5)
            assert watcher.collect()[-1]["waiting"] == 17
            announcer = (one.driver if isinstance(one, House) else one.sink)._announcer
            announcer._said_at -= 300
            await until(lambda: watcher.collect()[-1]["waiting"] == 1234)
            one.inlet.says["state"] = "stopping"
        watcher.close()

    asyncio.run(main())


def test_a_broker_that_refuses_the_status_topic_is_read_from_and_delivered_to_all_the_same(tmp_path, member):
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite plant/#\ntopic readwrite out\ntopic read gw/#\n")
    rules.chmod(0o600)

    async def main():
        with Mosquitto(tmp_path / "b", extra=f"acl_file {rules}\n") as broker:
            async with member(broker.port) as one:
                refusal = "but not at its status topic 'gw/g1/status': it refuses messages there: not authorized"
                await until(lambda: one.inlet.states and refusal in one.inlet.states[-1][1])
                assert one.inlet.states[-1][0] == "up"
                if isinstance(one, Sink):
                    assert (await one.sink.send(delivery(0, [b"1"]))).rejected == ()
                else:
                    await published(broker.port, numbered(50))
                    await until(lambda: len(one.inlet.committed) == 50)
                one.inlet.says["state"] = "stopping"

    asyncio.run(main())


class Fussy:
    """A broker that answers CONNECT as it is told, and confirms every PUBLISH."""

    def __init__(self, welcome):
        self.welcome, self.seen = welcome, []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error):
        self._server.close()
        await asyncio.sleep(0.02)

    async def _serve(self, reader, writer):
        buffer = b""
        while data := await reader.read(65536):
            buffer += data
            while buffer:
                try:
                    packet, used = mqtt5.read(buffer)
                except IndexError:
                    break
                buffer = buffer[used:]
                self.seen.append(packet)
                if isinstance(packet, mqtt5.ConnectPacket):
                    writer.write(self.welcome(packet).write())
                elif isinstance(packet, mqtt5.SubscribePacket):
                    writer.write(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode(1)]).write())
                elif isinstance(packet, mqtt5.PublishPacket) and packet.packet_id:
                    writer.write(mqtt5.PubAckPacket(packet.packet_id).write())
        writer.close()

    def statuses(self):
        return [p for p in self.seen if isinstance(p, mqtt5.PublishPacket) and p.topic == TOPIC]


def test_a_broker_that_refuses_a_last_will_lets_us_in_without_it(member):
    def welcome(hello):
        no = mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
        return mqtt5.ConnAckPacket(reason_code=no) if hello.will else mqtt5.ConnAckPacket()

    async def main():
        async with Fussy(welcome) as broker, member(broker.port) as one:
            await until(lambda: one.inlet.states and "it refuses a last will there" in one.inlet.states[-1][1])
            assert one.inlet.states[-1][0] == "up"
            if isinstance(one, Sink):
                assert (await sent(one.sink, delivery(0, [b"1"]))).rejected == ()
            assert not broker.statuses()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("welcome", "complaint", "qos"),
    [
        ({"retain_available": False}, "it keeps no messages", None),
        ({"max_packet_size": 120}, "it takes packets of 120 bytes only", None),
        ({"receive_max": 1}, "", 0),
        ({"receive_max": 2}, "", 1),
    ],
)
def test_the_brokers_limits_are_kept(member, welcome, complaint, qos):
    async def main():
        async with Fussy(lambda hello: mqtt5.ConnAckPacket(**welcome)) as broker, member(broker.port) as one:
            if complaint:
                await until(lambda: one.inlet.states and complaint in one.inlet.states[-1][1])
                assert not broker.statuses()
            else:
                await until(broker.statuses)
                assert int(broker.statuses()[0].qos) == qos
            if isinstance(one, Sink) and qos is not None:
                assert one.sink._window == 1

    asyncio.run(main())


@pytest.mark.parametrize("version", [5, 3])
def test_our_own_status_is_no_reading_of_ours(broker, version):
    async def main():
        everything = options(broker.port, subscribe=["#"], status_topic="gw/{gateway}/status", version=version)
        async with House(plugin, everything) as house:
            await until(lambda: up(house))
            watcher = Watcher(broker.port)
            await told(watcher, "online")
            await published(broker.port, [("gw/g2/status", b"another's")])
            await until(lambda: house.inlet.rows)
            assert house.inlet.values == [b"another's"]
            assert house.inlet.counts["own_status_total"] == (1 if version == 3 else 0)
            await until(lambda: not house.driver._window.waiting)
            watcher.close()

    asyncio.run(main())


# -- the whole gateway -------------------------------------------------------------------------------------------------

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  plant: {{driver: mqtt, url: "mqtt://127.0.0.1:{near}", subscribe: ["plant/#"], stream: readings}}
sinks:
  cloud: {{sink: mqtt, url: "mqtt://127.0.0.1:{far}", topic: "out/{{stream}}", streams: [readings], format: ndjson,
          status_topic: "gw/{{gateway}}/status", offline_after: {after}, batch: {{age: 100ms}}}}
  away: {{sink: mqtt, url: "mqtt://127.0.0.1:{away}", topic: "out/{{stream}}", streams: [readings]}}
"""


@pytest.fixture
def far(tmp_path):
    with Mosquitto(tmp_path / "far") as broker:
        yield broker


def test_a_gateway_that_is_killed_is_offline_to_everyone_and_online_again_when_it_is_back(tmp_path, broker, far):
    gateway = GatewayProcess(tmp_path, CONFIG, near=broker.port, far=far.port, away=free_port(), after="1s")
    watcher = Watcher(far.port)
    gateway.start()
    said = watcher.wait_for("online")
    assert said["version"]
    assert said["sentence"]
    assert said["waiting"] == 0
    gateway.kill()
    assert watcher.wait_for("offline")["reason"] == "connection lost"
    gateway.start()
    watcher.wait_for("online")
    assert gateway.stop() == 0
    assert watcher.wait_for("offline")["reason"] == "stopped"
    assert watcher.states() == ["online", "offline", "online", "offline"]
    watcher.close()


def test_a_restart_within_the_delay_is_no_outage(tmp_path, broker, far):
    gateway = GatewayProcess(tmp_path, CONFIG, near=broker.port, far=far.port, away=free_port(), after="60s")
    watcher = Watcher(far.port)
    gateway.start()
    watcher.wait_for("online")
    gateway.kill()
    gateway.start()
    publisher = Publisher(broker.port)
    publisher.publish(numbered(10))
    publisher.close()
    end = time.monotonic() + 20
    while len(watcher.collect(0.2)) < 2:
        assert time.monotonic() < end
    while gateway.metric("tidegate_lag_records") < 10:  # for the sink whose broker is away
        assert time.monotonic() < end
    assert gateway.stop() == 0
    assert watcher.wait_for("offline")["waiting"] == 10
    assert set(watcher.states()[:-1]) == {"online"}
    watcher.close()


EDITED = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  bench: {{driver: simulated, sensors: 1, stream: readings}}
{drivers}
sinks:
  other: {{sink: mqtt, url: "mqtt://127.0.0.1:{port}", topic: "o/{{stream}}", streams: [readings], batch: {{age: {age}}}}}
{sinks}
"""
DRIVER = '  {name}: {{driver: mqtt, url: "mqtt://127.0.0.1:{port}", subscribe: ["plant/#"], stream: s, {options}}}'
SINK = '  {name}: {{sink: mqtt, url: "mqtt://127.0.0.1:{port}", topic: "x/{{stream}}", streams: [readings], {options}}}'


@pytest.mark.parametrize("entry", [DRIVER, SINK], ids=["driver", "sink"])
def test_whatever_a_reload_does_to_an_entry_the_last_word_at_its_topic_is_true(tmp_path, broker, entry):
    def config(entry_is_there=True, name="up", age="100ms", topic="gw/g1/status", **more):
        options = ", ".join(f"{option}: {value}" for option, value in more.items())
        options = f"status_topic: {topic}, offline_after: 1s, {options}"
        made = entry.format(name=name, port=broker.port, options=options) if entry_is_there else ""
        sections = {"drivers": made, "sinks": ""} if entry is DRIVER else {"drivers": "", "sinks": made}
        return {"port": broker.port, "age": age, **sections}

    gateway = GatewayProcess(tmp_path, EDITED, **config())
    watcher = Watcher(broker.port)
    online = ("gw/g1/status", "online", None)
    gone = ("gw/g1/status", "offline", "configuration changed")
    expected = [online]

    def told():
        watcher.collect(0.1)
        return [
            (p.topic, said["state"], said.get("reason")) for p, said in zip(watcher.packets, watcher.told, strict=True)
        ]

    def is_told():
        end = time.monotonic() + 20
        while told() != expected:
            assert time.monotonic() < end, told()

    with gateway:
        is_told()
        edits = [
            (config(age="200ms"), []),  # nothing but another sink
            (config(name="down"), [gone, online]),
            (config(name="down", client_id="new"), [gone, online]),
            (config(name="down", client_id="new", topic="gw/g2/status"), [gone, ("gw/g2/status", "online", None)]),
            (config(name="down", client_id="new"), [("gw/g2/status", "offline", "configuration changed"), online]),
            (config(entry_is_there=False), [gone]),
        ]
        for edit, words in edits:
            gateway.write_config(EDITED, **edit)
            assert gateway.reload()
            expected += words
            is_told()
        time.sleep(3)  # a will that was left would have come by now
        is_told()
    watcher.close()
