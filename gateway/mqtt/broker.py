"""Where an entry connects to, again and again, and which MQTT is spoken there.

`version: auto` says hello in MQTT 5. Where that is refused it says hello again in 3.1.1, and stays with that for as
long as the entry lives. A broker refuses MQTT 5 by saying so, by answering in the form of 3.1.1, by hanging up, or by
not answering at all (amqtt takes our properties for a long name and waits for the rest of it). The last two may mean
anything, a broker that is just starting too: so they count only at one that never let us in with MQTT 5, and the next
connection tries MQTT 5 once more. Nothing else is a reason: not a wrong password, not TLS, not a web server.
"""

import asyncio
import logging
from typing import Any

from mqtt5 import ConnAckReasonCode, ConnectPacket, Will

from gateway.mqtt import tls
from gateway.mqtt.codec import FIVE, THREE, Codec
from gateway.mqtt.link import Link, Owner
from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.trouble import LinkLost, explain, shut_out

TWICE = 2  # connections in MQTT 3.1.1 that came about at a broker that did not answer MQTT 5
_NOT_THIS_ONE = ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION

log = logging.getLogger("tidegate.mqtt")


class Broker:
    """The far side of one entry, over all its connections."""

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._codec = THREE if options.version == 3 else FIVE  # what the next connection begins with
        self._unanswered = 0  # how often it let us in with 3.1.1 alone, and did not answer MQTT 5
        self._knows_5 = False

    async def connect(
        self,
        owner: Owner,
        *,
        client_id: str,
        clean_start: bool,
        session_expiry_s: int = 0,
        subscribing: bool = True,
        receive_maximum: int = 65535,
        will: Will | None = None,
    ) -> Link:
        """Return when the broker has let us in. Raises LinkLost with the reason in words.

        `subscribing`: the session will hold something. MQTT 3.1.1 sessions do not expire, so an empty one is not kept.
        """
        options = self._options
        hello = ConnectPacket(
            client_id,
            username=options.username,
            password=_password(options),
            clean_start=clean_start,
            will=will,
            keep_alive=int(options.keepalive),
            session_expiry_interval=session_expiry_s,
            receive_max=receive_maximum,
            topic_alias_max=0,
            max_packet_size=int(options.max_packet),
        )
        old_hello = ConnectPacket(
            client_id,
            username=hello.username,
            password=hello.password,
            clean_start=clean_start or not session_expiry_s or not subscribing,
            will=will,
            keep_alive=hello.keep_alive,
        )
        if self._codec is THREE:
            try:
                return await self._open(owner, old_hello, THREE)
            except LinkLost as lost:
                if options.version == "auto" and lost.code == _NOT_THIS_ONE:
                    self._codec = FIVE  # it is another broker by now
                raise
        try:
            link = await self._open(owner, hello, FIVE)
        except LinkLost as lost:
            if options.version == "auto" and (lost.code == _NOT_THIS_ONE or (lost.mute and not self._knows_5)):
                return await self._open_older(owner, old_hello, lost)
            if options.version == 5 and lost.mute:
                raise LinkLost(f"{lost}; leave version out if it may know MQTT 3.1.1 only", mute=True) from lost
            raise
        self._knows_5 = True
        return link

    async def _open_older(self, owner: Owner, hello: ConnectPacket, first: LinkLost) -> Link:
        """After MQTT 5 failed with `first`."""
        address = self._options.address
        try:
            link = await self._open(owner, hello, THREE)
        except LinkLost as lost:
            if lost.code != _NOT_THIS_ONE:
                raise
            if first.mute:  # it is a newer one, and was not at its best
                raise first from lost
            told = f"{address}: the broker speaks neither MQTT 5 nor MQTT 3.1.1; update it"
            raise LinkLost(told, lost.code) from lost
        self._unanswered += first.mute
        if first.mute and self._unanswered < TWICE:
            log.warning("%s did not answer MQTT 5, so MQTT 3.1.1 is spoken with it for now", address)
        else:
            self._codec = THREE
            log.warning("%s does not take MQTT 5, so MQTT 3.1.1 is spoken with it from now on", address)
        return link

    async def _open(self, owner: Owner, hello: ConnectPacket, codec: Codec) -> Link:
        options, address = self._options, self._options.address
        context = tls.context(options)
        link = Link(owner, hello, int(options.max_packet), codec, secure=context is not None)
        opened: asyncio.Protocol | asyncio.BufferedProtocol = link
        if address.path:
            from gateway.mqtt.websocket import WebSocket

            opened = WebSocket(link, address, int(options.max_packet))
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(options.connect_timeout):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: opened,
                    address.host,
                    address.port,
                    ssl=context,
                    server_hostname=address.host if context else None,
                )
                either: set[asyncio.Future[Any]] = {link.welcome, link.lost}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            _abort(transport)
            told = f"no answer within {options.connect_timeout:g} s; check that it is a broker"
            raise LinkLost(f"{address}: {told}", mute=link.attached) from error
        except (ConnectionResetError, ConnectionAbortedError) as error:  # in the midst of the handshake
            raise LinkLost(f"{address}: {shut_out(context is not None)}") from error
        except OSError as error:
            raise LinkLost(f"{address}: {explain(error)}") from error
        except BaseException:
            _abort(transport)
            raise
        if not link.welcome.done():
            raise LinkLost(f"{address}: {link.lost.result()}", link.refusal, mute=link.mute)
        return link


def _password(options: BrokerOptions) -> bytes | None:
    """Read from its file at every connect. Raises LinkLost."""
    try:
        return options.password_file.read() if options.password_file is not None else None
    except OSError as error:
        raise LinkLost(f"the password cannot be read: {explain(error)}") from error


def _abort(transport: asyncio.BaseTransport | None) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
