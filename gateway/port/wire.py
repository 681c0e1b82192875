"""An open port: a descriptor to read from, a way to write, and what its UART counted.

pyserial opens and configures terminals and RFC 2217 ports; reading is not its business, since it takes each byte in
its hand.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.port.words import busy, refused
from gateway.quantity import Duration

TTY_HOLDS = 4096  # N_TTY_BUF_SIZE of the kernel
TIOCGICOUNT = 0x545D  # struct serial_icounter_struct of linux/serial.h: eleven counters and nine to spare
_COUNTERS = struct.Struct("20i")
UART = {  # metric -> its place in that struct
    "uart_framing_errors_total": 6,
    "uart_overruns_total": 7,
    "uart_parity_errors_total": 8,
    "uart_breaks_total": 9,
    "uart_buffer_overruns_total": 10,
}
PATIENCE_S = 5.0  # for the far end of a network
BACKLOG = 1 << 20  # bytes that may wait for us at an RFC 2217 port
PACE_S = 0.02  # between two looks at one


class Rs485(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A two-wire bus whose driver is switched by RTS, by the kernel.

    rts_sending: the level of RTS while we send.
    rts_receiving: the level of RTS while we listen.
    before: how long RTS stands before the first bit.
    after: how long it stands after the last one.
    loopback: we hear what we send.
    """

    rts_sending: bool = True
    rts_receiving: bool = False
    before: Duration = Duration(0)
    after: Duration = Duration(0)
    loopback: bool = False


class Line(NamedTuple):
    """How a line is spoken to."""

    baud: int
    bytesize: Literal[5, 6, 7, 8]
    parity: Literal["none", "even", "odd", "mark", "space"]
    stopbits: Literal[1, 2]
    flow: Literal["none", "rtscts", "xonxoff"]
    exclusive: bool
    rs485: Rs485 | None

    def __str__(self) -> str:
        return f"{self.baud} baud, {self.bytesize}{self.parity[0].upper()}{self.stopbits}"

    @property
    def per_s(self) -> float:
        """The most bytes that can come in a second: each has a start bit, and what was asked for."""
        return self.baud / (1 + self.bytesize + (self.parity != "none") + self.stopbits)

    def settings(self) -> dict[str, Any]:
        """In the words of pyserial."""
        return {
            "baudrate": self.baud,
            "bytesize": self.bytesize,
            "parity": self.parity[0].upper(),
            "stopbits": self.stopbits,
            "rtscts": self.flow == "rtscts",
            "xonxoff": self.flow == "xonxoff",
        }


class Wire:
    """An open port. `holds` and `per_s` are what gateway.tap.Tap wants to know.

    `fd` does not block. `drops`: bytes that were given up since the port was opened, because nobody took them.
    """

    drops = 0

    def __init__(self, fd: int, holds: int, per_s: float | None, close: Callable[[], None]) -> None:
        self.fd, self.holds, self.per_s, self._close = fd, holds, per_s, close
        self._writing = threading.Lock()  # a number must not become another file's while somebody writes to it

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send all of it. Blocks. Raises OSError; TimeoutError where the line takes no more."""
        until = time.monotonic() + timeout_s
        with self._writing:
            while data:
                if self.fd < 0 or not select.select([], [self.fd], [], max(0.0, until - time.monotonic()))[1]:
                    raise TimeoutError(errno.ETIMEDOUT, "the line takes no bytes; is flow: right, and the device on?")
                try:
                    data = data[os.write(self.fd, data) :]
                except BlockingIOError:
                    continue

    def counts(self) -> Mapping[str, int] | None:
        """What the UART counted since it was switched on, by metric; None where there is none."""
        try:
            numbers = _COUNTERS.unpack(fcntl.ioctl(self.fd, TIOCGICOUNT, bytes(_COUNTERS.size)))
        except OSError:  # a pseudo-terminal, a socket, a device without counters
            return None
        return {metric: numbers[place] for metric, place in UART.items()}

    def close(self) -> None:
        """Blocks while the device takes its time. Called once."""
        with self._writing:
            self.fd = -1
            self._close()


def open_terminal(path: str, line: Line) -> Wire:
    """A terminal of this machine. Blocks. Raises OSError whose text is for people."""
    import serial
    from serial.rs485 import RS485Settings

    try:
        # inter_byte_timeout=0 makes a read of an empty line fail with EAGAIN, so that b"" is its end and nothing else.
        terminal = serial.Serial(path, exclusive=line.exclusive or None, inter_byte_timeout=0, **line.settings())
    except (serial.SerialException, termios.error, ValueError) as error:
        raise _told(path, error) from error
    fd = terminal.fileno()
    try:
        # Whoever wants it for himself must see that we have it.
        if not line.exclusive:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if line.rs485 is not None:
            told = line.rs485
            terminal.rs485_mode = RS485Settings(
                told.rts_sending, told.rts_receiving, told.loopback, float(told.before), float(told.after)
            )
    except BlockingIOError:
        terminal.close()
        raise OSError(errno.EBUSY, busy(path)) from None
    except (OSError, ValueError) as error:
        terminal.close()
        hint = "most USB adapters switch the bus by themselves: then remove rs485:"
        raise OSError(errno.ENOTTY, f"{path} has no RS-485 mode of its own ({error}); {hint}") from error

    def close() -> None:
        with suppress(termios.error):  # the device is gone
            termios.tcflush(fd, termios.TCOFLUSH)  # what the line does not take would hold closing up for 30 s
        terminal.close()

    return Wire(fd, TTY_HOLDS, line.per_s, close)


def _told(path: str, error: Exception) -> OSError:
    code = getattr(error, "errno", None)
    for said in (error, error.__context__):
        if isinstance(said, termios.error):  # which is no OSError
            code = said.args[0]
    if not isinstance(code, int):
        return OSError(errno.EINVAL, f"{path} cannot be opened: {error}")
    return OSError(code, refused(path, OSError(code, os.strerror(code))))


def connect(host: str, port: int) -> Wire:
    """What a terminal server passes on as it comes. Blocks. Raises OSError."""
    link = socket.create_connection((host, port), timeout=PATIENCE_S)
    link.setblocking(False)
    # A far end that lost its power says nothing for ever; so the kernel asks it.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return Wire(link.fileno(), link.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2, None, link.close)


def remote(url: str, line: Line) -> Wire:
    """A port behind RFC 2217. Blocks. Raises OSError whose text is for people."""
    import serial

    try:
        port = serial.serial_for_url(url, timeout=1.0, **line.settings())
    except (OSError, ValueError) as error:  # among them all of pyserial's own
        raise OSError(errno.ECONNREFUSED, f"{url}: {error}") from error
    return _Pumped(port)


class _Pumped(Wire):
    """pyserial speaks RFC 2217 in a thread of its own, without a descriptor: what it has is pumped into one."""

    def __init__(self, port: Any) -> None:
        near, self._far = socket.socketpair()
        near.setblocking(False)
        self._near, self._port, self._leaving = near, port, False
        super().__init__(near.fileno(), near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2, None, self._end)
        self._far.settimeout(PACE_S)
        self._thread = threading.Thread(target=self._pump, name="rfc2217", daemon=True)
        self._thread.start()

    def write(self, data: bytes, timeout_s: float) -> None:
        import serial

        try:
            self._port.write(data)
        except serial.SerialException as error:
            raise OSError(errno.EIO, str(error)) from error

    def counts(self) -> None:
        return None

    def _pump(self) -> None:
        try:
            while not self._leaving:
                data = self._port.read(1)
                while data and not self._leaving:
                    data += self._port.read(self._port.in_waiting)
                    try:
                        data = data[self._far.send(data) :]
                    except TimeoutError:  # nobody takes it: a little is kept, as a terminal keeps a little
                        if len(data) > BACKLOG:
                            self.drops += len(data)
                            data = b""
                time.sleep(PACE_S)
        except (OSError, TypeError, AttributeError):
            pass  # the port is gone or being closed; pyserial falls over its own missing parts then
        finally:
            self._far.close()

    def _end(self) -> None:
        self._leaving = True
        self._port.close()
        self._thread.join(PATIENCE_S)
        self._near.close()
