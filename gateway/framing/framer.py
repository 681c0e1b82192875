"""What every framing has in common: a rest that waits for its end, and an account of what was dropped."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from gateway.framing.checksum import Check

WRONG = "the checksum is wrong"
CUT = "cut off: its end did not come"
SAMPLE_BYTES = 64
MOST_REASONS = 16  # told apart between two questions


class Bad(NamedTuple):
    """Frames that were dropped for one reason, the first of them as a sample."""

    reason: str
    sample: bytes
    times: int


class Framer(ABC):
    """Bytes in, whole frames out. Built by FrameOptions.framer(); used by one source at a time."""

    idle_s: float | None = None  # seconds of silence after which flush() is to be called; None: silence says nothing

    def __init__(self, check: Check | None, most: int) -> None:
        self._check, self._most = check, most  # `most`: bytes of a frame
        self._rest = b""  # what waits for its end
        self._bad: dict[str, tuple[bytes, int]] = {}

    @property
    def pending(self) -> int:
        """Bytes that wait for the end of their frame."""
        return len(self._rest)

    @abstractmethod
    def feed(self, data: bytes) -> list[bytes]:
        """Take what was read; returns the frames that are whole now, without their marks and checksums."""

    @abstractmethod
    def flush(self) -> list[bytes]:
        """The source ended in order, or fell silent: what is left is a frame where that ends one, else it is bad."""

    def reset(self) -> None:
        """The source was cut: what is left is dropped, and never joined with what comes next."""
        if self._rest:
            self._drop(CUT, self._rest)
        self._rest = b""

    def overslept(self) -> None:  # noqa: B027 - most framings do not care
        """What is fed next lay there for longer than silence takes: where it was silent is not known any more."""

    def bad(self) -> list[Bad]:
        """What was dropped since the last call."""
        if not self._bad:
            return []
        found, self._bad = self._bad, {}
        return [Bad(reason, sample, count) for reason, (sample, count) in found.items()]

    def _drop(self, reason: str, sample: bytes, count: int = 1) -> None:
        if reason not in self._bad and len(self._bad) >= MOST_REASONS:
            reason = next(iter(self._bad))
        first, before = self._bad.get(reason, (bytes(sample[:SAMPLE_BYTES]), 0))
        self._bad[reason] = (first, before + count)

    def _drop_long(self, sample: bytes) -> None:
        self._drop(f"longer than {self._most} bytes without an end", sample)

    def _checked(self, frames: list[bytes]) -> list[bytes]:
        """Those whose checksum is right, without it."""
        check = self._check
        if check is None:
            return frames
        values = [check(frame) for frame in frames]
        if None in values:
            wrong = [frame for frame, value in zip(frames, values, strict=True) if value is None]
            self._drop(WRONG, wrong[0], len(wrong))
        return [value for value in values if value is not None]
