"""A web server for the http sink, on plain sockets: it answers by a script, breaks off where it is told to, and counts."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.formats import decode
from gateway.record import Gap, Record


class Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]  # by lower-case name
    body: bytes
    connection: int  # which one of those that were opened, from 1

    @property
    def name(self) -> str:
        return self.headers.get("idempotency-key", "")

    def items(self) -> list[Record | Gap]:
        return decode(self.body, self.headers["content-type"], self.headers.get("content-encoding", ""))


class Act(NamedTuple):
    """What is done with one request. `raw`: these bytes are the answer; `then` is what follows it."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""
    store: bool | None = None  # None: where the status is 2xx
    raw: bytes | None = None
    then: str = ""  # "" | "close" | "hang" | "hold": it is given only after release()


OK = Act()
HANG = Act(raw=b"", then="hang")
CUT = Act(raw=b"", then="close")
CUT_IN_ANSWER = Act(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", then="close", store=False)
STORED_AND_CUT = Act(raw=b"", then="close", store=True)
REDIRECT = Act(302, {"Location": "http://portal.example/login"})
PAGE = Act(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Please log in</html>", store=False)


class WebReceiver:
    """`with WebReceiver([...]) as receiver`: one act per request, in order; when they are used up, all are OK.

    `decide`: instead of a script, asked for every request.
    """

    def __init__(
        self,
        script: Iterable[Act] = (),
        *,
        decide: Callable[[Request], Act] | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script, self.decide = list(script), decide
        self.requests: list[Request] = []
        self.stored: dict[str, Request] = {}
        self.repeats = 0
        self.conflicts: list[str] = []  # names that came with two different contents: must stay empty
        self.connections = 0
        self.port = port
        self._tls, self._host = tls, host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._stop, self._released = asyncio.Event(), asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> "WebReceiver":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def records(self, stream: str) -> list[Record]:
        """Every record of a stream that was stored, each once per batch that holds it."""
        of_stream = [r for r in self.stored.values() if r.headers["tidegate-stream"] == stream]
        return [item for request in of_stream for item in request.items() if isinstance(item, Record)]

    def drop_connections(self) -> None:
        """As a server does that thinks they were idle for too long."""

        def drop() -> None:
            for writer in list(self._writers):
                writer.close()

        self._loop.call_soon_threadsafe(drop)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        server = await asyncio.start_server(self._connection, self._host, self.port, ssl=self._tls, limit=1 << 24)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # the transports close in their own time

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while (request := await self._read(reader, number)) is not None:
                self.requests.append(request)
                script = self.script
                act = self.decide(request) if self.decide else script.pop(0) if script else OK
                self._store(request, act)
                if act.then == "hold":
                    await self._released.wait()
                writer.write(_answer(act) if act.raw is None else act.raw)
                await writer.drain()
                if act.then == "hang":
                    await asyncio.Event().wait()
                if act.then == "close":
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the gateway was killed, or the test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, number: int) -> Request | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ")
        return Request(method, target, headers, await reader.readexactly(int(headers["content-length"])), number)

    def _store(self, request: Request, act: Act) -> None:
        if not (200 <= act.status < 300 and act.raw is None if act.store is None else act.store):
            return
        known = self.stored.get(request.name)
        if known is None:
            self.stored[request.name] = request
        elif known.body == request.body:
            self.repeats += 1
        else:
            self.conflicts.append(request.name)


def _answer(act: Act) -> bytes:
    lines = [f"HTTP/1.1 {act.status} Some Words", *[f"{name}: {value}" for name, value in act.headers.items()]]
    return "\r\n".join([*lines, f"Content-Length: {len(act.body)}", "", ""]).encode() + act.body
