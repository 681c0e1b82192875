"""How far event time has come: the watermark, the inputs it is made of, and what is waiting for it.

- The watermark only rises. It is the newest event time of the slowest input that is not idle, less the lateness.
- It rises with a record before that record is processed, and with a tick. What is due up to it acts at once, in the
  order of its deadlines.
- An input is idle once no record of it has told a time for `patience`, by the arrival times of the pipeline's records
  and by ticks. An idle input holds nobody back. Where all inputs are idle, time goes on as fast as the clock from
  where it stood, but only what is open then acts on it: the watermark moves to the last deadline that was met, so
  readings that come after a silence are late only where their window was really closed.
- All of it follows from the sequence of records and ticks. A tick makes prompt what the next record would do anyway.

Times are ns since 1970.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.plugin import Outputs
from pipelines.language.runtime import CLOCK_SET

NEVER = 2**63 - 1


class Timed(Protocol):
    """Something that waits for event time to pass."""

    due: int  # the next deadline, NEVER if nothing waits

    def fire(self, out: Outputs) -> None:
        """Do what was to be done at `due`, once; afterwards `due` is later."""
        ...


class Progress:
    """The watermark over several inputs, told apart by their number.

    Generated code keeps `top` (the newest event time of its input) and `seen` (the latest arrival of a record that told
    one, -1 if there was none yet in this batch) in locals, and hands them over when something must be decided: when an
    event time reaches `bound`, and when an arrival is not between `low` and `wake`.
    """

    def __init__(self, inputs: int, lateness: int, patience: int, by_arrival: bool, timed: Sequence[Timed]) -> None:
        self.lateness, self.patience, self.by_arrival, self.timed = lateness, patience, by_arrival, timed
        self.mark = 0
        self.tops = [-1] * inputs
        self.seen = [-1] * inputs
        self.idle = [False] * inputs
        # An input alone, stamped by arrival, needs no patience: its records are the clock.
        self.patient = inputs > 1 or not by_arrival

    def enter(self, source: int, arrival: int) -> tuple[int, int, int, int]:
        """A batch of `source` begins: its top, and what plan() says."""
        if self.seen[0] < 0:
            self.seen = [arrival] * len(self.seen)  # patience with the silent starts with the first record of all
        return self.tops[source], *self.plan(source)

    def leave(self, source: int, top: int, seen: int) -> None:
        """What the locals of a batch hold is what we know."""
        if seen < 0:
            return
        if self.idle[source]:
            # it will hold back again: first write down how far the others have come without it
            self._rise(self._slowest())
        self.tops[source], self.seen[source], self.idle[source] = top, max(seen, self.seen[source]), False

    def plan(self, source: int) -> tuple[int, int, int]:
        """(bound, low, wake) for the records of `source` that follow."""
        first = self._first()
        bound = first + self.lateness if first != NEVER else NEVER
        for i, top in enumerate(self.tops):
            if top < bound and i != source and not self.idle[i]:
                bound = NEVER  # that input holds back; nothing this one says can move the watermark so far
                break
        if not self.patient:
            return bound, 0, NEVER
        if self.idle[source]:
            return bound, 0, -1  # every record must be looked at: the first that tells a time changes the plan
        longest = min([seen for seen, idle in zip(self.seen, self.idle, strict=True) if not idle])
        return bound, max(longest, self.seen[source] - self.patience), longest + self.patience

    def watermark(self, source: int, top: int, seen: int) -> int:
        """The watermark as of now, while a batch of `source` is being processed."""
        self.leave(source, top, seen)
        return self._rise(self._slowest())

    def reach(self, source: int, top: int, seen: int, out: Outputs) -> tuple[int, int, int]:
        """Event time of `source` reached its bound."""
        self._fire(self.watermark(source, top, seen), out)
        return self.plan(source)

    def silence(self, source: int, arrival: int, top: int, seen: int, out: Outputs) -> tuple[int, int, int]:
        """A record arrived so late after others that an input may be silent, or the clock was set back."""
        self.leave(source, top, seen)
        if self.seen[source] > arrival + self.patience:
            # arrivals that were stamped by a clock that ran ahead say nothing about silence any more
            self.seen = [min(seen, arrival) for seen in self.seen]
        self._listen(arrival, out)
        return self.plan(source)

    def due(self) -> int | None:
        """The wall time at which a tick would act if no record came before."""
        first = self._first()
        if first == NEVER:
            return None
        return first + self.lateness if self.by_arrival else self._wake(first)

    def tick(self, now: int, out: Outputs) -> None:
        """Act on what is due at `now`. Where nothing is due a tick changes nothing: it need not be remembered."""
        due = self.due()
        if due is None or now < due:
            return
        if self.by_arrival:
            self._fire(self._rise(now - self.lateness), out)
        else:
            self._listen(now, out)

    def save(self) -> list[Any]:
        # The watermark is worked out when it is needed; what is saved must not tell when that was.
        return [self._rise(self._slowest()), self.tops, self.seen, self.idle]

    def load(self, saved: list[Any]) -> None:
        self.mark, self.tops, self.seen, self.idle = saved

    def resume(self, saved: list[Any]) -> None:
        """Go on from what save() gave over other inputs: what has passed has passed, and who spoke is not known."""
        self.mark = saved[0]

    def _first(self) -> int:
        return min([step.due for step in self.timed], default=NEVER)

    def _slowest(self) -> int:
        """What the watermark would be by the inputs that are not idle."""
        return min([top for top, idle in zip(self.tops, self.idle, strict=True) if not idle], default=0) - self.lateness

    def _rise(self, mark: int) -> int:
        self.mark = max(self.mark, mark)
        return self.mark

    def _wake(self, first: int) -> int:
        awake = [seen for seen, idle in zip(self.seen, self.idle, strict=True) if not idle]
        if awake:
            return min(awake) + self.patience
        # everybody is silent: when the clock has gone as far as event time lacks
        return min([first + self.lateness - top + seen for top, seen in self._told()], default=NEVER)

    def _told(self) -> list[tuple[int, int]]:
        return [(top, seen) for top, seen in zip(self.tops, self.seen, strict=True) if top >= 0]

    def _listen(self, now: int, out: Outputs) -> None:
        """Find out who is silent, one after the other as they fell silent, and let time pass accordingly."""
        for i in sorted(range(len(self.seen)), key=self.seen.__getitem__):
            self._fire(self._rise(self._slowest()), out)
            if self.seen[i] < CLOCK_SET <= now and not self.idle[i]:
                self.seen[i] = now  # the clock was set meanwhile: the difference says nothing about silence
            elif now - self.seen[i] >= self.patience:
                self.idle[i] = True
        if not all(self.idle):
            self._fire(self._rise(self._slowest()), out)
        elif told := self._told():
            self._rise(self._fire(max([top + now - seen for top, seen in told]) - self.lateness, out))

    def _fire(self, until: int, out: Outputs) -> int:
        """Let everything act that is due up to `until`, in the order of deadlines; gives the last of them, or 0.

        While a deadline's steps act, time stands just before it: what they pass on is not late for the same deadline.
        """
        met, reached = 0, self.mark
        while True:
            step = min(self.timed, key=_due)
            if step.due > until:
                self.mark = reached
                return met
            met = step.due
            self.mark = met - 1
            step.fire(out)


def _due(step: Timed) -> int:
    return step.due
