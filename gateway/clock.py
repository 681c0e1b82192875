"""Time is an argument: everything that needs a clock is given one, so that a test can turn it."""

import os
import time
from collections.abc import Callable
from typing import Protocol

TIME_ERROR = 5
REFUSED = -1
TIMESYNCD = "/run/systemd/timesync/synchronized"


class Clock(Protocol):
    """The three times the house knows."""

    def now(self) -> int:
        """Wall clock, ns since 1970 UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment of this boot. Never jumps."""
        ...


def synchronized(kernel: Callable[[], int] | None = None, timesyncd: str = TIMESYNCD) -> bool:
    """Whether something keeps the wall clock right, as the kernel sees it: adjtimex(2) says TIME_ERROR if nothing does.

    A Pi has no clock of its own: until it hears from a time server it may be weeks behind. A sandbox that lets nobody
    set the clock lets nobody ask, either. Then it counts whether systemd-timesyncd has set it since the machine was
    started: it touches a file each time it does (systemd-timesyncd(8), FILES), and /run begins empty.
    """
    state = (kernel or _adjtimex)()
    return os.path.exists(timesyncd) if state == REFUSED else state != TIME_ERROR


def _adjtimex() -> int:
    """The state of the kernel's clock, which is not changed; REFUSED where it may not be asked for."""
    import ctypes

    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))


class SystemClock:
    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
