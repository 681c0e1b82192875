"""MQTT over websockets: at mosquitto, plain and with TLS, and at servers that refuse, break the protocol or say nothing."""

import asyncio
import contextlib
import http
import logging
import ssl
import subprocess
import sys

import mqtt5
import pytest
import websockets.asyncio.server as far
from certificates import Authority
from house import FakeInlet, FakeOutlet, House, delivery, sent, until
from websockets.frames import Frame, Opcode

from drivers.mqtt import Options, plugin
from gateway.mqtt import Broker, BrokerOptions, LinkLost
from gateway.quantity import Duration, Secret, Size
from gateway.testing import Mosquitto, free_port, publish, wait_for_port
from sinks.mqtt import Options as SinkOptions
from sinks.mqtt import plugin as sink_plugin

pytestmark = pytest.mark.integration

WELCOME = mqtt5.ConnAckPacket().write()


def up(house):
    return house.inlet.states and house.inlet.states[-1][0] == "up"


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("papers"))
    return str(authority.ca), *map(str, authority.issue("localhost", file="server"))


@pytest.fixture(scope="module")
def broker(papers, tmp_path_factory):
    """A mosquitto with three listeners: TCP, websockets, websockets with TLS."""
    plain, secure = free_port(), free_port()
    _, certificate, key = papers
    extra = (
        f"listener {plain} 127.0.0.1\nprotocol websockets\n"
        f"listener {secure} 127.0.0.1\nprotocol websockets\ncertfile {certificate}\nkeyfile {key}\n"
    )
    with Mosquitto(tmp_path_factory.mktemp("broker"), extra=extra) as broker:
        wait_for_port(secure)
        broker.urls = {"ws": f"ws://127.0.0.1:{plain}/mqtt", "wss": f"wss://localhost:{secure}"}
        yield broker


@pytest.mark.parametrize(("scheme", "version"), [("ws", 5), ("wss", 5), ("ws", 3)])
def test_readings_and_batches_flow_in_order_and_are_recognised_when_they_come_again(
    broker, papers, scheme, version, monkeypatch
):
    monkeypatch.setattr("drivers.mqtt.DECIDE_S", 20)  # however long the publisher takes to be there

    async def main():
        where = {"url": broker.urls[scheme], "version": version, "ca_file": papers[0] if scheme == "wss" else None}
        name = f"{scheme}-{version}"
        mine = Options(**where, subscribe=[f"{name}/#"], stream="s")
        values = [b"%d" % n for n in range(3000)] + [b"large" * 4_000]
        async with House(plugin, mine, name=name, commit=None) as house:
            await until(lambda: up(house))
            assert house.inlet.states[-1][1].endswith("MQTT 3.1.1") == (version == 3)
            for first, last in ((0, 100), (100, 1900)):
                house.inlet.commit()
                await asyncio.to_thread(publish, broker.port, [(f"{name}/1", value) for value in values[first:last]])
                await until(lambda last=last: len(house.inlet.rows) == last)
            house.inlet.receipts.clear()  # committed, and the broker does not hear it
            house.driver._link.drop("cut")
            await until(lambda: house.failures and up(house))
            rest = asyncio.create_task(
                asyncio.to_thread(publish, broker.port, [(f"{name}/1", value) for value in values[1900:]])
            )
            async with asyncio.timeout(20):
                while len(house.inlet.rows) < len(values) or house.driver._window.waiting:
                    house.inlet.commit()
                    await asyncio.sleep(0.02)
            await rest
            assert house.inlet.values == values
            assert house.inlet.counts["redelivered_total"] == 1800
            outlet = FakeOutlet(f"{name}-out")
            out = sink_plugin.build(SinkOptions(**where, topic=f"{name}/out"), outlet)
            sending = asyncio.create_task(out.run())
            bodies = [b"x" * size for size in (1, 125, 126, 1000, 10_000)]
            for body in bodies:
                await sent(out, delivery(0, [b"1"], body=body))
            await until(lambda: house.inlet.values[-5:] == bodies)
            house.inlet.commit()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    asyncio.run(main())


def test_between_turns_the_loop_sleeps_as_without_websockets(broker):
    async def main():
        inlet = FakeInlet("sleeper")
        mine = Options(url=broker.urls["ws"], subscribe=["sleep/#"], stream="s")
        driver = inlet.driver = plugin.build(mine, inlet)
        life = asyncio.create_task(driver.run())
        await until(lambda: inlet.states)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(publish, broker.port, [("sleep/1", b"%d" % n) for n in range(100)])
        await asyncio.sleep(0.3)
        assert inlet.calls == 0, "a hundred readings are not worth a wake of their own"
        driver.turn()
        await until(lambda: len(inlet.rows) == 100)
        assert inlet.calls == 1, "all frames of a read are one batch"
        inlet.commit()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)

    asyncio.run(main())


def test_a_gateway_without_websockets_does_not_load_their_library():
    program = (
        "import sys, drivers.mqtt, sinks.mqtt, gateway.daemon; "
        "sys.exit(any(name.split('.')[0] == 'websockets' for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- servers of our own ------------------------------------------------------------------------------------------------


class Quiet:
    """gateway.mqtt.Owner that keeps what it is given."""

    def __init__(self):
        self.messages, self.reads = [], 0

    def welcomed(self, link, welcome): ...
    def answered(self, packets): ...
    def spoilt(self, packet): ...

    def received(self, messages, size):
        self.reads += 1
        self.messages += [(message.topic, message.payload) for message in messages]


@contextlib.asynccontextmanager
async def serving(handler, **more):
    """The url of a websocket server; its connections are handled by `handler(connection)`."""
    more = {"subprotocols": ["mqtt"], "compression": None, "max_size": None, **more}
    async with far.serve(handler, "127.0.0.1", 0, **more) as server:
        yield f"{'wss' if 'ssl' in more else 'ws'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/mqtt"


async def attempt(url, owner=None, **more):
    more = {"connect_timeout": Duration(2), "version": 5, **more}
    return await Broker(BrokerOptions(url=url, **more)).connect(owner or Quiet(), client_id="x", clean_start=True)


async def reason(url, **more):
    """Why a connection came to nothing, now or later."""
    try:
        link = await attempt(url, **more)
    except LinkLost as lost:
        return str(lost)
    try:
        async with asyncio.timeout(5):
            return await asyncio.shield(link.lost)
    finally:
        link.drop("done")


MESSAGES = [("a/b", b"%d" % n) for n in range(20)] + [("c", b"x" * 100_000)]
STREAM = b"".join(mqtt5.PublishPacket(topic, payload).write() for topic, payload in MESSAGES)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000, 100_000, 10**9])
def test_packets_may_be_split_over_frames_and_frames_hold_several(cut):
    async def main():
        async def serve(connection):
            hello = await connection.recv()
            assert isinstance(hello, bytes)
            assert connection.subprotocol == "mqtt"
            assert connection.request.path == "/mqtt"
            data = WELCOME + STREAM[: 400 if cut < 1000 else None]
            await connection.send([data[at : at + cut] for at in range(0, len(data), cut)])  # fragments of one message
            if cut < 1000:
                data = STREAM[400:]
                for at in range(0, len(data), 1000 * cut):  # and messages of their own
                    await connection.send(data[at : at + 1000 * cut])
            with contextlib.suppress(Exception):
                await connection.recv()

        owner = Quiet()
        async with serving(serve) as url:
            link = await attempt(url, owner)
            await until(lambda: len(owner.messages) == len(MESSAGES))
            assert owner.messages == MESSAGES
            await link.close()

    asyncio.run(main())


def test_pings_are_answered_and_a_goodbye_is_said_in_both_protocols(monkeypatch):
    said = []
    for place in ("link", "websocket"):
        monkeypatch.setattr(f"gateway.mqtt.{place}.CLOSE_S", 60)

    async def main():
        async def serve(connection):
            await connection.recv()
            await connection.send(WELCOME)
            await (await connection.ping(b"are you there"))
            said.append("pong")
            said.append(await connection.recv())
            with contextlib.suppress(Exception):
                await connection.recv()
            said.append(connection.close_code)

        async with serving(serve) as url:
            link = await attempt(url)
            await until(lambda: said)
            async with asyncio.timeout(20):  # it waits for no time-out
                await link.close()
            await until(lambda: len(said) == 3)
        assert said == ["pong", b"\xe0\0", 1000]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, "answers 200 'OK'; check the port and the path"),
        (302, "answers 302 'Found' and sends us to 'https://elsewhere.example/mqtt'; write that, as ws:// or wss://"),
        (401, "answers 401 'Unauthorized'; it asks for a login of the web server's own"),
        (403, "answers 403 'Forbidden'; it does not let us in"),
        (404, "answers 404 'Not Found'; there is nothing at this path"),
        (426, "answers 426 'Upgrade Required'; it wants no websocket there"),
        (503, "answers 503 'Service Unavailable'; the broker behind it is away"),
    ],
)
def test_a_web_server_that_refuses_is_told_in_words(status, told):
    async def main():
        def refuse(connection, request):
            response = connection.respond(http.HTTPStatus(status), "no\n")
            response.headers["Location"] = "https://elsewhere.example/mqtt"
            return response

        async with serving(None, process_request=refuse) as url:
            assert told in await reason(url)
            assert told in await reason(url, version="auto"), "and is not taken for an older broker"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "no websocket is spoken there"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no websocket is spoken there; check the port and the path, or mqtt://"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "TLS is spoken on this port; write wss://"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no websocket is spoken there"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000, "no websocket is spoken there"),
        (b"x" * 100_000, "no websocket is spoken there"),
        (None, "no answer within 0.5 s"),
    ],
)
def test_those_who_speak_no_websockets_are_named(answer, told):
    async def main():
        async def serve(reader, writer):
            await reader.read(1000)
            if answer is None:
                await reader.read(1000)
            else:
                writer.write(answer)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()
            done.set()

        done = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        patience = Duration(5 if answer is not None else 0.5)
        found = await reason(f"ws://127.0.0.1:{port}", connect_timeout=patience)
        assert told in found
        assert "version" not in found, "before the hello it is no question of MQTT"
        await done.wait()
        await asyncio.sleep(0.01)  # for asyncio to close it
        server.close()

    asyncio.run(main())


def test_a_broker_without_websockets_and_a_certificate_without_trust_are_named(broker, papers):
    async def main():
        assert "websocket" in await reason(f"ws://127.0.0.1:{broker.port}", version="auto")
        assert "its certificate is not trusted" in await reason(broker.urls["wss"])
        plain = broker.urls["ws"].replace("ws://", "wss://")
        assert "write" in await reason(plain, ca_file=papers[0])
        assert "Connection refused" in await reason(f"ws://127.0.0.1:{free_port()}")

    asyncio.run(main())


def framed(opcode, data, mask=False):
    return Frame(opcode, data).serialize(mask=mask)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (framed(Opcode.CLOSE, b"\x03\xf0go \x1b[31maway"), "closed the websocket with code 1008 ('go \\x1b[31maway')"),
        (framed(Opcode.CLOSE, b""), "closed the websocket with code 1005"),
        (framed(Opcode.TEXT, b"hello"), "it sent text over the websocket"),
        (framed(Opcode.BINARY, b"\xd0\0", mask=True), "it breaks the websocket protocol: 'incorrect masking'"),
        (b"\xc2\x01a", "it breaks the websocket protocol: 'reserved bits must be 0'"),
        (b"\x80\x01a", "it breaks the websocket protocol: 'unexpected continuation frame'"),
        (b"\x82\x7f" + (5 << 20).to_bytes(8, "big"), "more than 4194304 bytes in one frame"),
        (b"\x82\x7f" + (1 << 62).to_bytes(8, "big"), "more than 4194304 bytes in one frame"),
        (framed(Opcode.BINARY, b"\xff\xff\xff\xff\xff"), "malformed packet"),
    ],
)
@pytest.mark.parametrize("greeted", [True, False], ids=["after", "before"])
def test_a_server_that_ends_it_or_breaks_the_protocol_is_told_how(data, told, greeted):
    async def main():
        async def serve(connection):
            await connection.recv()
            if greeted:
                await connection.send(WELCOME)
            connection.transport.write(data)
            await asyncio.sleep(0.3)

        async with serving(serve) as url:
            found = await reason(url, max_packet=Size(2000))
            assert told in found
            if "1008" in told:
                assert ("another client has our name" in found) == greeted

    asyncio.run(main())


def test_a_server_that_hangs_up_at_every_hello_in_mqtt_5_is_spoken_to_in_3_1_1():
    hellos = []

    async def main():
        async def serve(connection):
            hello = await connection.recv()
            hellos.append(hello[8])
            if hello[8] == 4:
                await connection.send(b"\x20\2\0\0")
                with contextlib.suppress(Exception):
                    await connection.recv()

        async with serving(serve) as url:
            far_side = Broker(BrokerOptions(url=url, connect_timeout=Duration(2)))
            link = await far_side.connect(Quiet(), client_id="x", clean_start=True)
            assert link.version == 3
            await link.close()
        assert hellos == [5, 4]

    asyncio.run(main())


def test_the_password_is_not_logged_at_level_debug(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    secret = tmp_path / "secret"
    secret.write_text("hunter2!")

    async def main():
        async def serve(connection):
            assert (await connection.recv()).endswith(b"hunter2!")
            await connection.send(WELCOME)
            with contextlib.suppress(Exception):
                await connection.recv()

        async with serving(serve, logger=logging.getLogger("far")) as url:
            link = await attempt(url, username="sensor", password_file=Secret(str(secret)))
            await link.close()
        shown = [record.getMessage() for record in caplog.records if record.name != "far"]
        assert not [line for line in shown if "21" in line.split() or "hunter2" in line]

    asyncio.run(main())


def test_a_proxy_with_tls_is_passed(papers):
    async def main():
        async def serve(connection):
            await connection.recv()
            await connection.send(WELCOME)
            with contextlib.suppress(Exception):
                await connection.recv()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(papers[1], papers[2])
        async with serving(serve, ssl=context) as url:
            link = await attempt(url, ca_file=papers[0])
            await link.close()

    asyncio.run(main())
