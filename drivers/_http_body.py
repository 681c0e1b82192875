"""What was posted: the bytes of a body become keys and values, whole columns, every value the bytes as they were sent.

JSON is looked at, not read: in C, and only as far as its shape and, where one is asked for, the field with the key.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.errors import Malformed

JSON = ("application/json",)
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
FORM = "application/x-www-form-urlencoded"  # what curl -d says of everything
KEY_BYTES = 512
LOOSE = 4  # commas per record that are allowed before the records of an array are counted one by one

_one = msgspec.json.Decoder(msgspec.Raw).decode
_many = msgspec.json.Decoder(list[msgspec.Raw]).decode
# A string that is not closed takes the rest, so that no input is looked at twice.
_tokens = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]|,', re.DOTALL)


class TooMany(Malformed):
    """More records than one request may bring."""


def type_of(header: str, body: bytes) -> str:
    """The type of a body whose Content-Type is this. No form begins with a bracket, so one that does is JSON."""
    said = header.partition(";")[0].strip().lower()
    return JSON[0] if said == FORM and body.lstrip(b" \t\r\n")[:1] in (b"{", b"[") else said


def values_of(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The values in a body of this type: its elements, its lines, or all of it. Raises Malformed, or TooMany."""
    if content_type in JSON:
        if not body.lstrip(b" \t\r\n").startswith(b"["):
            _check(body, "the body")
            return [body.strip(b" \t\r\n")]
        if body.count(b",") >= LOOSE * most and _is_longer(body, most):
            raise TooMany(f"more than {most} records")
        _check_text(body)
        try:
            found = list(map(bytes, _many(body)))
        except (msgspec.DecodeError, RecursionError) as error:
            raise Malformed(f"the body: {_words(error)}") from error
    elif content_type in LINES:
        lines = body.split(b"\n", 2 * most)
        found = [line for line in map(bytes.strip, lines) if line]
        if len(lines) > 2 * most or len(found) > most:
            raise TooMany(f"more than {most} records")
        _check_text(body)
        try:
            deque(map(_one, found), maxlen=0)
        except (msgspec.DecodeError, RecursionError):
            for number, line in enumerate(lines, 1):
                if line := line.strip():
                    _check(line, f"line {number}")
    else:
        if not body:
            raise Malformed("there is nothing in the body")
        return [body]
    if len(found) > most:
        raise TooMany(f"more than {most} records")
    return found


def _check(value: bytes, what: str) -> None:
    _check_text(value)
    try:
        _one(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"{what}: {_words(error)}") from error


def _check_text(body: bytes) -> None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"the body is no UTF-8 at byte {error.start}") from error


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "JSON is nested too deeply"
    return "JSON ends too early" if "truncated" in str(error) else str(error)


def _is_longer(body: bytes, most: int) -> bool:
    """Whether what may be an array has more than so many elements. Stops as soon as that is known."""
    depth, elements = 0, 1
    for token in _tokens.finditer(body):
        mark = token[0][:1]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        elif mark == b"," and depth == 1:
            elements += 1
            if elements > most:
                return True
    return False


class KeyField:
    """A field of every record, at its top or further inside, that holds the key: `device`, `device_info.id`."""

    def __init__(self, path: str) -> None:
        self._path = path
        kind: Any = str | int | None
        for name in reversed(path.split(".")):
            kind = msgspec.defstruct("Keyed", [("inner", kind | None, None)], rename={"inner": name})
        self._depth = path.count(".") + 1
        self._read: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode

    def keys(self, values: Sequence[bytes], default: str) -> list[str]:
        """The key of every value, `default` where it has none. Raises Malformed for what can be no key."""
        found = []
        for number, value in enumerate(values, 1):
            try:
                inner = self._read(value)
            except (msgspec.DecodeError, RecursionError):
                found.append(self._looked_for(value, number, default))
                continue
            for _ in range(self._depth):
                inner = inner.inner if inner is not None else None
            found.append(sound(str(inner)) if inner not in (None, "") else default)
        return found

    def _looked_for(self, value: bytes, number: int, default: str) -> str:
        """The default where something on the way to the field is no object. Raises Malformed for what can be no key."""
        try:
            inner = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Malformed(f"record {number}, of its key: {_words(error)}") from error
        for name in self._path.split("."):
            if not isinstance(inner, dict):
                return default
            inner = inner.get(name)
        raise Malformed(f"record {number}: {self._path} is no text and no whole number, so it can be no key")


def sound(key: str) -> str:
    """This key, if it can be one. Raises Malformed."""
    if len(key.encode()) > KEY_BYTES or "\0" in key:
        raise Malformed(f"a key has at most {KEY_BYTES} bytes, and no NUL in it")
    return key
