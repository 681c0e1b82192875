"""A TCP proxy that writes down which QoS 1 messages passed to the client and which PUBACKs came back, and when."""

import socket
import threading
import time
from typing import NamedTuple

import mqtt5


class Seen(NamedTuple):
    at: float  # monotonic s
    connection: int
    kind: str  # "publish" (broker to client) or "puback" (client to broker)
    id: int
    topic: str
    payload: bytes


class RecordingProxy:
    """Listens on a random loopback port in front of a broker; `seen` is in wire order."""

    def __init__(self, port: int) -> None:
        self._target = port
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
        buffer = b""
        try:
            while data := source.recv(1 << 17):
                while kind == "puback" and self.hold:
                    time.sleep(0.005)
                if source.fileno() < 0 or sink.fileno() < 0:
                    return  # cut while it was held: this never reached the broker
                buffer = self._note(buffer + data, kind, number)  # written down before it is passed on
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
        wanted = mqtt5.PublishPacket if kind == "publish" else mqtt5.PubAckPacket
        found = []
        try:
            while at < len(view):
                packet, used = mqtt5.read(view[at:])
                at += used
                if isinstance(packet, wanted) and packet.packet_id:
                    topic, payload = (packet.topic, packet.payload) if kind == "publish" else ("", b"")
                    found.append(Seen(now, number, kind, packet.packet_id, topic, payload))
        except IndexError:
            pass
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
