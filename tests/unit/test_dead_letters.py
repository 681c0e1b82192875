"""What the API shows of dead letters: bounded, escaped, and as near to what came as can be."""

import json

import msgspec
import pytest

from gateway.deadletters import pattern
from gateway.record import Record, dead_letter
from gateway.status.dead import MOST_REASONS, RAW, dead_letters


def letter(offset, value, reason="decode: not JSON", key="site/a", step="decode", by="typed"):
    return Record(offset, offset, key, dead_letter(by, step, reason, "temps", Record(offset + 100, 5, key, value)))


def shown(records, limit=50):
    return json.loads(msgspec.json.encode(dead_letters(records, limit)))


@pytest.mark.parametrize(
    "payload,raw,value",
    [
        (b'{"v":1}', '{"v":1}', {"v": 1}),
        (b"21.5 C", "21.5 C", "21.5 C"),
        (b"\xff\xfe\x00", "\\xff\\xfe\\x00", {"$b": "//4A"}),
        ("21.5 °C\n".encode(), "21.5 °C\\n", "21.5 °C\n"),
        (b"\x1b[31mred", "\\x1b[31mred", "\x1b[31mred"),
        ("a\u202eb".encode(), "a\\u202eb", "a\u202eb"),
        (b"<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ],
)
def test_a_payload_is_shown_as_it_came_with_what_does_not_print_escaped(payload, raw, value):
    (row,) = shown([letter(7, payload)])["records"]
    assert (row["raw"], row["value"]) == (raw, value)
    assert (row["offset"], row["stream"], row["source_offset"], row["key"]) == (7, "temps", 107, "site/a")


def test_a_large_payload_is_cut():
    (row,) = shown([letter(1, b'"' + b"\x01" * 100_000)])["records"]
    assert len(row["raw"]) == RAW
    assert row["raw"].endswith("…")
    assert row["value"] is None


def test_reasons_that_differ_in_numbers_and_quoted_parts_are_one():
    records = [letter(i, b"x", f"expected a number, got '{'ab'[i % 2]}' at {i}") for i in range(100)]
    records += [letter(200 + i, b"x", "too old", step="window") for i in range(200)]
    answer = shown(records[::-1], limit=3)
    assert [(row["step"], row["count"]) for row in answer["reasons"]] == [("window", 200), ("decode", 100)]
    assert [row["offset"] for row in answer["records"]] == [399, 398, 397]


def test_the_answer_calls_alike_what_is_limited_as_alike():
    reasons = ["no 'it\\'s' at 12:30", "no 'b' at 1,204", 'no "x\\"y" at 7.5']
    assert len({pattern(reason) for reason in reasons}) == 1
    answer = shown([letter(i, b"x", reason) for i, reason in enumerate(reasons)])
    assert [row["count"] for row in answer["reasons"]] == [3]


def test_letters_that_stand_for_more_are_counted_as_many():
    value = msgspec.json.decode(letter(1, b"x").value) | {"more": 999}
    answer = shown([Record(1, 1, "k", msgspec.json.encode(value))])
    assert answer["reasons"][0]["count"] == 1000
    assert answer["records"][0]["more"] == 999


def test_an_answer_stays_small_whatever_died():
    records = [letter(i, b"\x00" * 200_000, reason=f"{chr(97 + i % 26) * (i + 1)}" * 400, key="k" * 60_000) for i in range(300)]  # fmt: skip
    answer = dead_letters(records, 200)
    assert len(msgspec.json.encode(answer)) < 2 << 20
    assert len(answer["reasons"]) <= MOST_REASONS


def test_a_letter_that_is_none_harms_nobody():
    for value in (b"", b"{}", b"[1]", b'{"reason":5}', b"\xff", b"[" * 10_000):
        (row,) = shown([Record(1, 1, "k", value)])["records"]
        assert row["offset"] == 1
