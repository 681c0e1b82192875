"""How commands reach a running gateway: by --url, else its control socket, else the address its configuration says.

The control socket is the file `control` in the folder of the log; who may write to it may ask everything. Elsewhere
the gateway may want a token. What goes wrong ends the command with exit code 1, the reason, and what to try.
"""

import functools
import grp
import http.client
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import click

from gateway.address import CONTROL, parse_address
from gateway.cli import EXIT_CONFIG
from gateway.cli._config import USUAL_CONFIG, config_option, overlooked, start_it
from gateway.cli._layout import safe

USUAL_ADDRESS = "127.0.0.1:8765"
USUAL_LOG = "/var/lib/tidegate"
LONGEST_PATH = 107  # of a socket, in bytes
TIMEOUT_S = 10.0
DOING_S = 120.0  # what something that is to be done may take: a reload waits for receipts, and for a reload before it
SILENCE_S = 35.0  # of an event stream: it breathes every 15 s
MOST_TOKEN = 4096  # bytes of a token file that are read
MOST_LINE = 16 << 20  # bytes of one event

F = TypeVar("F", bound=Callable[..., Any])


def asks_gateway(command: F) -> F:
    """The options that say where the gateway is; the command is handed the `client` they lead to."""

    @functools.wraps(command)
    def with_client(*args: Any, path: str, url: str | None, token_file: str | None, **kwargs: Any) -> Any:
        return command(*args, client=Client.of(path, url, token_file), **kwargs)

    options = [
        click.option(
            "--token-file",
            type=click.Path(),
            metavar="PATH",
            help="The file with the token, where the gateway wants one.",
        ),
        click.option("--url", help="Ask this address instead, like http://127.0.0.1:8765."),
        config_option,
    ]
    wrapped: Any = with_client
    for option in options:
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


class Unreadable(click.ClickException):
    """The configuration that was to say where the gateway is."""

    exit_code = EXIT_CONFIG


class Away(click.ClickException):
    """Nothing answers: it may come back."""


class Unfinished(click.ClickException):
    """The gateway was told to do something and has not answered in time; it may still do it."""


class Refused(click.ClickException):
    """The gateway answered that it will not."""

    def __init__(self, message: str, status: int, body: bytes) -> None:
        super().__init__(message)
        self.status, self.body = status, body


class Door(NamedTuple):
    """One way to ask a gateway."""

    name: str  # the address or the path of the socket
    source: str  # who said so
    is_socket: bool = False
    is_tls: bool = False
    token: str | None = None

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.is_socket:
            return _SocketConnection(self.name, timeout_s)
        if self.is_tls:
            return http.client.HTTPSConnection(self.name, timeout=timeout_s)
        return http.client.HTTPConnection(*parse_address(self.name), timeout=timeout_s)


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, at a path of any length."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        if len(os.fsencode(self._path)) <= LONGEST_PATH:
            self.sock.connect(self._path)
            return
        folder, name = os.path.split(self._path)
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{handle}/{name}")
        finally:
            os.close(handle)


class Client:
    """Asks one gateway through the first door that opens.

    `denied` says why the control socket is none of them, `remedy` what to try if none opens.
    """

    def __init__(self, doors: Sequence[Door], denied: str = "", timeout_s: float = TIMEOUT_S, remedy: str = "") -> None:
        self._doors, self._denied, self._timeout_s, self._remedy = doors, denied, timeout_s, remedy

    @classmethod
    def of(
        cls, path: str, url: str | None = None, token_file: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> "Client":
        """By --url, or by what a configuration says. Raises click's errors with what to try."""
        if url is not None:
            scheme, _, rest = url.rpartition("://")
            if scheme not in ("", "http", "https"):
                raise click.UsageError(f"{url!r} is no address; write it like http://127.0.0.1:8765")
            token = None if token_file is None else _token(token_file)
            door = Door(rest.rstrip("/"), "--url", is_tls=scheme == "https", token=token)
            return cls([door], timeout_s=timeout_s, remedy="Is the gateway running there, and is its address right?")
        return cls(*_doors(_told(path), path, token_file), timeout_s, _remedy(path))

    def get(self, *path: str, **query: object) -> Any:
        """The JSON under /api/v1/."""
        return json.loads(self._ask("GET", path, query, "application/json")[0])

    def post(self, *path: str) -> Any:
        """Have something done. Only the control socket takes it. Raises Unfinished, too."""
        return json.loads(self._ask("POST", path, {}, "application/json")[0])

    def records(self, stream: str, **query: object) -> tuple[list[bytes], int]:
        """A page of records as lines of JSON, and where the next page begins."""
        body, after = self._ask("GET", ("streams", stream, "records"), query, "application/x-ndjson")
        return body.split(b"\n")[:-1], int(after)

    def events(self, **query: object) -> Iterator[tuple[str, Any]]:
        """What the gateway tells by itself: (event, data) as it comes, until it stops. Raises Away, Refused."""
        with self._answer("GET", ("events",), query, "text/event-stream", SILENCE_S) as answer:
            event, data = "message", b""
            while True:
                try:
                    row = answer.readline(MOST_LINE)
                except (OSError, http.client.HTTPException) as error:
                    raise Away(f"the gateway fell silent: {_reason(error)}") from error
                if not row.endswith(b"\n"):
                    return
                field, _, value = row.strip().partition(b":")
                if not row.strip():
                    if data:
                        yield event, json.loads(data)
                    event, data = "message", b""
                elif field == b"event":
                    event = value.strip().decode()
                elif field == b"data":
                    data += value.strip()

    def _ask(self, method: str, path: Sequence[str], query: dict[str, object], accept: str) -> tuple[bytes, str]:
        timeout_s = self._timeout_s if method == "GET" else max(self._timeout_s, DOING_S)
        with self._answer(method, path, query, accept, timeout_s) as answer:
            try:
                return answer.read(), answer.headers.get("tidegate-next", "0")
            except (OSError, http.client.HTTPException) as error:
                raise Away(f"the gateway stopped in the middle of its answer: {_reason(error)}") from error

    @contextmanager
    def _answer(
        self, method: str, path: Sequence[str], query: dict[str, object], accept: str, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer of the first door that opens, if it is a good one."""
        target = "/api/v1/" + "/".join(quote(part, safe="") for part in path)
        if query:
            target += f"?{urlencode(query)}"
        failed: list[str] = []
        for door in self._doors:
            if method != "GET" and not door.is_socket:
                continue
            headers = {"Accept": accept} if door.is_tls else {"Accept": accept, "Host": "localhost"}
            if door.token is not None:
                headers["Authorization"] = f"Bearer {door.token}"
            try:
                connection = door.connection(timeout_s)
            except ValueError as error:
                raise click.UsageError(f"{error} (from {door.source})") from error
            asked = False
            with closing(connection):
                try:
                    connection.request(method, target, headers=headers)
                    asked = True
                    answer = connection.getresponse()
                    body = answer.read() if answer.status != http.client.OK else b""
                except PermissionError:
                    self._denied = _denial(door.name)
                    continue
                except (OSError, http.client.HTTPException) as error:
                    if asked and method != "GET" and isinstance(error, TimeoutError):
                        raise Unfinished(_unfinished(timeout_s)) from error
                    failed.append(f"nothing answers at {door.name} (from {door.source}): {_reason(error)}")
                    continue
                if answer.status != http.client.OK:
                    raise Refused(self._words(door, answer.status, body), answer.status, body)
                yield answer
                return
        raise Away(self._nothing_answers(failed))

    def _nothing_answers(self, failed: Sequence[str]) -> str:
        lines = [*failed, *([self._denied] if self._denied else [])]
        if not lines:
            lines = ["there is no control socket: the gateway does not run, or has its log elsewhere"]
        if self._remedy and not self._denied:
            lines.append(self._remedy)
        return "\n".join(lines)

    def _words(self, door: Door, status: int, body: bytes) -> str:
        told = _told_error(status, body)
        if status == http.client.UNAUTHORIZED:
            if door.token is None:
                told += f"\n{door.name} wants the token: name the file that holds it with --token-file"
            else:
                told += f"\nthe token is not the one of {door.name}; name the right file with --token-file"
            if self._denied:
                told += f". Without a token: {self._denied}"
        return told


def _told_error(status: int, body: bytes) -> str:
    try:
        return safe(str(json.loads(body)["error"]))
    except (ValueError, LookupError, TypeError):
        text = safe(body[:200].decode(errors="replace").strip())
        return f"the gateway answered {status}{f': {text}' if text else ''}"


def _unfinished(seconds: float) -> str:
    return (
        f"the gateway has not answered for {seconds:.0f} s; it may still do it. "
        "`tidegate status` says when its configuration was loaded"
    )


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# -- what a configuration says -----------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """What matters here of a configuration, as it is written; other mistakes in the file do not matter."""

    status: object
    log: str


def _told(path: str) -> _Told:
    from gateway.config.marks import parse

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        if path != USUAL_CONFIG:
            raise click.UsageError(f"there is no file {path}") from None
        return _Told(USUAL_ADDRESS, USUAL_LOG)
    except OSError as error:
        raise click.ClickException(
            f"{path}: {error.strerror}; try it with sudo, or say where the gateway is with --url"
        ) from error
    tree, problems = parse(path, data, {"HOSTNAME": os.uname().nodename, **os.environ})
    whole = tree.plain() if tree is not None else None
    if tree is None or not isinstance(whole, dict | None):
        why = f"\n{problems[0]}" if problems else ""
        raise Unreadable(
            f"{path} cannot be read, so it does not say where the gateway is; try: tidegate check {path}{why}"
        )
    gateway, log = ((whole or {}).get(name) for name in ("gateway", "log"))
    folder = log.get("path", USUAL_LOG) if isinstance(log, dict) else USUAL_LOG
    return _Told(
        gateway.get("status", USUAL_ADDRESS) if isinstance(gateway, dict) else USUAL_ADDRESS,
        os.path.join(os.path.dirname(path), str(folder)),
    )


def _remedy(path: str) -> str:
    """What to try where the gateway of this configuration does not answer."""
    elsewhere = "Does it serve its status elsewhere? Say where with --config or --url."
    if path == USUAL_CONFIG and os.path.exists(path):
        return f"Is the gateway running? Try: systemctl status tidegate. {elsewhere}"
    if path == USUAL_CONFIG:
        return overlooked(path) or f"There is no {path} either. {elsewhere}"
    return f"Is the gateway running? Start it: {start_it(path)}. {elsewhere}"


def _doors(told: _Told, path: str, token_file: str | None) -> tuple[list[Door], str]:
    """Every way to a gateway of this configuration, and why the control socket is none of them."""
    doors: list[Door] = []
    denied = ""
    control = os.path.join(told.log, CONTROL)
    try:
        if stat.S_ISSOCK(os.stat(control).st_mode):
            doors.append(Door(control, path, is_socket=True))
    except PermissionError:
        denied = _denial(control)
    except OSError:
        pass  # it does not run, or is too old to have one; the address will tell
    address, token = told.status, None
    if isinstance(address, dict):
        token_file = token_file or address.get("token_file")
        address = address.get("listen", USUAL_ADDRESS)
        if isinstance(token_file, str):
            token = _token(os.path.join(os.path.dirname(path), token_file), must=False)
    elif token_file is not None:
        token = _token(token_file)
    if isinstance(address, str):
        doors.append(Door(address, path if os.path.exists(path) else "the usual address", token=token))
    if not doors and not denied:
        raise Away(
            f"{path} turns the status address off (gateway.status), and there is no control socket {control}: "
            f"the gateway does not run. Start it: {start_it(path)}"
        )
    return doors, denied


def _token(file: str, *, must: bool = True) -> str | None:
    """The token in a file. The one that a configuration names may not be readable for us; then we ask without."""
    try:
        with open(file, "rb") as opened:
            token = opened.read(MOST_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if must:
            raise click.UsageError(f"the token file {file}: {_reason(error)}") from error
        return None
    if not token.isprintable() or not token:
        raise click.UsageError(f"the token file {file} holds no token: one line of printable characters")
    return token


def _denial(path: str) -> str:
    """Why a file cannot be reached, and the command that changes that."""
    barrier = path
    while (parent := os.path.dirname(barrier)) != barrier:
        try:
            about = os.stat(barrier)
        except OSError:
            barrier = parent
            continue
        if barrier != path and os.access(barrier, os.X_OK, effective_ids=True):
            break
        group = _group(about.st_gid)
        member = about.st_gid in {os.getegid(), *os.getgroups()}
        what = f"you may not open {path}"
        if group == "root" or member or not about.st_mode & (stat.S_IXGRP | stat.S_IWGRP):
            return f"{what}: {barrier} is not for you; try it with sudo"
        return (
            f"{what}: {barrier} is for the group {group}. Try: sudo usermod -aG {group} $USER, then log in again; "
            "or use sudo this once"
        )
    return f"you may not open {path}; try it with sudo"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
