"""Listening to one driver: what its source says right now, recorded nowhere.

The driver is the real one, started as the daemon starts it, against an inlet that looks at records and forgets them.
Where it could take something from a running gateway, its options say how to listen beside it (plugin.Sniffable).
Memory is bounded: whatever comes, only what is known of keys, fields and a few samples is kept.
"""

import asyncio
import contextlib
import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

import msgspec

from gateway import decode
from gateway.clock import Clock
from gateway.config.model import DriverEntry
from gateway.errors import Malformed, NoRecord
from gateway.health import Board
from gateway.plugin import Decoding, Driver, Inference, Plugin, Remembered, Sniffable, explainer, inference
from gateway.record import RETAINED
from gateway.retry import Backoff, keep_running

TURN_S = 0.1
LARGEST = 65536  # bytes of a payload that a pipeline looks at
MOST_KEYS = 1_000  # that are told apart; the others of a stream are one
MOST_SHAPES = 100  # keys whose payloads are looked at each for itself
SAMPLES = 5  # of payloads that do not decode, and of bad frames
MOST_REASONS = 50
TRIED = 500  # payloads that other decoders are tried on
OTHERS = (
    "json",
    "number",
    "nmea",
    "influx",
    "keyvalue",
    "text",
)  # decoders that need no options, the most telling first
SHOWN = 256  # bytes of a sample
FEW = 10  # records that came within a second: their pace says nothing
OTHER_KEYS = "…"  # stands for all keys that are not told apart
NO_PAYLOAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Malformed)  # what a decoder may raise


class Seen(NamedTuple):
    """One record: as it came, and what it says."""

    stream: str
    time: int
    key: str
    value: bytes
    retained: bool
    fields: Mapping[str, object] | None  # None: it does not decode
    problem: str  # why


class Watcher(Protocol):
    """Who is told what happens, as it happens."""

    def records(self, seen: Sequence[Seen]) -> None: ...

    def state(self, state: str, detail: str) -> None: ...

    def bad_frame(self, reason: str, sample: bytes, count: int) -> None: ...


def rate_of(count: int, span_s: float) -> float | None:
    """Records per second, of so many from the first to the last one; None where they are too few to tell."""
    known = span_s > 0 and count > 1 and (count >= FEW or span_s >= 1)
    return (count - 1) / span_s if known else None


class Tally:
    """What came under one key, of one sort where the decoder knows sorts.

    `first` and `last` are monotonic s, of what is news: not of retained messages.
    """

    __slots__ = ("bad", "count", "first", "key", "last", "newest", "news", "shape", "size", "sort", "stream")

    def __init__(self, first: Seen, sort: str, shape: Inference) -> None:
        self.stream, self.key, self.sort, self.newest, self.shape = first.stream, first.key, sort, first, shape
        self.first = self.last = 0.0
        self.count = self.news = self.size = self.bad = 0

    @property
    def per_s(self) -> float | None:
        """Its pace, from its first to its last record; None where that cannot be told yet."""
        return rate_of(self.news, self.last - self.first)


class Kind(NamedTuple):
    """Payloads of one stream that look alike, and the keys they came under."""

    stream: str
    keys: list[str]
    shape: Inference
    only: tuple[str, str] | None = None  # the field that tells its sort, and what that says; None: all are alike

    @property
    def pattern(self) -> str:
        """Its keys as one: `site/+/temp` where they are topics that differ in a part."""
        if len(self.keys) == 1:
            return self.keys[0]
        topics = [key.split("/") for key in self.keys]
        columns = [set(column) for column in zip_longest(*topics)]
        whole = next((i for i, column in enumerate(columns) if None in column), len(columns))
        parts = [min(column, default="") if len(column) == 1 else "+" for column in columns[:whole]]
        return "/".join([*parts, *(["#"] if whole < len(columns) else [])])


class Findings:
    """Everything that was found out so far. Bounded, whatever comes."""

    def __init__(self, decodings: Mapping[str, Decoding], zone: str) -> None:
        self.decodings, self.zone = decodings, zone
        self.count = self.size = 0
        self.undecoded = 0
        self.no_records = 0  # comments and the like
        self.bad_frames = 0
        self.tallies: dict[tuple[str, str, str], Tally] = {}  # by stream, key and sort
        self.crowded = False  # there were more keys than are told apart
        self.samples: deque[Seen] = deque(maxlen=SAMPLES)  # that do not decode
        self.reasons: Counter[str] = Counter()  # why not
        self.frames: deque[tuple[str, bytes]] = deque(maxlen=SAMPLES)
        self._explore = {stream: decode.explorer(decoding) for stream, decoding in decodings.items()}
        self._sorted_by = {stream: decode.sorted_by(decoding) for stream, decoding in decodings.items()}
        self._others = {name: decode.explorer(Decoding(name)) for name in OTHERS}
        self._read_by: Counter[str] = Counter()  # other decoder -> payloads that it can read and ours cannot
        self._tried = 0
        self._columns = decode.Columns()
        self._reason, self._infer = explainer(), inference()
        self._rest: dict[str, Inference] = {}  # per stream, of keys beyond MOST_SHAPES

    def take(self, seen: Seen, now: float) -> Seen:
        """Add a record, at a monotonic time (s); returns it with what it says."""
        seen = self._decoded(seen)
        self.count += 1
        self.size += len(seen.value)
        tally = self._tally(seen)
        tally.newest = seen
        tally.count += 1
        tally.size += len(seen.value)
        if not seen.retained:
            tally.first = now if not tally.news else tally.first
            tally.last = now
            tally.news += 1
        if seen.fields is not None:
            tally.shape.add(seen.fields, seen.time)
        else:
            tally.bad += 1
        return seen

    def bad_frame(self, reason: str, sample: bytes, count: int) -> None:
        self.bad_frames += count
        self.frames.append((reason[:SHOWN], sample[:SHOWN]))

    def kinds(self) -> list[Kind]:
        """What there is of payloads that decode, the most frequent first."""
        owners: dict[int, list[Tally]] = {}
        for tally in self.tallies.values():
            if tally.shape.payloads:
                owners.setdefault(id(tally.shape), []).append(tally)
        found: list[Kind] = []
        for tallies in sorted(owners.values(), key=lambda tallies: -tallies[0].shape.payloads):
            stream, shape = tallies[0].stream, tallies[0].shape
            field, sort = self._sorted_by[stream], tallies[0].sort
            only = (field, sort) if field is not None and sort else None
            alike = [one for one in found if one.stream == stream and one.only == only]
            kind = next((one for one in alike if only or one.shape.fits(shape)), None)
            if kind is None:
                kind = Kind(stream, [], self._infer(self.zone), only)
                found.append(kind)
            kind.shape.merge(shape)
            kind.keys.extend(tally.key for tally in tallies)
        return sorted(found, key=lambda kind: -kind.shape.payloads)

    @property
    def better_decoder(self) -> str | None:
        """A decoder that reads what the one in use does not, as `decode:` says it."""
        name, n = max(self._read_by.items(), key=lambda pair: pair[1], default=("", 0))
        if not self._tried or n < 0.9 * self._tried:
            return None
        return (self._columns.decode() or name) if name == "text" else name

    def _tally(self, seen: Seen) -> Tally:
        field = self._sorted_by[seen.stream]
        sort = str(seen.fields[field]) if field is not None and seen.fields is not None else ""
        tally = self.tallies.get((seen.stream, seen.key, sort))
        if tally is not None:
            return tally
        if len(self.tallies) >= MOST_KEYS:
            self.crowded = True
            seen, sort = seen._replace(key=OTHER_KEYS), ""
            if (seen.stream, OTHER_KEYS, sort) in self.tallies:
                return self.tallies[seen.stream, OTHER_KEYS, sort]
        if len(self.tallies) < MOST_SHAPES:
            shape = self._infer(self.zone)
        else:
            shape = self._rest.setdefault(seen.stream, self._infer(self.zone))
        tally = self.tallies[seen.stream, seen.key, sort] = Tally(seen, sort, shape)
        return tally

    def _decoded(self, seen: Seen) -> Seen:
        if len(seen.value) > LARGEST:
            return self._undecodable(seen, f"the payload has more than {LARGEST} bytes")
        try:
            return seen._replace(fields=self._explore[seen.stream](seen.value))
        except NoRecord as error:
            self.no_records += 1
            return seen._replace(problem=f"no reading: {error}")
        except NO_PAYLOAD as error:
            return self._undecodable(seen, self._reason(error))

    def _undecodable(self, seen: Seen, problem: str) -> Seen:
        self.undecoded += 1
        if problem in self.reasons or len(self.reasons) < MOST_REASONS:
            self.reasons[problem] += 1
        if self._tried < TRIED and len(seen.value) <= LARGEST:
            self._tried += 1
            self._columns.add(seen.value)
            for name, explore in self._others.items():
                if name == "text" and seen.value[:1] in b"{[<":
                    continue  # it was meant to be something else
                try:
                    explore(seen.value)
                except (NoRecord, *NO_PAYLOAD):
                    continue
                self._read_by[name] += 1
                break
        seen = seen._replace(problem=problem)
        self.samples.append(seen)
        return seen


class Listener:
    """gateway.plugin.Inlet: the house as a driver sees it, without a log behind it."""

    urgent = True  # read as it comes, so that arrival is exact

    def __init__(
        self, entry: DriverEntry, gateway: str, clock: Clock, findings: Findings, watcher: Watcher, most: int | None
    ) -> None:
        self.name, self.gateway, self.clock = entry.name, gateway, clock
        self.memory: Sequence[Remembered] = ()
        self.findings, self.board = findings, Board(clock)
        self._entry, self._watcher, self._most = entry, watcher, most
        self._component = f"driver:{entry.name}"
        self._receipts: list[object] = []
        self._driver: Driver | None = None
        self._told = ("", "")

    async def listen(self, plugin: Plugin[Driver], until: asyncio.Event) -> None:
        """Run the driver until the event is set, or enough came."""
        options = self._entry.options
        if isinstance(options, Sniffable):
            options = options.sniffing()
        driver = self._driver = plugin.build(options, self)
        backoff = Backoff(first=0.5, most=5.0)
        serving = keep_running(lambda: _serve(driver), self.board, self._component, backoff, self.clock)
        running = asyncio.ensure_future(serving)
        try:
            while not until.is_set() and not self.enough:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), TURN_S)
                self._tell_state()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @property
    def enough(self) -> bool:
        return self._most is not None and self.findings.count >= self._most

    @property
    def state(self) -> tuple[str, str]:
        """The driver's state, and in words why it is so."""
        part = next(iter(self.board.components()), None)
        return (part.state, part.detail) if part else ("starting", "")

    def _tell_state(self) -> None:
        if self.state != self._told:
            self._told = self.state
            self._watcher.state(*self._told)

    # -- what the driver sees ------------------------------------------------------------------------------------------

    def record(
        self,
        stream: str,
        times: Sequence[int],
        keys: Sequence[str],
        values: Sequence[bytes],
        *,
        flags: bytes | None = None,
        ids: Sequence[int] | None = None,
        receipt: object = None,
    ) -> None:
        left = len(values) if self._most is None else self._most - self.findings.count
        now = self.clock.monotonic()
        rows = zip(times, keys, values, flags or bytes(len(values)), strict=True)
        seen = [
            self.findings.take(Seen(stream, time, key, value, bool(flag & RETAINED), None, ""), now)
            for (time, key, value, flag), _ in zip(rows, range(left), strict=False)
        ]
        if receipt is not None:
            if not self._receipts:
                asyncio.get_running_loop().call_soon(self._acknowledge)  # the driver may not be done with this read
            self._receipts.append(receipt)
        if seen:
            self._tell_state()
            self._watcher.records(seen)

    def _acknowledge(self) -> None:
        receipts, self._receipts = self._receipts, []
        if self._driver is not None:
            self._driver.acknowledge(receipts)

    def hurry(self) -> None:
        """Everything is acknowledged at once."""

    def up(self, detail: str = "") -> None:
        self.board.up(self._component, detail)
        self._tell_state()

    def waiting(self, detail: str) -> None:
        self.board.waiting(self._component, detail)
        self._tell_state()

    def bad_frame(self, reason: str, sample: bytes, count: int = 1) -> None:
        self.findings.bad_frame(reason, sample, count)
        self._watcher.bad_frame(reason, sample[:SHOWN], count)

    def count(self, metric: str, n: int = 1) -> None:
        """Counters are of no interest here."""

    @property
    def leaving(self) -> bool:
        return False

    def summary(self) -> Mapping[str, object]:
        return {}


async def _serve(driver: Driver) -> None:
    """One life of the driver, with its turns; the first defect in either ends it."""
    parts = [asyncio.ensure_future(driver.run()), asyncio.ensure_future(_turns(driver))]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def _turns(driver: Driver) -> None:
    while True:
        await asyncio.sleep(TURN_S)
        driver.turn()


def local_zone() -> str:
    """The IANA name of this machine's time zone; UTC where it has none."""
    name = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime").rpartition("/zoneinfo/")[2]
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return "UTC"
    return name.removeprefix("Etc/") if name == "Etc/UTC" else name
