"""Telling systemd how we are, by datagrams to NOTIFY_SOCKET. Without that socket every call does nothing."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """`interval_s` is how often systemd wants to hear watchdog(), or None if it does not watch us."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.interval_s = _watchdog_s(environment)

    def ready(self, status: str = "") -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}" if status else "READY=1")

    def reloading(self) -> None:
        """A reload begins; ready() ends it. systemd wants the monotonic time of the beginning (Type=notify-reload)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """We make progress."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError:
            pass  # A manager that does not listen must not stop the gateway; a watchdog that hears nothing restarts us.


def _address(name: str) -> str:
    """A path, or an abstract name, which systemd writes with an @."""
    return "\0" + name[1:] if name.startswith("@") else name


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for the process that started us
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) else None


def _line(text: str) -> str:
    """A line break would begin another assignment."""
    return " ".join(text.splitlines())[:500]
