"""The status server as the daemon holds it: a socket from the start, the web libraries from the first connection on.

starlette and uvicorn take 7 MB and up to a second on a Pi; most gateways are looked at rarely. Until somebody connects
there is only a listening socket, and the kernel holds the first client while a thread imports the rest.
"""

import asyncio
import importlib
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.record import Gap, Record

BACKLOG = 64  # connections the kernel holds while nobody accepts


class NoStream(LookupError):
    """No stream of that name."""


class Source(Protocol):
    """What the API may ask of the daemon, always on its event loop. The shapes are described in gateway.status.api."""

    def status(self) -> dict[str, Any]: ...

    def streams(self) -> dict[str, Any]: ...

    def pipelines(self) -> dict[str, Any]: ...

    def history(self) -> dict[str, Any]: ...

    def newest(self) -> dict[str, Any]:
        """The last column of the history."""
        ...

    async def records(self, stream: str, first: int, limit: int) -> tuple[list[Record | Gap], int]:
        """Durable records and gaps from `first` on, at most `limit`, and where to go on. Raises NoStream."""
        ...

    def end(self, stream: str) -> int:
        """The offset after the last durable record. Raises NoStream."""
        ...

    async def seek(self, stream: str, time: int) -> int:
        """The offset of the first record at or after `time` (ns since 1970). Raises NoStream."""
        ...

    async def dead(self, limit: int) -> dict[str, Any]: ...

    async def reload(self) -> dict[str, Any]:
        """Take the configuration as its files are now: {"ok": True, "changes"}, or {"ok": False, "problems"}."""
        ...

    def ready(self) -> tuple[bool, Sequence[str]]:
        """Is the log recovered and are the drivers up? If not, why."""
        ...

    def metrics(self) -> bytes:
        """Prometheus text."""
        ...


class Status:
    """bind() at start, serve() as a task until it is cancelled."""

    def __init__(self, address: str, source: Source) -> None:
        self._address, self._source = address, source
        self._socket: socket.socket | None = None

    def bind(self) -> None:
        """Listen, so that a taken port is known at once. Raises OSError, with the address in its words."""
        host, port = parse_address(self._address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"the status address {self._address}: {error.strerror}") from error
        self._socket = listener

    @property
    def port(self) -> int:
        """The port that was bound; of interest where port 0 was asked for."""
        assert self._socket is not None, "bind() first"
        port: int = self._socket.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Serve until cancelled; then finish the answers that are under way, for a short while."""
        assert self._socket is not None, "bind() first"
        with self._socket:
            await self._first_connection(self._socket)
            web = await asyncio.to_thread(importlib.import_module, "gateway.status.web")
            await web.serve(self._socket, self._source, parse_address(self._address)[0])

    async def _first_connection(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        somebody = asyncio.Event()
        loop.add_reader(listener, somebody.set)
        try:
            await somebody.wait()
        finally:
            loop.remove_reader(listener)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8765`, `localhost:8765` or `[::1]:8765`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write it like 127.0.0.1:8765 or [::1]:8765")
    return host, int(port)
