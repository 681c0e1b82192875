"""What `frame:` and `checksum:` may say, and what is said of mistakes in them."""

import pytest

from gateway.config import convert, marks
from gateway.framing import FrameOptions


def read(text):
    """The options of a YAML text, and what is wrong with them."""
    node, problems = marks.parse("t.yaml", text.encode(), {})
    options = convert.Reader({}, problems).struct(node, (), FrameOptions)
    return options, [str(one).removeprefix("t.yaml:") for one in problems]


@pytest.mark.parametrize(
    ("text", "wire", "frames"),
    [
        ("frame: line", b"a\r\nb\rc\n", [b"a", b"b", b"c"]),
        ("frame: {delimiter: {end: ';', keep: true}}", b"a;b;;c", [b"a;", b"b;"]),
        (r"frame: {delimiter: {end: '\r'}}", b"a\rb\nc\r", [b"a", b"b\nc"]),
        ('frame: {delimiter: {end: "\\r"}}', b"a\rb\nc\r", [b"a", b"b\nc"]),
        (r"frame: {fixed: {size: 4, start: '\xaa'}}", b"..\xaaabc\xaadef", [b"abc", b"def"]),
        ("frame: {length: {type: u8}}", b"\x02ab\x01c", [b"ab", b"c"]),
        ("frame: {length: {type: u8, counts: frame, keep: true}}", b"\x03ab\x02c", [b"\x03ab", b"\x02c"]),
        (r"frame: {length: {type: u16le, start: '~', at: 2}}", b"~A\x02\x00ab", [b"Aab"]),
        ("frame: stx", b"\x02ab\x03\r\n\x02cd\x03", [b"ab", b"cd"]),
        ("frame: {stx: {start: '<', end: '>', keep: true}}", b"<ab>", [b"<ab>"]),
        ("frame: slip", b"\xc0a\xdb\xdcb\xc0", [b"a\xc0b"]),
        ("frame: cobs", b"\x02a\x02b\0", [b"a\0b"]),
        ("{frame: line, checksum: {kind: xor, hex: true, after: '*', skip: 1}}", b"$AB*03\n$AB*04\n", [b"$AB"]),
        ("{frame: stx, checksum: sum}", b"\x02ab\xc3\x03", [b"ab"]),
    ],
)
def test_a_framing_is_written_in_a_line(text, wire, frames):
    options, problems = read(text)
    assert problems == []
    assert options.framer().feed(wire) == frames


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame: lien", "1:8: frame: 'lien' is none of its values; did you mean line?"),
        ("frame: fixed", "1:8: frame: fixed must be told more; write frame: {fixed: {size: 16}}"),
        (
            "frame: {}",
            "1:1: frame: names no framing; write line, or one of delimiter, fixed, length, stx, gap with options",
        ),
        ("frame: {fixd: {size: 2}}", "1:9: frame.fixd: unknown option; did you mean fixed?"),
        (
            "frame: {gap: {silence: 20ms}, fixed: {size: 2}}",
            "1:9: frame.gap: a frame has one kind of end, and fixed is given too; remove one",
        ),
        ("frame: {gap: {silence: 0ms}}", "1:24: frame.gap.silence: 0ms is too little; write at least 1ms"),
        ("frame: {delimiter: {end: ''}}", "1:26: frame.delimiter.end: is empty; write at least one byte"),
        (
            r"frame: {delimiter: {end: '\q'}}",
            r"1:26: frame.delimiter.end: \q is no escape; write \r, \n, \t, \0, \xHH, or \\ for a backslash",
        ),
        (
            "frame: {delimiter: {end: '→'}}",
            r"1:26: frame.delimiter.end: '→' is no byte; write its bytes as \xHH",
        ),
        (
            "frame: {fixed: {size: 5000}}",
            "1:23: frame.fixed.size: is more than max_frame, 4096; raise that",
        ),
        (
            "{frame: {fixed: {size: 2}}, checksum: crc16-modbus}",
            "1:24: frame.fixed.size: leaves no room for a value before the checksum; write more",
        ),
        (
            "frame: {stx: {start: '#', end: '#'}}",
            "1:33: frame.stx.end: start and end are the same; write frame: {delimiter: {end: …}} for that",
        ),
        (
            "checksum: {kind: xor, order: big}",
            "1:30: checksum.order: xor is one byte and has no order; remove it",
        ),
    ],
)
def test_a_mistake_is_told_at_its_place_with_what_to_try(text, message):
    options, problems = read(text)
    assert options is convert.BROKEN
    assert problems == [message]


def test_frames_that_nobody_can_find_again_are_doubted():
    blind, _ = read("frame: {fixed: {size: 4}}")
    assert [doubt.path for doubt in blind.frame_doubts()] == [("frame", "fixed")]
    for text in ("frame: line", "{frame: {fixed: {size: 4}}, checksum: xor}", "frame: {fixed: {size: 4, start: '~'}}"):
        assert read(text)[0].frame_doubts() == []


@pytest.mark.parametrize(
    ("text", "said", "sent"),
    [
        ("{frame: {gap: {silence: 20ms}}, checksum: crc16-modbus}", b"\x01\x03\0\0\0\2", b"\x01\x03\0\0\0\2\xc4\x0b"),
        (
            "{frame: {fixed: {size: 9}}, checksum: {kind: crc16-modbus, order: big}}",
            b"\1\3\0\0\0\2",
            b"\1\3\0\0\0\2\x0b\xc4",
        ),
        ("checksum: {kind: xor, hex: true, after: '*', skip: 1}", b"$PMTK010\r\n", b"$PMTK010*33\r\n"),
        ("{frame: {delimiter: {end: ';'}}, checksum: sum}", b"AB;", b"AB\x83;"),
        ("{frame: {delimiter: {end: ';'}}, checksum: sum}", b"AB", b"AB\x83"),
    ],
)
def test_a_question_is_sealed_with_the_checksum_that_answers_have(text, said, sent):
    options, _ = read(text)
    assert options.sealed(said) == sent


@pytest.mark.parametrize(
    ("text", "told"), [("frame: line", "there is no checksum"), ("{frame: slip, checksum: xor}", "frames of slip")]
)
def test_what_cannot_be_sealed_is_told(text, told):
    options, _ = read(text)
    with pytest.raises(ValueError, match=told):
        options.sealed(b"A")


def test_what_is_left_of_a_frame_that_failed_is_the_same_trouble_and_what_is_no_part_of_it_is_not():
    framer = read("{frame: {fixed: {size: 4}}, checksum: xor}")[0].framer()
    assert framer.feed(b"abcd") == []
    framer.reset()
    assert [(bad.reason, bad.times) for bad in framer.bad()] == [("the checksum is wrong", 1)]
    framer.feed(b"ab")
    framer.reset()
    assert [bad.reason for bad in framer.bad()] == ["cut off: its end did not come"]
