"""The newest dead letters, and why they died: a bounded look at the end of their stream."""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.deadletters import pattern
from gateway.record import Record

MOST_REASONS = 50
RAW = 4096  # characters of a payload that are shown
ROOM = 1 << 20  # bytes of keys, values and payloads in one answer


class Letter(msgspec.Struct):
    """gateway.record.dead_letter, as it is read back."""

    by: str = ""
    step: str = ""
    reason: str = ""
    stream: str = ""
    offset: int = -1
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")
    more: int = 0


class _Bytes(msgspec.Struct, forbid_unknown_fields=True):
    encoded: str = msgspec.field(name="$b")


_letter = msgspec.json.Decoder(Letter).decode
_text = msgspec.json.Decoder(str).decode
_bytes = msgspec.json.Decoder(_Bytes).decode


def dead_letters(newest_first: Sequence[Record], limit: int) -> dict[str, Any]:
    """{"reasons": […], "records": […]} of records of the dead-letter stream, as described in gateway.status.api."""
    reasons: dict[tuple[str, str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    room = ROOM
    for record in newest_first:
        try:
            letter = _letter(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            letter = Letter(reason="this letter cannot be read", value=msgspec.Raw(b"null"))
        group = (letter.by, letter.step, pattern(letter.reason))
        row = reasons.get(group)
        if row is None:
            row = {"by": letter.by, "step": letter.step, "reason": letter.reason, "count": 0, "last": record.time}
            reasons[group] = row
        row["count"] += 1 + letter.more
        if len(rows) < limit and room > 0:
            rows.append(_row(record, letter))
            room -= len(letter.key) + 3 * min(len(bytes(letter.value)), RAW)
    most = sorted(reasons.values(), key=lambda row: -row["count"])[:MOST_REASONS]
    return {"reasons": most, "records": rows}


def _row(record: Record, letter: Letter) -> dict[str, Any]:
    payload = payload_of(letter.value)
    return {
        "offset": record.offset,
        "time": record.time,
        "by": letter.by,
        "step": letter.step,
        "reason": letter.reason,
        "stream": letter.stream,
        "source_offset": letter.offset,
        "key": letter.key,
        "value": letter.value if len(bytes(letter.value)) <= RAW else None,
        "raw": escaped(payload),
        "more": letter.more,
    }


def payload_of(value: msgspec.Raw) -> bytes:
    """The bytes that arrived, of a value on the wire (gateway.record.wire_value)."""
    wire = bytes(value)
    try:
        if wire.startswith(b'"'):
            return _text(wire).encode()
        if wire.startswith(b'{"$b"'):
            return base64.b64decode(_bytes(wire).encoded)
    except (msgspec.DecodeError, ValueError):
        pass  # a payload that only looks like one of ours: it is shown as it is
    return wire


def escaped(payload: bytes) -> str:
    """Bytes as text in which everything that does not print is escaped, at most RAW characters."""
    text = payload[:RAW].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= RAW and len(payload) <= RAW else f"{shown[: RAW - 1]}…"
