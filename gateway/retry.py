"""Coming back: waits that spread out, and the one supervisor that starts a crashed driver or sink again."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from gateway.clock import Clock
from gateway.errors import DriverUnavailable, SinkUnavailable
from gateway.health import Board

log = logging.getLogger("tidegate.retry")

SETTLED_S = 60.0  # a life at least this long was a success: the next wait is short again


class Backoff:
    """Waits with full jitter: anywhere between nothing and a bound that doubles from `first` to `most` seconds.

    Full, because a thousand gateways that lost the same broker at the same moment must not come back together.
    """

    def __init__(self, first: float = 1.0, most: float = 60.0, random: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._random = first, most, random
        self._bound = first

    def next(self) -> float:
        """Seconds to wait now."""
        bound, self._bound = self._bound, min(self._bound * 2, self._most)
        return self._random() * bound

    def reset(self) -> None:
        """It worked."""
        self._bound = self._first


async def keep_running(
    make: Callable[[], Awaitable[None]],
    board: Board,
    component: str,
    backoff: Backoff,
    clock: Clock,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_restart: Callable[[], None] = lambda: None,
) -> None:
    """Run what `make` gives, and when it ends, again after a wait, until cancelled.

    DriverUnavailable and SinkUnavailable show their words as `waiting`; anything else, also coming to an end without
    an error, is `failed`, and a crash is logged with its traceback.
    """
    while True:
        started = clock.monotonic()
        told: float | None = None
        try:
            await make()
        except Exception as error:
            # The one place that takes any error: a bug in one driver or sink must not stop the others.
            # CancelledError is no Exception and passes, so an ordered stop goes through.
            expected = _unavailable(error)
            if expected is None:
                log.exception("%s crashed", component)
                report, detail = board.failed, f"{type(error).__name__}: {error}"
            else:
                told = getattr(expected, "retry_after_s", None)
                report, detail = board.waiting, str(expected)
        else:
            log.error("%s ended by itself", component)
            report, detail = board.failed, "it ended by itself"
        if clock.monotonic() - started >= SETTLED_S:
            backoff.reset()
        wait = backoff.next() if told is None else told
        report(component, f"{detail}; trying again in {wait:.0f} s" if wait >= 1 else detail)
        await sleep(wait)
        board.restarted(component)
        on_restart()


def _unavailable(error: BaseException) -> Exception | None:
    """The expected error behind `error`, which may be a group of them from a TaskGroup; None: it is a bug."""
    if isinstance(error, DriverUnavailable | SinkUnavailable):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [_unavailable(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    return None
