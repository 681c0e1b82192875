"""The errors of the house, named for what is done about them.

TidegateError
├── ConfigError(problems)            the user's mistake: print every problem with its place, exit 78
├── DriverUnavailable(reason, after) restart this driver after a jittered wait (or as told); the state is shown
├── SinkUnavailable(reason, after)   keep the batch, come back after a jittered wait (or as told)
├── NotNow(reason)                   it cannot be done at this moment: tell whoever asked, change nothing
├── DeliveryTooLarge(reason)         the far side never takes a body of this size: cut the extent in two
├── DeliveryRefused(reason)          something in it will never be taken: cut in two until it stands alone
├── LogError
│   ├── LogFull                      nothing was acknowledged; reads pause, the commit is tried again unchanged
│   ├── LogDamaged                   a block or record is unreadable: declare the gap, go on
│   └── LogTooNew                    a newer Tidegate wrote this log: do not touch it, exit 78
├── Malformed(reason)                bytes that break their protocol or format: counted, then dropped or dead-lettered
└── NoRecord(reason)                 a payload that is no reading and not meant to be, as a comment: counted, left out
"""

from collections.abc import Sequence
from typing import NamedTuple


class TidegateError(Exception):
    """Anything the house itself raises on purpose."""


class Problem(NamedTuple):
    """One mistake in the configuration: where it stands, what is wrong, and what to try."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.path}: {self.message}"


class ConfigError(TidegateError):
    """Everything that is wrong with a configuration, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class DriverUnavailable(TidegateError):
    """The device or broker is not there now; the text says why in words for the status page."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class SinkUnavailable(TidegateError):
    """The far side cannot take a batch now; keep it and come back."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class NotNow(TidegateError):
    """The daemon is starting or stopping; what was asked for was not begun."""


class DeliveryTooLarge(TidegateError):
    """The far side never takes a body of this size; smaller ones it may take."""


class DeliveryRefused(TidegateError):
    """The far side understood the body, kept nothing of it, and will never take it as it is: a record in it is bad."""


class LogError(TidegateError):
    """The storage failed; nothing that was not durable has been acknowledged."""


class LogFull(LogError):
    """No room: not in the journal, not on the disk."""


class LogDamaged(LogError):
    """A stored block or record does not read back as it was written."""


class LogTooNew(LogError):
    """The log was written by a newer version; it was not changed."""


class Malformed(TidegateError):
    """Bytes that break their protocol or format."""


class NoRecord(TidegateError):
    """A payload that is no reading and is not meant to be one: a comment, a header, an empty line."""
