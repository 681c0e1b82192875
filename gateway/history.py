"""The last hour in numbers: a few series of equal length in memory that never grows, and rates of counters; and when
what a stream holds was recorded, which the records themselves do not say: their time is that of the event.

Somebody calls once every STEP_S; nothing else is needed, and nothing is spent between.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

STEP_S = 10.0
STEPS = 360  # an hour
MOST = 64  # series: 64 of 360 numbers are 180 KiB
MOST_MARKS = 64  # of when a stream grew
LONG_S = 3600.0  # what `Meter.mean` looks back on, with less weight the longer ago


class History:
    """Series by name, one number per step each; what is not known of a step is None."""

    def __init__(self) -> None:
        self.until = 0  # ns: the end of the last step
        self._steps = 0  # taken so far
        self._rings: dict[str, array[float]] = {}
        self._seen: dict[str, int] = {}  # the last step in which a series had a number

    def add(self, until: int, values: Mapping[str, float | None], missed: int = 0) -> None:
        """One step that ended at `until` (ns), after `missed` ones that nobody took.

        Of more than MOST series the first MOST are kept; one that had no number for STEPS gives its place away.
        """
        self.until = until
        for _ in range(min(missed, STEPS)):
            self._step({})
        self._step(values)

    def _step(self, values: Mapping[str, float | None]) -> None:
        at = self._steps % STEPS
        for name in [name for name, seen in self._seen.items() if self._steps - seen >= STEPS]:
            del self._rings[name], self._seen[name]
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            if name not in self._rings and len(self._rings) < MOST:
                self._rings[name] = array("d", [math.nan]) * STEPS
            if name in self._rings:
                self._seen[name] = self._steps
        for name, ring in self._rings.items():
            found = values.get(name)
            ring[at] = found if found is not None and math.isfinite(found) else math.nan
        self._steps += 1

    def newest(self) -> dict[str, Any]:
        """{"until": ns, "values": {series: number or None}} of the last step."""
        at = (self._steps - 1) % STEPS
        return {"until": self.until, "values": {name: _number(ring[at]) for name, ring in self._rings.items()}}

    def whole(self) -> dict[str, Any]:
        """{"step_s", "until": ns, "series": {name: [number or None, …]}}, oldest first."""
        length, at = min(self._steps, STEPS), self._steps % STEPS
        series = {}
        for name, ring in self._rings.items():
            ordered = ring[:length] if self._steps <= STEPS else ring[at:] + ring[:at]
            series[name] = [_number(value) for value in ordered]
        return {"step_s": STEP_S, "until": self.until, "series": series}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


class Meter:
    """A counter that is looked at once per step: how fast it grows, and whether it has fallen silent.

    All times are monotonic seconds.
    """

    __slots__ = ("_before", "_begun", "_last", "_longest", "_mean", "_weight", "moved")

    def __init__(self, total: float, at: float) -> None:
        self._begun = at
        self._before = self._last = (total, at)
        self._mean = self._weight = 0.0
        self._longest = 0.0  # the longest pause that ended
        self.moved: float | None = None  # when the counter was last seen to have grown; None: never

    def read(self, total: float, at: float) -> float:
        """A step ended; returns the rate in it, per second."""
        passed = max(at - self._last[1], 1e-3)
        rate = max(total - self._last[0], 0.0) / passed
        if rate:
            if self.moved is not None:
                self._longest = max(self._longest, at - self.moved)
            self.moved = at
        keep = math.exp(-passed / LONG_S)
        self._mean = self._mean * keep + rate * (1 - keep)
        self._weight = self._weight * keep + (1 - keep)
        self._before, self._last = self._last, (total, at)
        return rate

    def rate(self, total: float, now: float) -> float:
        """Per second over the last one or two steps."""
        passed = now - self._before[1]
        return max(total - self._before[0], 0.0) / passed if passed >= 1 else 0.0

    def ago(self, total: float, now: float) -> float | None:
        """Seconds since it was last seen to have grown; None: it never was."""
        if total > self._last[0]:
            return 0.0
        return None if self.moved is None else now - self.moved

    def still(self, total: float, now: float) -> float:
        """Seconds since it was last seen to have grown, or since anybody looks."""
        ago = self.ago(total, now)
        return now - self._begun if ago is None else ago

    @property
    def mean(self) -> float | None:
        """Per second over the last hour, the newest counting most; None before there is a minute of it."""
        return self._mean / self._weight if self._weight >= 1 - math.exp(-60.0 / LONG_S) else None

    def silent(self, now: float, least_s: float = 300.0) -> float | None:
        """How long nothing came from what used to come regularly: ten times longer than it ever paused before.

        None where that is not so, or where nobody can know. A door that opens twice a day is not silent at night.
        """
        if self.moved is None or not self._longest:
            return None
        pause = now - self.moved
        return pause if pause >= max(least_s, 10 * self._longest) else None


class Growth:
    """When the records of one stream were recorded: exactly for the newest, the more roughly the more there are."""

    def __init__(self, end: int) -> None:
        self._end = end  # offset after the newest record that is known of
        self._marks: list[tuple[int, int]] = []  # (offset, ns): what follows, up to the next mark, was recorded then

    def note(self, end: int, now: int) -> None:
        """The stream ends at offset `end` now (ns)."""
        if end <= self._end:
            return
        self._marks.append((self._end, now))
        self._end = end
        if len(self._marks) > MOST_MARKS:
            del self._marks[1:-1:2]

    def forget(self, position: int) -> None:
        """Nobody will ask for offsets before `position`."""
        del self._marks[: max(bisect_right(self._marks, (position, math.inf)) - 1, 0)]

    def recorded(self, offset: int, time: int) -> int:
        """When the record at `offset` was recorded (ns), as near to its own `time` as that can have been."""
        after = bisect_right(self._marks, (offset, math.inf))
        if after < len(self._marks):
            time = min(time, self._marks[after][1])
        return max(time, self._marks[after - 1][1]) if after else time
