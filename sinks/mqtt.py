"""MQTT 5 and 3.1.1: batches to a broker at QoS 1, or one message per record (`format: raw`).

- Messages leave in the order of the calls; the broker's Receive Maximum is never exceeded, its Maximum Packet Size
  neither. What fits the window leaves in one write.
- A send returns after the broker's PUBACKs for all of it. When the connection is lost, every send that waits fails: the
  house keeps the batches and sends them again, under the same id.
- Nothing of ours waits at the broker but what it acknowledged. Our session there ends with the connection; with a
  `status_topic` it lasts for `offline_after` beyond it, since the last will is sent at its end.
"""

import asyncio
import difflib
import math
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from mqtt5 import ConnAckPacket, DisconnectReasonCode, PubAckPacket, PubAckReasonCode, PublishPacket, QoS, SubAckPacket

from gateway.errors import DeliveryTooLarge, SinkUnavailable
from gateway.mqtt import STATUS_ID, Announcer, Broker, BrokerOptions, Link, LinkLost, Spoilt, refused, words
from gateway.plugin import Mistake, Outlet, Plugin
from gateway.record import Delivery, Receipt, Rejected

EXAMPLE = """\
sink: mqtt
url: mqtts://broker.example:8883
username: greenhouse-7
password_file: /etc/tidegate/broker.password
topic: gw/{gateway}/{stream}
streams: [alarms, freezer-temps]
format: ndjson+zstd
"""

RECORD = ("{key}", "{offset}")  # of one record: with `format: raw` only
BATCH = ("{id}", "{epoch}", "{first}", "{last}", "{count}")
PLACES = ("{gateway}", "{stream}", "{sink}", *BATCH, *RECORD)
WINDOW = 1000  # messages on their way at most, whatever the broker allows: they wait in our memory too
LAST_ID = STATUS_ID - 1
RETRY_S, RETRY_MOST_S = 1.0, 60.0
SETTLED_S = 60.0  # a connection at least this long was a success: the next wait is short again

UNIQUE = ("{id}", "{first}", "{last}", "{offset}")
MUTE = (
    "MQTT 3.1.1 carries no batch id, content type or encoding: receivers must know the format, and cannot drop "
    "repeats; add /{id}, or {epoch} and {first}"
)

# Refusals that will be the same tomorrow. Everything else (quota, an overloaded broker) is worth coming back for.
DEFINITE = (
    PubAckReasonCode.NOT_AUTHORIZED,
    PubAckReasonCode.TOPIC_NAME_INVALID,
    PubAckReasonCode.PAYLOAD_FORMAT_INVALID,
)


class Options(BrokerOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Publish to an MQTT broker at QoS 1.

    A batch is one message: its content type is the MQTT property, the user properties are `id` (the batch id, by which
    receivers drop repeats), `encoding` (zstd, gzip), `first` and `last` (offsets) and `count` (records).
    With `format: raw` every record is a message of its own, its value as it was received.
    MQTT 3.1.1 has no properties; there the topic alone can tell.

    url: the broker, `mqtt://host:1883`, or `mqtts://host:8883` for TLS; its certificate is always verified. Over
        websockets `ws://host:port/path`, or `wss://` for TLS; the path is `/mqtt` unless given.
    version: of MQTT: `5`, `3` (3.1.1), or `auto`: 5, and 3.1.1 where the broker refuses it; docs/mqtt.md says what that
        lacks.
    topic: where to publish; `{gateway}`, `{stream}` and `{sink}` are filled in; of the batch `{id}` (four levels:
        gateway, epoch, stream, offsets), `{epoch}`, `{first}`, `{last}` and `{count}`; with `format: raw` also `{key}`
        and `{offset}` of the record.
    retain: ask the broker to keep the last message of each topic for those who subscribe later.
    ids: with `format: raw`, send the user properties `id` (of the batch) and `offset` along; about 70 bytes a message.
    client_id: our name at the broker, `tidegate-GATEWAY-SINK` unless given.
    username, password_file: the login; the password is read from the file at every connect.
    ca_file: certificates to trust instead of the system's.
    cert_file, key_file: our own certificate, where the broker asks for one; read at every connect, so a renewed one is
        used at the next.
    key_password_file: what the key is encrypted with.
    status_topic: where the gateway announces itself, as `gw/{gateway}/status`: a retained JSON object with its state,
        `online` or `offline`; the latter by our last will where we cannot say it ourselves.
    status_every: how often that is renewed when nothing changes.
    offline_after: how long a connection may be broken before the broker says `offline`.
    keepalive: a connection that does not answer for this long is given up.
    connect_timeout: how long a broker may take to let us in.
    max_packet: the largest packet the broker may send us; it says itself how large ours may be.
    """

    topic: str
    retain: bool = False
    ids: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        rest = self.topic
        for place in PLACES:
            rest = rest.replace(place, "")
        for unknown in re.findall(r"\{[^{}]*\}", rest):
            close = difflib.get_close_matches(unknown, PLACES, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(PLACES)}"
            raise ValueError(f"{self.topic!r}: nothing is filled in for {unknown}; {hint}")
        if "{" in rest or "}" in rest:
            raise ValueError(f"{self.topic!r}: only {', '.join(PLACES)} can be filled in")
        if not self.topic or any(sign in rest for sign in "+#\0"):
            raise ValueError(f"{self.topic!r} is no topic to publish to: it must not be empty, nor hold + or #")
        if self.ids and self.version == 3:
            raise ValueError("ids are properties, which MQTT 3.1.1 has not; write {id} and {offset} into the topic")

    def problem_with(self, written: str) -> str | None:
        """A key is a record's own; a batch has many."""
        place = next((place for place in RECORD if place in self.topic), None)
        if place is not None and written != "raw":
            return f"{self.topic!r}: {place} needs `format: raw`, one message per record; remove it, or write that"
        return None

    def warnings(self) -> list[Mistake]:
        found = super().warnings()
        if self.version == 3 and not self.telling and not any(place in self.topic for place in RECORD):
            found.append(Mistake(("topic",), MUTE))
        if self.retain and any(place in self.topic for place in UNIQUE):
            told = "each message has a topic of its own, and the broker keeps them all for ever; remove one of the two"
            found.append(Mistake(("retain",), told))
        return found

    @property
    def telling(self) -> bool:
        """The topic tells one batch from all others."""
        return "{id}" in self.topic or ("{epoch}" in self.topic and "{first}" in self.topic)


_Message = tuple[str, bytes, int]  # topic, payload, offset (a batch: of its first record)


class _Send:
    """One call of `send`: the messages it has left to write, and what the broker says of those that are under way."""

    __slots__ = ("delivery", "done", "left", "open", "rejected")

    def __init__(
        self, delivery: Delivery, done: "asyncio.Future[Receipt]", left: Iterator[_Message], count: int
    ) -> None:
        self.delivery, self.done, self.left = delivery, done, left
        self.open = count
        self.rejected: list[Rejected] = []

    def settled(self, offset: int, refusal: str | None) -> None:
        """One message is settled: taken, or refused for good."""
        self.open -= 1
        if refusal is not None:
            self.rejected.append(Rejected(offset, refusal))
        if self.open == 0 and not self.done.done():
            self.done.set_result(Receipt(tuple(self.rejected)))

    def too_large(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(DeliveryTooLarge(reason))

    def failed(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(SinkUnavailable(reason))


class MqttSink:
    """Keeps one connection; sends share its window in the order they were called."""

    def __init__(self, options: Options, outlet: Outlet) -> None:
        self._options, self._outlet = options, outlet
        self._link: Link | None = None
        self._broker = Broker(options)
        self._announcer = Announcer(options, outlet, self._tell)
        self._reason = "not connected yet"
        self._queue: deque[_Send] = deque()  # sends that have messages left to write
        self._flying: dict[int, tuple[_Send, int]] = {}  # packet id -> whose message, and its offset
        self._window = WINDOW
        self._largest = 0  # bytes of a packet that the broker takes; 0: any
        self._last_id = 0

    # -- gateway.plugin.Sink -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        outlet, options, announcer = self._outlet, self._options, self._announcer
        lasting = announcer.topic != ""
        wait = RETRY_S
        while True:
            link: Link | None = None
            try:
                link = await self._broker.connect(
                    self,
                    client_id=options.client(outlet.gateway, outlet.name),
                    clean_start=not lasting,
                    session_expiry_s=math.ceil(options.offline_after) if lasting else 0,
                    subscribing=False,
                    will=announcer.will,
                )
                self._tell()
                announcer.begin(link, link.welcome.result())
                since = outlet.clock.monotonic()
                self._reason = f"{options.address}: {await asyncio.shield(link.lost)}"
                if outlet.clock.monotonic() - since >= SETTLED_S:
                    wait = RETRY_S
            except LinkLost as lost:
                announcer.not_let_in(lost)
                self._reason = str(lost)
            except asyncio.CancelledError:
                self._reason = "stopped"
                raise
            finally:
                self._drop_all()
                if link is not None:
                    await announcer.part(link)
            # Full jitter: forty gateways whose broker restarts must not come back in the same moment.
            pause = random.uniform(0, wait)
            wait = min(2 * wait, RETRY_MOST_S)
            outlet.waiting(f"{self._reason}; connecting again in {pause:.0f} s")
            await asyncio.sleep(pause)

    async def send(self, delivery: Delivery) -> Receipt:
        if self._link is None:
            raise SinkUnavailable(self._reason)
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        if delivery.content_type:
            send = _Send(delivery, done, iter([self._batch(delivery)]), 1)
        elif delivery.count:
            send = _Send(delivery, done, self._records(delivery), delivery.count)
        else:
            return Receipt()  # an extent of nothing but gaps: there is no record to send one message for
        self._queue.append(send)
        self._pump()
        return await done

    # -- gateway.mqtt.Owner --------------------------------------------------------------------------------------------

    def welcomed(self, link: Link, welcome: ConnAckPacket) -> None:
        if welcome.max_qos == QoS.AT_MOST_ONCE:
            link.refuse("the broker does not take QoS 1", DisconnectReasonCode.QOS_NOT_SUPPORTED)
            return
        self._link = link
        ours = 1 if self._announcer.topic and welcome.receive_max > 1 else 0
        self._window = min(welcome.receive_max - ours, WINDOW)
        self._largest = welcome.max_packet_size or 0

    def received(self, messages: list[PublishPacket], size: int) -> None:
        if self._link is not None:
            why = "the broker sent a message, and we subscribe to nothing"
            self._link.refuse(why, DisconnectReasonCode.PROTOCOL_ERROR)

    def answered(self, packets: Sequence[PubAckPacket | SubAckPacket]) -> None:
        for packet in packets:
            if isinstance(packet, PubAckPacket) and self._announcer.answered(packet):
                continue
            send, offset = self._flying.pop(packet.packet_id, (None, 0))
            if send is None or not isinstance(packet, PubAckPacket):
                continue
            code = packet.reason_code
            if not refused(code):
                send.settled(offset, None)
            elif code in DEFINITE and not send.delivery.content_type:
                send.settled(offset, f"the broker refuses it: {words(code, packet.reason_str)}")
            else:
                stream = send.delivery.extent.stream
                send.failed(f"the broker refuses messages of {stream}: {words(code, packet.reason_str)}")
        self._pump()

    def spoilt(self, packet: Spoilt) -> None:
        self._outlet.count("frames_bad_total")

    def _tell(self) -> None:
        """Say that we are connected, and what there is to know of it."""
        if self._link is None:
            return
        parts = [str(self._options.address)]
        if self._link.version != 5:
            parts.append(self._link.codec.name)
            if self._options.ids or not (
                self._options.telling or any(place in self._options.topic for place in RECORD)
            ):
                parts.append("which carries no batch ids")
        self._outlet.up(", ".join([*parts, self._announcer.complaint] if self._announcer.complaint else parts))

    # -- sending -------------------------------------------------------------------------------------------------------

    def _batch(self, delivery: Delivery) -> _Message:
        if place := next((place for place in RECORD if place in self._options.topic), None):
            raise SinkUnavailable(f"topic: {place} can only be filled in with format: raw")
        return self._topic(delivery), delivery.body, delivery.extent.first

    def _records(self, delivery: Delivery) -> Iterator[_Message]:
        topic = self._topic(delivery)
        for batch in delivery.batches:
            topics = [topic] * len(batch.keys)
            if "{offset}" in topic:
                topics = [topic.replace("{offset}", str(offset)) for offset in range(batch.first, batch.next)]
            topics = [one.replace("{key}", key) for one, key in zip(topics, batch.keys, strict=True)]
            yield from zip(topics, batch.values, range(batch.first, batch.next), strict=True)

    def _topic(self, delivery: Delivery) -> str:
        """The template, filled in but for what is each record's own."""
        outlet, extent = self._outlet, delivery.extent
        return _fill(
            self._options.topic,
            {
                "{gateway}": outlet.gateway,
                "{sink}": outlet.name,
                "{stream}": extent.stream,
                "{id}": delivery.id,
                "{epoch}": delivery.id.rsplit("/", 3)[-3],
                "{first}": str(extent.first),
                "{last}": str(extent.last),
                "{count}": str(delivery.count),
            },
        )

    def _pump(self) -> None:
        """Write what the window has room for, in one go."""
        link, flying = self._link, self._flying
        if link is None:
            return
        out: list[bytes] = []
        while self._queue and len(flying) < self._window:
            send = self._queue[0]
            message = None if send.done.done() else next(send.left, None)
            if message is None:
                self._queue.popleft()
                continue
            topic, payload, offset = message
            packet_id = self._next_id()
            refusal = _topic_problem(topic)
            if refusal is None:
                packet = link.codec.write(self._packet(send.delivery, topic, payload, offset, packet_id))
                if not self._largest or len(packet) <= self._largest:
                    out.append(packet)
                    flying[packet_id] = send, offset
                    continue
                refusal = f"a message of {len(packet)} bytes, the broker takes {self._largest} (see batch: bytes)"
                if send.delivery.content_type:
                    send.too_large(refusal)
                    continue
            if send.delivery.content_type:
                send.failed(refusal)
            else:
                send.settled(offset, refusal)
        if out:
            data = b"".join(out)
            link.write(data)
            self._outlet.count("wire_bytes_total", len(data))

    def _next_id(self) -> int:
        packet_id = self._last_id % LAST_ID + 1
        while packet_id in self._flying:
            packet_id = packet_id % LAST_ID + 1
        self._last_id = packet_id
        return packet_id

    def _packet(self, delivery: Delivery, topic: str, payload: bytes, offset: int, packet_id: int) -> PublishPacket:
        properties: list[tuple[str, str]] = []
        if delivery.content_type:
            extent = delivery.extent
            properties = [("id", delivery.id)]
            if delivery.encoding:
                properties.append(("encoding", delivery.encoding))
            properties += [("first", str(extent.first)), ("last", str(extent.last)), ("count", str(delivery.count))]
        elif self._options.ids:
            properties = [("id", delivery.id), ("offset", str(offset))]
        return PublishPacket(
            topic,
            payload,
            qos=QoS.AT_LEAST_ONCE,
            retain=self._options.retain,
            packet_id=packet_id,
            content_type=delivery.content_type or None,
            user_properties=properties,
        )

    def _drop_all(self) -> None:
        """The connection is gone: what is under way may or may not have arrived, so all of it goes again."""
        self._link = None
        for send, _ in self._flying.values():
            send.failed(self._reason)
        for send in self._queue:
            send.failed(self._reason)
        self._flying.clear()
        self._queue.clear()


def _fill(template: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        template = template.replace(place, value)
    return template


def _topic_problem(topic: str) -> str | None:
    if not topic or "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > 65535:
        return f"{topic[:100]!r} is no topic to publish to"
    return None


plugin = Plugin(Options, MqttSink)
