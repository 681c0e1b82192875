"""Every decoder is total: whatever the bytes are, it gives the shape or one of the errors it may raise."""

import struct
from typing import Annotated

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.decode import decoding, names, reader
from gateway.errors import Malformed, NoRecord


class Inner(msgspec.Struct):
    v: Annotated[float, msgspec.Meta(ge=-1e308, le=1e308)] | None = None
    n: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    s: str | None = None
    ok: bool | None = None


class Shape(Inner):
    tags: Inner | None = None
    fields: Inner | None = None
    measurement: str | None = None
    timestamp: int | None = None


DECODERS = {
    **{name: name for name in names()},
    "csv": {"csv": {"columns": ["v", "n", "s", "ok"], "skip": ["#"]}},
    "csv ;": {"csv": {"columns": ["v", "n", "s", "ok"], "delimiter": ";", "decimal": "comma", "quote": "'"}},
    "csv blank": {"csv": {"columns": ["v", "n", "s", "ok"], "delimiter": " "}},
    "nmea lax": {"nmea": {"checksum": "if_there"}},
    "regex": {"regex": {"pattern": r"(?P<v>[^,]*),(?P<n>[^,]*)(?:,(?P<s>.*))?", "match": "search"}},
    "struct": {
        "struct": {
            "order": "little",
            "layout": [
                {"name": "v", "type": "f32", "scale": 0.1},
                {"name": "n", "type": "u64"},
                {"name": "s", "type": "text", "length": 3},
                {"type": "u8", "bits": {"ok": 3}},
            ],
        }
    },
}
READERS = {name: reader(decoding(said), Shape) for name, said in DECODERS.items()}
# bytes that look like something: what is almost right finds more than what is not
pieces = st.sampled_from([
    b"m", b",", b"=", b" ", b";", b'"', b"'", b"\\", b"\n", b"\r", b"#", b"\0", b"\xff", "é".encode(), b"1", b"-", b".", b"e9", b"1e999",
    b"i", b"u", b"t", b"v=1", b"n=1i", b's="x"', b"ok=t", b"nan", b"inf", b"{", b"}", b'"v":', b"9" * 30, b"v", b"\xe2\x80\xa8", b"\x85",
    b"$", b"!", b"*", b"$GPRMC,", b"$IIXDR,", b"$GPGSV,", b"$GPGGA,", b",N,", b"4807.038", b"123519", b"*6A", b"!AIVDM,", b"$PX",
])  # fmt: skip
payloads = st.one_of(
    st.binary(max_size=60), st.lists(pieces, max_size=12).map(b"".join), st.binary(min_size=16, max_size=16)
)


@pytest.mark.parametrize("name", sorted(READERS))
@given(payload=payloads)
@settings(max_examples=400, deadline=None)
@example(b"[" * 60_000)
@example(b"m," + b"\\" * 60_000)
@example(b"m,a=" + b"\\ " * 30_000)
@example(b'm s="' + b"\\" * 60_000)
@example(b'"' * 60_000)
@example(b"1," * 30_000)
@example(b"v=" * 30_000)
@example(b"$" * 60_000)
@example(b"$" * 1_000)
@example(b"$IIXDR" + b"," * 1_000)
def test_a_decoder_gives_the_shape_or_an_error_it_may_raise(name, payload):
    try:
        found = READERS[name](payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed, NoRecord) as error:
        assert len(str(error)) < 1000 or isinstance(error, UnicodeDecodeError)
        return
    assert isinstance(found, Shape)
    for part in (found, found.tags, found.fields):
        assert part is None or part.v is None or part.v - part.v == 0


@given(
    st.lists(
        st.text(
            st.characters(exclude_characters='\r\n"\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e', exclude_categories=["Cs"]),
            max_size=8,
        ),
        min_size=2,
        max_size=5,
    ),
    st.sampled_from([",", ";", "\t"]),
)
@settings(deadline=None)
def test_csv_reads_back_what_was_quoted(cells, delimiter):
    cells = [cell.strip() for cell in cells]
    columns = [f"c{i}" for i in range(len(cells))]
    shape = msgspec.defstruct("Cells", [(column, str | None, None) for column in columns])
    line = delimiter.join(f'"{cell}"' for cell in cells).encode()
    found = reader(decoding({"csv": {"columns": columns, "delimiter": delimiter}}), shape)(line)
    assert [getattr(found, column) or "" for column in columns] == cells


@given(
    st.floats(-1e30, 1e30),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.booleans(),
)
@settings(deadline=None)
def test_influx_reads_back_what_was_escaped(v, n, s, ok):
    text = s.replace("\\", "\\\\").replace('"', '\\"')
    line = f'm v={v!r},n={n}i,s="{text}",ok={"t" if ok else "f"} 7'.encode()
    assert READERS["influx"](line) == Shape(
        tags=Inner(), fields=Inner(v=v, n=n, s=s, ok=ok), measurement="m", timestamp=7
    )


SENTENCE = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"
POSITION = reader(
    decoding("nmea"), msgspec.defstruct("Position", [("type", str), ("latitude", float), ("altitude_m", float)])
)


@given(st.binary(max_size=40).map(lambda noise: noise.strip().translate(None, b"\r\n\\")))
def test_a_sentence_is_found_behind_noise_of_its_line(noise):
    found = POSITION(noise + SENTENCE)
    assert (found.type, found.latitude, found.altitude_m) == ("GGA", 48.1173, 545.4)


@given(st.integers(1, len(SENTENCE) - 1), st.integers(1, 255))
def test_a_sentence_with_a_changed_byte_is_refused(at, change):
    spoilt = bytearray(SENTENCE)
    spoilt[at] ^= change
    with pytest.raises((Malformed, NoRecord, UnicodeDecodeError)):
        if POSITION(bytes(spoilt)) == POSITION(SENTENCE):  # a digit of the checksum may be small: 6f is 6F
            raise Malformed("the same")


@given(st.integers(0, len(SENTENCE) - 1))
def test_a_sentence_that_was_cut_off_is_refused(length):
    with pytest.raises((Malformed, NoRecord)):
        POSITION(SENTENCE[:length])


@given(st.integers(-(2**15), 2**15 - 1), st.sampled_from([0.1, 0.01, 0.001]))
@settings(deadline=None)
def test_a_scaled_number_is_the_nearest_to_what_the_manual_says(raw, scale):
    options = {"struct": {"order": "big", "layout": [{"name": "v", "type": "i16", "scale": scale}]}}
    found = reader(decoding(options), Inner)(struct.pack(">h", raw))
    assert repr(found.v) == repr(raw / round(1 / scale))
