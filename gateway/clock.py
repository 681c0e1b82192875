"""Time is an argument: everything that needs a clock is given one, so that a test can turn it."""

import time
from typing import Protocol


class Clock(Protocol):
    """The three times the house knows."""

    def now(self) -> int:
        """Wall clock, ns since 1970 UTC. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment of this boot. Never jumps."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
