"""HTTP for hostile surroundings: connections that are few, and given up when they take too long.

uvicorn's protocol without its Server: that one takes over the process's signals and wakes up all the time.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

log_ = logging.getLogger("tidegate.web")

HEADER_BYTES = 8192
CROWDED_S = 0.5  # before more is accepted when the process has no room for another connection
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: %d\r\n\r\n%b"


class Limits(NamedTuple):
    """What one listening socket allows. Times in s."""

    connections: int
    header_s: float  # until a request's header must have come
    answer_s: float  # from the request's first byte until its answer must have been taken
    idle_s: float  # between two requests; where connections are one too many, one that rests has to go
    busy: str  # what the one too many is told


class Connection(H11Protocol):
    """One connection: refused if there are too many, and given up when it takes too long."""

    limits: Limits
    failed: "Callable[[OSError | None], None]"
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self.limits
        self.timeout_keep_alive = limits.idle_s  # type: ignore[assignment]
        if len(self.connections) > limits.connections and not self._take_place_of_one_at_rest():
            said = f"{limits.busy}\n".encode()
            transport.write(_BUSY % (len(said), said))
            transport.close()
            self.give(limits.header_s, transport.abort)  # TLS waits for a farewell
            return
        self.give(limits.header_s, self._request_due)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self.at_rest:
            self.give(self.limits.header_s, self._request_due)
        super().data_received(data)

    def on_response_complete(self) -> None:
        if self.transport.is_closing():  # what was said must still be taken
            super().on_response_complete()
            return
        self.free()
        super().on_response_complete()  # goes on with what was sent ahead
        if not self.at_rest:
            self.give(self.limits.header_s, self._request_due)

    def connection_lost(self, exc: Exception | None) -> None:
        self.free()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.failed(None)
        if self.cycle is not None and not self.cycle.response_complete:  # whoever was to answer it need not any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # its answer has begun already
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Close it between two requests."""
        self._unset_keepalive_if_required()
        super().timeout_keep_alive_handler()
        self.give(self.limits.answer_s, self.transport.abort)  # the last answer may not have been taken yet

    @property
    def at_rest(self) -> bool:
        """Between two requests, with nothing of the next one here."""
        return self.cycle is not None and self.cycle.response_complete and not self.conn.trailing_data[0]

    def _take_place_of_one_at_rest(self) -> bool:
        others = [one for one in cast("set[Connection]", self.connections) if one is not self]
        open_ones = [one for one in others if not one.transport.is_closing()]
        if len(open_ones) < self.limits.connections:
            return True
        resting = [one for one in open_ones if one.at_rest]
        if resting:
            min(resting, key=Connection.rests_until).leave()
        return bool(resting)

    def rests_until(self) -> float:
        """Loop time when a connection at rest is closed; the one that rests the longest has the first."""
        return self.timeout_keep_alive_task.when() if self.timeout_keep_alive_task is not None else 0.0

    def give(self, seconds: float, then: Callable[[], None]) -> None:
        """Have this done by then, unless it is free() again."""
        self.free()
        self._deadline = self.loop.call_later(seconds, then)

    def free(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _request_due(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # no request yet, only drops of one
            self.transport.abort()
        else:
            self.give(self.limits.answer_s - self.limits.header_s, self.transport.abort)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """What is done in here takes the time it takes; only then the answer must be taken soon."""
        self.free()
        try:
            yield
        finally:
            if not self.transport.is_closing():
                self.give(self.limits.answer_s, self.transport.abort)


class Server:
    """Answers on one listening socket.

    `limits` is asked for every connection, and so is `tls`, whose context may change. `failed` hears of those who came
    and spoke no TLS, as the error says, or no HTTP (None).
    """

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        limits: Callable[[], Limits],
        *,
        make: type[Connection] = Connection,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        failed: Callable[[OSError | None], None] = lambda error: None,
    ) -> None:
        self._app, self.listener, self._limits, self._make = app, listener, limits, make
        self._tls, self._failed = tls, failed
        self._state = ServerState()
        self.arriving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> set[Connection]:
        return cast(set[Connection], self._state.connections)

    def start(self) -> None:
        config = Config(
            self._app,
            http=self._make,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # that a client sends nonsense is no news
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        config.load()
        self._config = config
        asyncio.get_running_loop().add_reader(self.listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            accepted, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):  # it was gone before we looked
            return
        except OSError as error:
            log_.warning("no connection can be accepted: %s", error.strerror)
            loop.remove_reader(self.listener)
            self._pause = loop.call_later(CROWDED_S, loop.add_reader, self.listener, self._accept)
            return
        accepted.setblocking(False)
        connection = self._make(self._config, self._state, {})
        connection.limits, connection.failed = self._limits(), self._failed
        task = loop.create_task(self._arrive(accepted, connection))
        self.arriving.add(task)
        task.add_done_callback(self.arriving.discard)

    def close(self) -> None:
        """Listen no more. Who was accepted is served."""
        if self._pause is not None:
            self._pause.cancel()
        if self.listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.listener)
            self.listener.close()

    async def _arrive(self, accepted: socket.socket, connection: Connection) -> None:
        limits, tls = connection.limits, self._tls()
        if tls is not None and len(self.arriving) > limits.connections:  # who does not even greet cannot be told
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        wait_s = limits.header_s if tls is not None else None
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=wait_s)
        except OSError as error:
            self._failed(error)


async def stop(servers: Sequence[Server], seconds: float) -> None:
    """Listen no more; finish the answers that are under way, for a short while."""
    for server in servers:
        server.close()
    told: set[Connection] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while any(server.connections or server.arriving for server in servers):
                for each in {each for server in servers for each in server.connections} - told:
                    told.add(each)
                    with contextlib.suppress(h11.LocalProtocolError):  # in the middle of refusing nonsense
                        each.shutdown()
                await asyncio.sleep(0.01)
    for server in servers:
        for task in server.arriving:
            task.cancel()
        for each in server.connections:
            each.transport.abort()
