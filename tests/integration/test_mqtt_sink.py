"""The mqtt sink at real brokers: batches and single messages, order, limits, refusals, broken connections."""

import asyncio

import mqtt5
import pytest
from house import FakeOutlet, delivery, sent, until

from gateway.errors import DeliveryTooLarge, SinkUnavailable
from gateway.testing import Client, Mosquitto
from sinks.mqtt import Options, plugin

pytestmark = pytest.mark.integration


class Running:
    """A sink with its `run()` under way."""

    def __init__(self, port, **options):
        self.outlet = FakeOutlet()
        self.sink = plugin.build(
            Options(url=f"mqtt://127.0.0.1:{port}", **{"topic": "gw/{gateway}/{stream}/{sink}", **options}), self.outlet
        )

    async def __aenter__(self):
        self._task = asyncio.create_task(self.sink.run())
        await until(lambda: self.outlet.states)
        return self

    async def __aexit__(self, *error):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def subscriber(port, topic="#"):
    client = Client(port, "receiver")
    client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_MOST_ONCE)]).write())
    client.packet()
    return client


async def collected(client, count):
    return await asyncio.to_thread(lambda: [client.packet() for _ in range(count)])


def test_a_batch_is_one_message_whose_properties_say_what_it_is(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            client = subscriber(broker.port)
            async with Running(broker.port) as running:
                receipt = await running.sink.send(delivery(10, [b"1", b"22"], body=b"zipped", encoding="zstd"))
                assert receipt.rejected == ()
                (packet,) = await collected(client, 1)
                assert (packet.topic, packet.payload) == ("gw/g1/temps/cloud", b"zipped")
                assert packet.content_type == "application/x-ndjson"
                assert dict(packet.user_properties) == {
                    "id": "g1/e1/temps/10-11",
                    "encoding": "zstd",
                    "first": "10",
                    "last": "11",
                    "count": "2",
                }
                assert running.outlet.counts["wire_bytes_total"] > len(b"zipped")
            client.close()

    asyncio.run(main())


def test_many_batches_are_under_way_at_once_and_arrive_in_the_order_of_the_calls(tmp_path):
    async def main():
        with Mosquitto(tmp_path, in_flight=5) as broker:
            client = subscriber(broker.port)
            async with Running(broker.port) as running:
                assert running.sink._window == 5, "the broker's Receive Maximum is honoured"
                sends = [running.sink.send(delivery(n, [b"%d" % n])) for n in range(100)]
                await asyncio.gather(*sends)
                assert [p.payload for p in await collected(client, 100)] == [b"%d" % n for n in range(100)]
            client.close()

    asyncio.run(main())


def test_a_topic_tells_what_an_older_version_cannot_carry(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            client = subscriber(broker.port)
            async with Running(broker.port, version=3, topic="gw/{id}/{epoch}/{first}/{last}/{count}") as running:
                await running.sink.send(delivery(10, [b"1", b"22"], body=b"zipped", encoding="zstd"))
                (packet,) = await collected(client, 1)
                assert (packet.topic, packet.payload) == ("gw/g1/e1/temps/10-11/e1/10/11/2", b"zipped")
                assert (packet.content_type, packet.user_properties) == (None, [])
                assert running.outlet.states == [("up", f"127.0.0.1:{broker.port}, MQTT 3.1.1")]
            async with Running(broker.port, version=3, topic="raw/{offset}/{key}", retain=True) as running:
                values, keys = [b"%d" % n for n in range(2000)], [f"k/{n % 3}" for n in range(2000)]
                await running.sink.send(delivery(7, values, keys=keys, content_type=""))
                found = [(p.topic, p.payload) for p in await collected(client, 2000)]
                assert found == [(f"raw/{n + 7}/k/{n % 3}", b"%d" % n) for n in range(2000)]
            async with Running(broker.port, version=3, topic="gw/{stream}") as running:
                assert running.outlet.states[0][1].endswith("MQTT 3.1.1, which carries no batch ids")
            client.close()

    asyncio.run(main())


def test_raw_sends_every_record_under_its_own_topic_in_order(tmp_path):
    async def main():
        with Mosquitto(tmp_path, in_flight=20) as broker:
            client = subscriber(broker.port)
            async with Running(broker.port, topic="tide/{key}", ids=True) as running:
                values, keys = [b"%d" % n for n in range(500)], [f"k/{n % 3}" for n in range(500)]
                what = delivery(7, values, keys=keys, content_type="")
                assert (await running.sink.send(what)).rejected == ()
                packets = await collected(client, 500)
                assert [(p.topic, p.payload) for p in packets] == [
                    (f"tide/{key}", value) for key, value in zip(keys, values, strict=True)
                ]
                assert dict(packets[3].user_properties) == {"id": "g1/e1/temps/7-506", "offset": "10"}
            client.close()

    asyncio.run(main())


def test_records_that_the_broker_will_never_take_are_rejected_and_the_others_delivered(tmp_path):
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write ok/#\n")
    rules.chmod(0o600)

    async def main():
        with Mosquitto(tmp_path / "b", extra=f"acl_file {rules}\nmax_packet_size 2000\n") as broker:
            client = subscriber(broker.port)
            async with Running(broker.port, topic="{key}") as running:
                keys = ["ok/1", "forbidden", "ok/+", "ok/2", "ok/3"]
                values = [b"1", b"2", b"3", b"x" * 3000, b"5"]
                receipt = await running.sink.send(delivery(100, values, keys=keys, content_type=""))
                reasons = {one.offset: one.reason for one in receipt.rejected}
                assert set(reasons) == {101, 102, 103}
                assert "not authorized" in reasons[101]
                assert "no topic to publish to" in reasons[102]
                assert "the broker takes 2000" in reasons[103]
                assert [p.payload for p in await collected(client, 2)] == [b"1", b"5"]
            client.close()

    asyncio.run(main())


def test_a_batch_that_is_refused_is_kept_and_the_reason_shown(tmp_path):
    rules = tmp_path / "acl"
    rules.write_text("topic write ok/#\n")
    rules.chmod(0o600)

    async def main():
        with Mosquitto(tmp_path / "b", extra=f"acl_file {rules}\nmax_packet_size 2000\n") as broker:
            async with Running(broker.port, topic="no/{stream}") as running:
                with pytest.raises(SinkUnavailable, match="refuses messages of temps: not authorized"):
                    await running.sink.send(delivery(0, [b"1"]))
                with pytest.raises(DeliveryTooLarge, match="the broker takes 2000"):
                    await running.sink.send(delivery(0, [b"1" * 3000]))
            async with Running(broker.port, topic="ok/{key}") as running:
                with pytest.raises(SinkUnavailable, match="format: raw"):
                    await running.sink.send(delivery(0, [b"1"]))

    asyncio.run(main())


def test_without_a_broker_a_send_fails_at_once_and_with_one_it_works_again(tmp_path):
    async def main():
        broker = Mosquitto(tmp_path)
        broker.start()
        try:
            async with Running(broker.port) as running:
                await running.sink.send(delivery(0, [b"1"]))
                broker.stop(kill=True)
                await until(lambda: running.outlet.states[-1][0] == "waiting")
                with pytest.raises(SinkUnavailable, match=r"127\.0\.0\.1"):
                    await running.sink.send(delivery(1, [b"2"]))
                broker.start()
                await sent(running.sink, delivery(1, [b"2"]))
                assert running.outlet.states[-1][0] == "up"
        finally:
            broker.stop()

    asyncio.run(main())


def test_sends_that_wait_for_a_broker_that_dies_all_fail():
    async def main():
        async def never_confirms(reader, writer):
            await reader.read(1000)
            writer.write(mqtt5.ConnAckPacket(receive_max=2).write())
            await reader.read(1000)
            await gone.wait()
            writer.close()

        gone = asyncio.Event()
        server = await asyncio.start_server(never_confirms, "127.0.0.1", 0)
        async with Running(server.sockets[0].getsockname()[1]) as running:
            sends = [asyncio.create_task(running.sink.send(delivery(n, [b"%d" % n]))) for n in range(5)]
            cancelled = asyncio.create_task(running.sink.send(delivery(9, [b"9"])))
            await asyncio.sleep(0.1)
            cancelled.cancel()
            gone.set()
            results = await asyncio.gather(*sends, return_exceptions=True)
            assert [type(result) for result in results] == [SinkUnavailable] * 5
            assert not running.sink._flying
            assert not running.sink._queue
        server.close()

    asyncio.run(main())


def test_a_broker_that_lets_us_in_only_to_throw_us_out_is_asked_less_and_less_often(monkeypatch):
    bounds = []
    monkeypatch.setattr("sinks.mqtt.random.uniform", lambda least, most: bounds.append(most) or 0.0)

    async def main():
        async def in_and_out(reader, writer):
            await reader.read(1000)
            writer.write(mqtt5.ConnAckPacket().write())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(in_and_out, "127.0.0.1", 0)
        async with Running(server.sockets[0].getsockname()[1]):
            await until(lambda: len(bounds) >= 8)
            assert bounds[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
        server.close()

    asyncio.run(main())


def test_the_same_delivery_sent_again_is_the_same_message(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            client = subscriber(broker.port)
            async with Running(broker.port) as running:
                what = delivery(0, [b"1"])
                await running.sink.send(what)
                await running.sink.send(what)
                first, second = await collected(client, 2)
                assert (first.payload, first.user_properties) == (second.payload, second.user_properties)
            client.close()

    asyncio.run(main())


def test_a_retained_message_waits_for_those_who_come_later(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            async with Running(broker.port, topic="last/{key}", retain=True) as running:
                await running.sink.send(delivery(0, [b"1", b"2"], keys=["a", "a"], content_type=""))
            client = subscriber(broker.port)
            (packet,) = await collected(client, 1)
            assert (packet.topic, packet.payload, packet.retain) == ("last/a", b"2", True)
            client.close()

    asyncio.run(main())
