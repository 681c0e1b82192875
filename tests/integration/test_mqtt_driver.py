"""The mqtt driver at real brokers: flows, acknowledgement, sessions, refusals, broken connections, sleep."""

import asyncio
import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import mqtt5
import pytest
from house import FakeInlet, House, until
from strict import StrictBroker
from wire import RecordingProxy

from drivers.mqtt import Options, Subscription, plugin
from gateway.errors import DriverUnavailable
from gateway.mqtt import FIVE, THREE
from gateway.quantity import Duration, Secret
from gateway.record import RETAINED
from gateway.testing import Client, Mosquitto, Publisher, free_port
from gateway.testing import publish as send

pytestmark = pytest.mark.integration
versions = pytest.mark.parametrize("version", [5, 3])
CODECS = {5: FIVE, 3: THREE}


def options(port, **more):
    more = {"subscribe": ["plant/#"], "stream": "s", **more}
    return Options(url=f"mqtt://127.0.0.1:{port}", **more)


def numbered(count, first=0):
    return [(f"plant/{n % 7}", b'{"n":%d}' % n) for n in range(first, first + count)]


def publish(port, messages, retain=False):
    if not retain:
        with Publisher(port, client_id=f"p{threading.get_ident()}") as publisher:
            publisher.publish(messages)
        return
    with Client(port, "retainer") as client:
        for n, (topic, payload) in enumerate(messages, 1):
            one = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=n, retain=True)
            client.send(one.write())
            client.packet()


async def published(port, messages, **more):
    await asyncio.to_thread(publish, port, messages, **more)


def up(house):
    return house.inlet.states and house.inlet.states[-1][0] == "up"


@versions
def test_readings_flow_to_the_streams_of_their_filters_in_order(tmp_path, version):
    async def main():
        subscribe = ["plant/#", Subscription(filter="door/+", stream="doors", qos=0)]
        with Mosquitto(tmp_path) as broker:
            async with House(plugin, options(broker.port, subscribe=subscribe, version=version)) as house:
                await until(lambda: up(house))
                messages = numbered(3000)
                mixed = [m for n, m in enumerate(messages) for m in ([m, ("door/1", b"%d" % n)] if n % 3 == 0 else [m])]
                await published(broker.port, [*mixed, ("plant/empty", b"")])
                await until(lambda: len(house.inlet.rows) == 4001)
                await until(lambda: not house.driver._window.waiting)
                plant = [(row[1], row[2]) for row in house.inlet.rows if row[0] == "s"]
                assert plant == [*messages, ("plant/empty", b"")]
                doors = [row[2] for row in house.inlet.rows if row[0] == "doors"]
                assert doors == [b"%d" % n for n in range(0, 3000, 3)]
                assert not house.inlet.bad

    asyncio.run(main())


@pytest.mark.parametrize(("mode", "flags"), [("mark", [RETAINED]), ("record", [0]), ("ignore", [])])
def test_retained_messages_are_marked_recorded_or_ignored(tmp_path, mode, flags):
    async def main():
        with Mosquitto(tmp_path) as broker:
            await published(broker.port, [("plant/old", b"old")], retain=True)
            async with House(plugin, options(broker.port, retained=mode)) as house:
                await until(lambda: up(house))
                await published(broker.port, [("plant/new", b"new")], retain=True)
                await until(lambda: b"new" in house.inlet.values)
                rows = house.inlet.rows
                assert [row[3] for row in rows if row[2] == b"old"] == flags
                assert [row[3] for row in rows if row[2] == b"new"] == [0]

    asyncio.run(main())


@versions
def test_no_puback_leaves_before_its_commit_and_then_all_leave_in_order(tmp_path, version):
    async def main():
        with Mosquitto(tmp_path) as broker, RecordingProxy(broker.port, CODECS[version]) as proxy:
            async with House(plugin, options(proxy.port, version=version), commit=1e9) as house:
                await until(lambda: up(house))
                await published(broker.port, numbered(300))
                await until(lambda: len(house.inlet.rows) == 300)
                await asyncio.sleep(0.2)
                assert not [seen for seen in proxy.seen if seen.kind == "puback"]
                house.inlet.commit()
                await until(lambda: len(proxy.acknowledged()) == 300)
                came = [seen.id for seen in proxy.seen if seen.kind == "publish"]
                assert [seen.id for seen in proxy.seen if seen.kind == "puback"] == came

    asyncio.run(main())


def test_acknowledgements_only_travel_on_the_connection_their_messages_came_by(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker, RecordingProxy(broker.port) as proxy:
            async with House(plugin, options(proxy.port), commit=1e9) as house:
                await until(lambda: up(house))
                await published(broker.port, numbered(50))
                await until(lambda: len(house.inlet.rows) == 50)
                old, house.inlet.receipts = house.inlet.receipts, []
                proxy.cut()
                await until(lambda: house.failures and up(house))
                await asyncio.sleep(0.1)
                house.driver.acknowledge(old)
                await asyncio.sleep(0.2)
                assert not [seen for seen in proxy.seen if seen.kind == "puback"]

    asyncio.run(main())


@versions
def test_cut_connections_lose_nothing_and_repeats_are_recognised(tmp_path, version, monkeypatch):
    monkeypatch.setattr("drivers.mqtt.DECIDE_S", 20)

    async def main():
        with Mosquitto(tmp_path, in_flight=200) as broker, RecordingProxy(broker.port, CODECS[version]) as proxy:
            async with House(plugin, options(proxy.port, receive_maximum=200, version=version)) as house:
                await until(lambda: up(house))
                messages = numbered(6000)
                sending = asyncio.create_task(asyncio.to_thread(send, broker.port, messages, 3000))
                for cut in range(1, 6):
                    await until(lambda: len(house.inlet.rows) >= cut * 800)  # noqa: B023
                    proxy.hold = True  # what is acknowledged from now on, the broker does not hear
                    await until(lambda: len(house.inlet.rows) > len(set(proxy.acknowledged())))
                    proxy.cut()
                    proxy.hold = False
                await sending
                await until(lambda: len(house.inlet.rows) >= 6000 and not house.driver._window.waiting)
                assert sorted(house.inlet.values) == sorted(value for _, value in messages)
                assert house.inlet.counts["redelivered_total"] > 0
                for key in {row[1] for row in house.inlet.rows}:
                    mine = [json.loads(row[2])["n"] for row in house.inlet.rows if row[1] == key]
                    assert mine == sorted(mine), "per key, the order of publishing"

    asyncio.run(main())


def test_a_broker_that_has_more_under_way_than_we_asked_for_repeats_nothing_either():
    async def main():
        async with StrictBroker(window=20, overrun=True) as broker:
            async with House(plugin, options(broker.port, receive_maximum=20), commit=None) as house:
                await until(lambda: up(house))
                messages = [(f"plant/{n % 7}", b"same") for n in range(3000)]
                broker.publish(messages)
                await until(lambda: len(house.inlet.rows) == 20)
                house.inlet.commit()
                await until(lambda: len(house.inlet.rows) == 420)
                house.inlet.receipts.clear()  # committed and acknowledged, but the broker does not hear it
                house.inlet.commit()
                broker.cut()
                await until(lambda: house.inlet.counts["redelivered_total"] == 400)
                async with asyncio.timeout(20):
                    while len(broker.acks) < 3000:
                        house.inlet.commit()
                        await asyncio.sleep(0.01)
                assert [row[1:3] for row in house.inlet.rows] == messages
                assert house.inlet.counts["redelivered_total"] == 400

    asyncio.run(main())


@versions
def test_after_a_crash_exactly_the_unacknowledged_come_again_and_the_committed_are_recognised(
    tmp_path, version, monkeypatch
):
    monkeypatch.setattr("drivers.mqtt.DECIDE_S", 20)  # however long the publisher takes to be there

    async def main():
        with Mosquitto(tmp_path) as broker:
            first = FakeInlet()
            first.driver = plugin.build(options(broker.port, version=version), first)
            life = asyncio.create_task(first.driver.run())
            await until(lambda: first.states)

            async def arrived(count):
                while len(first.rows) < count:
                    first.driver.turn()
                    await asyncio.sleep(0.01)

            await published(broker.port, numbered(101))
            await arrived(101)
            first.commit()  # 101 committed and acknowledged
            await published(broker.port, numbered(60, 101))
            await arrived(161)
            receipts, first.receipts = first.receipts, []
            first.commit()  # 60 committed, the crash comes before their PUBACKs
            assert receipts
            await published(broker.port, numbered(40, 161))
            await arrived(201)  # 40 received, never committed
            first.driver._link.drop("crash")
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            async with House(plugin, options(broker.port, version=version), memory=first.remembered) as house:
                await until(lambda: up(house))
                await published(broker.port, numbered(30, 201))
                await until(lambda: len(house.inlet.rows) == 70)
                await asyncio.sleep(0.2)
                expected = [value for _, value in numbered(70, 161)]
                assert house.inlet.values == expected
                assert house.inlet.counts["redelivered_total"] == 60
                assert house.driver._window.waiting == 0, "repeats are acknowledged too"

    asyncio.run(main())


def test_a_broker_with_a_strict_window_of_20_is_learned_and_does_not_stall():
    async def main():
        async with StrictBroker(window=20) as broker:
            async with House(plugin, options(broker.port), turn=0.1, commit=0.4) as house:
                await until(lambda: up(house))
                for n in range(140):
                    broker.publish(numbered(10, n * 10))
                    await asyncio.sleep(0.05)
                    if n == 70:
                        learned, commits = house.driver.window, house.commits
                await until(lambda: len(house.inlet.rows) == 1400)
                assert learned == 20
                assert house.inlet.values == [value for _, value in numbered(1400)]
                assert house.commits - commits >= 700 / 20

    asyncio.run(main())


@pytest.mark.parametrize("ids", ["cycle", "lowest"])
def test_a_lost_connection_loses_nothing_whatever_the_broker_does_with_ids(ids):
    async def main():
        async with StrictBroker(window=20, ids=ids) as broker:
            async with House(plugin, options(broker.port)) as house:
                await until(lambda: up(house))
                for n in range(10):
                    broker.publish([(f"plant/{n}", b"same")] * 30)
                    await asyncio.sleep(0.11)
                    broker.cut()
                    await asyncio.sleep(0.15)
                await until(lambda: not broker.flying and not broker.queue)
                count = len(house.inlet.rows)
                assert count >= 300
                if ids == "cycle":
                    assert count == 300

    asyncio.run(main())


def test_a_wrong_password_is_shown_in_the_brokers_words(tmp_path):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "sensor", "right"], check=True)
    os.chmod(passwords, 0o600)

    async def main():
        extra = f"password_file {passwords}\nallow_anonymous false\n"
        with Mosquitto(tmp_path / "b", extra=extra) as broker:
            secret = tmp_path / "secret"
            secret.write_text("wrong\n")
            login = {"username": "sensor", "password_file": Secret(str(secret))}
            async with House(plugin, options(broker.port, **login)) as house:
                await until(lambda: house.failures)
                assert house.inlet.states[0][0] == "waiting"
                assert "not authorized" in house.failures[0] or "bad user name or password" in house.failures[0]
                secret.write_text("right\n")
                await until(lambda: up(house))
            missing = options(broker.port, username="sensor", password_file=Secret(str(tmp_path / "none")))
            async with House(plugin, missing) as house:
                await until(lambda: house.failures)
                assert "the password cannot be read: No such file or directory" in house.failures[0]

    asyncio.run(main())


def test_a_subscription_that_the_broker_refuses_is_shown_in_its_words():
    async def main():
        async with StrictBroker(granted=0x87) as broker, House(plugin, options(broker.port)) as house:
            await until(lambda: house.failures)
            assert "refuses the subscription 'plant/#': not authorized" in house.failures[0]
            assert ("waiting", house.failures[0]) in house.inlet.states

    asyncio.run(main())


def test_a_subscription_that_mosquittos_access_list_refuses_is_shown(tmp_path):
    module = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    access = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    rules = tmp_path / "dynamic.json"
    rules.write_text(json.dumps({"defaultACLAccess": access, "clients": [], "groups": [], "roles": []}))

    async def main():
        with Mosquitto(tmp_path / "b", extra=f"plugin {module}\nplugin_opt_config_file {rules}\n") as broker:
            async with House(plugin, options(broker.port)) as house:
                await until(lambda: house.failures)
                assert "refuses the subscription 'plant/#'" in house.failures[0]

    asyncio.run(main())


@pytest.mark.parametrize("kill", [False, True], ids=["restart", "kill -9"])
def test_a_broker_that_comes_back_is_taken_up_again(tmp_path, kill):
    async def main():
        broker = Mosquitto(tmp_path)
        broker.start()
        try:
            async with House(plugin, options(broker.port)) as house:
                await until(lambda: up(house))
                await published(broker.port, numbered(500))
                await until(lambda: len(house.inlet.committed) == 500)
                await until(lambda: not house.driver._window.waiting)
                broker.stop(kill=kill)
                await until(lambda: len(house.failures) >= 2)
                assert "Connection refused" in house.failures[-1]
                broker.start()
                await until(lambda: up(house))
                await published(broker.port, numbered(500, 500))
                await until(lambda: len(house.inlet.rows) >= 1000)
                assert house.inlet.values == [value for _, value in numbered(1000)]
        finally:
            broker.stop()

    asyncio.run(main())


def test_a_broker_that_falls_silent_is_given_up(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            async with House(plugin, options(broker.port, keepalive=Duration(1), connect_timeout=Duration(1))) as house:
                await until(lambda: up(house))
                await asyncio.sleep(1.5)
                assert not house.failures, "an idle broker that answers is kept"
                os.kill(broker.pid, signal.SIGSTOP)
                try:
                    await until(lambda: len(house.failures) >= 2)
                finally:
                    os.kill(broker.pid, signal.SIGCONT)
                assert "did not answer a ping" in house.failures[0]
                assert "no answer within 1 s" in house.failures[1]
                await until(lambda: up(house))

    asyncio.run(main())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    run = lambda *words: subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)  # noqa: E731
    run(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=test ca",
    )
    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=localhost")
    (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    run(
        "x509",
        "-req",
        "-in",
        "csr.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "cert.pem",
        "-days",
        "2",
        "-extfile",
        "ext",
    )
    return folder


def tls(folder, port):
    """mosquitto's listener on another port, with TLS."""
    return f"listener {port} 127.0.0.1\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_between_turns_the_loop_sleeps_and_wakes_for_a_turn_a_full_mark_and_a_close(tmp_path, certificates, secure):
    async def main():
        tls_port = free_port()
        with Mosquitto(tmp_path, extra=tls(certificates, tls_port)) as broker:
            where = f"mqtts://localhost:{tls_port}" if secure else f"mqtt://127.0.0.1:{broker.port}"
            ca = str(certificates / "ca.pem") if secure else None
            inlet = FakeInlet()
            driver = inlet.driver = plugin.build(
                Options(url=where, ca_file=ca, subscribe=["plant/#"], stream="s"), inlet
            )
            life = asyncio.create_task(driver.run())
            await until(lambda: inlet.states)
            await asyncio.sleep(0.1)
            await published(broker.port, numbered(100))
            await asyncio.sleep(0.3)
            assert inlet.calls == 0, "a hundred readings are not worth a wake of their own"
            driver.turn()
            await until(lambda: len(inlet.rows) == 100)
            driver.turn()
            await asyncio.sleep(0.1)
            await published(broker.port, numbered(50, 100))
            await asyncio.sleep(0.2)
            assert len(inlet.rows) == 100, "after a turn that found nothing the loop sleeps again"
            inlet.commit()
            await published(broker.port, [(f"plant/{n}", b"x" * 500) for n in range(300)])
            await until(lambda: len(inlet.rows) > 100)  # 64 KiB are there: read without a turn
            broker.stop(kill=True)
            await asyncio.wait({life}, timeout=10)
            assert isinstance(life.exception(), DriverUnavailable)

    asyncio.run(main())


def test_an_urgent_source_is_read_at_once(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            inlet = FakeInlet(urgent=True)
            inlet.driver = plugin.build(options(broker.port), inlet)
            life = asyncio.create_task(inlet.driver.run())
            await until(lambda: inlet.states)
            await published(broker.port, numbered(1))
            await until(lambda: len(inlet.rows) == 1)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    asyncio.run(main())


def test_a_paused_driver_reads_nothing_until_it_is_resumed_and_keeps_its_connection(tmp_path):
    async def main():
        with Mosquitto(tmp_path) as broker:
            async with House(plugin, options(broker.port, keepalive=Duration(1))) as house:
                await until(lambda: up(house))
                house.driver.pause()
                await published(broker.port, numbered(3000))
                await asyncio.sleep(1.8)
                assert house.inlet.rows == []
                house.driver.resume()
                await until(lambda: len(house.inlet.rows) == 3000)
                assert not house.failures

    asyncio.run(main())


def test_a_broker_whose_certificate_is_not_trusted_is_refused(tmp_path, certificates):
    async def main():
        tls_port = free_port()
        with Mosquitto(tmp_path, extra=tls(certificates, tls_port)):
            untrusted = Options(url=f"mqtts://localhost:{tls_port}", subscribe=["a"], stream="s")
            async with House(plugin, untrusted) as house:
                await until(lambda: house.failures)
                assert "its certificate is not trusted" in house.failures[0]

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec's panic
def test_a_poisonous_message_is_counted_and_acknowledged_and_the_flow_goes_on():
    async def main():
        async with StrictBroker() as broker, House(plugin, options(broker.port)) as house:
            await until(lambda: up(house))
            broker.publish(numbered(3))
            broker.raw(bytes([0x32, 8]) + b"\x00\x02\xff\xfe\x01\x05\x00z")  # id 261
            broker.publish([("elsewhere", b"x"), *numbered(3, 3)])
            await until(lambda: len(broker.acks) == 8)
            assert house.inlet.values == [value for _, value in numbered(6)]
            reasons = sorted(reason for reason, _ in house.inlet.bad)
            assert reasons == ["a topic that no subscription matches", "text that is no UTF-8"]
            assert [code for _, packet_id, code in broker.acks if packet_id == 261] == [0x83]
            assert not house.failures

    asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"\x00\x00", 0x81, "malformed packet"),
        (b"\x34\x07\x00\x01a\x00\x05\x00z", 0x9B, "QoS 2"),
        (b"\xa2\x04\x00\x01\x00\x00", 0x81, "malformed packet"),
        (b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", 0x82, "ConnectPacket"),
    ],
)
def test_a_broker_that_breaks_the_protocol_is_told_how_and_left(data, code, words):
    async def main():
        async with StrictBroker() as broker, House(plugin, options(broker.port)) as house:
            await until(lambda: up(house))
            broker.raw(data)
            await until(lambda: house.failures)
            assert words in house.failures[0]
            goodbye = [packet for packet in broker.others if isinstance(packet, mqtt5.DisconnectPacket)]
            assert int(goodbye[0].reason_code) == code
            await until(lambda: up(house))

    asyncio.run(main())


def test_a_client_that_is_thrown_out_by_its_namesake_is_told_so():
    async def main():
        async with StrictBroker() as broker, House(plugin, options(broker.port)) as house:
            await until(lambda: up(house))
            broker.raw(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER).write())
            await until(lambda: house.failures)
            assert "session taken over; another client has our name 'tidegate-g1-plant'" in house.failures[0]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("version", "words"), [(5, "does not speak MQTT 5; leave version out"), ("auto", "neither MQTT 5 nor MQTT 3.1.1")]
)
def test_a_broker_that_does_not_speak_our_version_is_named_as_such(version, words):
    async def main():
        async def answer(reader, writer):
            await reader.read(100)
            writer.write(b"\x20\x02\x00\x01")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with House(plugin, options(server.sockets[0].getsockname()[1], version=version)) as house:
            await until(lambda: house.failures)
            assert words in house.failures[0]
        server.close()

    asyncio.run(main())
