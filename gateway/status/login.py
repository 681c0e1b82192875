"""Who may look: one token for all, as `Authorization: Bearer …` or in exchange for a session cookie.

When the token changes, every session ends. Who guesses has few tries, whichever way he sends them.
"""

import secrets
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.quantity import Secret
from gateway.web import Token, address_of
from gateway.web.token import digest_of

SESSIONS = 16
SESSION_S = 12 * 3600.0
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
        self._token, self._cookie = Token(token, "the status page"), cookie
        self._of = 0  # which token the sessions are of
        self._sessions: dict[bytes, float] = {}  # digest of the id -> monotonic s when it ends

    def admits(self, authorization: str, cookies: str, address: str) -> bool:
        """Whether a request with these headers may look. `address` as address_of() has it."""
        self._refresh()
        session = _cookie(cookies, self._cookie)
        if session and self._sessions.get(digest_of(session.encode()), 0.0) > time.monotonic():
            return True
        return self._token.admits(authorization, address)

    def wait(self, address: str) -> int:
        """For how many seconds no token from there is looked at; 0 for none."""
        return self._token.wait(address)

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
        if not self._token.is_right(given.strip().encode(), address):
            return _page("This is not the token.", 401)
        while len(self._sessions) >= SESSIONS:
            del self._sessions[min(self._sessions, key=self._sessions.__getitem__)]
        session = secrets.token_urlsafe(32)
        self._sessions[digest_of(session.encode())] = now + SESSION_S
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, session, int(SESSION_S), path="/", httponly=True, samesite="strict")
        return answer

    async def leave(self, request: Request) -> Response:
        """POST /logout."""
        session = _cookie(request.headers.get("cookie", ""), self._cookie)
        self._sessions.pop(digest_of(session.encode()), None)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._cookie, path="/", httponly=True, samesite="strict")
        return answer

    def _refresh(self) -> None:
        if (now := self._token.refresh()) != self._of:
            self._sessions.clear()
            self._of = now


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _page(said: str, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(PAGE.format(said=said), code, {**HEADERS, **(headers or {})})
