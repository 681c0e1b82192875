"""HTTP for hostile surroundings: what is refused before anybody looks at what was asked.

GET and HEAD, under a name of this machine only (a web page that points its own name at us gets nothing), never for
another site's scripts, with the token where one is asked for; one request per connection, and no connection lives long
but those that follow events, as long as they read. By the control socket, whose permissions say who may, also POST.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.address import is_loopback
from gateway.status.api import application
from gateway.status.login import Login
from gateway.status.server import Door
from gateway.web import address_of
from gateway.web.server import HEADER_BYTES, Connection, Limits, Server, stop

if TYPE_CHECKING:
    from gateway.status.server import Source

CONNECTIONS = 32  # per door: a flood from the network leaves the control socket free
HEADER_S = 5.0  # until the request must have come
ANSWER_S = 30.0  # until the answer must have been taken, or a viewer must have read on
SEND_BYTES = 64 << 10  # that the kernel holds for a viewer
STOP_S = 2.0  # what answers under way get at a stop

HEADERS = {
    b"cache-control": b"no-store",
    b"connection": b"close",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
BUSY = "there are too many connections; close a page or a `tidegate top`, or try again in a moment"
OPEN = ("/healthz", "/login")  # without a login


async def serve(doors: Sequence[Door], source: "Source", gateway: str) -> None:
    """Answer on listening sockets until cancelled."""
    token = next((door.token for door in doors if door.token is not None), None)
    login = Login(token, f"tidegate_{gateway}") if token is not None else None
    app = application(source, login)
    guards = [Guard(app, door, login if door.token is not None else None) for door in doors]
    servers = [Server(guard, door.listener, _limits, make=Viewer) for guard, door in zip(guards, doors, strict=True)]
    try:
        for server in servers:
            server.start()
        await asyncio.Event().wait()
    finally:
        await stop(servers, STOP_S)


def _limits() -> Limits:
    return Limits(CONNECTIONS, HEADER_S, ANSWER_S, 0.0, BUSY)


class Viewer(Connection):
    """One connection, one request; who follows events may stay as long as he reads."""

    _lasting = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"lasting": self.lasting, "patient": self.patient, "admitted": lambda: True}

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.more_body:
            super().data_received(data)
        elif self._lasting:  # nobody who follows has anything to say: it is not taken in for as long as it may last
            self.transport.abort()

    def lasting(self) -> None:
        """The answer has no end. From here on it is given up when the other side stops reading, or is not there."""
        self._lasting = True
        self.free()
        connected = self.transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(ANSWER_S * 1000))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._lasting:
            self.give(ANSWER_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._lasting:
            self.free()

    def shutdown(self) -> None:
        if self._lasting:
            self.transport.abort()
        else:
            super().shutdown()


class Guard:
    """Refuses before routing, and puts the protective headers on every answer."""

    def __init__(self, app: Starlette | ASGIApp, door: Door, login: Login | None) -> None:
        self._app, self._login = app, login
        self._control = door.host is None
        host = door.host or ""
        own = f"[{host}]" if ":" in host else host
        self._hosts = {"localhost", "127.0.0.1", "[::1]", own.lower(), *(name.lower() for name in door.names)}
        self._anywhere = not is_loopback(host)
        if self._anywhere:
            here = socket.gethostname().lower()
            self._hosts |= {here, f"{here.partition('.')[0]}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = list(message.get("headers", []))
                there = {name for name, _ in said}
                message["headers"] = said + [header for header in HEADERS.items() if header[0] not in there]
            await send(message)

        answer = self._refusal(scope)
        await (self._app if answer is None else answer)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that must not be routed."""
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in scope["headers"])
        if size > HEADER_BYTES:
            return _words(431, "the request is too large")
        if self._control:
            return None
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").lower()
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not self._is_ours(name if port.isdigit() else host):
            return _words(
                421, "this name is not answered here; use the address, or add the name to gateway.status.names"
            )
        return self._method(scope) or self._elsewhere(scope, headers, host) or self._unknown(scope, headers)

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        if not self._anywhere:
            return False
        try:  # a page that points its own name at us can never send a number as the name
            ipaddress.ip_address(name[1:-1] if name.startswith("[") else name)
        except ValueError:
            return False
        return True

    def _method(self, scope: Scope) -> Response | None:
        posts = ("/login", "/logout") if self._login is not None else ()
        if scope["method"] in ("GET", "HEAD") or (scope["method"] == "POST" and scope["path"] in posts):
            return None
        return _words(
            405, "read-only: GET and HEAD; what changes something goes by the control socket", allow="GET, HEAD"
        )

    def _elsewhere(self, scope: Scope, headers: dict[bytes, str], host: str) -> Response | None:
        # Another port of this machine is somebody else's page too; links may lead here. https: a proxy in front of us.
        link = scope["method"] != "POST" and headers.get(b"sec-fetch-mode") == "navigate"
        ours = headers.get(b"sec-fetch-site", "none") in ("none", "same-origin")
        origin = headers.get(b"origin", f"http://{host}").lower()
        if origin in (f"http://{host}", f"https://{host}") and (ours or link):
            return None
        return _words(403, "not for other sites")

    def _unknown(self, scope: Scope, headers: dict[bytes, str]) -> Response | None:
        if self._login is None or scope["path"] in OPEN:
            return None
        authorization, address = headers.get(b"authorization", ""), address_of(scope["client"])
        wait = self._login.wait(address) if authorization else 0
        admitted = partial(self._login.admits, authorization, headers.get(b"cookie", ""), address)
        if admitted():
            scope["state"]["admitted"] = admitted
            return None
        if wait:
            body = msgspec.json.encode({"error": f"too many wrong tokens from here; try again in {wait} seconds"})
            return Response(body, 429, {"retry-after": str(wait)}, "application/json")
        if "text/html" in headers.get(b"accept", "") and scope["method"] == "GET":
            return RedirectResponse("/login", 303)
        words = "who are you? Log in at /login, or send `Authorization: Bearer TOKEN` with what is in the token_file"
        body = msgspec.json.encode({"error": words})
        return Response(body, 401, {"www-authenticate": "Bearer"}, "application/json")


def _words(code: int, words: str, **headers: str) -> Response:
    return PlainTextResponse(f"{words}\n", code, headers)
