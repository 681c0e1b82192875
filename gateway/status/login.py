"""Who may look: one token for all, as `Authorization: Bearer …` or in exchange for a session cookie.

The token lies in a file and is read again when that changes; then every session ends. Nothing of it is ever logged.
"""

import hashlib
import hmac
import logging
import os
import secrets
import time
from collections import deque
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.quantity import Secret

log_ = logging.getLogger("tidegate.status")

LEAST = 16  # characters of a token
SESSIONS = 16
SESSION_S = 12 * 3600.0
TRIES, TRIES_S = 5, 60.0  # wrong tokens at the login, from everywhere together
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


class Login:
    """The token and the sessions. `cookie` names the cookie: gateways that share a host name keep theirs apart."""

    def __init__(self, token: Secret, cookie: str) -> None:
        self._secret, self._cookie = token, cookie
        self._seen: tuple[int, int, int] | None = None  # of the file, when it was read
        self._digest: bytes | None = None  # of the token; None: nobody gets in
        self._sessions: dict[bytes, float] = {}  # digest of the id -> monotonic s when it ends
        self._wrong: deque[float] = deque(maxlen=TRIES)

    def admits(self, authorization: str, cookies: str) -> bool:
        """Whether a request with these headers may look."""
        self._refresh()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and self._right(token.strip().encode("latin-1", "replace")):
            return True
        session = _cookie(cookies, self._cookie)
        return bool(session) and self._sessions.get(_digest(session.encode()), 0.0) > time.monotonic()

    async def page(self, request: Request) -> Response:
        """GET /login."""
        return _page("Log in to see how this gateway is.")

    async def enter(self, request: Request) -> Response:
        """POST /login: form field `token`."""
        now = time.monotonic()
        if len(self._wrong) == TRIES and now - self._wrong[0] < TRIES_S:
            wait = round(TRIES_S - (now - self._wrong[0])) + 1
            return _page(f"Too many wrong tokens. Try again in {wait} seconds.", 429, {"retry-after": str(wait)})
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > FORM_BYTES:
                return _page("That is too long for a token.", 413)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        self._refresh()
        if not self._right(given.strip().encode()):
            self._wrong.append(now)
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

    def _right(self, token: bytes) -> bool:
        return self._digest is not None and hmac.compare_digest(_digest(token), self._digest)

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
