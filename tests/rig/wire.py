"""A TCP proxy, for MQTT of either version and over websockets, that writes down which QoS 1 messages passed to the client and which PUBACKs came back, and when."""

import socket
import threading
import time
from typing import NamedTuple

from gateway.mqtt import FIVE, Codec


class Seen(NamedTuple):
    at: float  # monotonic s
    connection: int
    kind: str  # "publish" (broker to client) or "puback" (client to broker)
    id: int
    topic: str
    payload: bytes


class RecordingProxy:
    """Listens on a random loopback port in front of a broker; `seen` is in wire order."""

    def __init__(self, port: int, codec: Codec = FIVE, *, websocket: bool = False) -> None:
        self._target, self._codec, self._websocket = port, codec, websocket
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._connections: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self.hold = False  # True: what the client says does not reach the broker for now
        threading.Thread(target=self._accept, daemon=True, name="proxy").start()

    def _accept(self) -> None:
        number = 0
        while not self._closed:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            for one in (client, broker):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number += 1
            self._connections.append((client, broker))
            if self._closed:
                self.cut()
                return
            for source, sink, kind in ((broker, client, "publish"), (client, broker, "puback")):
                threading.Thread(target=self._pump, args=(source, sink, kind, number), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, kind: str, number: int) -> None:
        buffer, inner = b"", Unframed() if self._websocket else bytes
        try:
            while data := source.recv(1 << 17):
                while kind == "puback" and self.hold:
                    time.sleep(0.005)
                if source.fileno() < 0 or sink.fileno() < 0:
                    return  # cut while it was held: this never reached the broker
                buffer = self._note(buffer + inner(data), kind, number)  # written down before it is passed on
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                one.close()

    def _note(self, data: bytes, kind: str, number: int) -> bytes:
        view, at, now = memoryview(data), 0, time.monotonic()
        wanted = 3 if kind == "publish" else 4
        found = []
        while size := packet_size(view[at:]):
            if view[at] >> 4 == wanted:
                packet, _ = self._codec.read(view[at : at + size])
                if packet.packet_id:
                    topic, payload = (packet.topic, packet.payload) if kind == "publish" else ("", b"")
                    found.append(Seen(now, number, kind, packet.packet_id, topic, payload))
            at += size
        with self._lock:
            self.seen += found
        return data[at:]

    def acknowledged(self) -> list[tuple[str, bytes]]:
        """(topic, payload) of every message whose PUBACK was seen on the connection it came by, in wire order."""
        with self._lock:
            seen = list(self.seen)
        waiting: dict[tuple[int, int], tuple[str, bytes]] = {}
        done = []
        for one in seen:
            if one.kind == "publish":
                waiting[one.connection, one.id] = (one.topic, one.payload)
            elif (one.connection, one.id) in waiting:
                done.append(waiting.pop((one.connection, one.id)))
        return done

    def cut(self) -> None:
        """Drop every connection."""
        for pair in self._connections:
            for one in pair:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                one.close()
        self._connections.clear()

    def __enter__(self) -> "RecordingProxy":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next connection
        self._server.close()
        self.cut()


def packet_size(data: memoryview) -> int:
    """Bytes of the MQTT packet that begins there; 0 while it is not complete."""
    length = 0
    for n, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * n
        if byte < 128:
            total = n + 2 + length
            return total if total <= len(data) else 0
    return 0


class Unframed:
    """What one direction of a websocket carries: called with bytes, returns the payload of the frames complete by then."""

    def __init__(self) -> None:
        self._buffer, self._greeted = b"", False

    def __call__(self, data: bytes) -> bytes:
        self._buffer += data
        if not self._greeted:
            if b"\r\n\r\n" not in self._buffer:
                return b""
            self._buffer, self._greeted = self._buffer.split(b"\r\n\r\n", 1)[1], True
        out, at = [], 0
        while (frame := self._frame(at)) is not None:
            opcode, payload, at = frame
            if opcode in (0, 2):
                out.append(payload)
        self._buffer = self._buffer[at:]
        return b"".join(out)

    def _frame(self, at: int):
        """(opcode, payload, where the next one begins), or None while it is not complete. RFC 6455, 5.2."""
        data = self._buffer
        if len(data) < at + 2:
            return None
        opcode, masked, size = data[at] & 15, data[at + 1] >> 7, data[at + 1] & 127
        start = at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[start : start + width], "big")
            start += width
        mask = data[start : start + 4] if masked else b""
        start += len(mask)
        if len(data) < start + size:
            return None
        payload = data[start : start + size]
        if masked:
            times = -(-size // 4)
            key = int.from_bytes((mask * times)[:size], "big")
            payload = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
        return opcode, payload, start + size
