"""Who may: one token for all, sent as `Authorization: Bearer …`.

It lies in a file and is read again when that changes. Nothing of it is ever logged, nor of what is guessed. Who guesses
has few tries and shuts out nobody but himself.
"""

import hashlib
import hmac
import logging
import os
import re
import time
from typing import Any

from gateway.quantity import Secret

log_ = logging.getLogger("tidegate.web")

LEAST = 16  # characters of a token
TRIES, TRIES_S = 5, 60.0  # different wrong tokens from one address
MOST_ADDRESSES = 256  # of which tries are counted, and as many of which somebody showed the token
TOLD_S = 60.0  # between two lines of the journal about one address
RECIPE = "(umask 077; head -c 24 /dev/urandom | base64 > {})"  # with the name of a file


class Tries:
    """Wrong tokens, by the address they came from.

    The same one again is no guess: a program that still has the token of yesterday uses nothing up. An address from
    which somebody has shown the token is not refused whatever else comes from there: many may share it.
    """

    def __init__(self) -> None:
        self._wrong: dict[str, dict[bytes, float]] = {}  # address -> digest -> monotonic s of its first time
        self._trusted: dict[str, None] = {}  # the one that was added last is last
        self._told: dict[str, float] = {}  # address -> monotonic s of the last line about it

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

    def is_news(self, address: str, now: float) -> bool:
        """Whether to tell of it: once in TOLD_S for each address."""
        if now - self._told.get(address, -TOLD_S) < TOLD_S:
            return False
        self._told.pop(address, None)
        self._told[address] = now
        _trim(self._told)
        return True

    def right(self, address: str) -> None:
        self._trusted.setdefault(address)
        _trim(self._trusted)

    def forget(self) -> None:
        self._wrong.clear()
        self._trusted.clear()


def _trim(held: dict[str, Any]) -> None:
    while len(held) > MOST_ADDRESSES:
        del held[next(iter(held))]


def weakness(token: bytes, file: str) -> str | None:
    """Why this can be no token, and how to make one in a file of that name."""
    if len(token) >= LEAST and re.fullmatch(rb"[!-~]+", token):
        return None
    return (
        f"token_file names a file with {len(token)} characters; a token has at least {LEAST}, letters, digits "
        f"and signs without spaces, in one line; make one with {RECIPE.format(file)}"
    )


class Token:
    """The token in a file. `what` it opens is for the log."""

    def __init__(self, secret: Secret, what: str) -> None:
        self._secret, self._what = secret, what
        self._seen: tuple[int, int, int] | None = None  # of the file, when it was read
        self._digest: bytes | None = None  # of the token; None: nobody gets in
        self._count = 0
        self._tries = Tries()

    def admits(self, authorization: str, address: str) -> bool:
        """Whether a request with this header may. `address` as address_of() has it."""
        self.refresh()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or self.wait(address):
            return False
        return self.is_right(token.strip().encode("latin-1", "replace"), address)

    def wait(self, address: str) -> int:
        """For how many seconds no token from there is looked at; 0 for none."""
        return self._tries.wait(address, time.monotonic())

    def is_right(self, token: bytes, address: str) -> bool:
        """Whether this is the token; a try is counted. Call refresh() and wait() before."""
        if self._digest is None:  # nobody gets in, and there is nothing to guess
            return False
        digest = digest_of(token)
        if hmac.compare_digest(digest, self._digest):
            self._tries.right(address)
            return True
        now = time.monotonic()
        self._tries.wrong(address, digest, now)
        if self._tries.is_news(address, now):
            log_.warning("a wrong token for %s came from %s; no more is said of it for a minute", self._what, address)
        return False

    def refresh(self) -> int:
        """Read it again if its file changed; how many there have been. One that cannot be read lets nobody in."""
        try:
            found = os.stat(self._secret.path)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return self._count
            token = self._secret.read()
        except OSError as error:
            if self._seen != (0, 0, 0):
                log_.error("the token of %s cannot be read, nobody is let in: %s", self._what, error)
            seen, token = (0, 0, 0), b""
        if token and len(token) < LEAST:
            log_.error("the token of %s is shorter than %d characters, nobody is let in", self._what, LEAST)
        digest = digest_of(token) if len(token) >= LEAST else None
        if digest != self._digest:
            self._tries.forget()
            self._count += 1
        self._seen, self._digest = seen, digest
        return self._count


def digest_of(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
