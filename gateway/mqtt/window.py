"""How many messages a broker sends before it waits for our acknowledgements: learned, because no broker tells.

Our own Receive Maximum is the ceiling. Below it:

- Messages flowed and then a look finds nothing new while some wait for their acknowledgement: a plateau. If it is the
  window, the broker holds more back, and acknowledging brings a burst; a source that fell quiet brings none.
- The same plateau with a burst behind it, twice in a row, is the window. Learning costs two ordinary commit intervals.
- More unacknowledged messages than the window: it was wrong, and is forgotten.
- Now and then (after TEST_S, then twice as long each time, up to an hour) a full window is not reported until a look
  has found it dry. A right guess costs one turn that way; a wrong one is found out, since more messages come.
"""

import math

TEST_S = 10.0
TEST_MOST_S = 3600.0


class Window:
    """The messages that one connection has given us and that wait for their acknowledgement. Times in monotonic s."""

    def __init__(self, ceiling: int) -> None:
        self.size = ceiling  # what is known: never more than this many are sent unacknowledged
        self.waiting = 0  # messages received and not acknowledged
        self._ceiling = ceiling
        self._plateau = 0  # how many waited when the last look found nothing; 0: it found something
        self._suspect = 0  # a plateau that had a burst behind it
        self._trial: tuple[int, int, float] | None = None  # (plateau, acknowledged, when a burst has had its time)
        self._burst = 0  # messages since that acknowledgement
        self._testing = False
        self._test_at = math.inf
        self._test_s = TEST_S

    @property
    def learned(self) -> bool:
        return self.size < self._ceiling

    @property
    def room(self) -> int:
        """Messages that may come before the broker is about to wait for us."""
        return max(self.size + 1 if self._testing else self._brim, 1) - self.waiting

    @property
    def _brim(self) -> int:
        return self.size - self.size // 10

    def full(self, now: float) -> bool:
        """The broker waits for us, or is about to."""
        if self.waiting < self._brim:
            return False
        if now >= self._test_at:
            self._testing = True
        return not self._testing

    def received(self, count: int) -> None:
        """Messages came that want an acknowledgement."""
        if not count:
            return
        self.waiting += count
        self._burst += count
        self._plateau = 0
        if self.waiting > self.size:
            self._forget()

    def looked(self, news: int, now: float) -> None:
        """We took all there was, and it held `news` such messages."""
        if self._trial is not None and now >= self._trial[2]:
            plateau, acknowledged, _ = self._trial
            self._trial = None
            if 2 * self._burst < acknowledged:
                self._suspect = 0
            elif plateau != self._suspect:
                self._suspect = plateau
            else:
                self.size, self._suspect = plateau, 0
                self._test_s, self._test_at = TEST_S, now + TEST_S
        if news == 0 and self.waiting:
            self._plateau = self.waiting
            if self._testing and self.waiting == self.size:
                self._testing = False
                self._test_s = min(2 * self._test_s, TEST_MOST_S)
                self._test_at = now + self._test_s

    def acknowledged(self, count: int, now: float, patience: float) -> bool:
        """We acknowledged. True: look again after `patience` seconds, for the burst that would tell a window."""
        plateau, self._plateau = self._plateau, 0
        suspicious = plateau > 0 and plateau == self.waiting and not self.learned
        self.waiting = max(self.waiting - count, 0)
        if suspicious and count:
            self._trial, self._burst = (plateau, count, now + patience), 0
        return suspicious and count > 0

    def _forget(self) -> None:
        self.size = self._ceiling
        self._suspect, self._trial = 0, None
        self._testing, self._test_at = False, math.inf
