"""Times as people write them on a command line: how long ago, or when."""

import re
from datetime import datetime

import click

from gateway.quantity import Duration


def time_of(text: str, now: int) -> int:
    """`1h` or `-1h` (ago), or a time like 2026-11-23T19:30, of this machine's zone unless it says; ns since 1970.

    Raises ValueError where it is neither.
    """
    if re.fullmatch(r"-?[\d.]+\s*[a-z]+", text):
        return now - Duration.parse(text.removeprefix("-")).ns
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000) * 1000
    except OverflowError as error:
        raise ValueError(f"{text} is out of range") from error


def moment(text: str, now: int, option: str) -> int:
    """The same for an option's value. Raises click's error, with what to write."""
    try:
        return time_of(text, now)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no place; write how long ago (1h), or a time (2026-11-23T19:30)", param_hint=option
        ) from None
