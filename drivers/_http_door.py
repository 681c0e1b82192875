"""A request that brings readings: what is refused and why, and what is taken.

What costs nothing is looked at first: who asks, what for, how much. A body is read only when the rest is right, and
taken apart only when there is room for what is in it.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from drivers._http_body import FORM, JSON, LINES, KeyField, TooMany, sound, type_of, values_of
from gateway.errors import Malformed, TidegateError
from gateway.formats import Bloated, unpack
from gateway.web import Token, address_of

BODY_S = 20.0  # until the whole body must have come
HELD = 16 << 20  # bytes of bodies that may be here, of all connections together, and RECORD_BYTES for each record
RECORD_BYTES = 64  # of a record here, beside its value
LARGE = 32 << 10  # bytes; a body of more is taken apart in a thread, so that the loop goes on
LINGER_S, LINGER = 2.0, 1 << 20  # how long and how much is still read of what was refused, so that they hear why
ID_CHARACTERS = 255  # of an Idempotency-Key
PREFLIGHT = {
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "authorization, content-encoding, content-type, idempotency-key, tidegate-key",
    "access-control-max-age": "600",
}
ENCODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(TidegateError):
    """The answer to a request of which nothing is recorded, or for which that cannot be promised."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Gone(TidegateError):
    """Nobody is there to be answered any more."""


class Taken:
    """The records of one request, on their way to the disk or there."""

    __slots__ = ("count", "digest", "durable", "size", "waiting")

    def __init__(self, count: int, size: int, digest: bytes) -> None:
        self.count, self.size, self.digest = count, size, digest
        self.durable = False
        self.waiting: list[asyncio.Future[bool]] = []

    def settle(self, durable: bool) -> None:
        self.durable = durable
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(durable)


class Shelf(Protocol):
    """Where readings are put. All raise Refused."""

    async def room(self) -> None:
        """Wait until something can be put."""
        ...

    def known(self, name: str, digest: bytes) -> Taken | None:
        """What was put under this name before, which must have been the same. No name, nothing known."""
        ...

    def put(self, stream: str, keys: Sequence[str], values: Sequence[bytes], name: str, digest: bytes) -> Taken:
        """Take records in; a name that is empty is not remembered."""
        ...

    async def durable(self, taken: Taken) -> None: ...


class Rules(Protocol):
    """What the door wants to know of the driver's options."""

    @property
    def key_field(self) -> str | None: ...
    @property
    def max_body(self) -> int: ...
    @property
    def max_records(self) -> int: ...
    @property
    def origins(self) -> Sequence[str]: ...


class Door:
    """An ASGI application. `routes`: (path, or what it begins with where a key follows; whether one does; stream)."""

    def __init__(
        self,
        rules: Rules,
        routes: Sequence[tuple[str, bool, str]],
        default_key: str,
        token: Token | None,
        shelf: Shelf,
        refused: Callable[[Refused, bytes], None],
    ) -> None:
        self._rules, self._token, self._shelf, self._refused = rules, token, shelf, refused
        self._default_key = default_key
        self._exact = {path: stream for path, keyed, stream in routes if not keyed}
        self._keyed = sorted(((path, stream) for path, keyed, stream in routes if keyed), key=lambda one: -len(one[0]))
        self._places = ", ".join(f"{path}{{key}}" if keyed else path for path, keyed, _ in routes)
        self._key_field = KeyField(rules.key_field) if rules.key_field is not None else None
        self._origins = {origin.lower() for origin in rules.origins}
        self._held = 0
        self._apart = asyncio.Lock()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        body = _Body(receive)
        said: dict[str, object]
        try:
            more = self._site(scope, headers)
            status, said = (200, await self._post(scope, headers, body)) if not _is_preflight(scope) else (204, {})
        except Refused as refused:
            status, said, more = refused.status, {"error": refused.words}, refused.headers
            self._refused(refused, _printable(f"{scope['method']} {scope['path']}"))
        except Gone:
            return
        finally:
            self._held -= body.counted
        if said and (origin := headers.get(b"origin", "").lower()) in self._origins:
            more = {**more, "access-control-allow-origin": origin, "vary": "origin"}
        unread = not body.complete and _has_body(headers)
        await _answer(send, status, said, more, close=unread, last=not unread)
        if unread:
            if b"expect" not in headers:
                await body.linger()
            await send({"type": "http.response.body"})

    def _site(self, scope: Mapping[str, Any], headers: Mapping[bytes, str]) -> dict[str, str]:
        """No page of another site may post here from somebody's browser, also not to a machine's own address."""
        origin = headers.get(b"origin", "").lower()
        if origin in self._origins:
            return (
                {**PREFLIGHT, "access-control-allow-origin": origin, "vary": "origin"} if _is_preflight(scope) else {}
            )
        if origin or headers.get(b"sec-fetch-site", "none") != "none":
            raise Refused(403, "not for web pages; a site that may is named in the driver's `origins`")
        return {}

    async def _post(self, scope: Mapping[str, Any], headers: Mapping[bytes, str], body: "_Body") -> dict[str, object]:
        self._who(scope, headers)
        path = _decoded(scope["raw_path"].decode("ascii"))
        stream, in_path = self._route(path)
        if scope["method"] != "POST":
            raise Refused(405, "readings are posted; use POST", allow="POST")
        encoding = ENCODINGS.get(headers.get(b"content-encoding", "").strip().lower())
        if encoding is None:
            raise Refused(415, "send the body as it is, or packed with gzip or zstd", accept_encoding="gzip, zstd")
        key = in_path or _asked_key(scope, headers)
        name = headers.get(b"idempotency-key", "")
        if len(name) > ID_CHARACTERS:
            raise Refused(400, f"an Idempotency-Key has at most {ID_CHARACTERS} characters")
        plain = self._unpacked(await self._read(headers, body), encoding, body)
        content_type = type_of(headers.get(b"content-type", ""), plain)
        shelf, digest = self._shelf, b""
        if name:
            target = repr((path, scope["query_string"], key, content_type)).encode()
            digest = hashlib.blake2b(plain, digest_size=16, key=hashlib.blake2b(target).digest()).digest()
        taken = shelf.known(name, digest)
        if taken is None:
            await shelf.room()
            try:
                keys, values = await self._taken_apart(plain, content_type, key, body)
            except Refused as refused:
                if refused.status == 400 and FORM in headers.get(b"content-type", "").lower():
                    refused.words += "; a text that begins with { or [ is sent with Content-Type: text/plain"
                raise
            await shelf.room()  # others may have filled it meanwhile
            taken = shelf.known(name, digest)  # and it may have come twice
            if taken is None:
                if values:
                    await shelf.durable(shelf.put(stream, keys, values, name, digest))
                return {"recorded": len(values)}
        await shelf.durable(taken)
        return {"recorded": taken.count, "repeated": True}

    def _who(self, scope: Mapping[str, Any], headers: Mapping[bytes, str]) -> None:
        if self._token is None:
            return
        given, address = headers.get(b"authorization", ""), address_of(scope["client"])
        wait = self._token.wait(address) if given else 0
        if self._token.admits(given, address):
            return
        if wait:
            raise Refused(429, f"too many wrong tokens from here; try again in {wait} seconds", retry_after=str(wait))
        words = (
            "this is not the token" if given else "send `Authorization: Bearer TOKEN` with what is in the token_file"
        )
        raise Refused(401, words, www_authenticate="Bearer")

    def _route(self, path: str) -> tuple[str, str]:
        """(stream, the key in the path or nothing)"""
        stream = self._exact.get(path)
        if stream is not None:
            return stream, ""
        for begin, stream in self._keyed:
            if path.startswith(begin) and len(path) > len(begin):
                return stream, _sound(path[len(begin) :])
        raise Refused(404, f"nothing is taken at this path; readings go to {self._places}")

    async def _read(self, headers: Mapping[bytes, str], body: "_Body") -> bytes:
        """The body as it was sent."""
        limit = self._rules.max_body
        large = Refused(413, f"a body has at most {limit} bytes here; send less at a time, or set max_body")
        if int(headers.get(b"content-length", "0")) > limit:
            raise large
        try:
            async with asyncio.timeout(BODY_S):
                while not body.complete:
                    self._hold(await body.more(), body)
                    if body.counted > limit:
                        raise large
        except TimeoutError:
            raise Refused(408, f"the body did not come within {BODY_S:g} seconds") from None
        return body.whole()

    def _unpacked(self, packed: bytes, encoding: str, body: "_Body") -> bytes:
        if not encoding:
            return packed
        try:
            plain = unpack(packed, encoding, self._rules.max_body)
        except Bloated as error:
            raise Refused(413, f"{error}; send less at a time, or set max_body") from error
        except Malformed as error:
            raise Refused(400, str(error)) from error
        self._hold(len(plain), body)
        return plain

    def _hold(self, size: int, body: "_Body") -> None:
        self._held += size
        body.counted += size
        if self._held > HELD:
            raise Refused(503, "too much comes at once; try again", retry_after="1")

    async def _taken_apart(
        self, plain: bytes, content_type: str, key: str, body: "_Body"
    ) -> tuple[Sequence[str], Sequence[bytes]]:
        """Its keys and values. One large body at a time: JSON that is made for it keeps a core busy for a second."""
        if len(plain) <= LARGE:
            keys, values = self._columns(plain, content_type, key)
        else:
            async with self._apart:
                keys, values = await asyncio.to_thread(self._columns, plain, content_type, key)
        self._hold(RECORD_BYTES * len(values), body)
        return keys, values

    def _columns(self, plain: bytes, content_type: str, key: str) -> tuple[list[str], list[bytes]]:
        try:
            values = values_of(plain, content_type, self._rules.max_records)
            if not key and self._key_field is not None and content_type in (*JSON, *LINES):
                return self._key_field.keys(values, self._default_key), values
        except TooMany as error:
            raise Refused(413, f"{error}; send less at a time, or set max_records") from error
        except Malformed as error:
            raise Refused(400, str(error)) from error
        return [key or self._default_key] * len(values), values


class _Body:
    """What a client sends after the header. `counted`: bytes of it that are here."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._parts = receive, list[bytes]()
        self.counted = 0
        self.complete = False

    async def more(self) -> int:
        """Wait for the next bytes, and keep them; how many. Raises Gone."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise Gone
        part: bytes = message["body"]
        self._parts.append(part)
        self.complete = not message["more_body"]
        return len(part)

    def whole(self) -> bytes:
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def linger(self) -> None:
        """Who is closed on while he still sends hears a reset instead of the answer. What comes is thrown away."""
        self._parts.clear()
        rest = LINGER
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.complete and rest > 0:
                    rest -= await self.more()
                    self._parts.clear()
        except (TimeoutError, Gone):
            pass


async def _answer(
    send: Send, status: int, said: Mapping[str, object], more: Mapping[str, str], *, close: bool, last: bool
) -> None:
    body = msgspec.json.encode(said) + b"\n" if said else b""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in more.items()]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _is_preflight(scope: Mapping[str, Any]) -> bool:
    """A browser asks whether a page may post."""
    return scope["method"] == "OPTIONS" and any(name == b"origin" for name, _ in scope["headers"])


def _has_body(headers: Mapping[bytes, str]) -> bool:
    return headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refused(400, "the path is no UTF-8") from None


def _asked_key(scope: Mapping[str, Any], headers: Mapping[bytes, str]) -> str:
    """The key that the query or the header gives for all records; empty for none."""
    try:
        for name, value in parse_qsl(scope["query_string"].decode("ascii"), errors="strict"):
            if name == "key":
                return _sound(value)
        return _sound(unquote(headers.get(b"tidegate-key", "").encode("latin-1").decode(), errors="strict"))
    except UnicodeDecodeError:
        raise Refused(400, "the key is no UTF-8") from None


def _sound(key: str) -> str:
    try:
        return sound(key)
    except Malformed as error:
        raise Refused(400, str(error)) from error


def _printable(text: str) -> bytes:
    """The start of what was asked for, as a sample."""
    return re.sub(r"[^\x20-\x7e]", "?", text[:200]).encode()
