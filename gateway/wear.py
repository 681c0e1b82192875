"""What the log costs the card: measured, told, and kept within a budget.

The budget is a bucket. It fills at the pace that was asked for and holds that of SPAN_S; what the log writes is taken
out of it; and how long a commit may wait depends on nothing but how full it is. So the pace comes to rest where the
bucket neither fills nor empties, from one side, and does not swing around it; a burst, or a block that is sealed, is
paid from what was saved before.
"""

import math
from collections.abc import Callable

from gateway.device import Device, device_under
from gateway.history import Meter
from gateway.quantity import Rate, Size

SPAN_S = 6 * 3600.0  # the budget of so long is what the bucket holds
EASY, EMPTY = 0.75, 0.25  # parts of it: down to the first nothing is stretched, at the second as far as is allowed
SAVED = 0.9  # part of it that is enough to say that the stretching is over
DAY_S = 86400.0
YEAR_D = 365.25


class Budget:
    """How long a commit may wait, so that what is written keeps to `per_day` bytes: `commit_s` up to `most_s`."""

    def __init__(self, per_day: Rate | None, commit_s: float, most_s: float) -> None:
        self.per_day, self._base_s, self._most_s = per_day, commit_s, max(most_s, commit_s)
        self._full = EASY  # part of the bucket; a start neither punishes nor gives a present

    def change(self, per_day: Rate | None, commit_s: float, most_s: float) -> None:
        """Other figures from now on; what is left of the bucket stays the same part of it."""
        if self.per_day is None:
            self._full = EASY
        self.per_day, self._base_s, self._most_s = per_day, commit_s, max(most_s, commit_s)

    def spent(self, count: float, passed_s: float) -> None:
        """So many bytes were written in so many seconds."""
        if self.per_day is not None:
            change = passed_s / SPAN_S - count / (self.per_day * SPAN_S / DAY_S)
            self._full = min(max(self._full + change, 0.0), 1.0)

    @property
    def commit_s(self) -> float:
        """How long a commit may wait now."""
        if self.per_day is None:
            return self._base_s
        part = min(max((EASY - self._full) / (EASY - EMPTY), 0.0), 1.0)
        return float(self._base_s * (self._most_s / self._base_s) ** part)

    @property
    def stretched(self) -> bool:
        """Commits wait noticeably longer than was asked for."""
        return self.commit_s > 1.1 * self._base_s

    @property
    def easy(self) -> bool:
        """Nothing is stretched, and will not be again by the next block that is sealed."""
        return self.per_day is None or self._full >= SAVED

    @property
    def exceeded(self) -> bool:
        """Commits wait as long as they may, and still more is written than was asked for."""
        return self.per_day is not None and self._full == 0.0


class Wear:
    """What the device took and what the log asked for, since the start; and how long commits may wait for that.

    Somebody calls `look` every few seconds. Bytes per day are those of the last hour, the newest counting most.
    """

    def __init__(
        self,
        budget: Budget,
        endurance: Size,
        find: Callable[[str], Device | None] = device_under,
    ) -> None:
        self.budget, self.endurance, self._find = budget, endurance, find
        self._device: Device | None = None
        self._first: int | None = None  # what the device had taken when we came
        self._last: tuple[float, float] | None = None  # (the log's bytes, when)
        self._meters: dict[str, Meter] = {}
        self._taken: int | None = None

    def change(self, per_day: Rate | None, commit_s: float, most_s: float, endurance: Size) -> None:
        """Other settings from now on."""
        self.budget.change(per_day, commit_s, most_s)
        self.endurance = endurance

    def find(self, folder: str) -> None:
        """BLOCKING. Look which device the log is on; once it is there."""
        self._device = self._find(folder)
        self._first = self._device.written() if self._device is not None else None
        self._taken = None if self._first is None else 0

    def look(self, log_bytes: int, now: float) -> None:
        """The log has written so many bytes since the start, and it is `now` (monotonic s)."""
        if self._last is not None:
            self.budget.spent(log_bytes - self._last[0], now - self._last[1])
        self._last = log_bytes, now
        written = self._device.written() if self._device is not None else None
        if written is not None and self._first is not None:
            self._taken = max(written - self._first, 0)
        for name, total in (("log", log_bytes), ("device", self._taken)):
            if total is None:
                continue
            if name in self._meters:
                self._meters[name].read(total, now)
            else:
                self._meters[name] = Meter(total, now)

    @property
    def device_bytes(self) -> int | None:
        """What the whole device took from everybody since the start; None where nobody counts that."""
        return self._taken

    def _per_day(self, name: str) -> int | None:
        meter = self._meters.get(name)
        return round(meter.mean * DAY_S) if meter is not None and meter.mean is not None else None

    def status(self) -> dict[str, object]:
        """For programs: bytes, bytes per day, days and seconds; None for what is not known, or not yet."""
        device, log = self._per_day("device"), self._per_day("log")
        pace = log if device is None else device
        return {
            "device": None if self._device is None else self._device.name,
            "device_bytes": self._taken,
            "device_day_bytes": device,
            "log_day_bytes": log,
            "endurance_bytes": int(self.endurance),
            "life_days": round(self.endurance / pace) if pace else None,
            "budget_day_bytes": None if self.budget.per_day is None else int(self.budget.per_day),
            "commit_s": round(self.budget.commit_s, 3),
            "told": self.told(),
        }

    def told(self) -> str:
        """For people: what is written a day, how long a card lasts for that, and what becomes of the budget."""
        device, log = self._per_day("device"), self._per_day("log")
        parts = []
        if log is not None:
            parts.append(f"the log writes {spelled(log)} a day")
            if self._device is None:
                parts[0] += "; what its device takes is not known, for it is on none of its own"
            elif device is not None:
                parts[0] += f", {self._device.name} takes {spelled(device)} a day from everybody"
            pace = log if device is None else device
            if pace:
                parts.append(f"a card made for {spelled(self.endurance)} lasts {_years(self.endurance / pace)}")
        if self.budget.per_day is not None and self.budget.stretched:
            wait, most = _seconds(self.budget.commit_s), spelled(self.budget.per_day)
            told = f"commits wait up to {wait} to keep within {most} a day"
            if self.budget.exceeded:
                told += ", which is not enough: raise wear: or commit_max:, or record less"
            parts.append(told)
        return "; ".join(parts)


def spelled(count: float) -> str:
    """Bytes in the units of those who sell cards: `412 MB`, `4 TB`."""
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if count < 999.5:
            break
        count, unit = count / 1000, larger
    return f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"


def _years(days: float) -> str:
    years = days / YEAR_D
    if years >= 100:
        return "more than 100 years"
    if years >= 2:
        return f"{years:.0f} years"
    return f"{math.floor(days)} days" if days >= 2 else "a day"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
