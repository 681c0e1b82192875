"""Who may look: one token for all, as `Authorization: Bearer …` or in exchange for a session cookie.

The token lies in a file and is read again when that changes; then every session ends. Nothing of it is ever logged.
Who guesses has few tries, whichever way he sends them, and shuts out nobody but himself.
"""

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.quantity import Secret

log_ = logging.getLogger("tidegate.status")

LEAST = 16  # characters of a token
SESSIONS = 16
SESSION_S = 12 * 3600.0
TRIES, TRIES_S = 5, 60.0  # different wrong tokens from one address
MOST_ADDRESSES = 256  # of which tries are counted, and as many of which somebody showed the token
FORM_BYTES = 4096

HEADERS = {
    "content-security-policy": "default-src 'none'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "same-origin",  # without one a browser does not say which site a form comes from
}
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Tidegate: log in</title>
<h1>Tidegate</h1>
<p>{said}</p>
<form method="post" action="/login">
<input name="username" value="tidegate" autocomplete="username" hidden>
<p><label>Token <input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button>Log in</button></p>
</form>
<p>The token is in the file that <code>gateway.status.token_file</code> of the gateway's configuration names.</p>
"""


class Tries:
    """Wrong tokens, by the address they came from.

    The same one again is no guess: a program that still has the token of yesterday uses nothing up. An address from
    which somebody has shown the token is not refused whatever else comes from there: many may share it.
    """

    def __init__(self) -> None:
        self._wrong: dict[str, dict[bytes, float]] = {}  # address -> digest -> monotonic s of its first time
        self._trusted: dict[str, None] = {}  # the one that was added last is last

    def wait(self, address: str, now: float) -> int:
        """For how many seconds nothing from there is looked at; 0 for none."""
        wrong = self._wrong.get(address)
        if wrong is None or address in self._trusted:
            return 0
        for digest in [digest for digest, at in wrong.items() if now - at >= TRIES_S]:
            del wrong[digest]
        return int(TRIES_S - (now - min(wrong.values()))) + 1 if len(wrong) >= TRIES else 0

    def wrong(self, address: str, digest: bytes, now: float) -> None:
        tried = self._wrong.pop(address, {})
        tried.setdefault(digest, now)
        while len(tried) > TRIES:  # from an address that is trusted
            del tried[next(iter(tried))]
        self._wrong[address] = tried
        _trim(self._wrong)

    def right(self, address: str) -> None:
        self._trusted.setdefault(address)
        _trim(self._trusted)

    def forget(self) -> None:
        self._wrong.clear()
        self._trusted.clear()


def _trim(held: dict[str, Any]) -> None:
    while len(held) > MOST_ADDRESSES:
        del held[next(iter(held))]


def address_of(client: tuple[str, int] | None) -> str:
    """Whose tries are counted together: an IPv4 address; of IPv6 the /64, which one machine has to itself."""
    host = client[0].partition("%")[0] if client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return host


class Login:
    """The token and the sessions. `cookie` names the cookie: gateways that share a host name keep theirs apart."""

    def __init__(self, token: Secret, cookie: str) -> None:
        self._secret, self._cookie = token, cookie
        self._seen: tuple[int, int, int] | None = None  # of the file, when it was read
        self._digest: bytes | None = None  # of the token; None: nobody gets in
        self._sessions: dict[bytes, float] = {}  # digest of the id -> monotonic s when it ends
        self._tries = Tries()

    def admits(self, authorization: str, cookies: str, address: str) -> bool:
        """Whether a request with these headers may look. `address` as address_of() has it."""
        self._refresh()
        session = _cookie(cookies, self._cookie)
        if session and self._sessions.get(_digest(session.encode()), 0.0) > time.monotonic():
            return True
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or self.wait(address):
            return False
        return self._right(token.strip().encode("latin-1", "replace"), address)

    def wait(self, address: str) -> int:
        """For how many seconds no token from there is looked at; 0 for none."""
        return self._tries.wait(address, time.monotonic())

    async def page(self, request: Request) -> Response:
        """GET /login."""
        return _page("Log in to see how this gateway is.")

    async def enter(self, request: Request) -> Response:
        """POST /login: form field `token`."""
        now, address = time.monotonic(), address_of(request.scope["client"])
        if wait := self.wait(address):
            return _page(f"Too many wrong tokens. Try again in {wait} seconds.", 429, {"retry-after": str(wait)})
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > FORM_BYTES:
                return _page("That is too long for a token.", 413)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        self._refresh()
        if not self._right(given.strip().encode(), address):
            return _page("This is not the token.", 401)
        while len(self._sessions) >= SESSIONS:
            del self._sessions[min(self._sessions, key=self._sessions.__getitem__)]
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session.encode())] = now + SESSION_S
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, session, int(SESSION_S), path="/", httponly=True, samesite="strict")
        return answer

    async def leave(self, request: Request) -> Response:
        """POST /logout."""
        session = _cookie(request.headers.get("cookie", ""), self._cookie)
        self._sessions.pop(_digest(session.encode()), None)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict")
        return answer

    def _right(self, token: bytes, address: str) -> bool:
        if self._digest is None:  # nobody gets in, and there is nothing to guess
            return False
        digest = _digest(token)
        if hmac.compare_digest(digest, self._digest):
            self._tries.right(address)
            return True
        self._tries.wrong(address, digest, time.monotonic())
        return False

    def _refresh(self) -> None:
        """Read the token again if its file changed. A file that cannot be read lets nobody in."""
        try:
            found = os.stat(self._secret.path)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return
            token = self._secret.read()
        except OSError as error:
            if self._seen != (0, 0, 0):
                log_.error("the token of the status page cannot be read, nobody can log in: %s", error)
            seen, token = (0, 0, 0), b""
        if token and len(token) < LEAST:
            log_.error("the token of the status page is shorter than %d characters, nobody can log in", LEAST)
        digest = _digest(token) if len(token) >= LEAST else None
        if digest != self._digest:
            self._sessions.clear()
            self._tries.forget()
        self._seen, self._digest = seen, digest


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _page(said: str, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(PAGE.format(said=said), code, {**HEADERS, **(headers or {})})
