import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import LogDamaged
from gateway.log import decode_block, encode_block
from gateway.log.block import PLAIN, RAW_LIMIT, TURNED
from gateway.log.columns import pack_times, unpack_times
from gateway.record import Batch

times = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(1_700_000_000 * 10**9, 1_700_000_100 * 10**9))
keys = st.one_of(st.sampled_from(["a", "site/b", ""]), st.text(max_size=20))
payloads = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x", b'{"v":1.25}', b'{"v":9.75}', b"y" * 3000]))


@st.composite
def batches(draw):
    rows = draw(st.lists(st.tuples(times, keys, payloads, st.integers(0, 3)), max_size=120))
    repeat = draw(st.integers(1, 3))
    rows *= repeat  # so that lengths are shared by enough payloads to be turned
    count = len(rows)
    cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=4))) if count > 1 else []
    ends = [*cuts, count] if count else []
    runs = tuple((100 + i * i, stop - start) for i, (start, stop) in enumerate(zip([0, *ends], ends)))
    flags = bytes(row[3] for row in rows) if draw(st.booleans()) else None
    columns = ([row[i] for row in rows] for i in range(3))
    return Batch("s", draw(st.integers(0, 2**40)), *columns, runs, flags)


@given(batches(), st.sampled_from([PLAIN, TURNED, None]))
@settings(max_examples=150, deadline=None)
def test_a_block_gives_back_exactly_what_went_in(batch, layout):
    back = decode_block(encode_block(batch, layout), "s")
    assert back == batch


@given(st.lists(times, max_size=50), st.sampled_from([1, 1000, 10**6, 10**9]))
@settings(deadline=None)
def test_times_survive_any_step_of_the_clock(numbers, unit):
    numbers = [number // unit * unit for number in numbers]
    numbers = [max(number, -(2**63)) for number in numbers]
    assert unpack_times(pack_times(numbers), len(numbers)) == numbers


@given(batches(), st.data())
@settings(max_examples=100, deadline=None)
def test_broken_bytes_are_told_from_a_block_and_never_crash(batch, data):
    blob = bytearray(encode_block(batch))
    what = data.draw(st.sampled_from(["flip", "cut", "noise"]))
    if what == "flip":
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "cut":
        del blob[data.draw(st.integers(0, len(blob) - 1)) :]
    else:
        blob = bytearray(data.draw(st.binary(max_size=60)))
    try:
        back = decode_block(bytes(blob), "s")
    except LogDamaged:
        return
    assert len(back.times) == len(back.keys) == len(back.values)


def test_turning_payloads_halves_telemetry():
    values = [
        b'{"ts":%010d,"value":%06.2f,"seq":%05d}' % (1_700_000_000 + i, 20 + (i * 37 % 100) / 50, i)
        for i in range(4096)
    ]
    batch = Batch("s", 0, list(range(4096)), [f"sensor/{i % 50}" for i in range(4096)], values, ((1, 4096),))
    plain, turned = encode_block(batch, PLAIN), encode_block(batch, TURNED)
    assert len(turned) < 0.6 * len(plain)
    assert encode_block(batch) == turned


def test_many_keys_and_huge_values_fit():
    count = 70_000
    batch = Batch("s", 5, [0] * count, [str(i) for i in range(count)], [b"v"] * count, ((1, count),))
    assert decode_block(encode_block(batch), "s") == batch
    huge = Batch("s", 5, [1, 2], ["a", "b"], [b"x" * (1 << 20), b""], ((1, 2),), b"\x00\x01")
    assert decode_block(encode_block(huge), "s") == huge


def test_a_blob_that_claims_a_gigabyte_is_refused_before_anything_is_allocated():
    bomb = zstandard.ZstdCompressor().compress(bytes(RAW_LIMIT + 1))
    with pytest.raises(LogDamaged, match="too much memory"):
        decode_block(encode_block(Batch("s", 0, [], [], []))[:4] + bomb, "s")
    assert zlib.crc32(bomb)  # it is a well-formed frame of a few kilobytes
