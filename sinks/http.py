"""HTTP: a batch is a request, or with `format: raw` a record is one. docs/http.md has the receiver's side of it.

- A batch counts as delivered when the receiver says so with a status that `accept` lists, and nobody else could have
  said it: redirects and web pages are what login pages of networks answer.
- A batch goes again under the same id until then. What a receiver calls bad (400, 422) is searched for the bad record;
  what is wrong with the login, the path or the receiver itself costs no record and waits.
- One request at a time, in the order of the calls, unless `connections` allows more.
"""

import asyncio
import base64
import difflib
import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from gateway import __version__
from gateway.address import is_loopback
from gateway.errors import DeliveryRefused, DeliveryTooLarge, SinkUnavailable
from gateway.plugin import Mistake, Outlet, Plugin
from gateway.quantity import Duration, LocalPath, Secret
from gateway.record import Delivery, Receipt, Record, Rejected

if TYPE_CHECKING:
    from gateway.http_client import HttpClient, Server

Problem = DeliveryRefused | DeliveryTooLarge | None  # why a body will never be taken

EXAMPLE = """\
sink: http
url: https://ingest.example/v1/{gateway}/{stream}
token_file: /etc/tidegate/ingest.token
streams: [alarms, freezer-temps]
format: ndjson+zstd
"""

PLACES = ("{gateway}", "{stream}", "{sink}", "{key}")
PORTS = {"http": 80, "https": 443}
SOON_S = 1.0
LARGEST_KEY = 4096  # bytes of a record's key, as it stands in a header or in the url
GIVE_UP_AFTER = 8  # records in a row that are refused before any was taken: then the search is the house's

_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # a header's name, RFC 9110
_OURS = re.compile(
    "host|content-length|content-encoding|transfer-encoding|connection|te|trailer|upgrade|expect|idempotency-key"
    "|tidegate-.*"
)
_SECRET = re.compile("authorization|cookie|.*(token|secret|passw|api-?key|access-?key|signature).*")


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Send to a web server: a batch is one request, with `format: raw` every record is one.

    url: where to; `{gateway}`, `{stream}` and `{sink}` are filled in below the host, with `format: raw` also `{key}`.
        With `https://` the receiver's certificate is always verified.
    method: `POST` or `PUT`.
    headers: more headers, as `{X-Site: north}`; none that are secret.
    header_files: headers whose values are secret, each in a file: `{X-Api-Key: /etc/tidegate/key}`. This and the other
        secrets are read again for every batch.
    token_file: a token that is sent as `Authorization: Bearer`.
    username, password_file: a login that is sent as `Authorization: Basic`.
    ca_file: certificates to trust instead of the system's.
    cert_file, key_file: our own certificate, where the receiver asks for one; what was renewed is used at the
        next connect.
    key_password_file: what the key is encrypted with.
    proxy: `http://HOST:PORT` of a proxy to go through; none is taken from the environment.
    accept: the statuses by which the receiver says that it has stored a batch.
    expect: a text that must stand in the answer too, in its first 16 KiB, as `"errors":false`.
    echo: the answer must name the batch, in its header `Idempotency-Key` or in its body: proof, also without TLS, that
        it comes from a receiver that has read the request.
    connections: how many requests may be under way at a time. With one, batches arrive in order; with more, faster
        over a long way, but in any order. Not more than `in_flight`.
    timeout: how long one request may take until its answer is there.
    connect_timeout: how long it may take to reach the receiver.
    """

    url: str
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = {}
    header_files: dict[str, Secret] = {}
    token_file: Secret | None = None
    username: str | None = None
    password_file: Secret | None = None
    ca_file: LocalPath | None = None
    cert_file: LocalPath | None = None
    key_file: LocalPath | None = None
    key_password_file: Secret | None = None
    proxy: str | None = None
    accept: Annotated[tuple[Annotated[int, Meta(ge=200, le=299)], ...], Meta(min_length=1)] = (200, 201, 202, 204)
    expect: Annotated[str, Meta(min_length=1)] | None = None
    echo: bool = False
    connections: Annotated[int, Meta(ge=1, le=16)] = 1
    timeout: Annotated[Duration, Meta(extra={"ge": Duration(1), "le": Duration(60)})] = Duration(30)
    connect_timeout: Annotated[Duration, Meta(extra={"ge": Duration(1), "le": Duration(60)})] = Duration(10)

    def __post_init__(self) -> None:
        _server(self.url, "url")
        _check_places(self.url)
        if not self.url.isascii() or re.search(r"[\0- \x7f]", self.url):
            raise ValueError(f"{self.url!r}: a url is ASCII without spaces; write other signs as %C3%A4")
        if self.proxy is not None:
            _check_proxy(self.proxy)
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file need a url that starts with https://")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file belong together")
        if self.key_password_file is not None and self.key_file is None:
            raise ValueError("key_password_file needs a key_file")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if self.username is not None and (":" in self.username or not self.username.isprintable()):
            raise ValueError(f"username {self.username!r}: a login cannot hold a colon, nor what cannot be printed")
        if self.username is not None and self.token_file is not None:
            raise ValueError("token_file and username are two logins; remove one of them")
        _check_headers(self.headers, self.header_files)

    @property
    def tls(self) -> bool:
        return self.url.startswith("https:")

    @property
    def server(self) -> "Server":
        return _server(self.url, "url")

    def problem_with(self, written: str) -> str | None:
        """A key is a record's own; a batch has many."""
        if "{key}" in self.url and written != "raw":
            return f"{self.url!r}: {{key}} needs `format: raw`, one request per record; remove it, or write that"
        return None

    def warnings(self) -> list[Mistake]:
        if self.tls:
            from gateway.network import doubts

            return doubts({"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file})
        host = urlsplit(self.url).hostname or ""
        if is_loopback(host):
            return []
        secret = next((o for o in ("password_file", "token_file", "header_files") if getattr(self, o)), None)
        if secret is not None:
            told = f"what is in {secret} travels in the open to {host}; write https:// if the receiver speaks TLS"
            return [Mistake(("url",), told)]
        if not self.echo and self.expect is None:
            told = (
                f"anything on the way to {host} can answer in its place, and the batch would count as delivered; write "
                "https:// if the receiver speaks TLS, or have it name the batch in its answer and write echo: true"
            )
            return [Mistake(("url",), told)]
        return []


def _server(url: str, option: str) -> "Server":
    """Raises ValueError with what to write instead."""
    from gateway.http_client import Server

    example = "write it like https://host/path" if option == "url" else "write it like http://host:3128"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # of the port, or of brackets
        raise ValueError(f"{option} {url!r} has no port from 1 to 65535 after its host; {example}") from None
    if "@" in parts.netloc:
        raise ValueError(f"no login inside the {option}; use token_file, or username and password_file")
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ValueError(f"{url!r} is no {option}; {example}")
    if parts.fragment:
        raise ValueError(f"{url!r}: what follows # is never sent; remove it")
    if "{" in parts.netloc:
        raise ValueError(f"{url!r}: the host must be written out; only what follows it can be filled in")
    return Server(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "https")


def _check_proxy(proxy: str) -> None:
    if "@" in proxy:
        raise ValueError("no login inside the proxy; only one that lets this machine through without can be used")
    if _server(proxy, "proxy").tls or urlsplit(proxy).path not in ("", "/") or urlsplit(proxy).query:
        raise ValueError(f"{proxy!r} must be http://, a host and a port, nothing more; write it like http://host:3128")


def _check_places(url: str) -> None:
    rest = url
    for place in PLACES:
        rest = rest.replace(place, "")
    for unknown in re.findall(r"\{[^{}]*\}", rest):
        close = difflib.get_close_matches(unknown, PLACES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PLACES)}"
        raise ValueError(f"{url!r}: nothing is filled in for {unknown}; {hint}")
    if "{" in rest or "}" in rest:
        raise ValueError(f"{url!r}: only {', '.join(PLACES)} can be filled in")


def _check_headers(plain: Mapping[str, str], secret: Mapping[str, Secret]) -> None:
    seen: set[str] = set()
    for name in (*plain, *secret):
        option = "headers" if name in plain else "header_files"
        low = name.lower()
        if not re.fullmatch(_NAME, name):
            raise ValueError(f"{option}: {name!r} is no name of a header; it has letters, digits and -")
        if _OURS.fullmatch(low):
            raise ValueError(f"{option}: {name} is written by the gateway itself; remove it")
        if low in seen:
            raise ValueError(f"{option}: {name} is there twice; remove one")
        seen.add(low)
    for name, value in plain.items():
        if _SECRET.fullmatch(name.lower()):
            raise ValueError(f"headers: {name} is secret; write it to a file, and header_files: {{{name}: PATH}}")
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError(f"headers: the value of {name} must be printable ASCII, without spaces around it")
    if "authorization" in map(str.lower, secret):
        raise ValueError("header_files: for Authorization use token_file, or username and password_file")


class HttpSink:
    def __init__(self, options: Options, outlet: Outlet) -> None:
        self._options, self._outlet = options, outlet
        self._client: HttpClient | None = None
        self._turns = asyncio.Semaphore(options.connections)  # first come, first served
        self._failures = 0
        self._failure = SinkUnavailable("")
        self._raw: dict[str, _Progress] = {}  # delivery id -> how far it is, for the next attempt
        self._secrets: tuple[str, ...] = ()  # never shown, even if the receiver says them back

    # -- gateway.plugin.Sink -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._outlet.up(f"{self._options.server}, nothing sent yet")
        try:
            await asyncio.Event().wait()
        finally:
            if self._client is not None:
                self._client.close()

    async def send(self, delivery: Delivery) -> Receipt:
        seen = self._failures
        async with self._turns:
            if self._failures != seen:  # what was to go before it did not go: it must not overtake
                raise SinkUnavailable(str(self._failure), self._failure.retry_after_s)
            try:
                return await (self._batch(delivery) if delivery.content_type else self._records(delivery))
            except SinkUnavailable as failure:
                self._failures += 1
                self._failure = failure
                raise

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _batch(self, delivery: Delivery) -> Receipt:
        options, extent = self._options, delivery.extent
        if "{key}" in options.url:
            raise SinkUnavailable("url: {key} can only be filled in with format: raw")
        headers = self._headers(delivery.content_type, extent.stream)
        if delivery.encoding:
            headers.append(("Content-Encoding", delivery.encoding))
        headers += [
            ("Idempotency-Key", delivery.id),
            ("Tidegate-First", str(extent.first)),
            ("Tidegate-Last", str(extent.last)),
            ("Tidegate-Count", str(delivery.count)),
        ]
        problem = await self._request(self._target(extent.stream), headers, delivery.body, delivery.id)
        if problem is not None:
            raise problem
        self._outlet.up(str(options.server))
        return Receipt()

    async def _records(self, delivery: Delivery) -> Receipt:
        """One request per record, in order. An attempt that ends in the middle is taken up where it ended."""
        progress = self._raw.pop(delivery.id, None) or _Progress(delivery.extent.first)
        stream, origin, begun = delivery.extent.stream, delivery.id.rpartition("/")[0], progress.next
        headers, target = self._headers("application/octet-stream", stream), self._target(stream)
        try:
            for batch in delivery.batches:
                for record in batch.slice(progress.next, batch.next).records():
                    problem = await self._record(record, f"{origin}/{record.offset}-{record.offset}", target, headers)
                    progress.settled(record.offset, problem)
                    if problem is None:
                        self._outlet.up(str(self._options.server))
                    elif not progress.taken and len(progress.rejected) >= GIVE_UP_AFTER:
                        raise problem
        except SinkUnavailable as failure:
            self._raw[delivery.id] = progress
            if progress.next > begun and failure.retry_after_s is None:  # it goes on: no reason to wait ever longer
                raise SinkUnavailable(str(failure), random.uniform(0, SOON_S)) from failure
            raise
        if progress.problem is not None and not progress.taken:
            raise progress.problem  # the house decides whether that may be so
        return Receipt(tuple(progress.rejected))

    async def _record(self, record: Record, name: str, target: str, headers: list[tuple[str, str]]) -> Problem:
        key = quote(record.key, safe="/:+,;=@", errors="replace")
        if len(key) > LARGEST_KEY:
            return DeliveryTooLarge(
                f"its key has {len(key)} bytes, and {LARGEST_KEY} are the most that go into a header"
            )
        if "{key}" in target:
            target = target.replace("{key}", quote(record.key, safe="", errors="replace"))
            if not {".", ".."}.isdisjoint(target.partition("?")[0].split("/")):
                return DeliveryTooLarge(f"its key {record.key!r} would lead to another path than that of the url")
        own = [
            ("Idempotency-Key", name),
            ("Tidegate-Offset", str(record.offset)),
            ("Tidegate-Time", str(record.time)),
            ("Tidegate-Key", key),
        ]
        return await self._request(target, [*headers, *own], record.value, name, raw=True)

    async def _request(
        self, target: str, headers: list[tuple[str, str]], body: bytes, name: str, *, raw: bool = False
    ) -> Problem:
        """Returns why this body will never be taken, or None: it was. Raises SinkUnavailable."""
        from gateway.http_client import Unanswered
        from sinks._answers import judge

        options, now = self._options, self._outlet.clock.now()
        try:
            answer = await self._connected().request(options.method, target, headers, body)
        except Unanswered as error:
            raise SinkUnavailable(str(error)) from error
        server, secrets = str(options.server), self._secrets
        return judge(answer, name, options, server=server, secrets=secrets, raw=raw, now=now)

    def _connected(self) -> "HttpClient":
        if self._client is None:
            from gateway.http_client import HttpClient

            options, outlet = self._options, self._outlet
            self._client = HttpClient(
                options.server,
                options,
                proxy=_server(options.proxy, "proxy") if options.proxy is not None else None,
                connect_timeout_s=options.connect_timeout,
                timeout_s=options.timeout,
                wrote=lambda n: outlet.count("wire_bytes_total", n),
            )
        return self._client

    def _target(self, stream: str) -> str:
        """Path and query, filled in but for the key."""
        outlet, parts = self._outlet, urlsplit(self._options.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        for place, value in (("{gateway}", outlet.gateway), ("{sink}", outlet.name), ("{stream}", stream)):
            target = target.replace(place, quote(value, safe="~"))
        return target

    def _headers(self, content_type: str, stream: str) -> list[tuple[str, str]]:
        """Those that all requests of a delivery have in common. Reads the secrets."""
        options = self._options
        found = list(options.headers.items())
        if not any(name.lower() == "content-type" for name in options.headers):
            found.append(("Content-Type", content_type))
        if not any(name.lower() == "user-agent" for name in options.headers):
            found.append(("User-Agent", f"tidegate/{__version__}"))
        found += [("Tidegate-Gateway", self._outlet.gateway), ("Tidegate-Stream", stream)]
        secrets = [(name, _secret("header_files", file)) for name, file in options.header_files.items()]
        hidden = [value for _, value in secrets]
        if options.token_file is not None:
            hidden.append(_secret("token_file", options.token_file))
            secrets.append(("Authorization", f"Bearer {hidden[-1]}"))
        if options.username is not None and options.password_file is not None:
            password = _secret("password_file", options.password_file)
            login = base64.b64encode(f"{options.username}:{password}".encode()).decode()
            hidden += [login, password]
            secrets.append(("Authorization", f"Basic {login}"))
        self._secrets = tuple(hidden)
        return found + secrets


class _Progress:
    """How far the records of one delivery are."""

    __slots__ = ("next", "problem", "rejected", "taken")

    def __init__(self, first: int) -> None:
        self.next = first  # the offset to go on with
        self.taken = 0
        self.rejected: list[Rejected] = []
        self.problem: Problem = None  # the last one

    def settled(self, offset: int, problem: Problem) -> None:
        self.next = offset + 1
        if problem is None:
            self.taken += 1
        else:
            self.problem = problem
            self.rejected.append(Rejected(offset, str(problem)))


def _secret(option: str, secret: Secret) -> str:
    """A secret as it goes into a header. Raises SinkUnavailable."""
    try:
        value = secret.read()
    except OSError as error:
        raise SinkUnavailable(
            f"{option} {secret.path}: {error.strerror}; put the file there, readable for us"
        ) from error
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if option != "password_file":
        text = text.strip(" ")  # which a header would not keep
    if not text or not text.isprintable() or (option != "password_file" and not text.isascii()):
        told = "it holds no single line of printable text, as goes into a header; write it anew"
        raise SinkUnavailable(f"{option} {secret.path}: {told}")
    return text


plugin = Plugin(Options, HttpSink)
