"""Dead letters in bounded numbers: of many failures that are alike some are kept, and all are counted.

- Alike are failures of one pipeline or sink, at one step, for one reason, whatever numbers and quoted parts are in it.
- Each kind may leave BURST letters at once and RATE per second after that. What is not kept is no loss: the record is
  still in its stream, and letters name stream and offset.
- In every commit, letters and their `more` add up to all failures whose positions that commit holds: what was kept back
  is told by the next letter of its kind, or by the last one that was kept back, which then goes into that commit.
- Memory is bounded whatever reasons there are: beyond MOST_KINDS, or MOST_HELD bytes, the others are one kind.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from gateway.clock import Clock
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.record import DEAD_LETTERS

BURST = 100
RATE = 10.0  # letters per second
MOST_KINDS = 1_000
FORGET_S = 60.0  # a kind that did not come for this long is forgotten; its bucket is full again by then
MOST_HELD = 1 << 20  # bytes of letters that wait for the end of a commit

_PARTICULAR = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d[\d.,:]*""")


_AFTER_HEAD = b',"stream":'  # dead_letter() writes it there; inside a text its quotes would be escaped


class _Head(msgspec.Struct, gc=False):
    """What makes a letter like another one."""

    by: str
    step: str
    reason: str


class _Kind:
    """Failures that are alike, and the bucket that their letters are paid from."""

    __slots__ = ("at", "held", "tokens", "untold")

    def __init__(self, at: float) -> None:
        self.at = at  # monotonic s of the last failure
        self.tokens = float(BURST)
        self.untold = 0  # failures that no letter has told of yet, the one that is held included
        self.held: tuple[int, str, bytes, str] | None = None  # (time, key, letter, by) of the last one kept back

    def may_keep(self, now: float) -> bool:
        self.tokens = min(self.tokens + (now - self.at) * RATE, BURST)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class DeadLetters:
    """The way of every dead letter into the log. Used on the event loop."""

    def __init__(self, log: Log, clock: Clock, metrics: Metrics) -> None:
        self._log, self._clock, self._metrics = log, clock, metrics
        self._kinds: dict[tuple[str, str, str], _Kind] = {}  # the one that came last is last
        self._rest = _Kind(0.0)  # of all kinds there was no room for
        self._held: dict[_Kind, None] = {}  # who holds one back, in order
        self.held_bytes = 0  # of letters that wait for the end of the commit
        self._head = msgspec.json.Decoder(_Head).decode

    @property
    def kinds(self) -> int:
        """How many kinds of failures are remembered."""
        return len(self._kinds)

    def bury(self, times: Sequence[int], keys: Sequence[str], letters: Sequence[bytes]) -> int:
        """Record letters as record.dead_letter() made them, as many as may be; returns how many were recorded now."""
        now = self._clock.monotonic()
        kept: tuple[list[int], list[str], list[bytes]] = ([], [], [])
        suppressed: dict[str, int] = {}
        seen: dict[bytes, tuple[str, _Kind]] = {}
        for time, key, letter in zip(times, keys, letters, strict=True):
            start = letter.partition(_AFTER_HEAD)[0]
            if start not in seen:
                head = self._head(start + b"}")
                seen[start] = head.by, self._kind(head, now)
            by, kind = seen[start]
            if kind.held is None and self.held_bytes > MOST_HELD:
                kind = self._rest
            keep = kind.may_keep(now)
            if kind.held is not None:  # now it is certain that this one gets no letter of its own
                suppressed[kind.held[3]] = suppressed.get(kind.held[3], 0) + 1
                self._release(kind)
            if keep:
                kept[0].append(time)
                kept[1].append(key)
                kept[2].append(_telling(letter, kind.untold))
                kind.untold = 0
            else:
                kind.held = (time, key, letter, by)
                kind.untold += 1
                self._held[kind] = None
                self.held_bytes += len(letter)
        for by, n in suppressed.items():
            self._metrics.add("dead_suppressed_total", n, by=by)
        if kept[2]:
            self._log.append(DEAD_LETTERS, *kept)
        return len(kept[2])

    def settle(self) -> None:
        """In the making of every commit: tell of all that was kept back, so that no crash can make it untold."""
        for kind in self._held:
            assert kind.held is not None
            time, key, letter, _ = kind.held
            self._log.append(DEAD_LETTERS, [time], [key], [_telling(letter, kind.untold - 1)])
            kind.held, kind.untold = None, 0
        self._held.clear()
        self.held_bytes = 0

    def _release(self, kind: _Kind) -> None:
        assert kind.held is not None
        self.held_bytes -= len(kind.held[2])
        kind.held = None
        del self._held[kind]

    def _kind(self, head: _Head, now: float) -> _Kind:
        key = (head.by, head.step, pattern(head.reason))
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS and not self._forget(now):
                return self._rest
            kind = _Kind(now)
        self._kinds[key] = kind
        return kind

    def _forget(self, now: float) -> bool:
        """Make room by what did not come for long."""
        key, oldest = next(iter(self._kinds.items()))
        if now - oldest.at < FORGET_S or oldest.held is not None:
            return False
        del self._kinds[key]
        return True


@lru_cache(1024)
def pattern(reason: str) -> str:
    """A reason without what is particular to one record."""
    return _PARTICULAR.sub("…", reason)


def _telling(letter: bytes, more: int) -> bytes:
    """A letter that also tells how many like it were not kept."""
    return b'%s,"more":%d}' % (letter[:-1], more) if more else letter
