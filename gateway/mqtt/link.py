"""One connection to a broker: the hello, the keepalive, and a socket that sleeps until reading pays.

Between turns the loop is not to be woken for every packet, so the socket's low-water mark (SO_RCVLOWAT) says how many
bytes make a wake worth it. Setting the mark makes the kernel look again, so `look()` reads what is there by setting it
to one byte for a moment. A closed connection wakes the loop regardless. Under TLS the mark counts encrypted bytes; what
the TLS layer already holds is handed over with the read that brought it.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol, cast

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
    PublishPacket,
    SubAckPacket,
)

from gateway.mqtt.codec import NO_UTF8, Codec
from gateway.mqtt.frames import Frames, Spoilt, Taken
from gateway.mqtt.trouble import HungUp, explain, refused, shut_out, stranger, words

MOST_PANICS = 8  # packets per connection that may make the codec panic: each costs lines on stderr
CLOSE_S = 1.0  # what a broker gets to take our DISCONNECT
OLD_CONNACK = b"\x20\x02"  # a CONNACK as MQTT 3.1.1 has it, two bytes long; that of MQTT 5 has three at least

_ONLY_PUBLISH = {PublishPacket}


class Owner(Protocol):
    """Who a link works for. Called on the event loop, from inside the read."""

    def welcomed(self, link: "Link", welcome: ConnAckPacket) -> None:
        """The broker let us in. Packets of the same read follow."""
        ...

    def received(self, messages: list[PublishPacket], size: int) -> None:
        """Every message of one read of `size` bytes, in order."""
        ...

    def answered(self, packets: Sequence[PubAckPacket | SubAckPacket]) -> None:
        """What the broker said of our messages and subscriptions, in order."""
        ...

    def spoilt(self, packet: Spoilt) -> None:
        """Bytes that were no packet. The link goes on where it can."""
        ...


class Link(asyncio.BufferedProtocol):
    """Made by a Broker. `lost` gets the reason, in words, when the connection is gone."""

    def __init__(self, owner: Owner, hello: ConnectPacket, limit: int, codec: Codec, *, secure: bool) -> None:
        loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[ConnAckPacket] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.took_s = 0.0  # from hello to welcome: what one exchange with the broker takes
        self.refusal: ConnAckReasonCode | None = None  # why the broker did not let us in
        self.mute = False  # it hung up instead, and did not say why
        self.codec = codec
        self._owner, self._hello, self._loop = owner, hello, loop
        self._secure = secure
        self._heard = False
        self._frames = Frames(limit, codec.read)
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._reason = ""
        self._beat_s = 0.0
        self._beat: asyncio.TimerHandle | None = None
        self._pinged = False
        self._paused = False
        self._panics = 0
        self._mark = self._wanted = 1
        self._out: list[bytes] = []  # written in this round of the loop

    # -- what an owner does --------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of MQTT: 5, or 3 for 3.1.1."""
        return self.codec.version

    @property
    def attached(self) -> bool:
        """It has its transport, and has said hello."""
        return self._transport is not None

    def send(self, packet: Packet) -> None:
        self.write(self.codec.write(packet))

    def write(self, data: bytes) -> None:
        """Send, together with everything else that is written in this round of the loop: a send may wake another
        process, which costs more than making what is sent.
        """
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def pause(self) -> None:
        """Read nothing more; the kernel's buffers fill, then the broker's."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._pinged = False  # its answer may lie behind what we did not read
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def sleep_until(self, size: int) -> None:
        """Read by ourselves only when that many bytes are there. The kernel caps it at half its receive buffer."""
        self._wanted = size
        self._set_mark(1 if self._pinged else size)

    def look(self, then: Callable[[], None]) -> None:
        """Read what is there now; `then` is called after that, whether there was anything or not."""
        self._set_mark(1)
        # The next round of the loop asks the kernel and reads; the round after that, it is done.
        self._loop.call_soon(self._loop.call_soon, then)

    async def close(self, code: DisconnectReasonCode = DisconnectReasonCode.NORMAL_DISCONNECTION) -> None:
        """Say goodbye and wait, for a moment only, until it is sent."""
        self.refuse("closed", code)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self.lost)
        self.drop("closed")

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, reason: str, code: DisconnectReasonCode) -> None:
        """Say why, and end the connection once what was written is sent."""
        self._reason = self._reason or reason
        self.send(DisconnectPacket(reason_code=code))
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # -- what asyncio does ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self.took_s = -self._loop.time()
        transport.write(self.codec.write(self._hello))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        if not self._heard:
            self._heard = True
            if (who := stranger(bytes(self._frames.space()[: min(nbytes, 8)]))) is not None:
                self.drop(who)
                return
        packets = self._frames.take(nbytes)
        if set(map(type, packets)) == _ONLY_PUBLISH and self.welcome.done():
            self._owner.received(cast(list[PublishPacket], packets), nbytes)
        elif packets:
            self._sort(packets, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._socket = None
        if not self.lost.done():
            self.lost.set_result(self._reason or self._why(exc))

    def _flush(self) -> None:
        out, self._out = self._out, []
        data = out[0] if len(out) == 1 else b"".join(out)
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _why(self, error: Exception | None) -> str:
        """Why the connection is gone, where neither side said it."""
        if isinstance(error, ssl.SSLError):
            return explain(error)
        if not self.welcome.done() and isinstance(error, ConnectionError | None):
            self.mute = True
            return f"{error} before it let us in" if isinstance(error, HungUp) else shut_out(self._secure)
        if error is not None and not isinstance(error, HungUp):
            return explain(error) if isinstance(error, OSError) else str(error)
        told = error or "the broker closed the connection"
        return f"{told}; if it does so again and again, {self._namesake}"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _sort(self, packets: Taken, size: int) -> None:
        """A read that holds more than messages: the connection's own packets first, they may let us in."""
        messages: list[PublishPacket] = []
        answers: list[PubAckPacket | SubAckPacket] = []
        spoilt: list[Spoilt] = []
        for packet in packets:
            if isinstance(packet, PublishPacket):
                messages.append(packet)
            elif isinstance(packet, PubAckPacket | SubAckPacket):
                answers.append(packet)
            elif isinstance(packet, Spoilt):
                spoilt.append(packet)
            else:
                self._control(packet)
        if (messages or answers) and not self.welcome.done():
            self.refuse("the broker sent packets before it let us in", DisconnectReasonCode.PROTOCOL_ERROR)
            return
        if answers:
            self._owner.answered(answers)
        if messages:
            self._owner.received(messages, size)
        for one in spoilt:
            self._spoilt(one)

    def _control(self, packet: Packet) -> None:
        if isinstance(packet, PingRespPacket):
            self._pinged = False
            self._set_mark(self._wanted)
        elif isinstance(packet, ConnAckPacket):
            self._welcomed(packet)
        elif isinstance(packet, DisconnectPacket):
            why = words(packet.reason_code, packet.reason_str)
            if packet.reason_code == DisconnectReasonCode.SESSION_TAKEN_OVER:
                why += f"; {self._namesake}"
            self._reason = f"the broker ended the connection: {why}"
            assert self._transport is not None
            self._transport.close()
        else:
            self.refuse(f"the broker sent {type(packet).__name__}", DisconnectReasonCode.PROTOCOL_ERROR)

    def _spoilt(self, packet: Spoilt) -> None:
        self._panics += packet.reason == NO_UTF8
        self._owner.spoilt(packet)
        if packet.fatal and self.version == 5 and not self.welcome.done() and packet.sample.startswith(OLD_CONNACK):
            self.refusal = ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
            self.drop("the broker does not speak MQTT 5; leave version out, or write auto")
        elif packet.fatal:
            self.refuse(f"malformed packet: {packet.reason}", DisconnectReasonCode.MALFORMED_PACKET)
        elif self._panics > MOST_PANICS:
            self.refuse(f"too many packets with {NO_UTF8}", DisconnectReasonCode.MALFORMED_PACKET)

    def _welcomed(self, packet: ConnAckPacket) -> None:
        if self.welcome.done():
            self.refuse("the broker sent a second CONNACK", DisconnectReasonCode.PROTOCOL_ERROR)
            return
        if refused(packet.reason_code):
            self.refusal = packet.reason_code
            self._reason = f"the broker refuses us: {words(packet.reason_code, packet.reason_str)}"
            self.drop(self._reason)
            return
        self.took_s += self._loop.time()
        keepalive = self._hello.keep_alive if packet.server_keep_alive is None else packet.server_keep_alive
        if keepalive:
            self._beat_s = keepalive / 2
            self._beat = self._loop.call_later(self._beat_s, self._ping)
        self.welcome.set_result(packet)
        self._owner.welcomed(self, packet)

    @property
    def _namesake(self) -> str:
        return f"another client has our name {self._hello.client_id!r}: give each an id or client_id of its own"

    def _ping(self) -> None:
        """Every half keepalive: a question, and an end if the last one was not answered."""
        if self._pinged and not self._paused:
            self.drop(f"the broker did not answer a ping for {self._beat_s:g} s")
            return
        self._pinged = True
        self._set_mark(1)
        self.send(PingReqPacket())
        self._beat = self._loop.call_later(self._beat_s, self._ping)

    def _set_mark(self, size: int) -> None:
        if size != self._mark and self._socket is not None:
            self._mark = size
            # A socket that is being closed has no marks any more, and needs none.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
