"""The gateway tells a broker that it is there, and the broker tells everybody when it is not.

`status_topic` holds one retained message: what the gateway says of itself. It is renewed when that changes and every
`status_every`, never more often than every LOOK_S. The same topic is our last will: `offline_after` a connection broke
the broker says "offline" there, so that a short break is none. Who leaves in order says so itself: the gateway that
stops, and the entry that a reload takes out. Its successor may have another topic or be another client, of which the
broker would not know that it stands for the same gateway; it begins after that, so its "online" is the last word.

All of this is beside the point of the connection: a broker that wants none of it is still read from and delivered to.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from mqtt5 import ConnAckPacket, DisconnectReasonCode, PubAckPacket, PublishPacket, QoS, Will

from gateway.clock import Clock
from gateway.mqtt.link import Link
from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.trouble import LinkLost, refused, words

STATUS_ID = 65535  # the packet id of status messages; whoever publishes beside them takes others
LOOK_S = 10.0  # between two looks at what there is to say, and so between two messages
PART_S = 1.0  # what a broker gets at a stop to confirm our last word
LONGEST = 400  # characters of the sentence

# How a broker may refuse a CONNECT because of its last will: then the next one goes without.
_MAYBE_THE_WILL = {"NOT_AUTHORIZED", "TOPIC_NAME_INVALID", "RETAIN_NOT_SUPPORTED", "QUALITY_NOT_SUPPORTED"}


class House(Protocol):
    """What is the same of gateway.plugin.Inlet and Outlet."""

    gateway: str
    clock: Clock

    @property
    def leaving(self) -> bool: ...

    def summary(self) -> Mapping[str, object]: ...


class Announcer:
    """What one entry says at its broker of the gateway. Does nothing where there is no `status_topic`.

    `changed` is called when `complaint` is another one.
    """

    def __init__(self, options: BrokerOptions, house: House, changed: Callable[[], None]) -> None:
        self.topic = options.status_at(house.gateway)
        self.complaint = ""  # what the broker has against it, to be added to the detail; "" for nothing
        self._house, self._clock, self._changed = house, house.clock, changed
        self._every, self._after = options.status_every, options.offline_after
        self._bare = False  # the broker may not take our will: connect without
        self._link: Link | None = None
        self._qos = QoS.AT_LEAST_ONCE
        self._largest = 0  # bytes of a packet that the broker takes; 0: any
        self._since = 0  # ns: when this connection was made
        self._said: tuple[object, ...] = ()
        self._said_at = 0.0
        self._open = False  # a message is not confirmed yet
        self._confirmed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def will(self) -> Will | None:
        """What the broker shall say when the connection breaks."""
        if not self.topic or self._bare:
            return None
        payload = self._encode({"state": "offline", "reason": "connection lost"})
        return Will(
            self.topic,
            payload=payload,
            qos=QoS.AT_LEAST_ONCE,
            retain=True,
            content_type="application/json",
            will_delay_interval=int(self._after),
        )

    def not_let_in(self, lost: LinkLost) -> None:
        """A connect failed. Where our will may be the reason, every second one goes without it."""
        if self.topic and lost.code is not None and lost.code.name in _MAYBE_THE_WILL:
            self._bare = not self._bare

    def begin(self, link: Link, welcome: ConnAckPacket) -> None:
        """The connection is in use from now on."""
        if not self.topic:
            return
        bare, self._bare = self._bare, False
        if bare:
            self._complain("it refuses a last will there, so nothing is said there")
            return
        if not welcome.retain_available:
            self._complain("it keeps no messages, so nothing is said there")
            return
        self._link, self._since, self._said, self._open = link, self._clock.now(), (), False
        one_more = welcome.max_qos != QoS.AT_MOST_ONCE and welcome.receive_max > 1
        self._qos = QoS.AT_LEAST_ONCE if one_more else QoS.AT_MOST_ONCE
        self._largest = welcome.max_packet_size or 0
        self._look()

    def answered(self, packet: PubAckPacket) -> bool:
        """Whether this answers a message of ours."""
        if not self.topic or packet.packet_id != STATUS_ID:
            return False
        self._open = False
        self._confirmed.set()
        code = packet.reason_code
        self._complain(f"it refuses messages there: {words(code, packet.reason_str)}" if refused(code) else "")
        return True

    async def part(self, link: Link) -> None:
        """End a connection: with our own last word where we leave in order, else leaving our will to the broker."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        begun, self._link = self._link is link, None
        if not self.topic:
            await link.close()
            return
        summary = self._house.summary()
        stopping, leaving = summary["state"] == "stopping", self._house.leaving
        if not begun or not (stopping or leaving) or link.lost.done():
            await link.close(DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
            return
        # The broker's confirmation must be read: what it sends beside it is not acknowledged, and comes again.
        link.resume()
        link.sleep_until(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PART_S):
                await self._quiet()
                last = {"state": "offline", "reason": "stopped" if stopping else "configuration changed"}
                self._publish(link, {**last, "waiting": summary["waiting"], "oldest_s": summary["oldest_s"]})
                await self._quiet()
        await link.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _quiet(self) -> None:
        while self._open:
            self._confirmed.clear()
            await self._confirmed.wait()

    def _look(self) -> None:
        """Say what is new, or what was said long ago."""
        link = self._link
        if link is None or link.lost.done():
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        summary, now = self._house.summary(), self._clock.monotonic()
        sentence = str(summary["sentence"])[:LONGEST]
        # A number that grows is no news: a backlog would be told every few seconds.
        news = (summary["state"], summary["level"], re.sub(r"\d[\d.,]*", "", sentence))
        if self._open or (news == self._said and now - self._said_at < self._every):
            return
        self._said, self._said_at = news, now
        self._publish(link, {**summary, "state": "online", "since": _iso(self._since), "sentence": sentence})

    def _publish(self, link: Link, message: Mapping[str, object]) -> None:
        confirmed = self._qos == QoS.AT_LEAST_ONCE
        packet = link.codec.write(
            PublishPacket(
                self.topic,
                self._encode({**message, "at": _iso(self._clock.now())}),
                qos=self._qos,
                retain=True,
                packet_id=STATUS_ID if confirmed else None,
                content_type="application/json",
            )
        )
        if self._largest and len(packet) > self._largest:
            self._complain(f"it takes packets of {self._largest} bytes only, too few for the status")
            return
        self._open = confirmed
        link.write(packet)

    def _encode(self, message: Mapping[str, object]) -> bytes:
        return msgspec.json.encode({"gateway": self._house.gateway, **message})

    def _complain(self, why: str) -> None:
        told = f"but not at its status topic {self.topic!r}: {why}" if why else ""
        if told != self.complaint:
            self.complaint = told
            self._changed()


def _iso(at: int) -> str:
    """A time (ns) as 2026-05-01T12:00:00Z."""
    return datetime.fromtimestamp(at // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
