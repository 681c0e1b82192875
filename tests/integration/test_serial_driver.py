"""The serial driver at real pseudo-terminals and sockets: lines, questions, plugs that are pulled, ports others have."""

import asyncio
import contextlib
import os
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest
from cable import Cable, Device
from house import House, until
from process import GatewayProcess

from drivers.serial import FromField, Options, Poll, plugin
from gateway.framing import Frame
from gateway.framing.options import Fixed, Gap
from gateway.port.wire import UART, Wire
from gateway.quantity import Duration, Octets, Size
from gateway.testing import free_port

QUICK = {"turn": 0.02}


@pytest.fixture
def cable(tmp_path):
    with Cable(tmp_path / "by-id") as plugged:
        yield plugged


def options(cable, **more):
    return Options(port=str(cable.path), **{"stream": "s", "baud": 115200, **more})


def up(house):
    return bool(house.inlet.states) and house.inlet.states[-1][0] == "up"


def test_lines_become_records_under_the_name_of_the_port(cable):
    async def main():
        async with House(plugin, options(cable)) as house:
            await until(lambda: up(house))
            for n in range(500):
                cable.say(b"reading %d\r\n" % n)
                await asyncio.sleep(0)
                if n % 50 == 0:
                    await until(lambda: len(house.inlet.rows) >= n)
            await until(lambda: len(house.inlet.rows) == 500)
            assert house.inlet.rows == [("s", cable.path.name, b"reading %d" % n, 0) for n in range(500)]
            assert house.inlet.calls < 250  # whole reads, not lines
            assert house.inlet.states[-1] == ("up", f"{cable.path}, 115200 baud, 8N1")

    asyncio.run(main())


def test_a_field_tells_the_key_and_what_has_none_is_under_the_name_of_the_port(cable):
    async def main():
        async with House(plugin, options(cable, key=FromField(field="id"))) as house:
            await until(lambda: up(house))
            cable.say(b'{"id":"a7","v":1}\n{"v":2}\n{"id":12}\nno json\n')
            await until(lambda: len(house.inlet.rows) == 4)
            assert [row[1] for row in house.inlet.rows] == ["a7", cable.path.name, "12", cable.path.name]

    asyncio.run(main())


def test_frames_that_silence_ends_come_out_one_by_one(cable):
    async def main():
        frame = Frame(gap=Gap(silence=Duration(0.03)))
        async with House(plugin, options(cable, frame=frame, checksum="crc16-modbus")) as house:
            await until(lambda: up(house))
            reply = bytes.fromhex("01030200fa")
            for n in range(3):
                cable.say(reply[:3])
                cable.say(reply[3:] + bytes.fromhex("3807"))
                await until(lambda: len(house.inlet.rows) == n + 1)
            cable.say(reply + b"xx")
            await until(lambda: house.inlet.bad)
            assert house.inlet.values == [reply] * 3

    asyncio.run(main())


def test_questions_are_asked_in_turn_and_answers_have_the_key_of_their_question(cable):
    async def main():
        polls = [
            Poll(send=Octets(rf"READ {n}\r\n"), every=Duration(0.02), timeout=Duration(2), key=f"bus/{n}")
            for n in (1, 2, 3)
        ]
        with Device(cable, lambda question: b"is " + question + b"\r\n") as device:
            async with House(plugin, options(cable, poll=polls, start=Octets(r"HELLO\r\n"), key="other")) as house:
                await until(lambda: len(house.inlet.rows) >= 31)
        assert device.asked[0] == b"HELLO"
        assert device.asked[1:7] == [b"READ 1", b"READ 2", b"READ 3"] * 2
        greeting, *answers = [(row[1], row[2]) for row in house.inlet.rows]
        assert greeting == ("other", b"is HELLO")  # and no answer to a question
        assert {key for key, _ in answers} == {"bus/1", "bus/2", "bus/3"}
        assert all(value == b"is READ " + key[-1:].encode() for key, value in answers)

    asyncio.run(main())


def test_an_answer_that_does_not_come_is_counted_told_and_never_taken_for_the_next(cable):
    async def main():
        polls = [
            Poll(send=Octets("A\r\n"), every=Duration(0.3), timeout=Duration(0.5), key="a"),
            Poll(send=Octets("B\r\n"), every=Duration(0.3), timeout=Duration(10), key="b"),
        ]
        late = threading.Event()

        def answer(question):
            if question == b"A" and not late.is_set():
                return None
            return b"from " + question + b"\n"

        with Device(cable, answer) as device:
            async with House(plugin, options(cable, poll=polls)) as house:
                await until(lambda: house.inlet.counts["answers_missing_total"] >= 2)
                assert house.inlet.states[-1][0] == "up"  # one of two answers
                assert "no answer from a (" in house.inlet.states[-1][1]
                late.set()
                await until(lambda: ("s", "a", b"from A", 0) in house.inlet.rows)
                await until(lambda: "no answer" not in house.inlet.states[-1][1])
        assert b"B" in device.asked
        assert all(row[2] == b"from " + row[1].upper().encode() for row in house.inlet.rows)

    asyncio.run(main())


def test_an_answer_after_its_time_is_dropped_and_counted(cable):
    async def main():
        poll = Poll(send=Octets("A\r\n"), every=Duration(30), timeout=Duration(0.05))
        async with House(plugin, options(cable, poll=poll)) as house:
            await until(lambda: house.inlet.counts["answers_missing_total"] == 1)
            assert house.inlet.states[-1][0] == "waiting"  # nobody answers at all
            cable.say(b"21.5\n")
            await until(lambda: house.inlet.bad)
            assert house.inlet.bad == [("an answer that came too late", b"21.5")]
            assert not house.inlet.rows

    asyncio.run(main())


def test_an_answer_that_is_late_is_not_taken_for_that_to_the_next_question(cable):
    async def main():
        polls = [
            Poll(send=Octets("A\r\n"), every=Duration(60), timeout=Duration(1), key="a"),
            Poll(send=Octets("B\r\n"), every=Duration(60), timeout=Duration(20), key="b"),
        ]
        with Device(cable, lambda question: b"from B\n" if question == b"B" else None):
            async with House(plugin, options(cable, poll=polls)) as house:
                await until(lambda: house.inlet.counts["answers_missing_total"])
                cable.say(b"from A\n")
                await until(lambda: house.inlet.rows)
        assert house.inlet.rows == [("s", "b", b"from B", 0)]
        assert house.inlet.bad == [("an answer that came too late", b"from A")]

    asyncio.run(main())


MODBUS = {"frame": Frame(gap=Gap(silence=Duration(0.03))), "checksum": "crc16-modbus"}


def meters(*timeouts):
    """A question for each meter, with its timeout."""
    asked = [Octets(rf"\x0{n}\x03\x00\x00\x00\x02") for n in (1, 2)]
    return [
        Poll(send=send, checksum=True, key=f"meter/{n}", every=Duration(0.05), timeout=Duration(timeout))
        for n, (send, timeout) in enumerate(zip(asked, timeouts, strict=True), 1)
    ]


def test_a_modbus_question_is_sent_with_its_checksum_and_exceptions_come_through_the_same_frame(cable):
    async def main():
        answers = {1: bytes.fromhex("01030400d801c73a0a"), 2: bytes.fromhex("02830230f1")}
        with Device(cable, lambda question: answers[question[0]], size=8) as bus:
            async with House(plugin, options(cable, poll=meters(5, 5), **MODBUS)) as house:
                await until(lambda: {row[1] for row in house.inlet.rows} == {"meter/1", "meter/2"})
        assert bus.asked[:2] == [bytes.fromhex("010300000002c40b"), bytes.fromhex("020300000002c438")]
        assert set(house.inlet.values) == {bytes.fromhex("01030400d801c7"), bytes.fromhex("028302")}

    asyncio.run(main())


@pytest.mark.parametrize("frame", [MODBUS["frame"], Frame(fixed=Fixed(size=9))], ids=["gap", "fixed"])
def test_a_disturbed_answer_is_one_bad_frame_and_a_dead_device_stops_nobody(cable, frame):
    async def main():
        good = bytes.fromhex("01030400d801c73a0a")
        bad = good[:7] + b"\x00" + good[8:]
        turns = iter(range(10_000))

        def reply(question):
            if question[0] == 2:
                return None  # it is dead
            return good if next(turns) % 2 else bad

        with Device(cable, reply, size=8) as bus:
            chosen = options(cable, poll=meters(1, 0.05), frame=frame, checksum="crc16-modbus")
            async with House(plugin, chosen) as house:
                await until(lambda: len(house.inlet.rows) >= 2)
                rows, wrong = len(house.inlet.rows), len(house.inlet.bad)
        told = r"the checksum is wrong, in the answer to '\x01\x03\x00\x00\x00\x02'"
        assert set(house.inlet.bad) == {(told, bad)}
        assert abs(rows - wrong) <= 1  # each second answer, each once
        assert {state for state, _ in house.inlet.states} == {"up"}
        assert any("no answer from meter/2 (3 times)" in detail for _, detail in house.inlet.states)
        dead = sum(question[0] == 2 for question in bus.asked)
        assert dead - 1 <= house.inlet.counts["answers_missing_total"] <= dead

    asyncio.run(main())


def test_a_line_that_takes_no_bytes_is_told_and_nothing_piles_up_behind_it(cable, monkeypatch):
    monkeypatch.setattr("drivers.serial.SEND_S", 0.05)

    async def main():
        question = Octets("A" * 3000)  # which the device never reads
        poll = Poll(send=question, every=Duration(0.01), timeout=Duration(0.01))
        before = threading.active_count()
        async with House(plugin, options(cable, poll=poll)) as house:
            await until(lambda: house.failures)
            assert threading.active_count() <= before + 2
            assert "the line takes no bytes; is flow: right" in house.failures[0]
            assert all(len(detail) < 250 for _, detail in house.inlet.states)

    asyncio.run(main())


def test_our_own_voice_on_a_two_wire_bus_is_no_reading(cable):
    async def main():
        poll = Poll(send=Octets("READ\r\n"), every=Duration(0.01), timeout=Duration(5))
        with Device(cable, lambda question: question + b"\r\n" + b"42\r\n"):
            async with House(plugin, options(cable, poll=poll, echo=True)) as house:
                await until(lambda: len(house.inlet.rows) >= 20)
        assert set(house.inlet.values) == {b"42"}

    asyncio.run(main())


def test_a_port_that_another_program_has_is_told_with_its_name(cable):
    async def main():
        hold = "import fcntl,os,sys,time; fd=os.open(sys.argv[1],os.O_RDWR|os.O_NOCTTY); fcntl.flock(fd,fcntl.LOCK_EX)"
        program = [sys.executable, "-c", f"{hold}; print('held', flush=True); time.sleep(60)", str(cable.path)]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"held\n"
            try:
                async with House(plugin, options(cable)) as house:
                    await until(lambda: house.failures)
                    assert f"{cable.path} is busy: " in house.failures[0]
                    assert f"(process {other.pid})" in house.failures[0]
                    other.kill()
                    other.wait()
                    await until(lambda: up(house))
            finally:
                other.kill()

    asyncio.run(main())


def test_two_who_share_a_port_may_and_one_who_wants_it_alone_may_not(cable):
    async def main():
        shared = options(cable, exclusive=False)
        async with House(plugin, shared) as one, House(plugin, shared) as two:
            await until(lambda: up(one) and up(two))
            async with House(plugin, shared.sniffing()) as alone:
                await until(lambda: alone.failures)
                assert "busy" in alone.failures[0]

    asyncio.run(main())


def test_while_paused_nothing_is_read_and_nothing_is_asked(cable):
    async def main():
        async with House(plugin, options(cable)) as house:
            await until(lambda: up(house))
            house.driver.pause()
            cable.say(b"1\n2\n")
            await asyncio.sleep(0.1)
            assert not house.inlet.rows
            house.driver.resume()
            await until(lambda: house.inlet.values == [b"1", b"2"])

    asyncio.run(main())


def test_frames_whose_silence_nobody_heard_are_not_joined_to_one(cable):
    async def main():
        async with House(plugin, options(cable, frame=Frame(gap=Gap(silence=Duration(0.03))))) as house:
            await until(lambda: up(house))
            house.driver.pause()
            cable.say(b"one")
            await asyncio.sleep(0.1)
            cable.say(b"two")
            await asyncio.sleep(0.1)
            house.driver.resume()
            await asyncio.sleep(0.1)
            cable.say(b"three")
            await until(lambda: house.inlet.values == [b"three"])
            assert [reason for reason, _ in house.inlet.bad] == [
                "came while nobody listened: where its frames end is not known"
            ]

    asyncio.run(main())


def test_a_buffer_that_was_full_and_what_a_uart_lost_are_counted_and_told(cable, monkeypatch):
    lost = dict.fromkeys(UART.values(), 0)
    monkeypatch.setattr(Wire, "counts", lambda self: {metric: lost[place] for metric, place in UART.items()})

    async def main():
        async with House(plugin, options(cable, baud=9600, max_frame=Size(65536))) as house:
            await until(lambda: up(house))
            house.driver.turn()
            house.driver.pause()
            for _ in range(100):
                cable.say(b"x" * 99)
            await asyncio.sleep(0.1)
            lost[UART["uart_overruns_total"]] = 7
            house.driver.resume()
            await until(lambda: house.inlet.counts["uart_overruns_total"] == 7)
            assert house.inlet.counts["input_full_total"] == 1
            assert house.inlet.states[-1] == ("up", f"{cable.path}, 9600 baud, 8N1; 7 overruns of the UART")
            # What was read before the hole and what comes behind it are not joined.
            assert "cut off: its end did not come" in [reason for reason, _ in house.inlet.bad]

    asyncio.run(main())


def test_a_plug_that_is_pulled_again_and_again_leaves_nothing_behind(cable, monkeypatch):
    monkeypatch.setattr("drivers.serial.LOOK_S", (0.01, 0.02))

    async def main():
        async with House(plugin, options(cable)) as house:
            open_files = []
            for n in range(40):
                await until(lambda: up(house))
                open_files.append(len(os.listdir("/proc/self/fd")))
                cable.say(b"%d\nhalf a li" % n)
                await until(lambda: len(house.inlet.rows) == n + 1)
                cable.unplug()
                await until(lambda: len(house.failures) == n + 1)
                await until(lambda: not up(house))
                cable.plug()
            assert house.inlet.values == [b"%d" % n for n in range(40)]
            assert len(house.inlet.bad) == 40
            # The numbers that were given away are others' now, two files each; what is more would be ours.
            assert open_files[-1] - len(cable.parked) <= open_files[0]

    asyncio.run(main())


# -- ports at the other end of a network -------------------------------------------------------------------------------


def test_a_terminal_server_is_read_from_its_first_byte_and_found_again():
    async def main():
        accepted = asyncio.Queue()

        async def serve(reader, writer):
            writer.write(b"first\n")
            await accepted.put((reader, writer))

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            poll = Poll(send=Octets("?"), every=Duration(60), timeout=Duration(10))
            there = Options(port=f"socket://127.0.0.1:{port}", stream="s", poll=poll)
            async with House(plugin, there) as house:
                reader, writer = await accepted.get()
                assert await reader.readexactly(1) == b"?"
                writer.write(b"half a li")
                await writer.drain()
                await until(lambda: b"first" in house.inlet.values)
                writer.close()
                reader, writer = await accepted.get()
                writer.write(b"second\n")
                await until(lambda: b"second" in house.inlet.values)
                writer.close()
            assert house.inlet.values[:3] == [b"first", b"first", b"second"]
            assert house.inlet.rows[0][1] == f"127.0.0.1:{port}"
            assert house.inlet.bad == [("cut off: its end did not come, in the answer to '?'", b"half a li")]
            assert "the connection is lost" in house.failures[0]

    asyncio.run(main())


def test_a_terminal_server_that_is_not_there_is_told():
    async def main():
        there = Options(port=f"socket://127.0.0.1:{free_port()}", stream="s")
        async with House(plugin, there) as house:
            await until(lambda: house.failures)
            assert "Connection refused; is it switched on, and does it listen there?" in house.failures[0]

    asyncio.run(main())


class Rfc2217Server(threading.Thread):
    """A port of this machine, shared by RFC 2217 with whoever connects, as pyserial's own example does."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self._path, self._door = path, socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self.line = ""

    def run(self):
        import serial
        import serial.rfc2217

        class Port(serial.Serial):  # a pseudo-terminal has no modem lines
            cts = dsr = ri = cd = rts = dtr = False

        link, _ = self._door.accept()
        link.settimeout(0.01)
        out = link.makefile("wb", buffering=0)
        with Port(str(self._path), timeout=0) as port:
            manager = serial.rfc2217.PortManager(port, out)
            with contextlib.suppress(OSError):
                while True:
                    if data := port.read(4096):
                        out.write(b"".join(manager.escape(data)))
                    with contextlib.suppress(TimeoutError):
                        if not (said := link.recv(1024)):
                            break
                        port.write(b"".join(manager.filter(said)))
                    self.line = f"{port.baudrate} {port.parity}{port.stopbits}"
        out.close()
        link.close()
        self._door.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyserial's own threads
def test_a_port_behind_rfc_2217_is_set_read_and_asked(cable):
    async def main():
        server = Rfc2217Server(cable.path)
        server.start()
        poll = Poll(send=Octets(r"READ\r\n"), every=Duration(0.05), timeout=Duration(10))
        with Device(cable, lambda question: b"\xff" + question + b"\r\n"):
            there = Options(port=f"rfc2217://127.0.0.1:{server.port}", stream="s", baud=19200, poll=poll)
            async with House(plugin, there) as house:
                await until(lambda: len(house.inlet.rows) >= 5)
                assert server.line == "19200 N1"
        assert set(house.inlet.values) == {b"\xffREAD"}
        await asyncio.to_thread(server.join, 5)

    asyncio.run(main())


# -- proofs ------------------------------------------------------------------------------------------------------------

CONFIG = """\
gateway: {{id: boat, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 64MiB}}
drivers:
  gps:
    driver: serial
    port: {port}
    {baud}
    stream: gps
    decode: text
    checksum: {{kind: xor, hex: true, after: "*", skip: 1}}
"""


def sentence(n, rng):
    body = b"GPRMC,%02d%02d%02d.00,A,%09.4f,N,%010.4f,E,%05.2f,%05.1f,241126,,,A" % (
        *(n // 3600 % 24, n // 60 % 60, n % 60),
        *(rng.uniform(5400, 5500), rng.uniform(900, 1000), rng.uniform(0, 20), rng.uniform(0, 360)),
    )
    check = 0
    for byte in body:
        check ^= byte
    return b"$" + body, b"$%s*%02X\r\n" % (body, check)


def voyage(count, seed=11):
    """(kind, value, bytes): sentences, and between them what a bad line makes of some."""
    rng = random.Random(seed)
    for n in range(count):
        value, wire = sentence(n, rng)
        fate = rng.random()
        if fate < 0.05:
            spoilt = bytearray(wire)
            spoilt[rng.randrange(1, len(wire) - 5)] ^= 1 << rng.randrange(1, 4) | 0x80
            yield "bad", value, bytes(spoilt)
        elif fate < 0.1:
            noise = bytes(rng.choices([b for b in range(256) if b not in b"\r\n"], k=rng.randint(1, 60)))
            yield "bad", value, noise + b"\r\n"
        else:
            yield "good", value, wire


def recorded(gateway):
    found, at = [], 0
    while True:
        rows = gateway.json(f"/api/v1/streams/gps/records?from={at}&limit=1000")["records"]
        found += [(row["k"], row["v"]) for row in rows]
        if not rows:
            return found
        at = rows[-1]["o"] + 1


def sail(parts, say, per_s, between):
    """Say everything at the pace of a line; `between` is called after each part, in the middle of a sentence."""
    good, bad = [], 0
    for n, part in enumerate(parts):
        began, sent = time.monotonic(), 0
        for kind, value, wire in part:
            for at in range(0, len(wire), 12):  # as the little FIFO of a UART hands it on
                say(wire[at : at + 12])
                sent += len(wire[at : at + 12])
                time.sleep(max(0.0, began + sent / per_s - time.monotonic()))
            good += [value.decode()] if kind == "good" else []
            bad += kind == "bad"
        if n + 1 < len(parts):
            say(b"$GPRMC,cut in the mid")
            bad += 1
            between(len(good), bad)
    return good, bad


def parts_of(full, minutes=5):
    count = minutes * 60 * 4 if full else 600
    everything = list(voyage(count))
    third = count // 3
    return [everything[:third], everything[third : 2 * third], everything[2 * third :]]


def test_a_gps_that_is_unplugged_and_comes_back_under_another_number_is_recorded_once(tmp_path, full):
    per_s = 480 if full else 48_000
    with Cable(tmp_path / "by-id") as cable:
        config = CONFIG.replace("{port}", str(cable.path)).replace("{baud}", f"baud: {4800 if full else 460800}")
        with GatewayProcess(tmp_path, config) as gateway:
            wait_up(gateway)
            numbers = [os.path.realpath(cable.path)]

            def pull(good, bad):
                gateway.wait_for_records("gps", good)  # a reading that lies in the kernel goes with the plug
                until_metric(gateway, "tidegate_frames_bad_total", bad - 1)
                time.sleep(0.3)
                cable.unplug()
                wait_up(gateway, False)
                numbers.append(cable.plug())
                wait_up(gateway)

            good, bad = sail(parts_of(full), cable.say, per_s, pull)
            gateway.wait_for_records("gps", len(good))
            until_metric(gateway, "tidegate_frames_bad_total", bad)
            found = recorded(gateway)
        assert len(set(numbers)) == 3
        assert cable.refused == 0
        assert [value for _, value in found] == good
        assert {key for key, _ in found} == {cable.path.name}


def test_the_same_gps_behind_a_socket_is_recorded_once(tmp_path, full):
    per_s = 480 if full else 48_000
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(30)
        config = CONFIG.replace("{port}", f"socket://127.0.0.1:{door.getsockname()[1]}").replace("{baud}", "")
        with GatewayProcess(tmp_path, config) as gateway:
            link = [door.accept()[0]]

            def cut(good, bad):
                link[0].close()
                link[0] = door.accept()[0]

            good, bad = sail(parts_of(full), lambda data: link[0].sendall(data), per_s, cut)
            gateway.wait_for_records("gps", len(good))
            until_metric(gateway, "tidegate_frames_bad_total", bad)
            assert [value for _, value in recorded(gateway)] == good
            link[0].close()


def wait_up(gateway, want=True):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        parts = gateway.json("/api/v1/status")["drivers"]
        if (next(iter(parts))["state"] == "up") == want:
            return
        time.sleep(0.02)
    raise AssertionError(gateway.output.read_text()[-2000:])


def until_metric(gateway, name, value):
    end = time.monotonic() + 20
    while time.monotonic() < end and gateway.metric(name) < value:
        time.sleep(0.05)
    assert gateway.metric(name) == value


def test_a_port_that_the_gateway_has_is_not_taken_by_sniffing(tmp_path, cable):
    config = CONFIG.replace("{port}", str(cable.path)).replace("{baud}", "")
    with GatewayProcess(tmp_path, config) as gateway:
        wait_up(gateway)
        command = [sys.executable, "-m", "gateway", "sniff", "gps", "-c", str(gateway.config), "--seconds", "2"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said = " ".join((told.stdout + told.stderr).split())
        assert "is busy" in said
        assert f"(process {gateway.pid})" in said
        cable.say(sentence(1, random.Random(1))[1])
        gateway.wait_for_records("gps", 1)


def test_921600_baud_are_sustained_and_nothing_is_refused(cable, full, capsys):
    per_s, seconds = 92_160, 60 if full else 3
    line = b'{"ts":1790000000.050,"id":"sim/07","v":21.37,"unit":"C"}\n'

    async def main():
        async with House(plugin, options(cable, baud=921_600), turn=0.25) as house:
            await until(lambda: up(house))
            pour = "import os,sys,time\nfd,per_s,n,line=int(sys.argv[1]),int(sys.argv[2]),int(sys.argv[3]),sys.argv[4].encode()\n"
            pour += "data,at,refused,began=line*n,0,0,time.monotonic()\n"
            pour += "while at<len(data):\n"
            pour += " due=min(int((time.monotonic()-began)*per_s)-at,512)\n"
            pour += " if due>0:\n"
            pour += "  try: sent=os.write(fd,data[at:at+due])\n"
            pour += "  except BlockingIOError: sent=0\n"
            pour += "  refused+=min(due,len(data)-at)-sent; at+=due\n"
            pour += " time.sleep(0.002)\n"
            pour += "print(refused)\n"
            count = per_s * seconds // len(line)
            before = resource.getrusage(resource.RUSAGE_SELF)
            began = time.monotonic()
            program = [sys.executable, "-c", pour, str(cable._master), str(per_s), str(count), line.decode()]
            writer = await asyncio.create_subprocess_exec(
                *program, pass_fds=[cable._master], stdout=asyncio.subprocess.PIPE
            )
            refused = int(await writer.stdout.read())
            await writer.wait()
            took = time.monotonic() - began
            after = resource.getrusage(resource.RUSAGE_SELF)
            await until(lambda: len(house.inlet.rows) == count)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            with capsys.disabled():
                print(
                    f"\n921,600 baud for {took:.0f} s: {count} lines in {house.inlet.calls} reads, "
                    f"{refused} bytes refused, {100 * cpu / took:.1f} % CPU"
                )
            assert refused == 0
            assert not house.inlet.bad
            assert set(house.inlet.values) == {line.rstrip()}

    asyncio.run(main())
