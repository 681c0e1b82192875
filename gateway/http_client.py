"""HTTP/1.1 to one server, for sinks: connections that are kept, one request at a time on each, failures in words.

Everything that comes back is bounded in size and time. What a browser would do unasked is not done: no redirect is
followed, no cookie kept, no proxy taken from the environment, nothing unpacked.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import NamedTuple

import h11

from gateway.errors import TidegateError
from gateway.network import Papers, Peer, Unusable, explain, stamps, tls_context

LARGEST_HEAD = 16 << 10  # bytes of an answer's status line and headers
LARGEST_BODY = 16 << 10  # bytes of an answer's body that are kept; who says more is not heard out
IDLE_S = 50.0  # a connection that was silent for longer may be forgotten on the way, so it is not used again
RECEIVER = Peer("the receiver", "http://", 443)

Headers = Sequence[tuple[str, str]]


class Server(NamedTuple):
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """Host and port as in a `Host` header, the usual port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


class Answer(NamedTuple):
    """`headers` by lower-case name, of several with one name the last; of the body at most LARGEST_BODY bytes."""

    status: int
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


class Unanswered(TidegateError):
    """No whole answer came. The text says why, for the person who reads the status, and what to try."""


class _Cut(Exception):
    """The connection ended before the answer did; `silent`: before it began."""

    def __init__(self, reason: str, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class HttpClient:
    """Requests may be made at the same time, each on a connection of its own. `wrote` counts bytes as they leave."""

    def __init__(
        self,
        server: Server,
        papers: Papers,
        *,
        proxy: Server | None,
        connect_timeout_s: float,
        timeout_s: float,
        wrote: Callable[[int], None],
    ) -> None:
        self._server, self._papers, self._proxy, self._wrote = server, papers, proxy, wrote
        self._connect_timeout_s, self._timeout_s = connect_timeout_s, timeout_s
        self._idle: list[_Connection] = []
        self._closed = False
        self._tls: ssl.SSLContext | None = None
        self._stamps: tuple[object, ...] = ()  # of the files it was made from

    async def request(self, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        """The answer to one request. Where a kept connection turns out to be closed before anything was answered, it is
        made once more on a new one, so the server may have read it twice. Raises Unanswered.
        """
        server = self._server
        if self._proxy is not None and not server.tls:
            target = f"{server}{target}"
        lines = [("Host", server.authority), ("Content-Length", str(len(body))), *headers]
        try:
            async with asyncio.timeout(self._timeout_s):
                kept = self._kept()
                while True:
                    connection = kept or await self._connect()
                    try:
                        return await self._exchange(connection, method, target, lines, body)
                    except _Cut as cut:
                        if kept is None or not cut.silent:
                            raise Unanswered(f"{server}: {cut}") from cut
                        kept = None
        except TimeoutError as error:
            raise Unanswered(f"{server}: no answer within {self._timeout_s:g} s; see timeout") from error

    def close(self) -> None:
        """Keep no connection any more; those in use end with their request."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _exchange(
        self, connection: "_Connection", method: str, target: str, headers: Headers, body: bytes
    ) -> Answer:
        try:
            answer = await connection.exchange(method, target, headers, body, self._wrote)
        except BaseException:  # also cancelled: its answer would be taken for that of the next request
            connection.close()
            raise
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _kept(self) -> "_Connection | None":
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.used_at < IDLE_S:
                return connection
            connection.close()
        return None

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _connect(self) -> "_Connection":
        server, proxy = self._server, self._proxy
        try:
            context = self._context() if server.tls else None
        except Unusable as error:
            raise Unanswered(str(error)) from error
        told = f"no connection within {self._connect_timeout_s:g} s; check the address, and the network"
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if proxy is None:
                    return await self._dial(server, str(server), context)
                connection = await self._dial(proxy, f"the proxy {proxy}", None)
                return connection if context is None else await self._tunnel(connection, context)
        except TimeoutError as error:
            raise Unanswered(f"{server if proxy is None else f'the proxy {proxy}'}: {told}") from error

    async def _dial(self, at: Server, where: str, context: ssl.SSLContext | None) -> "_Connection":
        with _in_words(where):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                at.host,
                at.port,
                ssl=context,
                server_hostname=at.host if context is not None else None,
                happy_eyeballs_delay=0.25,
            )
        return connection

    async def _tunnel(self, outer: "_Connection", context: ssl.SSLContext) -> "_Connection":
        """A connection through the proxy, with TLS inside."""
        server, proxy = self._server, f"the proxy {self._proxy}"
        there = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
        try:
            answer = await outer.exchange("CONNECT", there, [("Host", there)], b"", self._wrote)
            if answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise Unanswered(f"{proxy} asks for a login, which we cannot give; have it let this machine through")
            if answer.status != HTTPStatus.OK:
                raise Unanswered(f"{proxy} answers {answer}: it does not let us through to {there}")
            inner, loop = _Connection(), asyncio.get_running_loop()
            with _in_words(f"{server}, through {proxy}"):
                transport = await loop.start_tls(outer.transport, inner, context, server_hostname=server.host)
            if transport is None:
                raise _Cut("it ended the connection")
            inner.connection_made(transport)
            return inner
        except _Cut as cut:
            outer.close()
            raise Unanswered(f"{proxy}: {cut}") from cut
        except BaseException:
            outer.close()
            raise

    def _context(self) -> ssl.SSLContext:
        """Made anew when one of its files was: all the CAs of a system are too much to read for every connection."""
        papers = self._papers
        secret = papers.key_password_file
        files = (papers.ca_file, papers.cert_file, papers.key_file, secret.path if secret is not None else None)
        if self._tls is None or stamps(*files) != self._stamps:
            self._stamps, self._tls = stamps(*files), tls_context(papers)
        return self._tls


@contextlib.contextmanager
def _in_words(where: str) -> Iterator[None]:
    """What goes wrong while a connection is made is Unanswered, but for TimeoutError, which asyncio.timeout() needs."""
    try:
        yield
    except TimeoutError:
        raise
    except (ConnectionResetError, ConnectionAbortedError) as error:  # in the midst of the handshake
        told = "it ended the connection at once; write http:// if no TLS is spoken there"
        raise Unanswered(f"{where}: {told}") from error
    except UnicodeError as error:
        raise Unanswered(f"{where}: that is no host name") from error
    except OSError as error:
        raise Unanswered(f"{where}: {explain(error, RECEIVER)}") from error


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that is under way on it."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGEST_HEAD)
        self._answer: asyncio.Future[Answer] | None = None
        self._head: tuple[int, dict[str, str]] | None = None
        self._body = bytearray()
        self._heard = False  # something came back since the request was written
        self._open = False
        self.transport: asyncio.Transport
        self.used_at = 0.0  # when its last answer was complete, in the loop's time

    @property
    def reusable(self) -> bool:
        return self._open and self._answer is None and self._parser.our_state is self._parser.their_state is h11.IDLE

    async def exchange(
        self, method: str, target: str, headers: Headers, body: bytes, wrote: Callable[[int], None]
    ) -> Answer:
        """Raises _Cut. A connection whose exchange was cancelled must be closed."""
        if not self._open:
            raise _Cut("it closed the connection", silent=True)
        parser = self._parser
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._heard = None, False
        self._body.clear()
        head = parser.send(h11.Request(method=method, target=target, headers=list(headers)))
        parts = [head, parser.send(h11.Data(body)) if body else b"", parser.send(h11.EndOfMessage())]
        data = b"".join([part for part in parts if part])
        wrote(len(data))
        self.transport.write(data)
        try:
            answer = await self._answer
        finally:
            self._answer = None
        self.used_at = asyncio.get_running_loop().time()
        # Not used again where the server answered before it had read all, nor where it says more than was asked: that
        # would be taken for the next request, or for its answer.
        rest = self.transport.get_write_buffer_size() or parser.trailing_data[0]
        if parser.our_state is parser.their_state is h11.DONE and not rest:
            parser.start_next_cycle()
        return answer

    def close(self) -> None:
        self._open = False
        self.transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self._open = transport, True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nothing was asked: a farewell, or somebody who talks out of turn
            self.close()
            return
        if not self._heard and data[:5] != b"HTTP/"[: len(data)]:
            tls = data.startswith(b"\x15\x03")
            self._heard = True
            self._fail("TLS is spoken on this port; write https://" if tls else "what answers there speaks no HTTP")
            return
        self._heard = True
        self._parser.receive_data(data)
        self._read()

    def eof_received(self) -> None:
        if self._answer is not None and self._heard:  # the end of the answer may be that of the connection
            self._parser.receive_data(b"")
            self._read(ended=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        told = explain(error, RECEIVER) if isinstance(error, OSError) else "it closed the connection"
        when = " in the middle of its answer" if self._heard else " before it answered"
        self._fail(told if isinstance(error, ssl.SSLError) else told + when)  # TLS tells why: no matter when

    def _read(self, ended: bool = False) -> None:
        try:
            while self._answer is not None and not self._answer.done():
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, h11.Response):
                    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                    self._head = event.status_code, named
                elif isinstance(event, h11.Data):
                    self._body += event.data
                # An answer to CONNECT ends with its head: the parser pauses.
                whole = isinstance(event, h11.EndOfMessage) or event is h11.PAUSED
                if self._head is not None and (whole or len(self._body) > LARGEST_BODY):
                    self._answer.set_result(Answer(*self._head, bytes(self._body[:LARGEST_BODY])))
        except h11.RemoteProtocolError as error:
            if ended:
                self._fail("it closed the connection in the middle of its answer")
            else:
                self._fail(f"its answer breaks the rules of HTTP: {str(error)[:100]}")

    def _fail(self, reason: str) -> None:
        self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Cut(reason, silent=not self._heard))
