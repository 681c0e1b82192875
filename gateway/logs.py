"""Logging: one line per event on standard error, as the journal or a person reads it.

What comes from outside (topics, payloads, a broker's reason) may stand in a message; it can neither begin a new line
nor colour a terminal, nor fill the disk.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

LONGEST = 2048  # characters of a line
ALIKE = 10  # messages of one kind per MINUTE that are written; the rest is counted and told with the next one
MINUTE = 60.0
KINDS = 1000  # kinds of messages that are told apart; more than the house has

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "suppressed"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def configure(
    level: str = "info", *, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Send everything from `level` (debug, info, warning, error) on to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(OneLine(for_journal="JOURNAL_STREAM" in environment))
    handler.addFilter(FewAlike())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.raiseExceptions = False  # standard error gone (a closed terminal) is no reason to stop
    logging.captureWarnings(True)


class OneLine(logging.Formatter):
    """`<6>tidegate.retry: driver:boiler crashed …` for the journal, which knows the time; with time and level else."""

    def __init__(self, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        text += "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _BUILT_IN)
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {trace(record.exc_info[1])}"
        left_out = getattr(record, "suppressed", 0)
        if left_out:
            text += f" ({left_out} like this were left out)"
        text = _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
        if len(text) > LONGEST:
            text = text[: LONGEST - 2] + " …"
        if self._for_journal:
            return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}: {text}"
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{at}.{record.msecs:03.0f} {record.levelname:7} {record.name}: {text}"


def trace(error: BaseException) -> str:
    """An error and where it came from, innermost call first, on one line."""
    frames, at = [], error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{at.tb_lineno} {code.co_name}")
        at = at.tb_next
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, BaseExceptionGroup):
        text += f" [{'; '.join(map(trace, error.exceptions))}]"
    if frames:
        text += f" (at {' < '.join(reversed(frames))})"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{text}, after {trace(cause)}" if cause is not None else text


class FewAlike(logging.Filter):
    """Lets ALIKE messages of a kind (logger and message without its arguments) through per MINUTE."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, str], list[float]] = {}  # kind -> [start of its minute, written, left out]

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._monotonic()
        if len(self._kinds) >= KINDS:
            self._kinds.clear()
        kind = self._kinds.setdefault((record.name, str(record.msg)[:200]), [now, 0, 0])
        if now - kind[0] >= MINUTE:
            kind[0], kind[1] = now, 0
        if kind[1] >= ALIKE:
            kind[2] += 1
            return False
        kind[1] += 1
        if kind[2]:
            record.suppressed, kind[2] = int(kind[2]), 0
        return True
