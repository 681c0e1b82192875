"""HTTP: readings that are posted to us, answered with 2xx when they are durable.

- A request's records become columns at once; what comes within `answer_within` goes to the log as one batch per stream,
  and its clients are answered together, after the commit.
- While the log cannot take more, requests wait for a moment and are then told when to come back. What was answered with
  anything but 2xx may be sent again: with an `Idempotency-Key` it is recorded once.
- Nothing is loaded but a listening socket until the first client is there.
"""

import asyncio
import contextlib
import errno
import importlib
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from drivers._http_door import RECORD_BYTES, Door, Refused, Taken
from gateway.address import ADDRESS, is_loopback, parse_address
from gateway.errors import DriverUnavailable
from gateway.network import Unusable, doubts, listening_context, stamps
from gateway.plugin import Inlet, Mistake, Plugin
from gateway.quantity import Duration, LocalPath, Secret, Size
from gateway.web import RECIPE, Token, listen, somebody, weakness

EXAMPLE = """\
driver: http
listen: 0.0.0.0:8088
token_file: http-token
stream: readings
key_field: device
paths:
  - /readings
  - {path: "/doors/{key}", stream: doors}
"""

FULL = 64 << 10  # bytes of readings that do not wait for more of them
ROOM = 1 << 20  # bytes of readings that may be on their way to the disk, and one request's on top
WAIT_S = 5.0  # how long a request waits for room
PATIENCE_S = 5.0  # what was not durable by then has the next ones turned away at the door
ANSWER_S = 10.0  # until the commit of what was taken must have come
NAMES = 8192  # Idempotency-Keys that are remembered
HEADER_S, REQUEST_S, IDLE_S, STOP_S = 5.0, 60.0, 60.0, 2.0
BUSY = "there are too many connections; keep one open for many requests, or set max_connections"
PATH = re.compile(r"(?:/[\w.~!$&'()*+,;=:@|-]*)+(?:(?<=/)\{key\})?", re.ASCII).fullmatch


class Path(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One path, with a stream of its own.

    path: as `/readings`, or `/readings/{key}` where all that follows is the key.
    stream: where its readings go.
    """

    path: str
    stream: str | None = None


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Take readings that are posted. The answer is 2xx when they are durable.

    listen: host and port; only this machine can reach it unless told, `0.0.0.0:8088` is every address of it.
    paths: where readings may be posted to, each a text or `{path, stream}`; what stands for `{key}` at a path's end
        is the key.
    stream: where the readings go that a path without a stream of its own brings.
    key: the key of readings for which nothing else says one, the driver's name unless given. A request says it in its
        path, as `?key=…`, or in a header `Tidegate-Key`; percent-encoded where it needs to be.
    key_field: the field of a JSON reading that holds its key where the request gives none; `device.id` is one further
        inside.
    token_file: a file with a token of at least 16 characters (`head -c 24 /dev/urandom | base64`) that every client
        must send as `Authorization: Bearer`; needed where other machines can reach us, unless client_ca_file says who
        may. It is read again when it changes.
    cert_file, key_file: our certificate and its key, for HTTPS; read again when they change.
    key_password_file: what the key is encrypted with.
    client_ca_file: only clients may connect that show a certificate signed by this CA.
    origins: web sites whose pages may post, as `https://panel.example`; no other page can, whatever browser it is in.
    max_body: the largest body, as it comes and unpacked.
    max_records: the most records that one request may bring.
    max_connections: how many clients can be connected; when there are more, those at rest have to go first.
    answer_within: a lone request is answered at once; where more come, how long they wait for others, to be written and
        answered together. Less is sooner, and writes to the card more often.
    """

    listen: Annotated[str, msgspec.Meta(pattern=ADDRESS, extra={"say": "host:port, as 127.0.0.1:8088"})] = (
        "127.0.0.1:8088"
    )
    paths: Annotated[tuple[str | Path, ...], msgspec.Meta(min_length=1, max_length=256)] = ("/",)
    stream: str | None = None
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | None = None
    key_field: str | None = None
    token_file: Secret | None = None
    cert_file: LocalPath | None = None
    key_file: LocalPath | None = None
    key_password_file: Secret | None = None
    client_ca_file: LocalPath | None = None
    origins: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    max_body: Annotated[Size, msgspec.Meta(extra={"ge": Size(1024), "le": Size(4 << 20)})] = Size(1 << 20)
    max_records: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=500)] = 64
    answer_within: Annotated[Duration, msgspec.Meta(extra={"ge": Duration(0), "le": Duration(5)})] = Duration(0.1)

    def __post_init__(self) -> None:
        host, port = parse_address(self.listen)
        if port == 0:
            raise ValueError(f"{self.listen!r} has no port that a client could know; write it like 127.0.0.1:8088")
        if self.token_file is None and self.client_ca_file is None and not is_loopback(host):
            raise ValueError(
                f"{self.listen!r} can be reached from other machines, so it needs a token; make one with "
                f"{RECIPE.format('http-token')} and write token_file: http-token"
            )
        if self.token_file is not None:
            with contextlib.suppress(OSError):  # secrets are not looked at everywhere; where they are, this is told
                if (problem := weakness(self.token_file.read(), "http-token")) is not None:
                    raise ValueError(problem)
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")
        if self.cert_file is None and (self.client_ca_file is not None or self.key_password_file is not None):
            raise ValueError("client_ca_file and key_password_file need a cert_file and a key_file")
        if self.key_field is not None and "" in self.key_field.split("."):
            raise ValueError(f"key_field {self.key_field!r} is no field; write it like device, or device.id")
        for origin in self.origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", origin):
                raise ValueError(f"{origin!r} is no site; write it like https://panel.example, without a path")
        self._check_paths()

    def _check_paths(self) -> None:
        seen = set()
        for path, keyed, stream in self.routes():
            written = f"{path}{{key}}" if keyed else path
            if not PATH(written):
                raise ValueError(f"{written!r} is no path; write it like /readings or /readings/{{key}}")
            if not stream:
                raise ValueError(f"{written!r} has no stream; write stream: here or at the path")
            if written in seen:
                raise ValueError(f"{written!r} stands here twice")
            seen.add(written)

    def routes(self) -> list[tuple[str, bool, str]]:
        """Every path, without its {key}; whether it has one; and its stream."""
        entries = [Path(path=entry) if isinstance(entry, str) else entry for entry in self.paths]
        return [
            (entry.path.removesuffix("{key}"), entry.path.endswith("{key}"), entry.stream or self.stream or "")
            for entry in entries
        ]

    def streams(self) -> list[str]:
        return list(dict.fromkeys(stream for _, _, stream in self.routes()))

    def listens(self) -> Mapping[str, str]:
        return {"listen": self.listen}

    def warnings(self) -> list[Mistake]:
        papers = {"cert_file": self.cert_file, "key_file": self.key_file, "client_ca_file": self.client_ca_file}
        found = doubts(papers)
        if self.token_file is not None and self.cert_file is None and not is_loopback(parse_address(self.listen)[0]):
            told = "the token travels in the open, and the readings too; write cert_file and key_file for HTTPS"
            found.append(Mistake(("token_file",), told))
        return found


class Load:
    """What was given to the log together. `at`: monotonic s; `patience` ends when that takes too long."""

    __slots__ = ("at", "patience", "taken")

    def __init__(self, at: float, taken: list[Taken]) -> None:
        self.at, self.taken = at, taken
        self.patience = asyncio.get_running_loop().call_later(ANSWER_S, self.give_up)

    def give_up(self) -> None:
        """Its clients are told that it takes too long. It may become durable all the same, and is then known."""
        for taken in self.taken:
            taken.settle(False)


class HttpDriver:
    """Gathers what requests bring, and has them answered after the commit."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._options, self._inlet = options, inlet
        self._token = Token(options.token_file, f"the driver {inlet.name}") if options.token_file is not None else None
        self._columns: dict[str, tuple[list[int], list[str], list[bytes]]] = {}
        self._gathered: list[Taken] = []
        self._gathered_bytes = 0
        self._loads: deque[Load] = deque()
        self._owed_bytes = 0  # of what is not durable yet
        self._names: dict[str, Taken] = {}  # by Idempotency-Key, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._hurried = 0.0  # loop time
        self._open = asyncio.Event()
        self._open.set()
        self._paused = self._closing = False

    # -- gateway.plugin.Driver -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        papers = Papers(self._options, self._tell)
        listener = self._listen(papers)
        servers: list[Any] = []
        self._closing = False
        self._look()
        try:
            self._tell()
            await somebody([listener])
            web = await asyncio.to_thread(importlib.import_module, "gateway.web.server")
            limits = web.Limits(self._options.max_connections, HEADER_S, REQUEST_S, IDLE_S, BUSY)
            server = web.Server(self._door(), listener, lambda: limits, tls=papers.context, failed=self._no_request)
            servers.append(server)
            server.start()
            await asyncio.Event().wait()
        finally:
            self._closing = True
            self._open.set()
            for taken in self._gathered:
                taken.settle(False)
            for load in self._loads:
                load.give_up()
            if servers:
                await web.stop(servers, STOP_S)
            listener.close()
            self._forget()

    def turn(self) -> None:
        self._flush()

    def pause(self) -> None:
        self._flush()
        self._paused = True
        self._look()

    def resume(self) -> None:
        self._paused = False
        self._look()

    def acknowledge(self, receipts: Sequence[object]) -> None:
        for load in receipts:
            assert isinstance(load, Load)
            if load not in self._loads:  # of an earlier run, or of a load's second stream
                continue
            self._loads.remove(load)
            load.patience.cancel()
            for taken in load.taken:
                self._owed_bytes -= taken.size
                taken.settle(True)
        self._look()

    def _forget(self) -> None:
        """What is not durable now was answered with 503, and nobody would tell a later run that it is."""
        for load in self._loads:
            load.patience.cancel()
        self._loads.clear()
        self._gathered, self._gathered_bytes, self._columns, self._owed_bytes = [], 0, {}, 0
        self._names = {name: taken for name, taken in self._names.items() if taken.durable}

    def _listen(self, papers: "Papers") -> socket.socket:
        options, inlet = self._options, self._inlet
        try:
            papers.context()  # so that a mistake in its files is known now
            return listen(*parse_address(options.listen))
        except Unusable as error:
            why = str(error)
        except OSError as error:
            why = f"{options.listen}: {error.strerror}{_advice(error.errno or 0)}"
        inlet.waiting(why)
        raise DriverUnavailable(why)

    def _door(self) -> Door:
        options, default = self._options, self._options.key or self._inlet.name
        return Door(options, options.routes(), default, self._token, self, self._refused)

    def _refused(self, refused: Refused, asked: bytes) -> None:
        if refused.status == 503:
            self._inlet.count("refused_total")  # its sender comes back
        else:
            self._inlet.bad_frame(f"{refused.status}: {refused.words}", asked)

    def _no_request(self, error: OSError | None) -> None:
        self._inlet.bad_frame("no HTTP" if error is None else f"no TLS: {getattr(error, 'reason', None) or error}", b"")

    def _tell(self, trouble: str = "") -> None:
        options = self._options
        scheme = "https" if options.cert_file is not None else "http"
        (path, keyed, _), *others = options.routes()
        more = f" and {len(others)} other path{'s' if len(others) > 1 else ''}" if others else ""
        place = f"listens on {scheme}://{options.listen}{path}{'{key}' if keyed else ''}{more}"
        self._inlet.up(f"{place}; {trouble}" if trouble else place)

    # -- drivers._http_door.Shelf --------------------------------------------------------------------------------------

    async def room(self) -> None:
        if self._is_stuck():
            raise Refused(503, "the log does not take what came before; nothing of this is recorded", retry_after="5")
        try:
            async with asyncio.timeout(WAIT_S):
                while not self._open.is_set():
                    await self._open.wait()
        except TimeoutError:
            raise Refused(503, "the log is busy; nothing of this is recorded", retry_after="2") from None
        if self._closing:
            raise Refused(503, "the gateway stops; nothing of this is recorded", retry_after="5")

    def known(self, name: str, digest: bytes) -> Taken | None:
        taken = self._names.get(name)
        if taken is not None and taken.digest != digest:
            raise Refused(422, "something else came with this Idempotency-Key; a key is for one request alone")
        if taken is not None:
            self._inlet.count("redelivered_total", taken.count)
        return taken

    def put(self, stream: str, keys: Sequence[str], values: Sequence[bytes], name: str, digest: bytes) -> Taken:
        size = sum(map(len, values)) + RECORD_BYTES * len(values)
        taken = Taken(len(values), size, digest)
        if name:
            self._names[name] = taken
            if len(self._names) > NAMES:
                del self._names[next(iter(self._names))]
        columns = self._columns.setdefault(stream, ([], [], []))
        columns[0].extend([self._inlet.clock.now()] * len(values))
        columns[1].extend(keys)
        columns[2].extend(values)
        self._gathered.append(taken)
        self._gathered_bytes += size
        self._owed_bytes += size
        if self._inlet.urgent or self._gathered_bytes >= FULL or self._owed_bytes >= ROOM:
            self._flush()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._hurried + self._options.answer_within), self._hurry)
        self._look()
        return taken

    async def durable(self, taken: Taken) -> None:
        if taken.durable:
            return
        if not self._closing and not self._is_stuck():
            settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            taken.waiting.append(settled)
            if await settled:
                return
        told = "the log could not be written in time; send this again with the same Idempotency-Key"
        raise Refused(503, told, retry_after="5")

    def _is_stuck(self) -> bool:
        """What came some seconds ago is still not durable: it is no time for more."""
        return bool(self._loads) and self._inlet.clock.monotonic() - self._loads[0].at > PATIENCE_S

    def _look(self) -> None:
        """Say to those who wait whether there is room."""
        if self._closing or (not self._paused and self._owed_bytes < ROOM):
            self._open.set()
        else:
            self._open.clear()

    def _hurry(self) -> None:
        """Somebody waits for an answer, and the commit before that somebody waited for is long enough ago."""
        self._timer, self._hurried = None, asyncio.get_running_loop().time()
        self._flush()
        if self._loads:
            self._inlet.hurry()

    def _flush(self) -> None:
        """To the log with all that was gathered, a batch per stream: one commit, so each has the same receipt."""
        if not self._gathered:
            return
        load = Load(self._inlet.clock.monotonic(), self._gathered)
        columns = self._columns
        self._gathered, self._gathered_bytes, self._columns = [], 0, {}
        self._loads.append(load)
        for stream, (times, keys, values) in columns.items():
            self._inlet.record(stream, times, keys, values, receipt=load)


class Papers:
    """Our side of TLS, made anew when one of its files changed."""

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self._options, self._tell = options, tell
        self._seen: tuple[object, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises Unusable, but not where an older one still is there."""
        options = self._options
        if options.cert_file is None or options.key_file is None:
            return None
        secret = options.key_password_file.path if options.key_password_file is not None else None
        seen = stamps(options.cert_file, options.key_file, secret, options.client_ca_file)
        if self._context is None or seen != self._seen:
            self._seen, had = seen, self._context is not None
            ours = (options.cert_file, options.key_file, options.key_password_file, options.client_ca_file)
            try:
                self._context = listening_context(*ours)
            except Unusable as error:
                if not had:
                    raise
                self._tell(f"still with the certificate of before: {error}")
            else:
                if had:
                    self._tell("")
        return self._context


def _advice(number: int) -> str:
    """What to try when an address cannot be had."""
    if number == errno.EADDRINUSE:
        return "; another program has it (`ss -ltnp` names it), or a gateway that runs: write another port"
    if number == errno.EADDRNOTAVAIL:
        return "; this machine has no such address now; 0.0.0.0 is every one it has"
    return "; ports below 1024 are for root: write a larger one" if number == errno.EACCES else ""


plugin = Plugin(Options, HttpDriver)
