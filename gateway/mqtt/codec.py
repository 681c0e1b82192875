"""Packets to bytes and back, in the two versions of MQTT that are spoken.

Both yield and take the packets of the `mqtt5` library, so that nobody else needs to know which one is in use. On the
wire MQTT 3.1.1 is MQTT 5 without properties and with hardly any reason codes: what it cannot carry stays behind when
it is written, and has its default when it is read. (OASIS, MQTT Version 3.1.1, chapters 2 and 3.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mqtt5
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckPacket,
)

NO_UTF8 = "text that is no UTF-8"


class Codec(NamedTuple):
    """One version of MQTT, the client's side of it.

    `read` makes the first packet of some bytes and says how many of them it took. It raises IndexError where the packet
    is not complete and ValueError where it is malformed. `write` returns nothing for what the version has no words for.
    """

    version: int
    name: str
    read: Callable[[memoryview], tuple[Packet, int]]
    write: Callable[[Packet], bytes]


_QOS = QoS(0), QoS(1), QoS(2)
_REFUSALS = (  # what CONNACK of 3.1.1 says, by its number
    ConnAckReasonCode.SUCCESS,
    ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ConnAckReasonCode.CLIENT_ID_NOT_VALID,
    ConnAckReasonCode.SERVER_UNAVAILABLE,
    ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ConnAckReasonCode.NOT_AUTHORIZED,
)
_GRANTED = {0: SubAckReasonCode(0), 1: SubAckReasonCode(1), 2: SubAckReasonCode(2), 0x80: SubAckReasonCode(0x80)}
_NUMBERED: dict[int, Callable[[int], Packet]] = {
    0x40: PubAckPacket,
    0x50: PubRecPacket,
    0x62: PubRelPacket,
    0x70: PubCompPacket,
}  # id and nothing else


def _read(data: memoryview) -> tuple[Packet, int]:
    head, length, at = data[0], data[1], 2
    if length > 127:
        length &= 127
        for shift in (7, 14, 21):
            byte = data[at]
            at += 1
            length |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise ValueError("a length of more than four bytes")
    end = at + length
    if end > len(data):
        raise IndexError("the packet is not complete")
    if head >> 4 == 3:
        return _publish(head, data, at, end), end
    return _other(head, bytes(data[at:end])), end


def _publish(head: int, data: memoryview, at: int, end: int) -> PublishPacket:
    qos = head >> 1 & 3
    start = at + 2
    if qos == 3 or start > end:
        raise ValueError("QoS 3" if qos == 3 else "a message without a topic")
    stop = start + (data[at] << 8 | data[at + 1])
    body = stop + 2 if qos else stop
    if body > end:
        raise ValueError("a topic that is longer than its packet")
    try:
        topic = str(data[start:stop], "utf-8")
    except UnicodeDecodeError:
        raise ValueError(NO_UTF8) from None
    packet_id = None
    if qos:
        packet_id = data[stop] << 8 | data[stop + 1]
        if packet_id == 0:
            raise ValueError("packet id 0")
    return PublishPacket(
        topic,
        bytes(data[body:end]),
        qos=_QOS[qos],
        packet_id=packet_id,
        retain=head & 1 == 1,
        duplicate=head & 8 == 8,
    )


def _other(head: int, body: bytes) -> Packet:
    if head == 0xD0 and not body:
        return PingRespPacket()
    if len(body) < 2:
        raise ValueError(f"a packet that begins with {head:#04x} and has {len(body)} bytes")
    first = body[0] << 8 | body[1]
    if head == 0x20 and len(body) == 2 and body[0] < 2 and body[1] < len(_REFUSALS):
        return ConnAckPacket(session_present=body[0] == 1, reason_code=_REFUSALS[body[1]])
    if head in _NUMBERED and len(body) == 2 and first:
        return _NUMBERED[head](first)
    if head == 0x90 and len(body) > 2 and set(body[2:]) <= _GRANTED.keys():
        return SubAckPacket(first, [_GRANTED[code] for code in body[2:]])
    if head == 0xB0 and len(body) == 2:
        return UnsubAckPacket(first, [])
    raise ValueError(f"no packet that a broker may send: {head:#04x} {body[:8].hex(' ')}")


def _write(packet: Packet) -> bytes:
    if isinstance(packet, PublishPacket):
        head = 0x30 | packet.duplicate << 3 | int(packet.qos) << 1 | packet.retain
        numbered = b"" if packet.packet_id is None else packet.packet_id.to_bytes(2, "big")
        return _framed(head, (_text(packet.topic), numbered, packet.payload))
    if isinstance(packet, PubAckPacket):
        return _framed(0x40, (packet.packet_id.to_bytes(2, "big"),))
    if isinstance(packet, SubscribePacket):
        filters = [_text(one.pattern) + bytes([int(one.max_qos)]) for one in packet.topic_filters]
        return _framed(0x82, (packet.packet_id.to_bytes(2, "big"), *filters))
    if isinstance(packet, PingReqPacket):
        return b"\xc0\0"
    if isinstance(packet, DisconnectPacket):
        # It means that all is well, and takes our last will back. Whoever leaves for another reason just hangs up.
        return b"\xe0\0" if packet.reason_code == DisconnectReasonCode.NORMAL_DISCONNECTION else b""
    if isinstance(packet, ConnectPacket):
        return _connect(packet)
    raise TypeError(f"{type(packet).__name__} is nothing that we send")


def _connect(packet: ConnectPacket) -> bytes:
    flags, parts = packet.clean_start << 1, [_text(packet.client_id)]
    if (will := packet.will) is not None:
        payload = will.payload or b""
        flags |= 0x04 | int(will.qos) << 3 | will.retain << 5
        parts += [_text(will.topic), len(payload).to_bytes(2, "big"), payload]
    if packet.username is not None:
        flags |= 0x80
        parts.append(_text(packet.username))
        if packet.password is not None:  # which 3.1.1 takes beside a name only
            flags |= 0x40
            parts += [len(packet.password).to_bytes(2, "big"), packet.password]
    head = b"\0\4MQTT\4" + bytes([flags]) + packet.keep_alive.to_bytes(2, "big")
    return _framed(0x10, (head, *parts))


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _framed(head: int, parts: Sequence[bytes]) -> bytes:
    length = sum(map(len, parts))
    out = bytearray([head])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return b"".join((out, *parts))


def _write_5(packet: Packet) -> bytes:
    return packet.write()


FIVE = Codec(5, "MQTT 5", mqtt5.read, _write_5)
THREE = Codec(3, "MQTT 3.1.1", _read, _write)
