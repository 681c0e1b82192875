"""MQTT 5 and 3.1.1: readings from a broker, acknowledged when they are durable.

- No task, queue or object per message: a whole read of the socket becomes one batch per stream.
- PUBACKs leave after the commit that holds their messages, all in one write, in the order the messages came, and only
  on the connection they came by.
- Between turns the loop sleeps; it is woken early only when enough has come to make it worth it, or when the broker's
  in-flight window is about to be full (gateway.mqtt.window).
- What a broker sends again after a lost connection or a crash is recognised (gateway.mqtt.session), counted,
  acknowledged, and not recorded again.
"""

import asyncio
import secrets
import struct
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from mqtt5 import (
    ConnAckPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    RetainHandling,
    SubAckPacket,
    SubscribePacket,
    TopicFilter,
)

from gateway.errors import DriverUnavailable
from gateway.mqtt import (
    NOWHERE,
    Announcer,
    Broker,
    BrokerOptions,
    Link,
    LinkLost,
    Router,
    Session,
    Spoilt,
    Window,
    filter_problem,
    refused,
    shared,
    words,
)
from gateway.plugin import Inlet, Mistake, Plugin
from gateway.quantity import Duration
from gateway.record import RETAINED

EXAMPLE = """\
driver: mqtt
url: mqtts://broker.example:8883
username: greenhouse-7
password_file: /etc/tidegate/broker.password
stream: freezers
subscribe:
  - site/+/freezer/+/temp
  - {filter: site/+/door, stream: doors}
"""

MARK = 192 * 1024  # bytes: a read of this size is worth a wake at once
DECIDE_S = 1.0  # how long the first reads of a resumed session are held at most, to see how the broker counts its ids
SHORT_S = 600.0  # a session that ends sooner may not outlive a restart
WEEK = Duration(7 * 86400)
OLDER = "MQTT 3.1.1 cannot ask for that: the broker decides; remove it, or write version: auto"
AGAIN = (
    "with MQTT 3.1.1 retained messages come again at every start, and are recorded as new ones; write mark or ignore"
)
USUAL_MAXIMUM = 2000  # messages
UNSAFE = "at QoS 0 what is sent while we are away, or lost on the way, is gone; write qos: 1 to have it kept"
PUBACK = 0x40020000  # | id: the four bytes of a plain PUBACK

_topic, _payload, _id = attrgetter("topic"), attrgetter("payload"), attrgetter("packet_id")
_qos, _retain = attrgetter("qos"), attrgetter("retain")


class Subscription(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One filter, with a stream or a QoS of its own.

    filter: the topics, with `+` for any one level and `#` for all that follow.
    stream: where its readings go.
    qos: 1 or 0.
    """

    filter: str
    stream: str | None = None
    qos: Literal[0, 1] | None = None


class Options(BrokerOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Subscribe to topics of an MQTT broker.

    url: the broker, `mqtt://host:1883`, or `mqtts://host:8883` for TLS; its certificate is always verified. Over
        websockets `ws://host:port/path`, or `wss://` for TLS; the path is `/mqtt` unless given.
    version: of MQTT: `5`, `3` (3.1.1), or `auto`: 5, and 3.1.1 where the broker refuses it; docs/mqtt.md says what that
        lacks.
    subscribe: topic filters, each a text or `{filter, stream, qos}`; of several that match, the first one counts.
    stream: where the readings go that a filter without a stream of its own brings.
    qos: 1 (kept by the broker until they are durable here) or 0, for filters that do not say.
    retained: what to do with messages the broker kept from earlier: `mark` records them with a flag, `record` like any
        other, `ignore` not at all.
    client_id: the name of our session at the broker, `tidegate-GATEWAY-DRIVER` unless given.
    username, password_file: the login; the password is read from the file at every connect.
    ca_file: certificates to trust instead of the system's.
    cert_file, key_file: our own certificate, where the broker asks for one; read at every connect, so a renewed one is
        used at the next.
    key_password_file: what the key is encrypted with.
    status_topic: where the gateway announces itself, as `gw/{gateway}/status`: a retained JSON object with its state,
        `online` or `offline`; the latter by our last will where we cannot say it ourselves.
    status_every: how often that is renewed when nothing changes.
    offline_after: how long a connection may be broken before the broker says `offline`.
    session_expiry: how long the broker keeps our session and what arrives for it while we are away. With MQTT 3.1.1 the
        broker decides, but for `0s`.
    receive_maximum: messages the broker may send before we acknowledge. mosquitto 2.0 takes it in place of its own
        max_inflight_messages; other brokers may allow less, which is learned. With MQTT 3.1.1 the broker decides.
    keepalive: a connection that does not answer for this long is given up.
    connect_timeout: how long a broker may take to let us in.
    max_packet: the largest packet the broker may send us.
    """

    instead: ClassVar[Mapping[str, str]] = dict.fromkeys(("topic", "topics", "filter"), "subscribe")

    subscribe: Annotated[list[str | Subscription], msgspec.Meta(min_length=1)]
    stream: str | None = None
    qos: Literal[0, 1] = 1
    retained: Literal["ignore", "mark", "record"] = "mark"
    session_expiry: Duration = WEEK
    receive_maximum: Annotated[int, msgspec.Meta(ge=1, le=65535)] = USUAL_MAXIMUM

    def __post_init__(self) -> None:
        super().__post_init__()
        for entry in self.subscriptions():
            problem = filter_problem(entry.filter)
            if problem:
                raise ValueError(f"{entry.filter!r}: {problem}")
            if entry.stream is None:
                raise ValueError(f"{entry.filter!r} has no stream; write stream: here or at the filter")
        if not 0 <= self.session_expiry < 1 << 32:
            raise ValueError("session_expiry must be between 0s and 136 years")

    def subscriptions(self) -> list[Subscription]:
        """Every filter with its stream and QoS filled in."""
        entries = [Subscription(filter=e) if isinstance(e, str) else e for e in self.subscribe]
        return [
            Subscription(filter=e.filter, stream=e.stream or self.stream, qos=self.qos if e.qos is None else e.qos)
            for e in entries
        ]

    def sniffing(self) -> "Options":
        """A session of our own that ends with the connection; of a shared subscription, what the group would get."""
        own = secrets.token_hex(4)
        return msgspec.structs.replace(
            self,
            client_id=f"{self.client_id or 'tidegate'}-sniff-{own}",
            session_expiry=Duration(0),
            status_topic=None,
            retained="mark",
            subscribe=[
                Subscription(filter=shared(entry.filter), stream=entry.stream, qos=entry.qos)
                for entry in self.subscriptions()
            ],
        )

    def streams(self) -> list[str]:
        return list(dict.fromkeys(entry.stream or "" for entry in self.subscriptions()))

    def warnings(self) -> list[Mistake]:
        found = super().warnings()
        if self.qos == 0:
            found.append(Mistake(("qos",), UNSAFE))
        for at, (written, entry) in enumerate(zip(self.subscribe, self.subscriptions(), strict=True)):
            here: tuple[str | int, ...] = ("subscribe", at)
            if isinstance(written, Subscription):
                if written.qos == 0:
                    found.append(Mistake((*here, "qos"), UNSAFE))
                here = (*here, "filter")
            if (inner := shared(entry.filter)) != entry.filter:
                told = (
                    "a broker deals a shared subscription out to its group: readings of one key lose their order, and "
                    f"one may come to two gateways when a connection breaks; write {inner!r} where that matters"
                )
                found.append(Mistake(here, told))
                if self.version == 3:
                    told = (
                        "MQTT 3.1.1 knows no shared subscriptions: some brokers do, others send nothing and say nothing"
                    )
                    found.append(Mistake(here, told))
        if self.version == 3 and self.receive_maximum != USUAL_MAXIMUM:
            found.append(Mistake(("receive_maximum",), OLDER))
        if self.version == 3 and self.retained == "record":
            found.append(Mistake(("retained",), AGAIN))
        if self.version == 3 and self.session_expiry not in (0, WEEK):
            found.append(Mistake(("session_expiry",), OLDER))
        elif self.session_expiry < SHORT_S and any(entry.qos for entry in self.subscriptions()):
            told = (
                f"after {self.session_expiry:g} s without us the broker forgets what it kept for us, "
                "and a restart may take longer; write a day or more, as 7d"
            )
            found.append(Mistake(("session_expiry",), told))
        return found


class Owed(NamedTuple):
    """The receipt of one read: the acknowledgements it is worth, on the link it came by."""

    link: Link
    packets: bytes
    worth: int  # messages


class MqttDriver:
    """One connection at a time; what it knows of its session outlives the connection."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._options, self._inlet = options, inlet
        self._router = Router([(entry.filter, entry.stream or "") for entry in options.subscriptions()])
        self._default = options.streams()[0]
        self._broker = Broker(options)
        self._session = Session(inlet.memory)
        self._window = Window(options.receive_maximum)
        self._link: Link | None = None
        self._announcer = Announcer(options, inlet, self._tell)
        self._granted_less = ""  # what the broker did not grant as asked, for the detail
        self._subscribed: asyncio.Future[SubAckPacket] | None = None
        self._asked: SubAckPacket | None = None  # what this session was granted in this life
        self._flowing = False  # subscribed: from now on reads wait for turns
        self._paused = False
        self._may_read = asyncio.Event()
        self._held: list[PublishPacket] = []  # reads of a resumed session that cannot be judged yet
        self._held_size = 0
        self._seen = 0  # ids on this connection
        self._mean = 100.0  # bytes of a message on the wire

    @property
    def window(self) -> int:
        """Messages that the broker sends before it waits for us, as far as it is known."""
        return self._window.size

    # -- gateway.plugin.Driver -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        while self._paused:
            self._may_read.clear()
            await self._may_read.wait()
        options, inlet, announcer = self._options, self._inlet, self._announcer
        self._subscribed = asyncio.get_running_loop().create_future()
        link: Link | None = None
        try:
            link = await self._broker.connect(
                self,
                client_id=options.client(inlet.gateway, inlet.name),
                clean_start=False,
                session_expiry_s=int(options.session_expiry),
                receive_maximum=options.receive_maximum,
                will=announcer.will,
            )
            self._granted_less = await self._granted(link)
            self._flowing = True
            self._tell()
            announcer.begin(link, link.welcome.result())
            self._aim()
            raise LinkLost(f"{options.address}: {await asyncio.shield(link.lost)}")
        except LinkLost as lost:
            announcer.not_let_in(lost)
            inlet.waiting(str(lost))
            raise DriverUnavailable(str(lost)) from lost
        finally:
            self._link, self._flowing = None, False
            self._held, self._held_size = [], 0
            if link is not None:
                await announcer.part(link)

    def turn(self) -> None:
        # What is urgent is read as it comes, and before SUBACK everything is.
        if self._link is not None and self._flowing and not self._paused and not self._inlet.urgent:
            self._look(self._link)

    def pause(self) -> None:
        self._paused = True
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        self._paused = False
        self._may_read.set()
        if self._link is not None:
            self._link.resume()

    def acknowledge(self, receipts: Sequence[object]) -> None:
        link = self._link
        packets, count = [], 0
        for receipt in receipts:
            # On any other connection these ids may by now belong to other messages: the broker sends those again.
            if isinstance(receipt, Owed) and receipt.link is link:
                packets.append(receipt.packets)
                count += receipt.worth
        if link is None or not count:
            return
        link.write(b"".join(packets))
        now = self._inlet.clock.monotonic()
        patience = min(max(0.05, 3 * link.took_s), 1.0)
        if self._window.acknowledged(count, now, patience):
            asyncio.get_running_loop().call_later(patience, self._look, link)
        self._aim()

    # -- gateway.mqtt.Owner --------------------------------------------------------------------------------------------

    def welcomed(self, link: Link, welcome: ConnAckPacket) -> None:
        self._link = link
        self._seen = 0
        self._window = Window(self._options.receive_maximum)
        five = link.version == 5
        self._session.resumed(welcome.session_present, self._options.receive_maximum if five else None)
        if not welcome.session_present:
            self._asked = None
        elif self._asked is not None and not five and self._subscribed is not None:
            # With MQTT 3.1.1 to ask again brings all retained messages again, and the session has our filters.
            self._subscribed.set_result(self._asked)
            if self._paused:
                link.pause()
            return
        # A session that is still there has had its retained messages, and asking for them again would repeat them.
        handling = RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        if self._options.retained == "ignore":
            handling = RetainHandling.SEND_NEVER
        entries = self._options.subscriptions()
        dealt = [entry.filter for entry in entries if shared(entry.filter) != entry.filter]
        if dealt and not welcome.shared_subscription_available:
            link.drop(f"the broker has no shared subscriptions; write {shared(dealt[0])!r} for {dealt[0]!r}")
            return
        filters = [
            TopicFilter(
                entry.filter,
                max_qos=QoS(entry.qos or 0),
                # What we say ourselves at our status topic is no reading. (MQTT forbids to say so of a shared one, and
                # 3.1.1 cannot say it at all: what comes back is dropped when it is read.)
                no_local=self._options.status_topic is not None and entry.filter not in dealt,
                retain_as_published=False,
                # MQTT sends them to no group; mosquitto 2.0.11 would send them to every member.
                retain_handling=RetainHandling.SEND_NEVER if entry.filter in dealt else handling,
            )
            for entry in entries
        ]
        link.send(SubscribePacket(1, filters))
        if self._paused:
            link.pause()

    def received(self, messages: list[PublishPacket], size: int) -> None:
        link = self._link
        if link is None:
            return
        if self._session.expecting:
            first = not self._held
            self._held += messages
            self._held_size += size
            if not self._session.decide(self._held):
                if first:
                    asyncio.get_running_loop().call_later(DECIDE_S, self._stop_waiting, link)
                return
            messages, size = self._release()
        self._take(link, messages, size)

    def answered(self, packets: Sequence[PubAckPacket | SubAckPacket]) -> None:
        for packet in packets:
            if isinstance(packet, PubAckPacket):
                self._announcer.answered(packet)
            elif self._subscribed is not None and not self._subscribed.done():
                self._subscribed.set_result(packet)

    def spoilt(self, packet: Spoilt) -> None:
        self._inlet.bad_frame(packet.reason, packet.sample)
        link = self._link
        if link is None or packet.fatal:
            return
        if packet.qos == 2:
            self._refuse_qos_2(link)
        elif packet.packet_id:
            # Left unacknowledged it would come again at every reconnect, and hold a place in the window until then.
            code = PubAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
            refusal = link.codec.write(PubAckPacket(packet.packet_id, reason_code=code))
            self._window.received(1)
            self._seen += 1
            self._inlet.record(self._default, (), (), (), receipt=Owed(link, refusal, 1))

    def _tell(self) -> None:
        """Say that we are connected, and what there is to know of it."""
        if self._flowing:
            parts = [f"{self._options.address}{self._granted_less}"]
            if self._window.learned:
                parts.append(f"which sends {self._window.size} messages ahead of our acknowledgement")
            self._inlet.up(", ".join([*parts, self._announcer.complaint] if self._announcer.complaint else parts))

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _granted(self, link: Link) -> str:
        """Return when the broker has granted what we subscribe to, with what there is to say about it."""
        options, subscribed = self._options, self._subscribed
        assert subscribed is not None
        while not subscribed.done():
            wait = options.connect_timeout
            either: set[asyncio.Future[Any]] = {subscribed, link.lost}
            await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if link.lost.done():
                raise LinkLost(f"{options.address}: {link.lost.result()}")
            if not subscribed.done() and not self._paused:
                raise LinkLost(f"{options.address}: no answer to the subscription within {wait:g} s")
        answer = subscribed.result()
        detail = "" if link.version == 5 else f", {link.codec.name}"
        for entry, code in zip(options.subscriptions(), answer.reason_codes, strict=False):
            if refused(code):
                why = words(code, answer.reason_str)
                raise LinkLost(f"{options.address}: the broker refuses the subscription {entry.filter!r}: {why}")
            if int(code) < (entry.qos or 0):
                detail += f", {entry.filter!r} at QoS {int(code)} only"
            if link.version != 5 and shared(entry.filter) != entry.filter:
                detail += (
                    f", which knows no shared subscriptions: whether {entry.filter!r} brings any is up to the broker"
                )
        self._asked = answer  # what is refused is asked for again at the next connection
        return detail

    def _refuse_qos_2(self, link: Link) -> None:
        link.refuse(
            "the broker sent QoS 2, which we never ask for: another program used our client_id; choose a new one",
            DisconnectReasonCode.QOS_NOT_SUPPORTED,
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def _release(self) -> tuple[list[PublishPacket], int]:
        held, self._held = self._held, []
        size, self._held_size = self._held_size, 0
        return held, size

    def _stop_waiting(self, link: Link) -> None:
        """The broker had its time to show how it counts ids."""
        if self._link is link and self._held:
            self._session.decide(self._held, waited=True)
            self._take(link, *self._release())

    def _take(self, link: Link, messages: list[PublishPacket], size: int) -> None:
        """Everything that was read: to the log, with one receipt for all of it."""
        inlet, session, router, window = self._inlet, self._session, self._router, self._window
        topics, values, ids = list(map(_topic, messages)), list(map(_payload, messages)), list(map(_id, messages))
        numbered = ids if all(ids) else [packet_id for packet_id in ids if packet_id]
        if numbered and QoS.EXACTLY_ONCE in map(_qos, messages):
            self._refuse_qos_2(link)
            return
        try:
            keys = list(map(router.keys.__getitem__, topics))
        except KeyError:
            router.learn(topics)
            keys = list(map(router.keys.__getitem__, topics))
        own = self._announcer.topic != "" and self._announcer.topic in keys
        retained = None
        if any(map(_retain, messages)):
            retained = bytes([RETAINED if message.retain else 0 for message in messages])
        time = inlet.clock.now()
        if numbered is not ids:
            ids = [packet_id or 0 for packet_id in ids]
        receipt = Owed(link, _pubacks(numbered), len(numbered)) if numbered else None
        whole = _Columns([time] * len(keys), keys, values, retained, ids if numbered else None)
        plain = not own and (not retained or self._options.retained == "mark") and not session.expecting
        if plain and router.only:
            self._record(router.only, whole, receipt)
        else:
            self._record_sorted(messages, whole, receipt)
        if numbered:
            session.observe(numbered)
            session.took(ids, keys, values, size)
            window.received(len(numbered))
            self._seen += len(numbered)
            if window.full(inlet.clock.monotonic()):
                inlet.hurry()
        self._mean += (size / len(messages) - self._mean) / 8
        self._aim()

    def _record(self, stream: str, columns: "_Columns", receipt: Owed | None) -> None:
        times, keys, values, flags, ids = columns
        self._inlet.record(stream, times, keys, values, flags=flags, ids=ids, receipt=receipt)

    def _record_sorted(self, messages: list[PublishPacket], whole: "_Columns", receipt: Owed | None) -> None:
        """A read that holds repeats, unwanted messages or several streams. The receipt goes with its last records."""
        inlet, session, streams, retained = self._inlet, self._session, self._router.streams, whole.flags
        own_topic = self._announcer.topic
        ignore = self._options.retained == "ignore"
        parts: dict[str, list[int]] = {}
        repeats = ignored = own = 0
        for at, (message, key) in enumerate(zip(messages, whole.keys, strict=True)):
            packet_id = message.packet_id
            if packet_id and session.is_repeat(packet_id, key, message.payload, message.duplicate):
                repeats += 1
            elif key == own_topic:  # what we say of ourselves is no reading
                own += 1
            elif streams[key] == NOWHERE:
                inlet.bad_frame("a topic that no subscription matches", key.encode(errors="replace")[:64])
            elif ignore and retained and retained[at]:
                ignored += 1
            else:
                parts.setdefault(streams[key], []).append(at)
        if repeats:
            inlet.count("redelivered_total", repeats)
        if ignored:
            inlet.count("retained_ignored_total", ignored)
        if own:
            inlet.count("own_status_total", own)
        mark = self._options.retained == "mark"
        last = len(parts) - 1
        for n, (stream, part) in enumerate(parts.items()):
            self._record(stream, whole.pick(part, mark), receipt if n == last else None)
        if receipt is not None and not parts:
            inlet.record(self._default, (), (), (), receipt=receipt)

    # -- sleeping ------------------------------------------------------------------------------------------------------

    def _look(self, link: Link) -> None:
        if self._link is link:
            seen = self._seen
            link.look(lambda: self._looked(link, seen))

    def _looked(self, link: Link, seen: int) -> None:
        if self._link is not link:
            return
        window, now = self._window, self._inlet.clock.monotonic()
        size = window.size
        window.looked(self._seen - seen, now)
        if window.size != size:
            self._tell()
        if window.full(now):
            self._inlet.hurry()
        self._aim()

    def _aim(self) -> None:
        """Say how much must come before reading it is worth a wake of its own."""
        link = self._link
        if link is None:
            return
        if self._inlet.urgent or not self._flowing:
            link.sleep_until(1)
            return
        room = self._window.room
        # A tenth less, as readings differ in size; with no room left there is nothing to wake for but the turn.
        link.sleep_until(min(MARK, max(1, int(0.9 * room * self._mean))) if room > 0 else MARK)


class _Columns(NamedTuple):
    times: Sequence[int]
    keys: Sequence[str]
    values: Sequence[bytes]
    flags: bytes | None
    ids: Sequence[int] | None

    def pick(self, part: Sequence[int], mark: bool) -> "_Columns":
        """The rows at `part`; flags only if they are wanted."""
        flags = bytes([self.flags[at] for at in part]) if mark and self.flags else None
        return _Columns(
            self.times[: len(part)],
            [self.keys[at] for at in part],
            [self.values[at] for at in part],
            flags,
            [self.ids[at] for at in part] if self.ids is not None else None,
        )


def _pubacks(ids: Sequence[int]) -> bytes:
    return struct.pack(f">{len(ids)}I", *[PUBACK | packet_id for packet_id in ids])


plugin = Plugin(Options, MqttDriver)
