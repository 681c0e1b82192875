"""Which MQTT is spoken: `auto` at brokers that know one version only, and what is done where the older one lacks words."""

import asyncio
import logging
import subprocess

import mqtt5
import pytest
from house import FakeOutlet, House, delivery, sent, until
from older_broker import OlderBroker

from drivers.mqtt import Options, plugin
from gateway.mqtt import THREE, Broker, BrokerOptions, LinkLost
from gateway.quantity import Duration, Secret
from gateway.record import RETAINED
from gateway.testing import Client, Mosquitto, Publisher, publish
from sinks.mqtt import Options as SinkOptions
from sinks.mqtt import plugin as sink_plugin

pytestmark = pytest.mark.integration


def options(port, **more):
    more = {"subscribe": ["plant/#"], "stream": "s", "connect_timeout": Duration(1), **more}
    return Options(url=f"mqtt://127.0.0.1:{port}", **more)


def up(house):
    return house.inlet.states and house.inlet.states[-1][0] == "up"


class Silent:
    """gateway.mqtt.Owner, and nothing else."""

    def welcomed(self, link, welcome): ...
    def received(self, messages, size): ...
    def answered(self, packets): ...
    def spoilt(self, packet): ...


class Answering:
    """A server that answers each hello as `answer(level)` says: bytes; None to hang up; "" to say nothing at all."""

    def __init__(self, answer, version="auto"):
        self.answer, self.version, self.hellos = answer, version, []
        self._open = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        where = f"mqtt://127.0.0.1:{port}"
        self.broker = Broker(BrokerOptions(url=where, version=self.version, connect_timeout=Duration(1)))
        return self

    async def __aexit__(self, *error):
        await until(lambda: not self._open)
        await asyncio.sleep(0.01)  # for asyncio to close the last one
        self._server.close()

    async def _serve(self, reader, writer):
        self._open += 1
        hello = await reader.read(1000)
        self.hellos.append(hello[8])
        answer = self.answer(hello[8])
        if answer:
            writer.write(answer)
        if answer is not None:
            await reader.read(1000)
        writer.close()
        self._open -= 1

    async def attempt(self):
        """Version of the connection that came about, or why none did."""
        try:
            link = await self.broker.connect(Silent(), client_id="x", clean_start=True)
        except LinkLost as lost:
            return str(lost).split(": ", 1)[1]
        await link.close()
        return link.version


WELCOME_3, WELCOME_5 = b"\x20\2\0\0", b"\x20\3\0\0\0"


@pytest.mark.parametrize(
    ("to_5", "to_3", "outcomes", "hellos"),
    [
        (b"\x20\2\0\1", WELCOME_3, [3, 3], [5, 4, 4]),  # refused as 3.1.1 does it
        (b"\x20\3\0\x84\0", WELCOME_3, [3, 3], [5, 4, 4]),  # as 5 does it
        (b"\x20\2\0\5", WELCOME_3, [3, 3], [5, 4, 4]),  # it does not even look at the version
        (None, WELCOME_3, [3, 3, 3], [5, 4, 5, 4, 4]),
        ("", WELCOME_3, [3, 3, 3], [5, 4, 5, 4, 4]),
        (b"\x20\2\0\1", b"\x20\2\0\4", ["the broker refuses us: bad user name or password"] * 2, [5, 4, 5, 4]),
        (b"\x20\2\0\1", b"\x20\2\0\1", ["the broker speaks neither MQTT 5 nor MQTT 3.1.1"] * 2, [5, 4, 5, 4]),
        (None, None, ["it ended the connection"] * 3, [5, 4, 5, 4, 5, 4]),
        ("", "", ["no answer within 1 s; check that it is a broker"], [5, 4]),
        (None, b"\x20\2\0\5", ["the broker refuses us: not authorized"] * 2, [5, 4, 5, 4]),
        (None, b"\x20\2\0\1", ["it ended the connection"] * 2, [5, 4, 5, 4]),  # a newer one, and in no good state
        (b"\x20\3\0\x86\0", WELCOME_3, ["the broker refuses us: bad user name or password"] * 3, [5, 5, 5]),
        (b"\x20\3\0\x89\0", WELCOME_3, ["the broker refuses us: server busy"] * 3, [5, 5, 5]),
        (b"HTTP/1.1 400 Bad\r\n\r\n", WELCOME_3, ["a web server answers there"] * 3, [5, 5, 5]),
        (b"\x15\x03\x01\x00\x02\x02\x16", WELCOME_3, ["TLS is spoken on this port"] * 3, [5, 5, 5]),
        (b"\xff\xff\xff\xff\xff", WELCOME_3, ["malformed packet"] * 3, [5, 5, 5]),
    ],
)
def test_auto_falls_back_where_the_version_is_refused_and_nowhere_else(to_5, to_3, outcomes, hellos):
    async def main():
        async with Answering(lambda level: to_5 if level == 5 else to_3) as server:
            for expected in outcomes:
                found = await server.attempt()
                assert found == expected or (isinstance(expected, str) and str(found).startswith(expected))
            assert server.hellos == hellos

    asyncio.run(main())


def test_a_broker_that_let_us_in_with_mqtt_5_and_hangs_up_later_is_not_taken_for_an_older_one():
    answers = iter([WELCOME_5, None, None, None, WELCOME_5])

    async def main():
        async with Answering(lambda level: next(answers)) as server:
            assert [await server.attempt() for _ in range(5)][::4] == [5, 5]
            assert server.hellos == [5] * 5

    asyncio.run(main())


def test_a_broker_that_was_only_starting_is_spoken_to_in_mqtt_5_from_the_next_connection_on():
    answers = iter([None, WELCOME_3, WELCOME_5, None, WELCOME_5])

    async def main():
        async with Answering(lambda level: next(answers)) as server:
            assert [await server.attempt() for _ in range(2)] == [3, 5]
            assert "it ended the connection" in await server.attempt()
            assert await server.attempt() == 5
            assert server.hellos == [5, 4, 5, 5, 5]

    asyncio.run(main())


@pytest.mark.parametrize("answer", [None, ""])
def test_where_version_5_is_written_and_not_answered_the_way_out_is_told(answer):
    async def main():
        async with Answering(lambda level: answer, version=5) as server:
            assert (await server.attempt()).endswith("; leave version out if it may know MQTT 3.1.1 only")
            assert server.hellos == [5]

    asyncio.run(main())


def test_a_broker_that_was_exchanged_for_a_newer_one_is_found_out():
    answers = iter([b"\x20\2\0\1", WELCOME_3, b"\x20\2\0\1", WELCOME_5])

    async def main():
        async with Answering(lambda level: next(answers)) as server:
            assert await server.attempt() == 3
            assert "unsupported protocol version" in await server.attempt()
            assert await server.attempt() == 5

    asyncio.run(main())


def test_a_broker_that_knows_3_1_1_only_is_read_from_and_delivered_to_and_said_so(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "tidegate.mqtt")

    async def main():
        with OlderBroker(tmp_path) as broker:
            async with House(plugin, options(broker.port)) as house:
                await until(lambda: up(house))
                assert not house.failures
                assert house.inlet.states[-1] == ("up", f"127.0.0.1:{broker.port}, MQTT 3.1.1")
                outlet = FakeOutlet()
                out = sink_plugin.build(
                    SinkOptions(url=f"mqtt://127.0.0.1:{broker.port}", version=3, topic="plant/{id}"), outlet
                )
                sending = asyncio.create_task(out.run())
                for n in range(300):
                    await sent(out, delivery(n, [b"%d" % n]))
                await until(lambda: len(house.inlet.rows) == 300)
                assert house.inlet.rows[7][:3] == ("s", "plant/g1/e1/temps/7-7", b"7")
                await until(lambda: not house.driver._window.waiting)
                for _ in range(2):
                    failed = len(house.failures)
                    house.driver._link.drop("cut")
                    await until(lambda failed=failed: len(house.failures) > failed and up(house))
                await sent(out, delivery(300, [b"300"]))
                await until(lambda: b"300" in house.inlet.values)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            said = [record.getMessage() for record in caplog.records if "MQTT 3.1.1" in record.getMessage()]
            assert said == [
                f"127.0.0.1:{broker.port} did not answer MQTT 5, so MQTT 3.1.1 is spoken with it for now",
                f"127.0.0.1:{broker.port} does not take MQTT 5, so MQTT 3.1.1 is spoken with it from now on",
            ], "and no more at the third connection"

    asyncio.run(main())


def keep(port, topic, payload):
    with Client(port, "keeper") as client:
        packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(1), packet_id=1, retain=True)
        client.send(packet.write())
        client.packet()


@pytest.mark.parametrize(("mode", "flags"), [("mark", [RETAINED]), ("record", [0]), ("ignore", [])])
def test_with_3_1_1_a_lost_connection_brings_retained_messages_no_second_time(tmp_path, mode, flags):
    async def main():
        with Mosquitto(tmp_path) as broker:
            keep(broker.port, "plant/old", b"old")
            async with House(plugin, options(broker.port, version=3, retained=mode)) as house:
                await until(lambda: house.inlet.counts["retained_ignored_total"] or house.inlet.rows)
                for n in range(1, 4):
                    await until(lambda: not house.driver._window.waiting)
                    house.driver._link.drop("cut")
                    await until(lambda n=n: len(house.failures) == n and up(house))
                    await asyncio.to_thread(publish, broker.port, [("plant/new", b"%d" % n)])
                    await until(lambda n=n: b"%d" % n in house.inlet.values)
                assert [row[3] for row in house.inlet.rows if row[2] == b"old"] == flags
                assert house.inlet.counts["retained_ignored_total"] == (mode == "ignore")
                assert [value for value in house.inlet.values if value != b"old"] == [b"1", b"2", b"3"]
                await until(lambda: not house.driver._window.waiting)
            async with House(plugin, options(broker.port, version=3, retained=mode)) as house:  # a life of its own
                await until(lambda: up(house) and (house.inlet.counts["retained_ignored_total"] or house.inlet.rows))
                assert [row[3] for row in house.inlet.rows] == flags

    asyncio.run(main())


def test_with_3_1_1_a_session_that_is_gone_is_subscribed_to_again(tmp_path):
    async def main():
        broker = Mosquitto(tmp_path, persistence=False)
        broker.start()
        try:
            async with House(plugin, options(broker.port, version=3)) as house:
                await until(lambda: up(house))
                broker.stop()
                await until(lambda: house.failures)
                broker.start()
                await until(lambda: up(house))
                await asyncio.to_thread(publish, broker.port, [("plant/1", b"1")])
                await until(lambda: house.inlet.values == [b"1"])
        finally:
            broker.stop()

    asyncio.run(main())


def test_with_3_1_1_a_window_that_mosquitto_keeps_to_is_learned(tmp_path):
    async def main():
        with Mosquitto(tmp_path, in_flight=20) as broker:
            async with House(plugin, options(broker.port, version=3), turn=0.05, commit=0.3) as house:
                await until(lambda: up(house))
                count, end = 0, asyncio.get_running_loop().time() + 30
                with Publisher(broker.port) as publisher:
                    while house.driver.window == 2000 and asyncio.get_running_loop().time() < end:
                        messages = [("plant/1", b"%d" % n) for n in range(count, count + 15)]
                        count += await asyncio.to_thread(publisher.publish, messages)
                        await asyncio.sleep(0.03)
                assert 20 <= house.driver.window < 2000, "while it has a backlog, mosquitto 2.0 sends more than 20"
                assert "messages ahead of our acknowledgement" in house.inlet.states[-1][1]
                await until(lambda: len(house.inlet.rows) == count)
                assert house.inlet.values == [b"%d" % n for n in range(count)]

    asyncio.run(main())


def test_a_shared_subscription_with_3_1_1_works_where_the_broker_knows_it_and_is_told_as_doubtful(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            async with House(plugin, options(broker.port, version=3, subscribe=["$share/g/plant/#"])) as house:
                await until(lambda: up(house))
                assert "knows no shared subscriptions: whether '$share/g/plant/#'" in house.inlet.states[-1][1]
                await asyncio.to_thread(publish, broker.port, [("plant/1", b"1")])
                await until(lambda: house.inlet.values == [b"1"])

    asyncio.run(main())


def test_with_3_1_1_refusals_are_told_as_far_as_the_broker_says_them(tmp_path):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "sensor", "right"], check=True)
    passwords.chmod(0o600)

    async def main():
        with Mosquitto(tmp_path / "b", extra=f"password_file {passwords}\nallow_anonymous false\n") as broker:
            secret = tmp_path / "secret"
            secret.write_text("wrong\n")
            login = {"username": "sensor", "password_file": Secret(str(secret))}
            async with House(plugin, options(broker.port, version=3, **login)) as house:
                await until(lambda: house.failures)
                assert "the broker refuses us: not authorized; check the login" in house.failures[0]
                secret.write_text("right\n")
                await until(lambda: up(house))

        async def refuses(reader, writer):
            await reader.read(1000)
            writer.write(WELCOME_3)
            await reader.read(1000)
            writer.write(b"\x90\3\0\1\x80")
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(refuses, "127.0.0.1", 0)
        async with House(plugin, options(server.sockets[0].getsockname()[1], version=3)) as house:
            await until(lambda: house.failures)
            assert "the broker refuses the subscription 'plant/#': unspecified error" in house.failures[0]
        server.close()

    asyncio.run(main())


def test_with_3_1_1_a_subscription_that_was_refused_is_asked_for_again(tmp_path):
    grants = iter([b"\x90\3\0\1\x80", b"\x90\3\0\1\1"])

    async def main():
        async def serve(reader, writer):
            await reader.read(1000)
            writer.write(b"\x20\2\1\0")  # with a session that is still there
            await reader.read(1000)
            writer.write(next(grants))
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with House(plugin, options(server.sockets[0].getsockname()[1], version=3)) as house:
            await until(lambda: up(house) or len(house.failures) > 1)
            assert ["refuses the subscription 'plant/#'" in told for told in house.failures] == [True]
        server.close()

    asyncio.run(main())


def test_with_3_1_1_only_a_driver_leaves_a_session_at_the_broker_and_sniffing_none(tmp_path):
    async def main():
        seen = []

        async def serve(reader, writer):
            hello = await reader.read(1000)
            seen.append(hello[9] & 2 == 2)  # clean session
            writer.write(THREE.write(mqtt5.PublishPacket("x", b"")))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        mine = options(port, version=3)
        for one in (mine, mine.sniffing(), options(port, version=3, session_expiry=Duration(0))):
            async with House(plugin, one) as house:
                await until(lambda house=house: house.failures)
                assert "sent packets before it let us in" in house.failures[0]
        out = sink_plugin.build(
            SinkOptions(url=f"mqtt://127.0.0.1:{port}", version=3, topic="x", status_topic="s"), outlet := FakeOutlet()
        )
        sending = asyncio.create_task(out.run())
        await until(lambda: outlet.states)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        server.close()
        assert (seen[0], seen[-1]) == (False, True)
        assert seen.count(False) <= 2, "of the first one alone"

    asyncio.run(main())
