"""For demos, tests and benchmarks, ours and plugin authors': a real broker, a publisher and a receiver that counts.

Nothing in the house imports this. The publisher and the receiver are plain blocking clients on the mqtt5 codec: fast
enough to saturate a broker, simple enough to be trusted as the other side of a proof.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mqtt5

from gateway.formats import decode
from gateway.mqtt import FIVE, THREE
from gateway.record import Gap, Record

GET_READY_S = 10.0


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """A real mosquitto on a loopback port with a folder of its own; `with` starts and stops it.

    `extra`: more lines of its configuration. `tls`: those of a second listener on `tls_port`, with settings of its own:
    certfile, keyfile, allow_anonymous, …
    """

    def __init__(
        self,
        folder: Path,
        *,
        in_flight: int = 2000,
        port: int = 0,
        persistence: bool = True,
        extra: str = "",
        tls: str = "",
    ) -> None:
        self.folder, self.port = folder, port or free_port()
        self.tls_port = free_port() if tls else 0
        self._in_flight, self._persistence, self._extra, self._tls = in_flight, persistence, extra, tls
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"per_listener_settings {'true' if self._tls else 'false'}\n"
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            f"max_inflight_messages {self._in_flight}\nmax_queued_messages 1000000\n"
            f"persistence {'true' if self._persistence else 'false'}\n"
            f"persistence_location {self.folder}/\n{self._extra}\n"
            + (f"listener {self.tls_port} 127.0.0.1\n{self._tls}\n" if self._tls else "")
        )
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        try:
            wait_for_port(self.tls_port or self.port)  # the last one it opens
        except TimeoutError:
            self.stop(kill=True)
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, kill: bool = False) -> None:
        """End it: with SIGTERM it saves its sessions, with `kill` it does not."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(30)
            self._process = None


def wait_for_port(port: int, timeout_s: float = GET_READY_S) -> None:
    """Return when something accepts connections there; TimeoutError otherwise."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


class Client:
    """A blocking MQTT connection; `version` 3 is MQTT 3.1.1."""

    def __init__(
        self, port: int, client_id: str, *, clean: bool = True, receive_max: int = 65535, version: int = 5
    ) -> None:
        self.codec = THREE if version == 3 else FIVE
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(30)
        self._buffer = b""
        try:
            self._hello(client_id, clean, receive_max)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _hello(self, client_id: str, clean: bool, receive_max: int) -> None:
        connect = mqtt5.ConnectPacket(
            client_id,
            clean_start=clean,
            session_expiry_interval=0 if clean else 86400,
            keep_alive=0,
            receive_max=receive_max,
        )
        self._socket.sendall(self.codec.write(connect))
        answer = self.packet()
        if answer.reason_code != 0:
            raise ConnectionRefusedError(str(answer.reason_code))

    def packet(self) -> Any:
        """The next packet, of whatever kind. TimeoutError after the socket's time-out."""
        while True:
            packets = self._take(1)
            if packets:
                return packets[0]
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("the broker closed the connection")
            self._buffer += data

    def packets(self, timeout_s: float) -> list[Any]:
        """Packets that are here already, or all that arrive with the next read; empty if nothing comes in time."""
        if ready := self._take(1 << 30):
            return ready
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            return []
        finally:
            self._socket.settimeout(30)
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self._buffer += data
        return self._take(1 << 30)

    def _take(self, most: int) -> list[Any]:
        view, at = memoryview(self._buffer), 0
        packets: list[Any] = []
        with contextlib.suppress(IndexError):
            while at < len(view) and len(packets) < most:
                packet, used = self.codec.read(view[at:])
                packets.append(packet)
                at += used
        view.release()
        self._buffer = self._buffer[at:]
        return packets

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(self.codec.write(mqtt5.DisconnectPacket()))
        self._socket.close()


class Publisher:
    """Publishes at QoS 1, at a rate or as fast as the broker confirms."""

    def __init__(self, port: int, client_id: str = "publisher", window: int = 1000, version: int = 5) -> None:
        self._client = Client(port, client_id, version=version)
        self._window = window
        self._id = 0
        self._open = 0
        self.confirmed = 0

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def publish(self, messages: Iterable[tuple[str, bytes]], rate: float | None = None) -> int:
        """Send all messages; returns how many. Everything is confirmed by the broker when it returns."""
        sent, started, chunk = 0, time.monotonic(), []
        for topic, payload in messages:
            self._id = self._id % 65535 + 1
            packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=self._id)
            chunk.append(self._client.codec.write(packet))
            sent += 1
            early = rate is not None and sent / rate - (time.monotonic() - started)
            if len(chunk) >= 100 or (early and early > 0.005):
                self._flush(chunk)
                if early and early > 0:
                    time.sleep(early)
        self._flush(chunk)
        while self._open:
            self._collect(30)
        return sent

    def _flush(self, chunk: list[bytes]) -> None:
        if chunk:
            self._client.send(b"".join(chunk))
            self._open += len(chunk)
            chunk.clear()
        self._collect(0)
        while self._open > self._window:
            self._collect(30)

    def _collect(self, timeout_s: float) -> None:
        acks = sum(isinstance(p, mqtt5.PubAckPacket) for p in self._client.packets(timeout_s))
        self._open -= acks
        self.confirmed += acks
        if timeout_s and not acks:
            raise TimeoutError(f"{self._open} messages were not confirmed")

    def close(self) -> None:
        self._client.close()


def publish(port: int, messages: Iterable[tuple[str, bytes]], rate: float | None = None, version: int = 5) -> int:
    """Publish all messages over a connection of their own; returns how many, when the broker has confirmed them."""
    with Publisher(port, version=version) as publisher:
        return publisher.publish(messages, rate)


class Received:
    """One batch as it arrived: id, stream position, body, and when.

    Where a message has no properties, its id is what follows the first level of its topic, as in `gw/{id}`, and it is
    taken to be ndjson+zstd.
    """

    __slots__ = ("at", "body", "content_type", "encoding", "id", "topic")

    def __init__(self, packet: Any, at: float) -> None:
        properties = dict(packet.user_properties)
        self.topic, self.body, self.at = packet.topic, packet.payload, at
        self.id = properties.get("id") or packet.topic.partition("/")[2]
        self.encoding = properties.get("encoding", "" if properties else "zstd")
        self.content_type = packet.content_type or ("" if properties else "application/x-ndjson")

    def items(self) -> list[Record | Gap]:
        return decode(self.body, self.content_type, self.encoding)


class Receiver:
    """Subscribes with a persistent session, drops batches repeated under the same id, and counts what is left."""

    def __init__(self, port: int, topic: str = "gw/#", client_id: str = "receiver") -> None:
        self._port, self._topic, self._client_id = port, topic, client_id
        self._client: Client | None = None
        self.batches: dict[str, Received] = {}
        self.repeats = 0
        self.conflicts: list[str] = []  # ids that came with two different bodies: must stay empty

    def __enter__(self) -> "Receiver":
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        self._client = Client(self._port, self._client_id, clean=False)
        self._client.send(
            mqtt5.SubscribePacket(1, [mqtt5.TopicFilter(self._topic, max_qos=mqtt5.QoS.AT_LEAST_ONCE)]).write()
        )
        while not isinstance(packet := self._client.packet(), mqtt5.SubAckPacket):
            self._handle([packet])

    def collect(self, timeout_s: float) -> int:
        """Take what arrives within one read; returns how many new batches there were. Reconnects by itself."""
        try:
            if self._client is None:
                self.connect()
            assert self._client is not None
            return self._handle(self._client.packets(timeout_s))
        except OSError:
            self.close()
            self._client = None
            time.sleep(min(timeout_s, 0.2))
            return 0

    def _handle(self, packets: Sequence[Any]) -> int:
        acks, new = [], 0
        for packet in packets:
            if not isinstance(packet, mqtt5.PublishPacket):
                continue
            if packet.packet_id is not None:
                acks.append(b"@\x02" + packet.packet_id.to_bytes(2, "big"))
            received = Received(packet, time.monotonic())
            known = self.batches.get(received.id)
            if known is None:
                self.batches[received.id] = received
                new += 1
            elif known.body == received.body:
                self.repeats += 1
            else:
                self.conflicts.append(received.id)
        if acks and self._client is not None:
            self._client.send(b"".join(acks))
        return new

    def until(self, count: int, stream: str, timeout_s: float) -> int:
        """Collect until that many records of a stream have arrived, or time is over; returns how many did."""
        until = time.monotonic() + timeout_s
        seen = sum(self._count(b) for b in self.batches.values() if _stream(b.id) == stream)
        known = set(self.batches)
        while seen < count and time.monotonic() < until:
            self.collect(min(0.5, max(until - time.monotonic(), 0.001)))
            for batch_id in self.batches.keys() - known:
                known.add(batch_id)
                if _stream(batch_id) == stream:
                    seen += self._count(self.batches[batch_id])
        return seen

    @staticmethod
    def _count(batch: Received) -> int:
        first, last = batch.id.rsplit("/", 1)[1].split("-")
        return int(last) - int(first) + 1

    def records(self, stream: str) -> Iterator[Record]:
        """Every record of a stream once, in the order in which its batches first arrived."""
        for batch in self.batches.values():
            if _stream(batch.id) == stream:
                yield from (item for item in batch.items() if isinstance(item, Record))

    def gaps(self, stream: str) -> list[Gap]:
        return [
            item
            for batch in self.batches.values()
            if _stream(batch.id) == stream
            for item in batch.items()
            if isinstance(item, Gap)
        ]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _stream(batch_id: str) -> str:
    return batch_id.split("/")[2] if batch_id.count("/") >= 3 else ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process so far, all threads, to the nanosecond.

    The clock id is made as the kernel defines it for a process's scheduled time (linux/posix-timers.h, CPUCLOCK_SCHED).
    """
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def rss_mb(pid: int) -> float:
    """Resident memory of a running process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
