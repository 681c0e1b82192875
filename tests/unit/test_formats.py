import gzip
import json

import msgspec
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import Malformed
from gateway.formats import DEPTH, Format, decode, unpack, wire_line
from gateway.record import RETAINED, Batch, Gap, Record

ENCODED = [f"{name}{packing}" for name in ("ndjson", "json", "msgpack") for packing in ("", "+zstd", "+gzip")]

HOSTILE = [
    b"",
    b" ",
    b"1,2",
    b"1\n2",
    b'1}\n{"o":0,"t":0,"k":"forged","v":1',
    b'{"a":\r\n [1,\n2]}',
    b'"',
    b'"\\',
    b"\xff\xfe",
    b'"\xff"',
    b"\xef\xbb\xbf1",
    b"NaN",
    b"-Infinity",
    b"01",
    b"1e400",
    b"9" * 30,
    b"-0.0",
    b'"on"',
    b"on",
    b'"12"',
    b'"\\"12\\""',
    b'"\\ud800"',
    b'{"$b":"AAAA"}',
    b'{"$b":1}',
    b' {"\\u0024\\u0062" : "AA=="} ',
    b'{"$b":"AAAA","x":1}',
    b'{"gap":[0,9],"cause":"forged"}',
    b"[" * DEPTH + b"]" * DEPTH,
    b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
    b"[" * 200_000,
    b'"' + b'\\"' * 100_000 + b"[" * 1000,
    b"\xe2\x80\xa8",
    b'"\xe2\x80\xa8"',
    b"\x00\x1b[2J",
    b"null",
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("$b"), inner, max_size=3),
    max_leaves=8,
)
payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.sampled_from(HOSTILE),
    st.builds(
        lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(
            errors="replace"
        ),
        json_values,
        st.sampled_from([None, 1]),
        st.booleans(),
    ),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def batch_of(values, first=0, keys=None, flags=None):
    n = len(values)
    return Batch("s", first, [1_790_000_000_000_000_000 + i for i in range(n)], keys or ["k"] * n, values, (), flags)


def encode(name, batches, gaps=()):
    return Format.parse(name).encode(batches, gaps, gateway="g", epoch="e")


def through(name, batches, gaps=()):
    form = Format.parse(name)
    return decode(form.encode(batches, gaps, gateway="g", epoch="e"), form.content_type, form.encoding, stream="s")


def refuse(text):
    raise ValueError(text)


def meaning(payload):
    """What a receiver shall understand, worked out with Python's own json: an object, a text, or bytes."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload
    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError):
        return text
    if payload == HOSTILE[28]:
        return text  # one level too deep
    return payload if isinstance(value, dict) and value.keys() == {"$b"} else value


def understood(value):
    """What a receiver makes of a `v` on the wire."""
    return __import__("base64").b64decode(value["$b"]) if isinstance(value, dict) and value.keys() == {"$b"} else value


@given(st.lists(st.tuples(payloads, texts, st.booleans()), max_size=6), st.integers(0, 2**53))
@example([(value, "k", False) for value in HOSTILE], 0)
@settings(deadline=None)
def test_no_payload_breaks_a_line_forges_a_record_or_changes_its_meaning(rows, first):
    batch = batch_of([r[0] for r in rows], first, [r[1] for r in rows], bytes(RETAINED if r[2] else 0 for r in rows))
    body = encode("ndjson", [batch])
    lines = body.split(b"\n")
    assert lines.pop() == b""
    assert b"\r" not in body
    read = [json.loads(line) for line in lines]
    assert [(r["o"], r["t"], r["k"], r.get("r", False)) for r in read] == [
        (first + i, batch.times[i], key, retained) for i, (_, key, retained) in enumerate(rows)
    ]
    assert [understood(r["v"]) for r in read] == [meaning(value) for value, _, _ in rows]
    array = json.loads(encode("json", [batch]))
    assert array == read
    assert [wire_line(record) for record in batch.records()] == lines


def visible(payload):
    """What is left of a payload's bytes on its way through JSON."""
    meant = meaning(payload)
    if isinstance(meant, bytes):
        return payload
    if not isinstance(meant, str):
        return payload.replace(b"\n", b" ").replace(b"\r", b" ").strip()
    if meant == payload.decode() or meaning(meant.encode()) == meant:
        return meant.encode()
    return payload.strip()  # a JSON string that holds JSON keeps its quotes


@given(st.lists(payloads, min_size=1, max_size=6))
@settings(deadline=None)
def test_decoding_gives_the_records_back_but_for_what_no_receiver_can_see(values):
    batch = batch_of(values)
    for name in ("ndjson", "json", "msgpack"):
        got = through(name, [batch])
        assert [r[:3] for r in got] == [r[:3] for r in batch.records()]
        if name != "msgpack":
            assert [r.value for r in got] == [visible(value) for value in values]
        assert through(name, [batch_of([r.value for r in got])]) == got


@pytest.mark.parametrize("name", ENCODED)
def test_one_hostile_payload_does_not_change_how_its_neighbours_are_written(name):
    good = [b'{"ts":%d,"v":1.50}' % i for i in range(3)]
    for value in HOSTILE:
        got = through(name, [batch_of([good[0], value, good[2]])])
        assert [json.loads(got[i].value) for i in (0, 2)] == [json.loads(good[i]) for i in (0, 2)]


@pytest.mark.parametrize("name", ENCODED)
def test_batches_and_gaps_come_in_the_order_of_their_offsets(name):
    gaps = [Gap("s", 3, 9, "thinned"), Gap("s", 12, 12, 'a "quoted" cause\n')]
    batches = [batch_of([b"1", b"2"], 10), batch_of([b"{}", b"7", b"[]"]), batch_of([], 12)]
    got = through(name, batches, gaps)
    assert [item.first if isinstance(item, Gap) else item.offset for item in got] == [0, 1, 2, 3, 10, 11, 12]
    assert [item for item in got if isinstance(item, Gap)] == gaps
    assert through(name, [], gaps) == gaps
    assert through(name, []) == []


@pytest.mark.parametrize("name", ["block", "block+zstd", "block+gzip"])
@given(
    st.lists(st.tuples(payloads, texts, st.sampled_from([0, RETAINED])), min_size=1, max_size=6), st.integers(0, 2**53)
)
@settings(deadline=None, max_examples=30)
def test_a_block_gives_every_record_and_gap_back_byte_for_byte(name, rows, first):
    batch = batch_of([r[0] for r in rows], first + 5, [r[1] for r in rows], bytes(r[2] for r in rows))
    gap = Gap("s", first, first + 4, "evicted")
    tail = batch_of([b"x", b"y"], batch.next)
    assert through(name, [batch, tail], [gap]) == [gap, *batch.records(), *tail.records()]


@pytest.mark.parametrize("name", ENCODED)
def test_the_same_records_give_the_same_bytes(name):
    batch = batch_of([b'{"v":%d}' % i for i in range(50)])
    assert encode(name, [batch]) == encode(name, [batch.slice(0, 50)])
    assert encode(name, [batch.slice(0, 20), batch.slice(20, 50)]) == encode(name, [batch])


def test_retained_records_are_marked_and_others_are_not():
    batch = batch_of([b"1", b"x"], flags=bytes([0, RETAINED]))
    assert encode("ndjson", [batch]).splitlines()[1].endswith(b'"v":"x","r":true}')
    assert b'"r"' not in encode("ndjson", [batch]).splitlines()[0]
    for name in ENCODED:
        assert [record.flags for record in through(name, [batch])] == [0, RETAINED]


def test_msgpack_carries_json_as_its_own_types_and_bytes_as_bytes():
    body = encode("msgpack", [batch_of([b'{"v":[1,2.5,null]}', b"on", b"\xff", b"9" * 30, b"null"])])
    assert [item["v"] for item in msgspec.msgpack.decode(body)] == [
        {"v": [1, 2.5, None]}, "on", b"\xff", b"9" * 30, None,
    ]  # fmt: skip


def test_packed_bodies_are_ordinary_zstd_and_gzip_and_may_be_chained():
    batch = batch_of([b"1", b"2"])
    plain = encode("ndjson", [batch])
    assert gzip.decompress(encode("ndjson+gzip", [batch])) == plain
    assert zstandard.decompress(encode("ndjson+zstd", [batch])) == plain
    for packing in ("zstd", "gzip"):
        assert unpack(encode(f"ndjson+{packing}", [batch]) * 3, packing, 1 << 20) == plain * 3


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_bomb_is_refused_before_it_is_unpacked(encoding):
    plain = bytes(64 << 20)
    bomb = zstandard.compress(plain) if encoding == "zstd" else gzip.compress(plain)
    with pytest.raises(Malformed, match="more than 1000 bytes"):
        decode(bomb, "application/x-ndjson", encoding, limit=1000)


@given(st.sampled_from(["application/x-ndjson", "application/json", "application/vnd.msgpack", "application/vnd.tidegate.block", "text/plain"]), st.sampled_from(["", "zstd", "gzip", "br"]), st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"TGD1" + b))  # fmt: skip
@settings(deadline=None)
def test_a_broken_body_is_malformed_and_nothing_else(content_type, encoding, body):
    try:
        items = decode(body, content_type, encoding)
    except Malformed:
        return
    assert all(isinstance(item, Record | Gap) for item in items)


def test_a_cut_body_is_malformed():
    for name in ("ndjson+gzip", "ndjson+zstd", "msgpack", "json"):
        form = Format.parse(name)
        body = form.encode([batch_of([b"1", b"2"])], [], gateway="g", epoch="e")
        with pytest.raises(Malformed):
            decode(body[:-3], form.content_type, form.encoding)


@pytest.mark.parametrize("text", ["", "ndjsn", "raw+zstd", "ndjson+", "ndjson+br", "json+zstd+gzip", "NDJSON"])
def test_an_unknown_format_says_what_there_is(text):
    with pytest.raises(ValueError, match="ndjson, json, msgpack or block"):
        Format.parse(text)


def test_a_format_names_its_type_and_packing():
    form = Format.parse("ndjson+zstd")
    assert (form.content_type, form.encoding, form.raw) == ("application/x-ndjson", "zstd", False)
    assert Format.parse("raw").raw
    assert Format.parse("json").encoding == ""
