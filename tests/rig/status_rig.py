"""A status server on a real port over a daemon that is made up."""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
import time

from gateway.clock import SystemClock
from gateway.config import StatusOptions
from gateway.health import Board
from gateway.metrics import Metrics
from gateway.record import RETAINED, Gap, Record
from gateway.status import NoStream, Status
from gateway.status.dead import dead_letters

NOW = 1_790_000_000 * 10**9


class FakeSource:
    """A daemon with one stream of 2,500 records behind a gap, and one with large ones."""

    def __init__(self):
        self.is_ready, self.broken, self.hold = True, False, None
        self.board = Board(SystemClock())
        self.board.up("log")
        self.board.up("driver:boiler")
        self.readers = []
        self.letters = []
        self.reloaded = {"ok": True, "changes": []}
        self.items = [Gap("boiler", 0, 99, "evicted")]
        self.items += [Record(i, i * 1000, "k", b'{"v":%d}' % i, RETAINED if i == 100 else 0) for i in range(100, 2600)]
        self.large = [Record(i, i, "k", b'"' + b"x" * 300_000 + b'"') for i in range(9)]
        self.large.append(Record(9, 9, "k", b'"' + b"x" * 2_000_000 + b'"'))

    def status(self):
        if self.broken:
            raise RuntimeError("secret detail")
        sentence = "all 2 parts are up" if self.is_ready else "driver:boiler waits: no such port"
        up = {"state": "up", "detail": "", "since": NOW - 60 * 10**9, "restarts": 0}
        return {
            "gateway": "g",
            "version": "0.1.0",
            "epoch": "e",
            "now": NOW,
            "uptime_s": 7200.0,
            "ready": self.is_ready,
            "sentence": sentence,
            "level": "ok" if self.is_ready else "attention",
            "components": self.board.rows(),
            "drivers": [
                {
                    "name": "boiler",
                    "kind": "serial",
                    "streams": ["boiler"],
                    "rate": 1.5,
                    "records": 2500,
                    "bad_frames": 1,
                }
                | up
            ],
            **self.streams(),
            "pipelines": [],
            "sinks": [
                {
                    "name": "cloud",
                    "kind": "mqtt",
                    "streams": ["boiler"],
                    "rate": 1.25,
                    "delivered": 2000,
                    "lag": 500,
                    "oldest_unsent_s": 3.5,
                    "wire_bytes": 4096,
                }
                | up
            ],
            "readers": self.readers,
            "log": {
                "path": "/var/lib/tidegate",
                "bytes": 1 << 20,
                "limit_bytes": 2 << 30,
                "device_bytes": 9,
                "commits": 4,
                "seals": 1,
                "horizon_s": 86_400.0,
                "room_s": 777_600,
            },
            "loss_window_records": 12,
            "viewers": 0,
            "config": {"files": ["/etc/tidegate/tidegate.yaml"], "loaded": NOW, "reloads": 0, "problems": []},
        }

    def streams(self):
        rows = [("boiler", self.items), ("large", self.large)]
        return {
            "streams": [
                {
                    "name": name,
                    "first": items[-1].offset - 9,
                    "next": items[-1].offset + 1,
                    "newest": items[-1].time,
                    "rate": 1.5,
                    "gone": 0,
                    "lost": 0,
                    "blocks": 1,
                    "bytes": 1536,
                    "priority": "normal",
                }
                for name, items in rows
            ]
        }

    def pipelines(self):
        return {"pipelines": []}

    def history(self):
        return {"step_s": 10, "until": NOW, "series": {"in": [None, 1.5], "out": [1.0, 1.25]}}

    def newest(self):
        return {"until": NOW, "values": {"in": 1.5, "out": 1.25}}

    async def dead(self, limit):
        kept = len(self.letters)
        return {"total": kept, "suppressed": 0, "kept": kept, **dead_letters(self.letters[::-1], limit)}

    async def reload(self):
        return self.reloaded

    def end(self, stream):
        items = {"boiler": self.items, "large": self.large}.get(stream)
        if items is None:
            raise NoStream(stream)
        return items[-1].offset + 1

    async def records(self, stream, first, limit, room=None):
        if self.hold is not None:
            await self.hold.wait()
        items = {"boiler": self.items, "large": self.large}.get(stream)
        if items is None:
            raise NoStream(stream)
        found = [i for i in items if (i.last if isinstance(i, Gap) else i.offset) >= first][:limit]
        after = (found[-1].last if isinstance(found[-1], Gap) else found[-1].offset) + 1 if found else first
        return found, after

    async def seek(self, stream, time):
        if stream != "boiler":
            raise NoStream(stream)
        return time // 1000

    def ready(self):
        return self.is_ready, [] if self.is_ready else ["driver:boiler waits: no such port"]

    def metrics(self):
        metrics = Metrics()
        metrics.add("commits_total", 3)
        return metrics.exposition()


class Server:
    """The status server in a thread with a loop of its own."""

    def __init__(self, folder=None, **options):
        self.source = FakeSource()
        options = {"listen": "127.0.0.1:0"} | options
        serves = StatusOptions(**options) if options["listen"] else None
        self.status = Status(serves, self.source, gateway="g", folder=folder)
        self.status.bind()
        self.port = self.status.port if serves else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self.status.serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def call(self, work):
        self._loop.call_soon_threadsafe(work)

    def stop(self):
        self.call(self._task.cancel)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def get(self, path, method="GET", headers=None, body=None):
        return self.ask(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10), path, method, headers, body)

    @staticmethod
    def ask(connection, path, method="GET", headers=None, body=None):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.text = answer.read()
        connection.close()
        return answer

    def json(self, path, **headers):
        answer = self.get(path, headers=headers)
        return answer.status, json.loads(answer.text)

    @contextlib.contextmanager
    def follow(self, path, **headers):
        """A generator of the events of a stream, as (name, data), comments as ("", None)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        try:
            yield events(answer)
        finally:
            answer.close()
            connection.close()

    def talk(self, data, timeout=10):
        """Raw bytes in, raw bytes out until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(data)
            return self.drain(client)

    @staticmethod
    def drain(client):
        out = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(1 << 16):
                out += part
        return out


def events(lines):
    name = ""
    for line in lines:
        field, _, text = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = text
        elif field == "data":
            yield name, json.loads(text)
        elif line.startswith(b":"):
            yield "", None


class ControlConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket in a folder whose path may be long."""

    def __init__(self, folder):
        super().__init__("localhost", timeout=10)
        self._folder = folder

    def connect(self):
        here = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{here}/control")
        finally:
            os.close(here)


def wait_for(holds, timeout_s=15):
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "it did not come to hold"
        time.sleep(0.01)
