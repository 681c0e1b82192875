"""MQTT over websockets (OASIS, MQTT Version 5.0, chapter 6): what stands between the socket and the link.

To the socket it is a protocol, to the link a transport: the link sees the bytes that it would see without it. Packets
may be split over frames and frames may hold several; all frames of a read are handed on together. Compression is not
offered. Imported only where a url says `ws://` or `wss://`, and with it the websockets library.
"""

import asyncio
import logging
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, NegotiationError, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from gateway.mqtt.link import CLOSE_S, Link
from gateway.mqtt.options import Address
from gateway.mqtt.trouble import HungUp, stranger

READ = 64 * 1024  # bytes of one read
LARGEST = 4 << 20  # bytes of a frame at least; brokers may put several packets into one
TOLD = 100  # characters that are shown of what the far side says

# The library shows at level debug what passes, and so parts of the password.
_discreet = logging.getLogger("tidegate.mqtt.websocket")
_discreet.setLevel(logging.INFO)

_HINTS = {
    400: "it wants no websocket there; check the path",
    401: "it asks for a login of the web server's own, which we cannot give; let it leave that to the broker",
    403: "it does not let us in; check what it allows, and the path",
    404: "there is nothing at this path; check it, often it is /mqtt",
    405: "it wants no websocket there; check the path",
    426: "it wants no websocket there; check the path",
    429: "we come back",
    502: "the broker behind it is away; we come back",
    503: "the broker behind it is away; we come back",
    504: "the broker behind it is away; we come back",
}


class WebSocket(asyncio.Transport, asyncio.BufferedProtocol):
    """One connection. The link hears of it when the handshake is done, or of the reason when it comes to nothing."""

    def __init__(self, link: Link, address: Address, limit: int) -> None:
        super().__init__()
        self._link, self._address = link, address
        self._largest = max(4 * limit, LARGEST)
        where = WebSocketURI(address.tls, address.host, address.port, address.path, "")
        offered = [Subprotocol("mqtt")]
        self._frames = ClientProtocol(where, subprotocols=offered, max_size=self._largest, logger=_discreet)
        self._buffer = memoryview(bytearray(READ))
        self._transport: asyncio.Transport | None = None
        self._heard = self._open = self._closing = False
        self._patience: asyncio.TimerHandle | None = None

    # -- what the link does, as with any transport ---------------------------------------------------------------------

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        if not self._closing:
            self._frames.send_binary(bytes(data))
            self._flush()

    def is_closing(self) -> bool:
        return self._closing or self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Say goodbye; the socket is closed when the far side has answered, or does not."""
        if self.is_closing() or self._transport is None:
            return
        self._closing = True
        self._frames.send_close(CloseCode.NORMAL_CLOSURE)
        self._flush()
        self._transport.resume_reading()
        self._patience = asyncio.get_running_loop().call_later(CLOSE_S, self.abort)

    def abort(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        assert self._transport is not None
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    # -- what asyncio does ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._frames.send_request(self._frames.connect())
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if not self._heard:
            self._heard = True
            if not data.startswith(b"HTTP/") and (who := stranger(data)) is not None:
                self._fail(who.replace("mqtts://", "wss://"))
                return
        self._frames.receive_data(data)
        self._look()

    def eof_received(self) -> None:
        self._frames.receive_eof()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._patience is not None:
            self._patience.cancel()
        if not self._open:
            self._link.drop(
                "it ended the connection in the midst of the websocket's handshake; check the port and path"
            )
        elif exc is None or isinstance(exc, ConnectionError):
            exc = HungUp(self._goodbye())
        self._link.connection_lost(exc)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Hand on what came: the handshake's end, and the bytes of all frames at once."""
        frames, parts = self._frames, []
        for event in frames.events_received():
            if isinstance(event, Response):
                self._open = frames.handshake_exc is None
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
                parts.append(event.data)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT is binary")
                self._flush()
                self._fail("it sent text over the websocket, which is no MQTT")
                return
            if self._open and not self._link.attached:
                self._link.connection_made(self)
        self._flush()
        if parts and not self._closing:
            self._hand_on(b"".join(parts))
        if frames.handshake_exc is not None:
            self._fail(self._refusal(frames.handshake_exc))
        elif isinstance(frames.parser_exc, PayloadTooBig):
            self._fail(
                f"it sent more than {self._largest} bytes in one frame of the websocket; write a larger max_packet"
            )
        elif frames.parser_exc is not None and not isinstance(frames.parser_exc, EOFError):
            self._fail(f"it breaks the websocket protocol: {str(frames.parser_exc)[:TOLD]!r}")
        elif frames.close_rcvd is not None and self._transport is not None:
            self._closing = True
            self._transport.close()

    def _hand_on(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._closing:
            space = self._link.get_buffer(-1)
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            self._link.buffer_updated(count)

    def _flush(self) -> None:
        data = b"".join(self._frames.data_to_send())
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _fail(self, why: str) -> None:
        self._link.drop(why)
        self.abort()

    def _goodbye(self) -> str:
        """How the far side ended it."""
        close = self._frames.close_rcvd
        if close is None or self._frames.state is State.CONNECTING:
            return "the broker ended the connection"
        told = f" ({close.reason[:TOLD]!r})" if close.reason else ""
        return f"the broker closed the websocket with code {int(close.code)}{told}"

    def _refusal(self, error: Exception) -> str:
        """Why the handshake failed, and what to try."""
        secure = self._address.tls
        if isinstance(error, InvalidStatus):
            response = error.response
            told = f"the web server there answers {response.status_code} {response.reason_phrase[:TOLD]!r}"
            if 300 <= response.status_code < 400 and "Location" in response.headers:
                place = response.headers.get_all("Location")[0][:TOLD]
                return f"{told} and sends us to {place!r}; write that, as ws:// or wss://, if you trust it"
            return f"{told}; {_HINTS.get(response.status_code, 'check the port and the path')}"
        if isinstance(error, NegotiationError):
            return f"it wants more of the websocket than we offer ({str(error)[:TOLD]!r})"
        plain = "; write mqtts:// if it is a broker without websockets" if secure else ", or mqtt:// without websockets"
        return f"no websocket is spoken there; check the port and the path{plain}"
