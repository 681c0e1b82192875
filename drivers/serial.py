"""A serial port: bytes that come by themselves or are asked for, cut into readings.

- The port is read in bulk at the turn, and early where the kernel's 4 KiB would be full before it (gateway.tap).
- Bytes before and after a lost connection are never joined.
- What a UART lost on its way to us is asked of it now and then, and counted.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from drivers._questions import Poll, Questions
from gateway import decode
from gateway.errors import DriverUnavailable, Malformed, NoRecord
from gateway.framing import FrameOptions
from gateway.plugin import Decoding, Inlet, Mistake, Plugin
from gateway.port import Line, NotThere, Rs485, Usb, Wire, connect, find, open_terminal, ports, remote
from gateway.quantity import Octets
from gateway.tap import Tap

EXAMPLE = """\
driver: serial
port: /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0
baud: 9600
stream: boiler
poll:
  - {send: '1:READ\\r\\n', every: 10s, key: boiler/1}
  - {send: '2:READ\\r\\n', every: 10s, key: boiler/2}
"""

COUNT_S = 10.0  # between two looks at what the UART counted
SEND_S = 2.0  # how long a line may take to accept what we send
LOOK_S = (0.5, 1.5)  # between two looks whether a port that is not there is there
RETRY_S = (0.5, 3.0)  # after a port was lost or could not be opened: it is our own, so nobody is in a hurry but us
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed, NoRecord)


class FromField(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A key that the reading itself tells. A reading that has no such field has the name of the port as its key.

    field: the field of a payload that is its key.
    decode: how payloads are read for that, as the driver's own `decode:`.
    """

    field: Annotated[str, Meta(min_length=1, max_length=256)]
    decode: Decoding = decode.JSON


class Options(FrameOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    r"""Read a serial port: lines or frames, as they come or on request.

    port: its path, best one of /dev/serial/by-id, which stays the same whatever is plugged in; or `socket://host:port`
        for a terminal server that passes bytes on, or `rfc2217://host:port` for one that speaks RFC 2217.
    usb: instead of a port, what the USB device says of itself, as lsusb shows it: `VENDOR:PRODUCT`, or
        `VENDOR:PRODUCT:SERIAL` where there are several.
    stream: where the readings go.
    key: the key of the readings; the name of the port unless given, or a map where a field tells it.
    baud: bits per second.
    bytesize: bits of a byte.
    parity: the bit behind them.
    stopbits: how many end a byte.
    flow: who tells the other one to wait, and how.
    exclusive: nobody else may open the port meanwhile.
    rs485: for a two-wire bus that the kernel switches; adapters that switch by themselves need nothing here.
    start: what is sent after the port was opened, as `\x1bE\r`. The first question waits for its answer, as long as the
        `timeout` of questions says.
    poll: what is asked again and again, one question or a list of them; the next one waits for the answer to the last.
    echo: the line gives back what we send, as two-wire adapters do; it is taken out.
    """

    port: str | None = None
    usb: str | None = None
    stream: str
    key: str | FromField | None = None
    baud: Annotated[int, Meta(ge=50, le=4_000_000)] = 9600
    bytesize: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stopbits: Literal[1, 2] = 1
    flow: Literal["none", "rtscts", "xonxoff"] = "none"
    exclusive: bool = True
    rs485: Rs485 | None = None
    start: Octets = Octets("")
    poll: Poll | Annotated[list[Poll], Meta(min_length=1, max_length=256)] | None = None
    echo: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.port is None) == (self.usb is None):
            raise Mistake(
                () if self.port is None else ("usb",), "a port is named by port: or by usb:; write one of them"
            )
        if self.usb is not None:
            try:
                Usb.parse(self.usb)
            except ValueError as error:
                raise Mistake(("usb",), str(error)) from None
        elif self.far:
            self._check_far()
        elif not self.port or not self.port.startswith("/"):
            raise Mistake(("port",), f"{self.port!r} is no path; write it like /dev/ttyUSB0, or socket://host:port")
        if self.echo and not self.polls and not self.start:
            raise Mistake(("echo",), "nothing is sent here, so there is no echo; remove it")
        for place, poll in self._asked:
            if poll.checksum:
                try:
                    self.sealed(b"")
                except ValueError as error:
                    raise Mistake((*place, "checksum"), str(error)) from None

    def _check_far(self) -> None:
        assert self.port is not None
        try:
            url = urlsplit(self.port)
            good = url.scheme in ("socket", "rfc2217") and url.hostname and url.port
        except ValueError:
            good = None
        if not good or url.path or url.query or url.username:
            raise Mistake(("port",), f"{self.port!r} is no port; write socket://host:port or rfc2217://host:port")
        settings: tuple[str, ...] = ("rs485", "exclusive")
        if url.scheme == "socket":
            settings = ("baud", "bytesize", "parity", "stopbits", "flow", *settings)
        for field in msgspec.structs.fields(self):
            if field.name in settings and getattr(self, field.name) != field.default:
                raise Mistake((field.name,), f"{field.name} is set at the far end of {url.scheme}://; remove it here")

    @property
    def far(self) -> bool:
        """Whether the port is at the other end of a network."""
        return self.port is not None and "://" in self.port

    @property
    def polls(self) -> list[Poll]:
        return [self.poll] if isinstance(self.poll, Poll) else list(self.poll or ())

    @property
    def _asked(self) -> list[tuple[tuple[str | int, ...], Poll]]:
        """Every question, and where it stands."""
        if isinstance(self.poll, Poll):
            return [(("poll",), self.poll)]
        return [(("poll", i), poll) for i, poll in enumerate(self.polls)]

    @property
    def line(self) -> Line:
        return Line(self.baud, self.bytesize, self.parity, self.stopbits, self.flow, self.exclusive, self.rs485)

    @property
    def name(self) -> str:
        """A name of the port that stays the same: what the configuration calls it."""
        if self.usb is not None:
            return f"usb-{self.usb}"
        assert self.port is not None
        return urlsplit(self.port).netloc if self.far else self.port.rpartition("/")[2]

    def streams(self) -> list[str]:
        return [self.stream]

    def claims(self, gateway: str, name: str) -> dict[str, str]:
        if self.far or not self.exclusive:
            return {}
        return {"usb": f"the USB device {self.usb}"} if self.usb else {"port": f"the port {self.port}"}

    @classmethod
    def found(cls) -> list[str]:
        return [f"port={path}" for path in ports()]

    def sniffing(self) -> "Options":
        """Alone at the port, or not at all: two who read one port take each other's bytes."""
        return msgspec.structs.replace(self, exclusive=True) if not self.far else self

    def warnings(self) -> list[Mistake]:
        found = self.frame_doubts()
        if self.port and re.fullmatch(r"/dev/tty(USB|ACM)\d+", self.port):
            told = (
                f"{self.port} is whichever device was plugged in first; write one of /dev/serial/by-id, which "
                "`ls /dev/serial/by-id` shows, or usb:"
            )
            found.append(Mistake(("port",), told))
        for place, poll in self._asked:
            if poll.timeout > poll.every:
                told = (
                    f"asked every {poll.every:g} s, and an answer may take {poll.timeout:g} s (timeout): one that does "
                    "makes the next question late; write a longer every, or a shorter timeout"
                )
                found.append(Mistake((*place, "every"), told))
        if isinstance(self.key, FromField) and any(poll.key for poll in self.polls):
            found.append(Mistake(("key",), "the answers to questions with a key of their own have that key"))
        return found


class SerialDriver:
    """One open port at a time."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._options, self._inlet = options, inlet
        self._framer = options.framer()
        self._key = options.name if not isinstance(options.key, str) else options.key
        self._keys: Callable[[Sequence[bytes]], list[str]] | None = None
        self._questions = Questions(options.polls, lambda: inlet.count("answers_missing_total"), self._tell)
        self._at = ""  # where the port was found
        self._wire: Wire | None = None
        self._tap: Tap | None = None
        self._paused = self._overslept = False
        self._echo = b""  # what was sent and has not come back
        self._count_at = 0.0  # monotonic: next look at the counters
        self._counts: dict[str, int] = {}
        self._lost: Counter[str] = Counter()  # what the UART lost, since the start
        self._brimful = self._drops = 0

    # -- gateway.plugin.Driver -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        if isinstance(self._options.key, FromField) and self._keys is None:
            self._keys = _from_field(self._options.key, self._key)
        wire = await self._opened()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(why: str) -> None:
            if not lost.done():
                lost.set_exception(DriverUnavailable(self._gone(why), self._soon()))

        tap = Tap(
            wire.fd,
            self._taken,
            ended,
            holds=wire.holds,
            per_s=wire.per_s,
            urgent=self._inlet.urgent or bool(self._options.polls),
            idle_s=self._framer.idle_s,
            idle=self._fell_silent,
        )
        self._wire, self._tap = wire, tap
        self._counts, self._count_at = dict(wire.counts() or {}), 0.0
        self._brimful = self._drops = 0
        self._echo = b""
        try:
            if self._paused:
                tap.pause()
            tap.open()
            self._tell()
            await self._until(lost, self._converse(wire))
        except OSError as error:
            raise DriverUnavailable(self._gone(error.strerror or str(error)), self._soon()) from error
        finally:
            tap.close()
            lost.cancel()
            self._wire = self._tap = None
            self._framer.reset()
            self._tell_bad()
            await asyncio.to_thread(wire.close)

    def turn(self) -> None:
        if self._tap is None:
            return
        self._tap.turn()
        now = self._inlet.clock.monotonic()
        if now >= self._count_at:
            self._count_at = now + COUNT_S
            self._count()

    def pause(self) -> None:
        self._paused = True
        self._questions.pause()
        if self._tap is not None:
            self._tap.pause()

    def resume(self) -> None:
        self._paused = False
        if self._tap is not None:
            self._overslept = True
            self._tap.resume()  # which reads at once
            self._overslept = False
        self._questions.resume()

    def acknowledge(self, receipts: Sequence[object]) -> None:
        """A serial line cannot send again; nobody waits for this."""

    # -- the port ------------------------------------------------------------------------------------------------------

    async def _opened(self) -> Wire:
        """Wait until the port is there, and open it. Raises DriverUnavailable."""
        options = self._options
        usb = Usb.parse(options.usb) if options.usb else None
        while not options.far:
            try:
                self._at = find(options.port, usb)
                break
            except NotThere as error:
                self._inlet.waiting(str(error))
                await asyncio.sleep(random.uniform(*LOOK_S))
        if options.far:
            self._at = options.port or ""
        try:
            return await _kept(self._opening())
        except OSError as error:
            told = error.strerror or str(error)
            if self._at not in told:
                told = f"{self._at}: {told}; is it switched on, and does it listen there?"
            raise DriverUnavailable(told, self._soon()) from error

    def _opening(self) -> Callable[[], Wire]:
        if not self._options.far:
            return partial(open_terminal, self._at, self._options.line)
        url = urlsplit(self._at)
        if url.scheme == "rfc2217":
            return partial(remote, self._at, self._options.line)
        return partial(connect, url.hostname or "", url.port or 0)

    def _soon(self) -> float | None:
        """Seconds until the next try; the far end of a network is left to the supervisor's growing wait."""
        return None if self._options.far else random.uniform(*RETRY_S)

    def _gone(self, why: str) -> str:
        if self._options.far:
            return f"{self._at}: the connection is lost ({why})"
        return f"{self._at} was lost ({why}); was it unplugged?"

    async def _until(self, lost: "asyncio.Future[None]", work: Coroutine[Any, Any, None]) -> None:
        """Work until the port is lost. Raises what either raises."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({lost, working}, return_when=asyncio.FIRST_COMPLETED)
            (lost if lost.done() else working).result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def _taken(self, data: bytes) -> None:
        now = self._inlet.clock.now()
        if self._overslept:
            self._framer.overslept()
        if self._echo:
            data = self._without_echo(data)
        if data:
            self._questions.alive()
        self._record(self._framer.feed(data), now)
        if self._tap is not None and self._tap.brimful != self._brimful and self._count():
            self._framer.reset()  # there is a hole behind what was read
            self._tell_bad()

    def _fell_silent(self) -> None:
        self._record(self._framer.flush(), self._inlet.clock.now())

    def _record(self, frames: list[bytes], now: int) -> None:
        self._tell_bad()
        if not frames:
            return
        if self._questions.late:
            self._inlet.bad_frame("an answer that came too late", frames[0], len(frames))
            return
        many = len(frames)
        if self._questions.key is not None:
            keys = [self._questions.key] * many
        elif self._keys is not None:
            keys = self._keys(frames)
        else:
            keys = [self._key] * many
        self._inlet.record(self._options.stream, [now] * many, keys, frames)
        self._questions.answered()

    def _tell_bad(self) -> None:
        asked = self._questions.asked
        for bad in self._framer.bad():
            reason = f"{bad.reason}, in the answer to {asked}" if asked else bad.reason
            self._inlet.bad_frame(reason, bad.sample, bad.times)

    def _without_echo(self, data: bytes) -> bytes:
        size = min(len(self._echo), len(data))
        if data[:size] != self._echo[:size]:
            self._echo = b""  # somebody spoke over us: then this is no echo to be taken out
            return data
        self._echo = self._echo[size:]
        return data[size:]

    # -- what is sent --------------------------------------------------------------------------------------------------

    async def _converse(self, wire: Wire) -> None:
        """What is sent at the start, then the questions."""
        if self._options.start:
            await self._send(wire, self._options.start.raw)
            await asyncio.sleep(
                max((poll.timeout for poll in self._options.polls), default=0.0)
            )  # its answer is no other
        await self._questions.ask(self._answer_is_over, partial(self._ask, wire))
        await asyncio.get_running_loop().create_future()  # there are none: it only listens

    def _answer_is_over(self) -> None:
        self._framer.reset()  # half an answer to the last question is none to the next
        self._tell_bad()

    async def _ask(self, wire: Wire, poll: Poll) -> None:
        await self._send(wire, self._options.sealed(poll.send.raw) if poll.checksum else poll.send.raw)

    async def _send(self, wire: Wire, data: bytes) -> None:
        if self._options.echo:
            self._echo = data
        try:
            await asyncio.to_thread(wire.write, data, SEND_S)
        except TimeoutError as error:
            raise DriverUnavailable(f"{self._at}: {error.strerror or error}", self._soon()) from error

    # -- what is told --------------------------------------------------------------------------------------------------

    def _count(self) -> bool:
        """Ask what was lost on the way to us since the last time; whether there was something."""
        wire, tap = self._wire, self._tap
        if wire is None or tap is None:
            return False
        counts = wire.counts() or {}
        lost = {metric: n - self._counts.get(metric, 0) for metric, n in counts.items()}
        self._counts = dict(counts)
        lost["input_lost_bytes_total"], self._drops = wire.drops - self._drops, wire.drops
        lost = {metric: n for metric, n in lost.items() if n > 0}
        full, self._brimful = tap.brimful - self._brimful, tap.brimful
        if full and not self._options.far:  # there the writer waits
            self._inlet.count("input_full_total", full)
        for metric, n in lost.items():
            self._inlet.count(metric, n)
            self._lost[metric] += n
        if lost:
            self._tell()
        return bool(lost)

    def _tell(self) -> None:
        """The state, in words."""
        parts = [self._at if self._options.far else f"{self._at}, {self._options.line}"]
        parts += [f"{n} {_LOST[metric]}" for metric, n in self._lost.items()]
        if silence := self._questions.silence():
            parts.append(silence)
        if self._questions.hopeless:
            self._inlet.waiting(f"{'; '.join(parts)}; is the device on, and are baud and wires right?")
        else:
            self._inlet.up("; ".join(parts))


_LOST = {
    "uart_framing_errors_total": "framing errors (is the baud right?)",
    "uart_overruns_total": "overruns of the UART",
    "uart_parity_errors_total": "parity errors",
    "uart_breaks_total": "breaks",
    "uart_buffer_overruns_total": "overruns of the kernel's buffer",
    "input_lost_bytes_total": "bytes given up",
}


def _from_field(key: FromField, otherwise: str) -> Callable[[Sequence[bytes]], list[str]]:
    """A function from payloads to their keys."""
    shape = msgspec.defstruct("Keyed", [("key", str | int | float | None, None)], rename={"key": key.field})
    read = decode.reader(key.decode, shape)

    def one(payload: bytes) -> str:
        try:
            found = read(payload).key
        except UNREADABLE:  # whoever decodes it will say so; here it only has no key of its own
            return otherwise
        return otherwise if found in (None, "") else str(found)

    return lambda payloads: [one(payload) for payload in payloads]


async def _kept(opening: Callable[[], Wire]) -> Wire:
    """Open in a thread; what is opened although nobody waits for it any more is closed again."""
    task = asyncio.ensure_future(asyncio.to_thread(opening))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: None if done.cancelled() or done.exception() else done.result().close())
        raise


plugin = Plugin(Options, SerialDriver)
