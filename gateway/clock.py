"""Time is an argument: everything that needs a clock is given one, so that a test can turn it."""

import time
from typing import Protocol

TIME_ERROR = 5


class Clock(Protocol):
    """The three times the house knows."""

    def now(self) -> int:
        """Wall clock, ns since 1970 UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment of this boot. Never jumps."""
        ...


def synchronized() -> bool:
    """Whether something keeps the wall clock right, as the kernel sees it: adjtimex(2) says TIME_ERROR if nothing does.

    A Pi has no clock of its own: until it hears from a time server it may be weeks behind.
    """
    import ctypes

    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) not in (-1, TIME_ERROR)


class SystemClock:
    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
