"""MQTT 3.1.1 against another program's codec, amqtt's: what we write it reads, what it writes we read, and the same is meant."""

import asyncio

import mqtt5
import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt import packet_class
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.unsuback import UnsubackPacket
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mqtt import THREE

QUIET = settings(max_examples=100, deadline=None)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=200)
IDS = st.integers(1, 65535)


def theirs(data):
    """What amqtt reads; all of it."""

    async def read():
        reader = BufferReader(data)
        head = await MQTTFixedHeader.from_stream(reader)
        packet = await packet_class(head).from_stream(reader, fixed_header=head)
        assert await reader.read(1) == b"", "the length is that of the packet"
        return packet

    return asyncio.run(read())


def ours(data):
    packet, size = THREE.read(memoryview(bytes(data) + b"more"))
    assert size == len(data)
    return packet


@QUIET
@given(TEXT, st.binary(max_size=400), st.one_of(st.none(), IDS), st.booleans(), st.booleans())
def test_messages_are_read_as_they_are_written_on_both_sides(topic, payload, packet_id, retain, duplicate):
    qos = 0 if packet_id is None else 1
    mine = mqtt5.PublishPacket(
        topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id, retain=retain, duplicate=duplicate and qos == 1
    )
    data = THREE.write(mine)
    read = theirs(data)
    assert (read.topic_name, bytes(read.data), read.packet_id) == (topic, payload, packet_id)
    assert (read.qos, read.retain_flag, read.dup_flag) == (qos, retain, duplicate and qos == 1)
    assert PublishPacket.build(topic, payload, packet_id, duplicate and qos == 1, qos, retain).to_bytes() == data
    again = ours(data)
    assert (again.topic, again.payload, again.packet_id, int(again.qos)) == (topic, payload, packet_id, qos)
    assert (again.retain, again.duplicate) == (retain, duplicate and qos == 1)


@QUIET
@given(
    client_id=TEXT,
    login=st.one_of(st.none(), st.tuples(TEXT, st.one_of(st.none(), st.binary(min_size=1, max_size=99)))),
    will=st.one_of(
        st.none(), st.tuples(TEXT, st.binary(min_size=1, max_size=99), st.sampled_from([0, 1]), st.booleans())
    ),
    clean=st.booleans(),
    keep_alive=st.integers(0, 65535),
)
def test_a_hello_says_what_it_means(client_id, login, will, clean, keep_alive):
    name, password = login or (None, None)
    last = will and mqtt5.Will(will[0], payload=will[1], qos=mqtt5.QoS(will[2]), retain=will[3], will_delay_interval=9)
    hello = mqtt5.ConnectPacket(
        client_id, username=name, password=password, clean_start=clean, will=last, keep_alive=keep_alive,
        session_expiry_interval=77, receive_max=5,
    )  # fmt: skip
    read = theirs(THREE.write(hello))
    assert isinstance(read, ConnectPacket)
    assert (read.proto_name, read.proto_level) == ("MQTT", 4)
    assert (read.client_id, read.clean_session_flag, read.keep_alive) == (client_id, clean, keep_alive)
    assert read.username == name
    assert (read.password_flag, read.username_flag) == (password is not None, name is not None)
    assert read.will_flag == (will is not None)
    if will is not None:
        assert (read.will_topic, read.will_message, read.will_qos, read.will_retain_flag) == will


@QUIET
@given(IDS, st.lists(st.tuples(TEXT, st.sampled_from([0, 1])), min_size=1, max_size=9))
def test_a_subscription_keeps_its_filters_in_order(packet_id, filters):
    asked = mqtt5.SubscribePacket(
        packet_id, [mqtt5.TopicFilter(pattern, max_qos=mqtt5.QoS(qos), no_local=True) for pattern, qos in filters]
    )
    read = theirs(THREE.write(asked))
    assert (read.variable_header.packet_id, read.payload.topics) == (packet_id, filters)


@QUIET
@given(IDS, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=9))
def test_what_a_broker_says_is_understood(packet_id, codes):
    granted = ours(SubackPacket.build(packet_id, codes).to_bytes())
    assert (granted.packet_id, [int(code) for code in granted.reason_codes]) == (packet_id, codes)
    for kind, mine in (
        (PubackPacket, mqtt5.PubAckPacket),
        (PubrecPacket, mqtt5.PubRecPacket),
        (PubrelPacket, mqtt5.PubRelPacket),
        (PubcompPacket, mqtt5.PubCompPacket),
        (UnsubackPacket, mqtt5.UnsubAckPacket),
    ):
        read = ours(kind.build(packet_id).to_bytes())
        assert type(read) is mine
        assert read.packet_id == packet_id
    assert THREE.write(mqtt5.PubAckPacket(packet_id)) == PubackPacket.build(packet_id).to_bytes()
    assert type(ours(b"\xd0\0")) is mqtt5.PingRespPacket


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "SUCCESS"),
        (1, "UNSUPPORTED_PROTOCOL_VERSION"),
        (2, "CLIENT_ID_NOT_VALID"),
        (3, "SERVER_UNAVAILABLE"),
        (4, "BAD_USER_NAME_OR_PASSWORD"),
        (5, "NOT_AUTHORIZED"),
    ],
)
def test_a_refusal_has_its_reason(code, name):
    for present in (0, 1):
        read = ours(ConnackPacket.build(present, code).to_bytes())
        assert (read.session_present, read.reason_code.name) == (present == 1, name)


@pytest.mark.parametrize(
    "data",
    [
        "20 02 00 06", "20 02 02 00", "20 03 00 00 00", "40 02 00 00", "40 03 00 01 00", "60 02 00 01", "90 02 00 01",
        "90 03 00 01 03", "b0 03 00 01 00", "d0 01 00", "e0 00", "c0 00", "82 05 00 01 00 00 00", "10 02 00 00", "f0 00",
        "00 00", "30 01 00", "30 80 80 80 80 01", "36 05 00 01 61 00 01", "32 04 00 01 61 00",
    ],
)  # fmt: skip
def test_what_no_broker_may_send_is_malformed_and_not_awaited(data):
    with pytest.raises(ValueError, match="."):
        THREE.read(memoryview(bytes.fromhex(data)))


def test_what_it_has_no_words_for_is_not_said():
    leaving = mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
    assert THREE.write(leaving) == b""
    assert THREE.write(mqtt5.DisconnectPacket()) == b"\xe0\0"
