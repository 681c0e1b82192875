"""The forwarder: cuts what a sink shall have into batches, sends them, and moves the position when they are confirmed.

- A batch is an extent of one stream, cut by count, bytes and age; the cut is committed before its first send, so after
  a restart the same extent goes out under the same id with the same bytes.
- Several batches are under way at a time; they are started in order. When one fails, no new one starts until all that
  are under way have ended; then the failed ones go again, oldest first.
- Urgent streams go first and do not wait for age.
- A refused record becomes a dead letter in the commit that moves the position over it. A batch that is refused as a
  whole is cut in two until the bad record stands alone.
- Memory does not depend on the backlog: cuts run at most AHEAD batches in front, bodies are kept for what is under way.
"""

import asyncio
import contextlib
import logging
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import NamedTuple, Protocol

from gateway.clock import Clock
from gateway.deadletters import DeadLetters
from gateway.errors import DeliveryRefused, DeliveryTooLarge, LogDamaged, SinkUnavailable
from gateway.formats import Format
from gateway.health import Board
from gateway.history import Growth
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.plugin import Outlet, Sink
from gateway.record import DEAD_LETTERS, Batch, Delivery, Extent, Gap, Receipt, Record, Rejected, dead_letter, sizes
from gateway.retry import Backoff

log_ = logging.getLogger("tidegate.forwarder")

AHEAD = 4  # cuts in front of what is under way, as a multiple of it: the sender never waits for a commit
BLOCK = 8_192  # records of a look ahead
LARGE = 256 << 10  # payload bytes; a body of more is encoded in a thread, so that the loop goes on
TRUST = 100  # records that are buried alone, refused by a sink that has taken nothing since: all their letters are kept
NEAR_AGE = 0.125  # s: an age that comes this soon is cut in the commit that is being made anyway


class BatchLimits(Protocol):
    """What ends a batch; the configuration's `batch:`."""

    @property
    def records(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def age(self) -> float: ...  # s


class Reader(Protocol):
    """Fetches durable records, in a thread where the disk is needed."""

    async def __call__(self, stream: str, first: int, limit: int) -> Batch | Gap | None: ...


class Lane:
    """One stream on its way to one sink: what was looked at, and what waits to be cut."""

    __slots__ = ("block", "born", "bytes", "count", "first", "growth", "looked", "missing", "stream", "urgent")

    def __init__(self, stream: str, urgent: bool) -> None:
        self.stream, self.urgent = stream, urgent
        self.first = 0  # offset where the batch that is being filled starts
        self.looked = 0  # offset up to which records were counted into it
        self.count = 0  # records in it
        self.bytes = 0  # payload bytes in it
        self.born: float | None = None  # monotonic s when its first record came
        self.block: Batch | None = None  # a look ahead that came from disk
        self.missing: int | None = None  # offset that must be fetched from disk first
        self.growth = Growth(0)

    def restart(self, first: int) -> None:
        self.first = self.looked = first
        self.count = self.bytes = 0
        self.born = None


class Waiting(NamedTuple):
    """A cut that is to be sent: urgent ones first, then in the order they were cut, the parts of one by offset."""

    late: bool
    order: int
    extent: Extent


class Forwarder:
    """One sink. `run` sends; `cut` is called in the making of every commit, `committed` after it."""

    def __init__(
        self,
        name: str,
        build: Callable[[Outlet], Sink],
        streams: Sequence[str],
        limits: BatchLimits,
        format: Format,  # noqa: A002 - the configuration's word
        in_flight: int,
        *,
        start: str | int,
        gateway: str,
        log: Log,
        clock: Clock,
        metrics: Metrics,
        board: Board,
        urgent: Set[str],
        read: Reader,
        request_commit: Callable[[], None],
        summary: Callable[[], Mapping[str, object]],
        letters: DeadLetters,
    ) -> None:
        self.name, self.reader = name, f"sink:{name}"
        self.gateway, self.clock = gateway, clock
        self._summary = summary
        self.sink = build(self)
        self._limits, self._format, self._in_flight, self._start = limits, format, in_flight, start
        self._log, self._metrics, self._board, self._letters = log, metrics, board, letters
        self._read, self._request_commit, self._urgent = read, request_commit, urgent
        self.lanes = [Lane(stream, stream in urgent) for stream in streams]
        self.lanes.sort(key=lambda lane: not lane.urgent)
        self._cut: list[Waiting] = []  # cut, not yet part of a commit
        self._made: list[Waiting] = []  # in the commit that is being written
        self._queue: list[Waiting] = []  # committed, not under way; kept sorted
        self._under_way: dict[Extent, Waiting] = {}
        self._ready: dict[Extent, Delivery] = {}  # encoded once, for the retry
        self._failed: SinkUnavailable | None = None
        self._trust = 0  # how many refused records may still be buried
        self._doubted = False  # it refused something when there was no trust left
        self._order = 0
        self.leaving = False  # taken out by a reload: nothing is cut and nothing more is sent
        self._wake = asyncio.Event()
        self._blocks: dict[str, Batch | Gap] = {}
        self._backoff = Backoff(first=1.0, most=60.0)
        self._came_up = asyncio.Event()
        self._idle = asyncio.Event()

    # -- what the sink sees: gateway.plugin.Outlet ---------------------------------------------------------------------

    def up(self, detail: str = "") -> None:
        self._board.up(self.reader, detail)
        self._board.beat(self.reader)
        self._came_up.set()

    def waiting(self, detail: str) -> None:
        self._board.waiting(self.reader, detail)

    def count(self, metric: str, n: int = 1) -> None:
        self._metrics.add(metric, n, sink=self.name)

    def summary(self) -> Mapping[str, object]:
        return self._summary()

    # -- the making of a commit ----------------------------------------------------------------------------------------

    def starts(self) -> dict[str, int]:
        """BLOCKING, any thread. Where it begins with those of its streams that it has not read before."""
        places = self._log.positions.of(self.reader)
        return {lane.stream: self._first(lane.stream) for lane in self.lanes if lane.stream not in places}

    def open(self, starts: Mapping[str, int]) -> None:
        """Before its first turn: take every position, or what starts() said, and the cuts that are still owed."""
        for lane in self.lanes:
            if self._log.positions.where(self.reader, lane.stream) is None:
                self._log.positions.start(self.reader, lane.stream, starts[lane.stream])
            lane.restart(self._log.positions.cut_next(self.reader, lane.stream))
            lane.growth = Growth(self._log.next(lane.stream))
        wanted = {lane.stream for lane in self.lanes}
        for extent in self._log.positions.outstanding(self.reader):
            if extent.stream in wanted:
                insort(self._queue, self._waiting(extent))

    def _first(self, stream: str) -> int:
        if self._start == "latest":
            return self._log.next(stream)
        if isinstance(self._start, int):
            return self._log.seek(stream, self._start)
        return self._log.oldest(stream)

    def cut(self) -> None:
        """Cut what is due into extents; they travel in the commit that is being made."""
        if self.leaving:
            return
        room = self._room
        now, wall = self.clock.monotonic(), self.clock.now()
        for lane in self.lanes:
            lane.growth.note(self._log.next(lane.stream), wall)
            if lane.first >= self._log.next(lane.stream) and lane.first == lane.looked:
                continue
            extra = self._in_flight if lane.urgent else 0  # what is urgent finds room behind any backlog
            room = self._fill(lane, now, room + extra) - extra
            due = lane.born is not None and (lane.urgent or now - lane.born >= self._limits.age - NEAR_AGE)
            if due and lane.looked > lane.first and room + extra > 0:
                self._cut_at(lane, lane.looked)
                room -= 1
        self._made, self._cut = self._made + self._cut, []

    @property
    def _room(self) -> int:
        """How many more cuts may run in front of what is confirmed."""
        ahead = len(self._queue) + len(self._under_way) + len(self._cut) + len(self._made)
        return AHEAD * self._in_flight - ahead

    def committed(self) -> None:
        """The commit with the last cuts is durable: they may be sent."""
        for waiting in self._made:
            insort(self._queue, waiting)
        self._made = []
        self._wake.set()

    def due(self, now: float) -> bool:
        """Is a batch old enough, or are lanes free and full batches there, so that a commit is worth making?"""
        room = self._room
        if room <= 0 or self.leaving:
            return False
        starved = not self._queue and len(self._under_way) < self._in_flight
        for lane in self.lanes:
            if lane.born is not None and now - lane.born >= self._limits.age:
                return True
            if starved and lane.missing is None and self._log.durable(lane.stream) - lane.first >= self._limits.records:
                return True
        return False

    def _fill(self, lane: Lane, now: float, room: int) -> int:
        """Count records into the batch that is being filled, cutting as limits are met; returns the room left."""
        limits = self._limits
        while room > 0:
            chunk = self._look(lane, limits.records - lane.count)
            if chunk is None:
                break
            if lane.born is None:
                lane.born = now
            values = chunk.values
            size = sum(map(len, values))
            if lane.count + len(values) < limits.records and lane.bytes + size < limits.bytes:
                lane.count += len(values)
                lane.bytes += size
                lane.looked = chunk.next
                continue
            fit = limits.records - lane.count
            if lane.bytes + size >= limits.bytes:  # the record that reaches the limit is the last one of its batch
                fit = min(fit, bisect_right(sizes(values), limits.bytes - lane.bytes - 1) + 1)
            self._cut_at(lane, min(lane.looked + fit, chunk.next))
            room -= 1
        return room

    def _look(self, lane: Lane, limit: int) -> Batch | None:
        """At most `limit` records from where the lane has looked to; None at the end, or if the disk must be asked."""
        at = lane.looked
        if at >= self._log.next(lane.stream):
            return None
        block = lane.block
        if block is not None:
            if block.first <= at < block.next:
                return block.slice(at, at + limit)
            lane.block = None
        chunk = self._log.peek(lane.stream, at, limit)
        if chunk is None and lane.missing is None:
            lane.missing = at
            self._wake.set()
        return chunk

    def _cut_at(self, lane: Lane, stop: int) -> None:
        extent = Extent(lane.stream, lane.first, stop - 1)
        self._log.positions.cut(self.reader, extent)
        self._cut.append(self._waiting(extent))
        lane.restart(stop)

    def _waiting(self, extent: Extent) -> Waiting:
        self._order += 1
        return Waiting(extent.stream not in self._urgent, self._order, extent)

    @property
    def lag(self) -> int:
        """Durable records of its streams that are not confirmed."""
        ends = [
            (self._log.durable(lane.stream), self._log.positions.where(self.reader, lane.stream)) for lane in self.lanes
        ]
        return sum(max(durable - at, 0) for durable, at in ends if at is not None)

    def oldest(self, stream: str) -> int | None:
        """When (ns) the oldest record that is not confirmed was recorded; None where only the disk could tell.

        Its own time is that of the event, which may be much older: it begins to wait when it is recorded.
        """
        at = self._log.positions.where(self.reader, stream)
        if at is None or at >= self._log.durable(stream):
            return None
        waiting = [d.batches[0] for e, d in self._ready.items() if e.stream == stream and e.last >= at and d.batches]
        found = min(waiting, key=lambda batch: batch.first) if waiting else self._log.peek(stream, at, 1)
        if found is None:
            return None
        growth = next(lane.growth for lane in self.lanes if lane.stream == stream)
        growth.forget(at)
        return growth.recorded(found.first, found.times[0])

    # -- sending -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is cut, until cancelled. May be called again after a crash: nothing that was cut is forgotten."""
        for waiting in list(self._under_way.values()):
            self._again(waiting)
        self._wake.set()
        async with asyncio.TaskGroup() as sends:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._look_ahead()
                if self._failed is not None:
                    if self._under_way:
                        continue
                    await self._wait_out(self._failed)
                while self._queue and len(self._under_way) < self._in_flight and self._may_send:
                    # A sink that refused all it was given is asked for the newest batch too: its records may be good.
                    waiting = self._queue[-1 if self._doubted else 0]
                    delivery = await self._delivery(waiting.extent)
                    if not self._may_send:  # one that is under way has failed meanwhile: this one must not overtake it
                        break
                    self._doubted = False
                    self._queue.remove(waiting)
                    self._under_way[waiting.extent] = waiting
                    sends.create_task(self._send(delivery, waiting), name=f"send:{delivery.id}")
                    self._board.expect(self.reader, True)

    @property
    def _may_send(self) -> bool:
        return self._failed is None and not self.leaving

    def retire(self) -> None:
        """It is about to be taken out: cut and send nothing more. What was cut is owed by its successor."""
        self.leaving = True

    async def returned(self) -> None:
        """Wait until nothing is under way. The caller bounds the time."""
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    async def drain(self) -> None:
        """Wait until everything that was cut is confirmed, or the sink is not there. The caller bounds the time."""
        while (self._queue or self._under_way or self._cut or self._made) and self._board.state(self.reader) == "up":
            self._idle.clear()
            await self._idle.wait()

    async def _send(self, delivery: Delivery, waiting: "Waiting") -> None:
        started = self.clock.monotonic()
        try:
            self._settle(delivery, await self.sink.send(delivery))
        except (DeliveryTooLarge, DeliveryRefused) as error:
            if isinstance(error, DeliveryTooLarge) and delivery.count > 1:
                self._board.up(self.reader, f"batches are cut smaller: {error}")
            self._search(delivery, waiting, str(error))
        except SinkUnavailable as error:
            self._failed = error
        except Exception as error:
            # A sink's own bug must cost neither the records nor the other sinks: it is shown, logged and tried again.
            log_.exception("sink %s failed on batch %s", self.name, delivery.id)
            self._failed = SinkUnavailable(f"{type(error).__name__}: {error}")
        else:
            self._metrics.observe("delivery_seconds", self.clock.monotonic() - started, sink=self.name)
        finally:
            if waiting.extent in self._under_way and (waiting.extent in self._ready):
                self._again(waiting)  # not settled
            self._under_way.pop(waiting.extent, None)
            self._board.expect(self.reader, bool(self._under_way))
            self._wake.set()
            self._idle.set()

    def _again(self, waiting: "Waiting") -> None:
        self._under_way.pop(waiting.extent, None)
        insort(self._queue, waiting)

    def _halve(self, delivery: Delivery, waiting: "Waiting", why: str) -> None:
        """The far side never takes this body, so it never had this id: two halves go instead, under new ids, before
        all that was cut later. A single record goes to the dead letters.
        """
        extent = delivery.extent
        if delivery.count <= 1:
            rejected = tuple(Rejected(batch.first, why) for batch in delivery.batches if len(batch))
            self._settle(delivery, Receipt(rejected))
            return
        middle = (extent.first + extent.last) // 2
        halves = [Extent(extent.stream, extent.first, middle), Extent(extent.stream, middle + 1, extent.last)]
        self._log.positions.recut(self.reader, extent, halves)
        self._ready.pop(extent, None)
        self._cut += [waiting._replace(extent=half) for half in halves]
        self._request_commit()

    def _search(self, delivery: Delivery, waiting: "Waiting", why: str) -> None:
        """Something in this body, or its size, is refused for good: find it. A record that stands alone is buried only
        as long as there is trust, which what is taken gives: a receiver with a defect, or with another format in mind,
        refuses all it is given, and the stream must not end in the dead letters for that. Then one goes per wait.
        """
        if delivery.count > 1:
            self._halve(delivery, waiting, why)
        elif self._trust > 0:
            self._trust -= 1
            self._halve(delivery, waiting, why)
        else:
            self._doubted = True
            self._failed = SinkUnavailable(f"it refuses all it is given: {why}")

    async def _wait_out(self, failure: SinkUnavailable) -> None:
        wait = failure.retry_after_s if failure.retry_after_s is not None else self._backoff.next()
        self._board.waiting(self.reader, f"{failure}; trying again in {wait:.0f} s")
        self._metrics.add("retries_total", sink=self.name)
        self._came_up.clear()
        with contextlib.suppress(TimeoutError):  # the connection coming back ends the wait early
            await asyncio.wait_for(self._came_up.wait(), wait)
        self._failed = None
        if self._doubted:
            self._trust = 1

    def _settle(self, delivery: Delivery, receipt: Receipt) -> None:
        extent = delivery.extent
        if receipt.rejected:
            self._bury(delivery, receipt)
        self._log.positions.settle(self.reader, extent, dead=len(receipt.rejected), gaps=delivery.gaps)
        self._ready.pop(extent, None)
        delivered = delivery.count - len(receipt.rejected)
        if delivered:
            self._backoff.reset()
            self._trust = TRUST
        self._metrics.add("delivered_total", delivered, sink=self.name, stream=extent.stream)
        if self._board.state(self.reader) != "up":
            self._board.up(self.reader)
        self._board.beat(self.reader)
        if not self._queue and self.due(self.clock.monotonic()):
            self._request_commit()

    def _bury(self, delivery: Delivery, receipt: Receipt) -> None:
        now = self.clock.now()
        columns: tuple[list[int], list[str], list[bytes]] = ([], [], [])
        for offset, reason in receipt.rejected:
            batch = next((b for b in delivery.batches if b.first <= offset < b.next), None)
            if batch is None:
                continue
            at = offset - batch.first
            record = Record(offset, batch.times[at], batch.keys[at], batch.values[at])
            columns[0].append(now)
            columns[1].append(record.key)
            columns[2].append(dead_letter(self.reader, "send", reason, batch.stream, record))
        self._metrics.add("dead_total", len(columns[0]), reason="rejected")
        if delivery.extent.stream == DEAD_LETTERS:  # a dead letter about a dead letter would be refused in its turn
            why = receipt.rejected[0].reason
            log_.warning("sink %s: %d dead letters were refused: %s", self.name, len(columns[0]), why)
            return
        self._letters.bury(*columns)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _look_ahead(self) -> None:
        """Fetch from disk what a lane needs to be cut further."""
        for lane in self.lanes:
            if lane.missing is None:
                continue
            found = await self._read(lane.stream, lane.missing, BLOCK)
            if isinstance(found, Gap):
                if lane.looked == lane.missing:
                    lane.looked = found.last + 1
            elif found is not None:
                lane.block = found
            if found is not None and lane.born is None:
                lane.born = self.clock.monotonic()
            lane.missing = None
            if self.due(self.clock.monotonic()):
                self._request_commit()

    async def _delivery(self, extent: Extent) -> Delivery:
        ready = self._ready.get(extent)
        if ready is not None:
            return ready
        batches: list[Batch] = []
        gaps: list[Gap] = []
        at = extent.first
        while at <= extent.last:
            found = await self._from_block(extent.stream, at)
            if found is None:  # half a batch must never go out under the id of a whole one
                raise LogDamaged(f"{extent.stream}: offsets {at} to {extent.last} were cut and cannot be read")
            if isinstance(found, Gap):
                gaps.append(Gap(found.stream, at, min(found.last, extent.last), found.cause))
                at = found.last + 1
            else:
                batches.append(found.slice(at, extent.last + 1))
                at = min(found.next, extent.last + 1)
        body = b""
        if not self._format.raw:
            encode = partial(self._format.encode, batches, gaps, gateway=self.gateway, epoch=self._log.epoch)
            large = sum(sum(map(len, batch.values)) for batch in batches) > LARGE
            body = await asyncio.to_thread(encode) if large else encode()
        delivery = Delivery(
            f"{self.gateway}/{self._log.epoch}/{extent.stream}/{extent.first}-{extent.last}",
            extent,
            batches,
            gaps,
            self._format.content_type,
            self._format.encoding,
            body,
        )
        self._ready[extent] = delivery
        return delivery

    async def _from_block(self, stream: str, at: int) -> Batch | Gap | None:
        """Durable records from `at`: from memory, or from the block that was decoded last, or from disk."""
        if self._log.in_memory(stream, at):
            self._blocks.pop(stream, None)
            return self._log.read(stream, at, BLOCK)
        held = self._blocks.get(stream)
        if isinstance(held, Batch) and held.first <= at < held.next:
            return held.slice(at, held.next)
        found = await self._read(stream, at, BLOCK)
        if isinstance(found, Batch):
            self._blocks[stream] = found
        return found
