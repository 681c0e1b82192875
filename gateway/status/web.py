"""HTTP for hostile surroundings: what is refused before anybody looks at what was asked.

Read-only, for this machine: GET and HEAD, under a name of this machine only (a web page that points its own name at us
gets nothing), never for another site's scripts, one request per connection, and no connection lives long.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from gateway.status.api import application

if TYPE_CHECKING:
    from gateway.status.server import Source

CONNECTIONS = 32
HEADER_S = 5.0  # until the request must have come
ANSWER_S = 30.0  # until the answer must have been taken
HEADER_BYTES = 8192
STOP_S = 2.0  # what answers under way get at a stop

HEADERS = [
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


async def serve(listener: socket.socket, source: "Source", host: str) -> None:
    """Answer on a listening socket until cancelled."""
    config = Config(
        Guard(application(source), host),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    config.load()
    # The protocol without uvicorn's Server: that one takes over the process's signals and wakes up ten times a second.
    state = ServerState()

    def connection() -> Connection:
        return Connection(config, state, {})

    server = await asyncio.get_running_loop().create_server(connection, sock=listener)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        connections = cast(set[Connection], state.connections)
        for each in list(connections):
            each.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while connections:  # noqa: ASYNC110 - it is uvicorn's set; nobody tells when it is empty
                    await asyncio.sleep(0.01)
        for each in list(connections):
            each.transport.abort()


class Connection(H11Protocol):
    """One connection: refused if there are too many, and given up when it takes too long."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            transport.close()
            return
        self._deadline = self.loop.call_later(HEADER_S, self._request_due)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _request_due(self) -> None:
        if self.cycle is None:  # no request yet, only drops of one
            self.transport.abort()
        else:
            self._deadline = self.loop.call_later(ANSWER_S - HEADER_S, self.transport.abort)


class Guard:
    """Refuses before routing, and puts the protective headers on every answer."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        own = f"[{host}]" if ":" in host else host
        self._hosts = frozenset({"localhost", "127.0.0.1", "[::1]", own.lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, guarded)
            return
        code, words = refusal
        headers = {"allow": "GET, HEAD"} if code == 405 else None
        await PlainTextResponse(f"{words}\n", code, headers)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status code and words, or None for a request that may be routed."""
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in scope["headers"])
        if size > HEADER_BYTES:
            return 431, "the request is too large"
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if (name if port.isdigit() else host) not in self._hosts:
            return 421, "this name is not answered here; use the address of the status page"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "read-only: GET and HEAD"
        other_site = headers.get(b"sec-fetch-site") == "cross-site" and headers.get(b"sec-fetch-mode") != "navigate"
        if other_site or headers.get(b"origin", f"http://{host}") != f"http://{host}":
            return 403, "not for other sites"
        return None
