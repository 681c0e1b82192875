"""The status server as the daemon holds it: a socket from the start, the web libraries from the first connection on.

One address for people and programs, if one is configured; and a Unix socket in the folder of the log, `control`, for
those who may enter that folder: the same answers without a login, and the only place where something can be changed.

starlette and uvicorn take 7 MB and up to a second on a Pi; most gateways are looked at rarely. Until somebody connects
there is only a listening socket, and the kernel holds the first client while a thread imports the rest.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from gateway.address import CONTROL, is_loopback, parse_address
from gateway.quantity import Secret
from gateway.record import Gap, Record
from gateway.web import listen, somebody, written

log_ = logging.getLogger("tidegate.status")


class NoStream(LookupError):
    """No stream of that name."""


class Source(Protocol):
    """What the API may ask of the daemon, always on its event loop. The shapes are described in gateway.status.api."""

    def status(self) -> dict[str, Any]: ...

    def streams(self) -> dict[str, Any]: ...

    def pipelines(self) -> dict[str, Any]: ...

    def history(self) -> dict[str, Any]: ...

    def newest(self) -> dict[str, Any]:
        """The last column of the history."""
        ...

    async def records(
        self, stream: str, first: int, limit: int, room: int | None = None
    ) -> tuple[list[Record | Gap], int]:
        """Durable records and gaps from `first` on, at most `limit`, and where to go on; where `room` is given, no more
        than are needed to have that many bytes of payloads, and always one. Raises NoStream.
        """
        ...

    def end(self, stream: str) -> int:
        """The offset after the last durable record. Raises NoStream."""
        ...

    async def seek(self, stream: str, time: int) -> int:
        """The offset of the first record at or after `time` (ns since 1970). Raises NoStream."""
        ...

    async def dead(self, limit: int) -> dict[str, Any]: ...

    async def reload(self) -> dict[str, Any]:
        """Take the configuration as its files are now: {"ok": True, "changes"}, or {"ok": False, "problems"}."""
        ...

    def ready(self) -> tuple[bool, Sequence[str]]:
        """Is the log recovered and are the drivers up? If not, why."""
        ...

    def metrics(self) -> bytes:
        """Prometheus text."""
        ...


class Door(NamedTuple):
    """A listening socket, and who may come in by it."""

    listener: socket.socket
    host: str | None  # that it listens on; None: the control socket, whose file permissions are the login
    names: Sequence[str] = ()  # by which it may be asked for, beside its own
    token: Secret | None = None  # that must be shown

    @property
    def address(self) -> str:
        """As one writes it in a url."""
        return written(self.listener)


class Options(Protocol):
    """The configuration's `gateway.status`."""

    @property
    def listen(self) -> str: ...

    @property
    def token_file(self) -> Secret | None: ...

    @property
    def names(self) -> Sequence[str]: ...


class Status:
    """bind() at start, serve() as a task until it is cancelled."""

    def __init__(
        self, options: Options | None, source: Source, *, gateway: str = "", folder: str | None = None
    ) -> None:
        """Serve on an address, if there is one, and on the control socket in a folder, if there is one."""
        self._options, self._source, self._gateway, self._folder = options, source, gateway, folder
        self._doors: list[Door] = []

    def bind(self) -> None:
        """Listen, so that a taken port is known at once. Raises OSError, with the address in its words."""
        if self._options is not None:
            host, port = parse_address(self._options.listen)
            try:
                listener = listen(host, port)
            except OSError as error:
                why = f"the status address {self._options.listen}: {error.strerror}"
                raise OSError(error.errno, why) from error
            door = Door(listener, host, tuple(self._options.names), self._options.token_file)
            self._doors.append(door)
            self._tell(door)
        if self._folder is not None:
            try:
                self._doors.append(Door(control_socket(self._folder), None))
            except OSError as error:  # a file system without sockets, or a folder of others: all else works without
                log_.warning(
                    "no control socket in %s: %s; `tidegate reload` will not work", self._folder, error.strerror
                )

    def _tell(self, door: Door) -> None:
        """Where the page is, and how to come to it from elsewhere."""
        here, port = socket.gethostname(), door.listener.getsockname()[1]
        anywhere = door.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        log_.info("gateway %s: status at http://%s/", self._gateway, f"{here}:{port}" if anywhere else door.address)
        if is_loopback(door.host or ""):
            forward = (port, door.address, here, port)
            log_.info("from another machine: ssh -L %d:%s USER@%s and then http://localhost:%d/", *forward)
        else:
            log_.info(
                "whoever shows the token may look; over plain HTTP it travels readable: trust the network, or ssh"
            )

    @property
    def port(self) -> int:
        """The port that was bound; of interest where port 0 was asked for."""
        port: int = self._doors[0].listener.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Serve until cancelled; then finish the answers that are under way, for a short while."""
        try:
            if not self._doors:
                return
            await somebody([door.listener for door in self._doors])
            web = await asyncio.to_thread(importlib.import_module, "gateway.status.web")
            await web.serve(self._doors, self._source, self._gateway)
        finally:
            for door in self._doors:
                door.listener.close()
                if door.host is None:
                    assert self._folder is not None
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(self._folder, CONTROL))


def control_socket(folder: str) -> socket.socket:
    """Listen on `control` in a folder, for its owner and the folder's group. Whoever holds the log holds that name.

    Raises OSError. It appears under its name only when its permissions are right, in place of one that was left behind.
    """
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place = f"/proc/self/fd/{here}"  # a socket's path has 107 bytes at most, a folder's has not
        coming = f"{place}/{CONTROL}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(coming)
        listener.setblocking(False)
        listener.bind(coming)
        os.chmod(coming, 0o660)
        group = os.stat(place).st_gid
        if os.stat(coming).st_gid != group:
            with contextlib.suppress(PermissionError):  # a group that we are not in: then it is for the owner alone
                os.chown(coming, -1, group)
        listener.listen()
        os.rename(coming, f"{place}/{CONTROL}")
    except OSError:
        listener.close()
        raise
    finally:
        os.close(here)
    return listener
