"""Framing against plain reference parsers: no good frame is lost, whatever the splits, the noise and the length."""

import binascii
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.framing import Checksum, Frame, FrameOptions
from gateway.framing.options import Delimiter, Fixed, Gap, Length, Stx
from gateway.framing.sought import IN_VAIN, SAVED_UP
from gateway.framing.sought import Length as LengthFramer
from gateway.quantity import Duration, Octets, Size

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MOST = 24  # small, so that the bound is met often


def framed(frame, checksum=None, most=MOST):
    return FrameOptions(frame=frame, checksum=checksum, max_frame=Size(most))


# -- reference parsers: one byte at a time, over everything at once; (frames, count of bad ones) ---------------------


def marked(data, mark, ended=True):
    """Every frame between marks that is neither empty nor too long."""
    parts = data.split(mark)
    return [part for part in parts if part and len(part) <= MOST]


def slow_lines(data):
    return marked(data.replace(b"\r", b"\n"), b"\n")


def slow_slip(data):
    found = []
    for part in data.split(b"\xc0")[:-1]:
        out, escaped, good = bytearray(), False, True
        for byte in part:
            if escaped:
                good &= byte in (0xDC, 0xDD)
                out.append({0xDC: 0xC0, 0xDD: 0xDB}.get(byte, 0))
                escaped = False
            elif byte == 0xDB:
                escaped = True
            else:
                out.append(byte)
        if good and not escaped and 0 < len(out) <= MOST:
            found.append(bytes(out))
    return found


def slow_cobs(data):
    found = []
    for part in data.split(b"\0")[:-1]:
        out, left, code = bytearray(), 0, 0xFF
        for byte in part:
            if left == 0:
                if code < 0xFF:
                    out.append(0)
                code, left = byte, byte - 1
            else:
                out.append(byte)
                left -= 1
        if part and left == 0 and 0 < len(out) <= MOST:
            found.append(bytes(out))
    return found


def slow_sought(data, start, size_at, value):
    """`size_at`: the length of a frame at a place or 0; `value`: what a frame says, None if it is wrong."""
    found, at = [], 0
    while at < len(data):
        size = size_at(data, at) if data.startswith(start, at) else 0
        said = value(data[at : at + size]) if size and at + size <= len(data) else None
        if said is None:
            at += 1
        else:
            found.append(said)
            at += size
    return found


def slow_enclosed(data):
    found, inside = [], None
    for byte in data:
        if byte == 2:
            inside = bytearray()
        elif byte == 3 and inside is not None:
            if 0 < len(inside) <= MOST:
                found.append(bytes(inside))
            inside = None
        elif inside is not None:
            inside.append(byte)
    return found


def slow_stuffed(data):
    found, inside, at = [], None, 0
    while at < len(data):
        pair = data[at : at + 2]
        if inside is None:
            if pair == b"\x10\x02":
                inside, at = bytearray(), at + 2
            else:
                at += 1
        elif pair[:1] != b"\x10":
            inside += pair[:1]
            at += 1
        elif len(pair) == 2:
            if pair == b"\x10\x10":
                inside += b"\x10"
                at += 2
            else:
                if pair == b"\x10\x03":
                    if 0 < len(inside) <= MOST:
                        found.append(bytes(inside))
                    at += 2
                inside = None
        else:
            break
    return found


def xored(frame):
    total = 0
    for byte in frame[:-1]:
        total ^= byte
    return frame[:-1] if total == frame[-1] and len(frame) > 1 else None


def size_u8(data, at):
    size = data[at + 1] + 3 if at + 1 < len(data) else 0
    return size if size <= MOST else 0


def size_u16(data, at):
    size = int.from_bytes(data[at : at + 2], "big") + 2 if at + 2 <= len(data) else 0
    return size if size <= MOST else 0


CASES = {
    "line": (framed("line"), slow_lines, b"\r\n"),
    "delimiter": (framed(Frame(delimiter=Delimiter(end=Octets(";;")))), lambda data: marked(data, b";;"), b";"),
    "slip": (framed("slip"), slow_slip, b"\xc0\xdb\xdc\xdd"),
    "cobs": (framed("cobs"), slow_cobs, b"\x00\x01\x02\x05\xff"),
    "stx": (framed("stx"), slow_enclosed, b"\x02\x03"),
    "dle": (framed(Frame(stx=Stx(dle=True))), slow_stuffed, b"\x10\x10\x02\x03"),
    "fixed, found by its start": (
        framed(Frame(fixed=Fixed(size=6, start=Octets(r"\xaa\x55"), keep=True))),
        lambda data: slow_sought(data, b"\xaa\x55", lambda data, at: 6, lambda frame: frame),
        b"\xaa\x55",
    ),
    "fixed, found by its checksum": (
        framed(Frame(fixed=Fixed(size=4)), "xor"),
        lambda data: slow_sought(data, b"", lambda data, at: 4, xored),
        b"\x01\x02\x03",
    ),
    "length": (
        framed(Frame(length=Length(type="u16be"))),
        lambda data: slow_sought(data, b"", size_u16, lambda frame: frame[2:]),
        b"\x00\x01\x02\x03",
    ),
    "length, with start and checksum": (
        framed(Frame(length=Length(type="u8", start=Octets("~"), plus=1)), "xor"),
        lambda data: slow_sought(data, b"~", size_u8, lambda f: f[2:-1] if xored(f) is not None else None),
        b"~\x01\x02\x03",
    ),
}


@st.composite
def pieces(draw, likely):
    """Bytes that are mostly marks and near-frames, and where to cut them into reads."""
    byte = st.one_of(st.sampled_from(list(likely)), st.integers(0, 255))
    data = bytes(draw(st.lists(byte, max_size=160)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("name", CASES)
@QUIET
@given(data=st.data())
def test_whatever_comes_in_whatever_reads_exactly_the_frames_of_the_reference_come_out(name, data):
    options, reference, likely = CASES[name]
    reads = data.draw(pieces(likely))
    framer, whole = options.framer(), options.framer()
    found = []
    for read in reads:
        found += framer.feed(read)
        assert framer.pending <= 2 * MOST + 4
    found += framer.flush()
    assert found == reference(b"".join(reads))
    # … and the account of what was bad is the same as for one single read.
    assert found == whole.feed(b"".join(reads)) + whole.flush()
    assert sum(bad.times for bad in framer.bad()) == sum(bad.times for bad in whole.bad())


def cobs(value):
    """As Cheshire and Baker's paper has it."""
    out, block = bytearray(), bytearray()
    for byte in [*value, 0]:
        if byte:
            block.append(byte)
        if not byte or len(block) == 254:
            out += bytes([len(block) + 1]) + block
            block = bytearray()
    return bytes(out) + b"\0"


def slip(value):
    return b"\xc0" + value.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def modbus(data):
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


def ccitt(data):
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")


CRC = "crc16-ccitt"
MADE = {
    "line": (framed("line", Checksum(kind="xor", hex=True, after=Octets("*"), skip=1), 4096), None),
    "slip": (framed("slip", CRC, 4096), lambda v: slip(v + ccitt(v))),
    "cobs": (framed("cobs", "crc16-modbus", 4096), lambda v: cobs(v + modbus(v))),
    "dle": (
        framed(Frame(stx=Stx(dle=True)), CRC, 4096),
        lambda v: b"\x10\x02" + (v + ccitt(v)).replace(b"\x10", b"\x10\x10") + b"\x10\x03",
    ),
    "length": (
        framed(Frame(length=Length(type="u16le", start=Octets(r"\xa5\x5a"), plus=2)), CRC, 300),
        lambda v: (lambda head: head + ccitt(head))(b"\xa5\x5a" + len(v).to_bytes(2, "little") + v),
    ),
}


def made(name, value):
    if name == "line":
        text = b"$" + binascii.hexlify(value)
        check = 0
        for byte in text[1:]:
            check ^= byte
        return text, text + b"*%02X\r\n" % check
    return value, MADE[name][1](value)


@pytest.mark.parametrize("name", MADE)
def test_good_frames_come_through_a_line_that_cuts_and_garbles_every_tenth(name):
    rng = random.Random(name)
    options = MADE[name][0]
    framer, wanted, line, spoilt = options.framer(), [], bytearray(), 0
    for _ in range(3000):
        value, wire = made(name, rng.randbytes(rng.randint(1, 200)))
        fate = rng.random()
        if fate < 0.05:
            line += wire[: rng.randint(1, max(1, len(wire) - 5))]  # so that something is missing, not its mark alone
            spoilt += 1
            if name != "length":  # what was cut takes the next frame with it, up to the next mark
                line += made(name, b"x")[1]
        elif fate < 0.1:
            line += rng.randbytes(rng.randint(1, 30)) + (b"\n" if name == "line" else b"\xc0\0" * 2)
        else:
            wanted.append(value)
            if name == "dle":
                line += b"."  # a lone DLE of the noise before must not swallow ours
            line += wire
    found, at = [], 0
    while at < len(line):
        step = rng.randint(1, 700)
        found += framer.feed(bytes(line[at : at + step]))
        at += step
    found += framer.flush()
    kept = set(found)
    lost = [value for value in wanted if value not in kept]
    assert not lost, f"{len(lost)} of {len(wanted)}"
    extra = [value for value in found if value not in set(wanted) and value not in (b"x", b"$78")]
    # Noise that happens to end with its own checksum: one in 256 where that is one byte.
    assert len(extra) <= (6 if name == "line" else 1)
    assert sum(bad.times for bad in framer.bad()) >= spoilt * 0.9


@pytest.mark.parametrize("name", CASES)
def test_a_megabyte_of_garbage_neither_grows_memory_nor_stops_the_next_frame(name):
    options, _, likely = CASES[name]
    good = {
        "line": b"\nok\n", "delimiter": b";;ok;;", "slip": b"\xc0ok\xc0", "cobs": b"\0\x03ok\0", "stx": b"\x03\x02ok\x03",
        "dle": b"..\x10\x03..\x10\x02ok\x10\x03", "fixed, found by its start": b"....\xaa\x55okok",
        "fixed, found by its checksum": b"\x00" * 4 + b"oka" + bytes([ord("o") ^ ord("k") ^ ord("a")]),
        "length": b"\x00" * 40 + b"\x00\x02ok",
        "length, with start and checksum": b"." * 30 + b"~\x02ok" + bytes([ord("~") ^ 2 ^ ord("o") ^ ord("k")]),
    }[name]  # fmt: skip
    rng = random.Random(5)
    for never in (b"", likely):  # all bytes; and all but those that could end a frame
        framer = options.framer()
        for _ in range(64):
            framer.feed(rng.randbytes(16384).translate(None, never))
            assert framer.pending <= 2 * MOST + 4
        assert framer.bad()
        assert any(b"ok" in frame for frame in framer.feed(good + good) + framer.flush())


def test_bytes_before_and_after_a_cut_are_never_joined():
    for name, (options, _, _) in CASES.items():
        if name.startswith("fixed") or name == "length":
            continue  # these have frames anywhere
        framer = options.framer()
        half = {
            "dle": b"\x10\x02ab",
            "stx": b"\x02ab",
            "cobs": b"\x05ab",
            "length, with start and checksum": b"~\x04ab",
        }
        framer.feed(half.get(name, b"ab"))
        framer.reset()
        assert framer.pending == 0
        assert [bad.times for bad in framer.bad()] == [1], name
        rest = {"dle": b"cd\x10\x03", "stx": b"cd\x03", "delimiter": b"cd;;", "slip": b"cd\xc0", "cobs": b"\x03cd\0"}
        found = framer.feed(rest.get(name, b"cd\n")) + framer.flush()
        assert not [value for value in found if b"ab" in value], name


def test_silence_ends_a_frame_and_garbage_without_any_is_one_bad_frame():
    framer = framed(Frame(gap=Gap(silence=Duration(0.02))), "crc16-modbus").framer()
    assert framer.idle_s == 0.02
    reply = bytes.fromhex("01030200fa")
    assert framer.feed(reply[:2]) == framer.feed(reply[2:] + modbus(reply)) == []
    assert framer.flush() == [reply]
    assert framer.flush() == []
    for _ in range(1000):
        framer.feed(bytes(100))
        assert framer.pending <= MOST
    assert framer.flush() == []
    assert [bad.times for bad in framer.bad()] == [1]
    assert framer.feed(reply + modbus(reply)) + framer.flush() == [reply]


@pytest.mark.parametrize(("kind", "value"), [("xor", 0x31), ("sum", 0xDD), ("crc16-modbus", 0x4B37), (CRC, 0x29B1)])
def test_the_checksums_are_those_of_the_catalogue(kind, value):
    # Greg Cook's catalogue of parametrised CRC algorithms: the check value is that of "123456789".
    order = "little" if kind == "crc16-modbus" else "big"
    wire = value.to_bytes(2 if kind.startswith("crc") else 1, order)
    assert Checksum(kind=kind).check()(b"123456789" + wire) == b"123456789"
    assert Checksum(kind=kind).check()(b"123456788" + wire) is None
    assert Checksum(kind=kind, hex=True).check()(b"123456789" + b"%0*X" % (len(wire) * 2, value)) == b"123456789"
    assert Checksum(kind=kind, hex=True).check()(b"123456789" + b"zz" * len(wire)) is None
    assert Checksum(kind=kind).check()(b"") is None


def test_bytes_that_look_like_long_frames_again_and_again_cost_no_more_than_their_share():
    summed = 0

    def check(frame):
        nonlocal summed
        summed += len(frame)
        return frame if frame.endswith(b"ok") else None

    framer = LengthFramer(check, 4096, b"", ">H", 0, 2, keep=False, least=2)
    for _ in range(64 * 16):
        framer.feed(b"\x0f" * 256)  # each says that 3855 bytes follow
    assert summed < IN_VAIN * 64 * 4096 + SAVED_UP + 4096
    assert framer.pending <= 4096
    framer.flush()
    assert framer.feed(b"\0\x03.ok") == [b".ok"]
