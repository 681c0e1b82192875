"""What generated code calls: the few functions that are more than one operator, and how failures read in plain words.

Every function here is total over its types in bounded time and memory, or raises.
"""

import fnmatch
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

import msgspec

MAX_PAYLOAD = 65536  # bytes, looked at before a payload is decoded
MAX_TEXT = 4096  # characters of one text value
INT_MAX = 2**63 - 1
CLOCK_SET = 1_577_836_800_000_000_000  # 2020-01-01: a clock that shows less was never set
LAST_SECOND = 9_223_372_036  # 2262-04-11: where 64 bits of ns end

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,19}\s*")
_FLOAT = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")


class Reject(Exception):
    """This record cannot be processed; the text says why in plain words. It becomes a dead letter."""


class NotFinite(Reject):
    def __init__(self) -> None:
        super().__init__("the result is not a finite number")


class TooLarge(Reject):
    def __init__(self) -> None:
        super().__init__("the result does not fit into a 64-bit int")


class TooLong(Reject):
    def __init__(self) -> None:
        super().__init__(f"the result is a text of more than {MAX_TEXT} characters")


class PayloadTooLong(Reject):
    def __init__(self) -> None:
        super().__init__(f"the payload has more than {MAX_PAYLOAD} bytes")


class TooFarAhead(Reject):
    def __init__(self, time: int, arrival: int) -> None:
        super().__init__(f"the event time {text_of_time(time)} is too far ahead of the arrival {text_of_time(arrival)}")


def to_int(value: int | float | str) -> int:
    """int(x): floats are cut off, text must be nothing but a whole number."""
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            raise Reject(f"{value[:40]!r} is no whole number")
        value = int(value)
    result = int(value)
    if not -INT_MAX - 1 <= result <= INT_MAX:
        raise TooLarge
    return result


def to_float(value: float | str) -> float:
    """float(x): text must be nothing but a number, and finite."""
    if isinstance(value, str) and (len(value) > 64 or not _FLOAT.fullmatch(value)):
        raise Reject(f"{value[:40]!r} is no number")
    result = float(value)
    if not math.isfinite(result):
        raise NotFinite
    return result


def is_number(text: str) -> bool:
    """is_number(s): whether float(s) gives a number."""
    return len(text) <= 64 and _FLOAT.fullmatch(text) is not None and math.isfinite(float(text))


def replace(text: str, old: str, new: str) -> str:
    """replace(s, 'a', 'b'): every a in s by b. Bounded here, because replacing can multiply lengths."""
    if not old:
        raise Reject("replace() cannot look for an empty text")
    if len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT:
        raise TooLong
    return text.replace(old, new)


def text_of_bool(value: bool) -> str:
    return "true" if value else "false"


def part(key: str, n: int) -> str:
    """topic_part(n): the n-th piece of a key between slashes, counted from 0, or from the end if negative."""
    try:
        return key.split("/")[n]
    except IndexError:
        raise Reject(f"the key {key[:100]!r} has no part {n}") from None


@lru_cache(256)
def glob(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """A matcher for a pattern of the configuration. fnmatch writes atomic groups, so no text makes it slow."""
    return re.compile(fnmatch.translate(pattern)).match


# time: ns since 1970 everywhere inside


def ns_of_seconds(seconds: float) -> int:
    """Seconds to ns, exact to the µs: a float holds no more of a time of our days."""
    return round(seconds * 1e6) * 1000


def span_ns(seconds: float) -> int:
    """A difference in seconds to ns; what it is added to must stay in 64 bits."""
    if not -LAST_SECOND <= seconds <= LAST_SECOND:
        raise Reject(f"{seconds!r} s is more than a time can be moved by")
    return round(seconds * 1e9)


def reader_of_times(zone: tzinfo | None) -> Callable[[str | float], int]:
    """A function from what a `time` field may hold beside whole seconds, ISO-8601 text or a float, to ns."""

    def read(value: str | float) -> int:
        if not isinstance(value, str):
            return ns_of_seconds(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            if not _FLOAT.fullmatch(value) or not 0 <= float(value) <= LAST_SECOND:
                raise Reject(f"{value!r} is no time: write ISO-8601, or seconds since 1970") from None
            return ns_of_seconds(float(value))
        if moment.tzinfo is None:
            if zone is None:
                raise Reject(f"{value!r} names no time zone: set `zone:` under `time:`")
            moment = moment.replace(tzinfo=zone)
        since = moment - _EPOCH
        if since.days < 0 or since.days * 86400 + since.seconds > LAST_SECOND:
            raise Reject(f"{value!r} is before 1970 or after 2262")
        return (since.days * 86400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000

    return read


@lru_cache(1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def text_of_time(ns: int) -> str:
    """RFC 3339 in UTC, with as many digits of the second as the time has: none, 3, 6 or 9."""
    seconds, rest = divmod(ns, 1_000_000_000)
    if not 0 <= seconds <= LAST_SECOND:
        raise Reject("the time is before 1970 or after 2262")
    if not rest:
        return f"{_second(seconds)}Z"
    if not rest % 1_000_000:
        return f"{_second(seconds)}.{rest // 1_000_000:03}Z"
    if not rest % 1000:
        return f"{_second(seconds)}.{rest // 1000:06}Z"
    return f"{_second(seconds)}.{rest:09}Z"


# failures in plain words

_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(.*?)`, got `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_BEGINS = {"int": "a number", "float": "a number", "str": "a text", "array": "a list", "bool": "true or false"}
_LONG = re.compile(r"Expected `str` of length <= \d+(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_RANGE = re.compile(r"Number out of range(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_LAST_TIMES = {str(LAST_SECOND * scale) for scale in (1, 1000, 1_000_000)}
_BOUND = re.compile(r"Expected `(?:.*?)` (<=|>=) (\S+)(?: - at `\$\.?(.*)`)?$", re.DOTALL)


def reason(error: Exception) -> str:
    """What a person should read about a record's failure."""
    text = str(error)
    match error:
        case msgspec.ValidationError():
            return _shape_reason(text)
        case msgspec.DecodeError():
            return f"not valid JSON: {text.removeprefix('JSON is malformed: ')}"
        case UnicodeDecodeError():
            return "not valid UTF-8 text"
        case RecursionError():
            return "nested too deeply"
        case ZeroDivisionError():
            return "division by zero"
        case OverflowError():
            return "the result is too large"
        case ValueError() if text in {"math domain error", "expected a positive input"}:
            return "outside what the function is defined for, as sqrt(-1) is"
        case ValueError() if text.startswith("cannot convert float"):
            return str(NotFinite())
        case _:
            return text or type(error).__name__


def _shape_reason(text: str) -> str:
    if match := _MISSING.match(text):
        return f"missing {'.'.join(filter(None, (match[2], match[1])))}"
    if match := _EXPECTED.match(text):
        if match[2] == "null" and match[3]:
            return f"missing {match[3]}"
        if not match[3] and match[1].startswith("object"):  # it was not read any further
            return f"the payload is no JSON object: it begins with {_BEGINS.get(match[2], match[2])}"
        return f"{match[3] or 'the payload'} is {match[2]}, not {match[1].replace(' | ', ' or ')}"
    if match := _BOUND.match(text):
        field, bound = match[3] or "the payload", match[2]
        if bound.split(".")[0] in _LAST_TIMES:
            return f"{field} is no time in the unit of its schema: perhaps it is time[ms], time[us] or time[ns]"
        return f"{field} is out of range: it must be {match[1]} {bound}"
    if match := _LONG.match(text):
        return f"{match[1]} is a text of more than {MAX_TEXT} characters"
    if match := _RANGE.match(text):
        return f"{match[1]} is too large a number"
    return text
