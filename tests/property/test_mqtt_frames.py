"""Hostile and chopped bytes: the framing neither crashes nor loses the packets around what is broken."""

import random

import mqtt5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.mqtt import FIVE, THREE, Frames, Spoilt

LIMIT = 100_000

# mqtt5 0.8 panics at text that is no UTF-8 and reports the error that caused it as one nobody could raise.
panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
versions = pytest.mark.parametrize("codec", [FIVE, THREE], ids=["5", "3.1.1"])
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def publish(topic, payload, packet_id=0, codec=FIVE):
    qos = mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE
    return codec.write(mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id or None))


def feed(frames, data, cuts=()):
    """What comes out of the frames when the bytes arrive in reads that end at `cuts`."""
    packets, at = [], 0
    for stop in [*sorted(cuts), len(data)]:
        while at < stop:
            space = frames.space()
            count = min(len(space), stop - at)
            space[:count] = data[at : at + count]
            at += count
            packets += frames.take(count)
    return packets


def told(packets):
    """Packets as comparable values; the sample of a spoilt one depends on how the reads fell."""
    return [
        (p.reason, p.packet_id, p.qos, p.fatal)
        if isinstance(p, Spoilt)
        else (p.topic, p.payload, p.packet_id)
        if isinstance(p, mqtt5.PublishPacket)
        else type(p).__name__
        for p in packets
    ]


def good(codec):
    messages = [
        publish("a/b", b"1" * 20, 7, codec),
        publish("a/ü", b"", 0, codec),
        publish("c", b"x" * 300, 65535, codec),
    ]
    return (b"\xd0\x00").join(messages[:2]) + messages[2]


BAD_TEXT = bytes([0x32, 8]) + b"\x00\x02\xff\xfe\x00\x05\x00z"
BAD_PROPERTY = bytes([0x32, 9]) + b"\x00\x01a\x00\x06\x02\x7f\x00z"
TOO_LARGE = publish("big", b"y" * (LIMIT + 1), 8)
BAD_TEXT_3 = bytes([0x32, 7]) + b"\x00\x02\xff\xfe\x00\x05z"
BAD_TOPIC_3 = bytes([0x30, 4]) + b"\x00\x05ab"


@versions
def test_packets_come_out_the_same_wherever_the_reads_are_cut(codec):
    data = good(codec)
    expected = told(feed(Frames(LIMIT, codec.read), data))
    assert expected == [("a/b", b"1" * 20, 7), "PingRespPacket", ("a/ü", b"", None), ("c", b"x" * 300, 65535)]
    for cut in range(len(data)):
        assert told(feed(Frames(LIMIT, codec.read), data, [cut])) == expected
    assert told(feed(Frames(LIMIT, codec.read), data, range(len(data)))) == expected


@panics
@pytest.mark.parametrize(
    ("codec", "poison", "packet_id"),
    [
        (FIVE, BAD_TEXT, 5),
        (FIVE, BAD_PROPERTY, 6),
        (FIVE, TOO_LARGE, 8),
        (THREE, BAD_TEXT_3, 5),
        (THREE, BAD_TOPIC_3, 0),
        (THREE, publish("big", b"y" * (LIMIT + 1), 8, THREE), 8),
        (THREE, b"\x32\x05\x00\x01a\x00\x00", 0),
    ],
    ids=["text", "property", "size", "text 3", "topic 3", "size 3", "no id 3"],
)
def test_a_broken_message_is_skipped_by_its_length_and_its_id_is_read(codec, poison, packet_id, capfd):
    data = publish("before", b"1", 1, codec) + poison + publish("after", b"2", 2, codec)
    rng = random.Random(3)
    for cuts in [[], [rng.randrange(len(data)) for _ in range(5)], range(min(len(data), 60))]:
        out = feed(Frames(LIMIT, codec.read), data, cuts)
        assert [p.packet_id for p in out] == [1, packet_id, 2]
        assert isinstance(out[1], Spoilt)
        assert not out[1].fatal
        assert out[1].qos == poison[0] >> 1 & 3
    capfd.readouterr()  # the codec's panic says so on stderr


def test_a_packet_of_exactly_the_limit_is_taken():
    head = len(publish("t", b"y" * 90_000)) - 90_000
    packet = publish("t", b"y" * (LIMIT - head))
    assert len(packet) == LIMIT
    assert told(feed(Frames(LIMIT), packet)) == [("t", b"y" * (LIMIT - head), None)]


@versions
@pytest.mark.parametrize(
    "data",
    [b"\x32\xff\xff\xff\xff\x01", b"\x00\x00", b"\xd1\x00", b"\x36\x05\x00\x01a\x00\x01", b"\x20\x03\x00\x70\x00"],
)
def test_broken_framing_ends_with_one_fatal_packet(data, codec):
    frames = Frames(LIMIT, codec.read)
    out = feed(frames, publish("a", b"1", 1, codec) + data + publish("b", b"2", 2, codec))
    assert told(out[:1]) == [("a", b"1", 1)]
    assert [p.fatal for p in out[1:]] == [True]
    assert feed(frames, good(codec)) == []


@panics
@versions
@QUIET
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_random_bytes_never_raise_and_never_depend_on_the_cuts(codec, data, cuts):
    whole = told(feed(Frames(LIMIT, codec.read), data))
    assert told(feed(Frames(LIMIT, codec.read), data, [cut for cut in cuts if cut < len(data)])) == whole


@panics
@versions
@QUIET
@given(st.data())
def test_damage_inside_messages_costs_those_messages_only(codec, data):
    """Topic and body of some messages are overwritten, their fixed headers are not: the others all come out."""
    packets, intact = [], []
    for n in range(data.draw(st.integers(1, 12))):
        packet = bytearray(publish(f"site/{n}", b"v" * data.draw(st.integers(0, 60)), n + 1, codec))
        if data.draw(st.booleans()):
            for at in range(2, len(packet)):
                if data.draw(st.booleans()):
                    packet[at] = data.draw(st.integers(0, 255))
        else:
            intact.append(n + 1)
        packets.append(bytes(packet))
    stream = b"".join(packets)
    cuts = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=5))
    out = feed(Frames(LIMIT, codec.read), stream, cuts)
    assert len(out) == len(packets)
    assert [p.packet_id for p, raw in zip(out, range(1, len(packets) + 1)) if raw in intact] == intact
    assert not any(isinstance(p, Spoilt) and p.fatal for p in out)


@versions
def test_memory_stays_at_the_limit_whatever_length_is_claimed(codec):
    frames = Frames(LIMIT, codec.read)
    out = feed(frames, b"\x32\xff\xff\xff\x7f\x00\x01a\x00\x09" + bytes(300_000))
    assert told(out) == [(f"packet of {0x0FFFFFFF + 5} bytes is larger than max_packet ({LIMIT})", 9, 1, False)]
    assert len(frames.space()) <= LIMIT
