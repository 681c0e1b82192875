"""A tap: a file descriptor that is read in bulk at the turn, not whenever a byte comes.

- Asleep, nothing is armed but the loop's own wake at the first byte; a source that is silent costs nothing.
- Awake, everything is read at each turn, and early where the kernel's buffer would be half full before it: after the
  time that the line needs for that at its rate; where the rate is not known (pipes, sockets), learned from how full it
  was, so that a writer is not held up.
- Urgent, or where silence ends a frame, it is read as it comes.
"""

import asyncio
import os
from collections.abc import Callable

READ = 65536  # bytes that are taken in one go, or little more: a flood must not hold up the loop
SHORTEST_S, LONGEST_S = 0.001, 0.25  # between two early reads where the rate is not known


class Tap:
    """Reads `fd`, which does not block, from open() to close(), which leaves it open for its owner to close.

    `taken` gets everything that one look found. `ended` is called once, in words, at the end of the source, after
    which the tap is closed. `holds`: bytes that the kernel keeps for us. `per_s`: the most that can come in a second;
    None where that is not known. `idle_s`: `idle` is called after so long a silence behind something taken.
    """

    def __init__(
        self,
        fd: int,
        taken: Callable[[bytes], None],
        ended: Callable[[str], None],
        *,
        holds: int,
        per_s: float | None = None,
        urgent: bool = False,
        idle_s: float | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.brimful = 0  # looks that found the kernel's buffer full: what came after that waited outside, or is lost
        self._fd, self._taken, self._ended, self._holds = fd, taken, ended, holds
        self._at_once = urgent or idle_s is not None
        self._known = per_s is not None
        self._wait_s = min(holds / 2 / per_s, 10.0) if per_s else 0.02
        self._idle_s, self._idle = idle_s, idle
        self._open = self._paused = self._armed = False
        self._early: asyncio.TimerHandle | None = None  # the next early read
        self._silence: asyncio.TimerHandle | None = None
        self._looked = 0.0  # loop time of the last look that found something

    def open(self) -> None:
        self._open = True
        self._arm()

    def close(self) -> None:
        """Read nothing more. May be called more than once."""
        self._open = False
        self._rest()
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def turn(self) -> None:
        """Read all there is. Costs nothing where nothing came since the last time."""
        if self._open and not self._paused and not self._armed:
            self._look()

    def pause(self) -> None:
        """The kernel keeps what it can: a pipe's or socket's writer waits, and what comes by a line may be lost."""
        self._paused = True
        self._rest()

    def resume(self) -> None:
        self._paused = False
        if self._open:
            self._look()

    # -- when to look --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Sleep until something comes."""
        if not self._armed and not self._paused:
            try:
                asyncio.get_running_loop().add_reader(self._fd, self._woken)
            except PermissionError:  # a file, of which nobody can tell when it is readable: it always is
                self._look_in(SHORTEST_S)
            else:
                self._armed = True

    def _rest(self) -> None:
        if self._armed:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._armed = False
        if self._early is not None:
            self._early.cancel()
            self._early = None

    def _woken(self) -> None:
        if self._at_once:
            self._look()
            return
        self._rest()
        self._look_in(self._wait_s)

    def _look_in(self, seconds: float) -> None:
        self._early = asyncio.get_running_loop().call_later(seconds, self._is_due)

    def _is_due(self) -> None:
        """It is time for an early read, unless a turn made one meanwhile."""
        self._early = None
        left = self._looked + self._wait_s - asyncio.get_running_loop().time()
        if left > SHORTEST_S:
            self._look_in(left)
        else:
            self._look()

    # -- the look ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        reads, size, end = [], 0, ""
        while size < READ and not end:
            try:
                data = os.read(self._fd, READ)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                end = error.strerror or str(error)
                break
            if not data:
                end = "it has ended"
            reads.append(data)
            size += len(data)
        if size:
            self._took(b"".join(reads), full=len(reads[0]) >= min(self._holds - 1, READ))
        elif not end and self._early is None:
            self._arm()
        if end and self._open:
            self.close()
            self._ended(end)

    def _took(self, data: bytes, full: bool) -> None:
        loop = asyncio.get_running_loop()
        self._looked = loop.time()
        self.brimful += full
        if not self._known:
            if 2 * len(data) >= self._holds:
                self._wait_s = max(self._wait_s / 2, SHORTEST_S)
            elif 8 * len(data) < self._holds:
                self._wait_s = min(self._wait_s * 2, LONGEST_S)
        if self._at_once:
            self._arm()
        elif self._early is None and not self._paused:
            self._look_in(self._wait_s)
        if self._idle_s is not None and self._silence is None:
            self._silence = loop.call_later(self._idle_s, self._is_silent)
        self._taken(data)

    def _is_silent(self) -> None:
        self._silence = None
        if self._idle_s is None:
            return
        loop = asyncio.get_running_loop()
        left = self._looked + self._idle_s - loop.time()
        if left > SHORTEST_S / 2:
            self._silence = loop.call_later(left, self._is_silent)
        else:
            self._idle()
