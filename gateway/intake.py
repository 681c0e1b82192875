"""The intake: the turn. Read what the inputs hold, append, shape, cut; commit when it pays; then acknowledge.

- Between turns input waits in the kernel's buffers: at the rates a Pi sees, a wake-up costs a hundred times what a
  message costs. A turn comes early when a driver reads by itself: its buffer filled, or what it feeds is urgent.
- One commit is under way, off the loop, while one gathers. When more than GATHER bytes are gathered, reads pause.
- A commit that fails is written again unchanged, never shaped again.
- Nothing is acknowledged before its commit is on the device.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from typing import TypeVar

from gateway.clock import Clock
from gateway.errors import LogError, LogFull
from gateway.forwarder import Forwarder
from gateway.health import Board
from gateway.log import Commit, Log, Snapshot
from gateway.metrics import Metrics
from gateway.plugin import Driver, Remembered
from gateway.record import Gap
from gateway.retry import Backoff
from gateway.shaper import Shaper

log_ = logging.getLogger("tidegate.intake")

WORTH = 16_384  # journal bytes that are worth a commit before its time: four pages, of which half a one is padding
POSITIONS_S = 5.0  # positions alone may wait: at worst batches go out again under the same id
FLOOR_S = 0.020  # between the starts of two commits
GATHER = 1 << 20  # payload bytes that may gather behind a commit that is under way
T = TypeVar("T")


class Inlet:
    """The house as one driver sees it: gateway.plugin.Inlet."""

    def __init__(self, name: str, intake: "Intake", memory: Sequence[Remembered], urgent: bool) -> None:
        self.name, self.memory, self.urgent = name, memory, urgent
        self.gateway, self.clock = intake.gateway, intake.clock
        self.component = f"driver:{name}"
        self._intake = intake

    @property
    def leaving(self) -> bool:
        return self.name in self._intake.leaving

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
        intake = self._intake
        if values:
            intake.log.append(stream, times, keys, values, flags=flags, ids=ids, source=self.name if ids else None)
            intake.metrics.add("records_in_total", len(values), driver=self.name, stream=stream)
            if ids is None and receipt is None:
                intake.unsafe += len(values)
        if receipt is not None:
            intake.receipts.append((self.name, receipt))
        intake.gathered(stream)

    def hurry(self) -> None:
        self._intake.commit_in(0.0)

    def up(self, detail: str = "") -> None:
        self._intake.board.up(self.component, detail)

    def waiting(self, detail: str) -> None:
        self._intake.board.waiting(self.component, detail)

    def bad_frame(self, reason: str, sample: bytes, count: int = 1) -> None:
        self._intake.metrics.add("frames_bad_total", count, driver=self.name)
        self._intake.board.sample(self.component, reason, sample)

    def count(self, metric: str, n: int = 1) -> None:
        self._intake.metrics.add(metric, n, driver=self.name)

    def summary(self) -> Mapping[str, object]:
        return self._intake.summary()


class Intake:
    """Turns and commits. Everything here runs on the event loop but Log.write and Log.maintain."""

    def __init__(
        self,
        log: Log,
        shaper: Shaper,
        clock: Clock,
        metrics: Metrics,
        board: Board,
        executor: Executor,
        *,
        gateway: str,
        turn_s: float,
        commit_s: float,
        urgent: Set[str],
        summary: Callable[[], Mapping[str, object]],
    ) -> None:
        self.log, self.clock, self.metrics, self.board, self.gateway = log, clock, metrics, board, gateway
        self.summary = summary
        self.receipts: list[tuple[str, object]] = []
        self.lost: dict[str, int] = {}  # stream -> records gone before everyone who reads it had them, since the start
        self.unsafe = 0  # records gathered that their source cannot send again
        self._shaper, self._executor = shaper, executor
        self.turn_s, self.commit_s, self.urgent = turn_s, commit_s, urgent  # a reload may change them
        self.forwarders: list[Forwarder] = []
        self._drivers: dict[str, Driver] = {}
        self._crashed: dict[str, asyncio.Future[None]] = {}
        self._paused: set[str] = set()
        self.leaving: set[str] = set()  # drivers that are paused for good: a reload takes them out
        self._barriers: list[asyncio.Future[None]] = []
        self._shape_is_due = False
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0  # loop time of the next commit; 0: none is planned
        self._started = 0.0  # loop time when the last commit started
        self._bytes_per_byte = 0.2  # journal bytes per payload byte, as the last commits had it
        self._in_flight = False
        self._in_flight_unsafe = 0
        self._sealing_failed: tuple[str, object] = ("", 0)  # why, and how many seals there had been by then
        self._stopping = False
        self._closed = False

    # -- drivers -------------------------------------------------------------------------------------------------------

    def attach(self, name: str, driver: Driver, crashed: "asyncio.Future[None]") -> None:
        """From now on the driver takes part in turns; `crashed` gets what it raises in one of our calls."""
        self._drivers[name], self._crashed[name] = driver, crashed
        if self._closed or self._paused - self.leaving:
            self._pause()
        elif name in self.leaving:
            self._call(name, "pause")

    def detach(self, name: str) -> None:
        if name in self._paused:
            self._paused.discard(name)
            self._call(name, "resume")  # it comes back later, and nobody would remember that it was paused
        self._drivers.pop(name, None)
        self._crashed.pop(name, None)

    def retire(self, name: str) -> None:
        """This driver is about to be taken out: it reads nothing more, and can still be acknowledged."""
        self.leaving.add(name)
        if name not in self._paused:
            self._paused.add(name)
            self._call(name, "pause")

    def retired(self, name: str) -> None:
        """It is out; another one of this name may come."""
        self._paused.discard(name)
        self.leaving.discard(name)

    def _call(self, name: str, method: str, *arguments: object) -> None:
        """Call a driver. Its defect must not touch the others: the supervisor gets it, and starts it again."""
        driver = self._drivers.get(name)
        if driver is None:
            return
        try:
            getattr(driver, method)(*arguments)
        except Exception as error:
            if not self._crashed[name].done():
                self._crashed[name].set_exception(error)

    @property
    def loss_window(self) -> int:
        """Records read and not durable yet that their source would not send again after a power cut."""
        return self.unsafe + self._in_flight_unsafe

    # -- the turn ------------------------------------------------------------------------------------------------------

    async def turns(self) -> None:
        """Breathe, until cancelled."""
        self.look_again()  # what the last run left: backlogs of new pipelines, batches that were never cut
        self.commit_in(0.0)
        while True:
            await asyncio.sleep(self.turn_s)
            self._turn()

    def _turn(self) -> None:
        for name in list(self._drivers):
            if name not in self._paused:
                self._call(name, "turn")
        self._plan(turn=True)
        if self.log.maintenance_due:  # checkpoints and expiry come by time, also when nothing is recorded
            self.commit_in(0.0)

    def gathered(self, stream: str) -> None:
        """Records came in: shape them once the reads of this round of the loop are done."""
        self.look_again()
        if stream in self.urgent:
            self.commit_in(0.0)

    def look_again(self) -> None:
        """Some pipeline can go on, though nothing came in."""
        if not self._shape_is_due:
            self._shape_is_due = True
            asyncio.get_running_loop().call_soon(self._shape)

    def _shape(self) -> None:
        self._shape_is_due = False
        if self._shaper.shape():
            self._shape_is_due = True  # someone ran out of budget: give the loop a breath, then go on
            asyncio.get_running_loop().call_soon(self._shape)
        if self.log.pending_bytes > GATHER:
            self._pause()
            self.commit_in(0.0)
        self._plan(turn=False)

    def _plan(self, turn: bool) -> None:
        """Decide when the next commit comes."""
        log = self.log
        if log.pending_bytes * self._bytes_per_byte >= WORTH or self._shaper.wants_commit():
            self.commit_in(0.0)
        elif log.pending_bytes or self.receipts:
            self.commit_in(self.commit_s)
        elif log.pending:
            self.commit_in(max(self.commit_s, POSITIONS_S))
        if turn:
            now = self.clock.monotonic()
            if self._shaper.due(self.clock.now()) or any(forwarder.due(now) for forwarder in self.forwarders):
                self.commit_in(0.0)

    def commit_in(self, seconds: float) -> None:
        """Have a commit made by then at the latest, but never closer than FLOOR_S to the one before."""
        loop = asyncio.get_running_loop()
        when = max(loop.time() + seconds, self._started + FLOOR_S)
        if self._when and self._when <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._when = when
        self._timer = loop.call_at(when, self._due.set)

    def _pause(self) -> None:
        for name in list(self._drivers):
            if name not in self._paused:
                self._paused.add(name)
                self._call(name, "pause")

    def close_inputs(self) -> None:
        """Read nothing more; what was read can still be acknowledged."""
        self._closed = True
        self._pause()

    def _resume(self) -> None:
        if self._closed:
            return
        for name in self._paused - self.leaving:
            self._paused.discard(name)
            self._call(name, "resume")

    # -- the commit ----------------------------------------------------------------------------------------------------

    async def store_snapshots(self, snapshots: dict[str, Snapshot]) -> None:
        """Before the first turn: a restart from here must find the states of new and changed pipelines."""
        commit = self.log.gather(snapshots)
        await self._until_written(commit)
        self.log.committed(commit)
        await self._maintain()

    async def commits(self) -> None:
        """Make commits when they are due, until cancelled or `finish` was called."""
        while True:
            await self._due.wait()
            last = self._stopping
            await self.commit()
            if last:
                return

    async def settle(self) -> None:
        """Wait until every record gathered so far is durable and acknowledged."""
        while self.log.pending_bytes or self.receipts or self._in_flight:
            self.commit_in(0.0)
            await asyncio.sleep(FLOOR_S)

    async def barrier(self) -> None:
        """Wait until a commit that began after this call is durable and acknowledged."""
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(passed)
        self.commit_in(0.0)
        await passed

    def finish(self) -> None:
        """Let `commits` return after one more commit."""
        self._stopping = True
        self._due.set()

    async def commit(self) -> None:
        """Everything gathered so far to the device; then acknowledge, wake the sinks, and seal what is due."""
        self._due.clear()
        self._when = 0.0
        self._started = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._shaper.close(self.clock.now()):
            self.look_again()
        for forwarder in self.forwarders:
            forwarder.cut()
        barriers, self._barriers = self._barriers, []
        await self._commit_gathered()
        for passed in barriers:
            if not passed.done():
                passed.set_result(None)
        await self._maintain_if_due()

    async def _commit_gathered(self) -> None:
        wanted = self._shaper.wants_snapshots
        if not self.log.pending and not wanted:
            self._acknowledge_gathered()  # repeats of what is durable already
            return
        raw = self.log.pending_bytes
        commit = self.log.gather(self._shaper.snapshots() if wanted or self.log.turnover_due else None)
        receipts, self.receipts = self.receipts, []
        self._in_flight_unsafe, self.unsafe = self.unsafe, 0
        self._in_flight = True
        self._resume()
        self.board.expect("log", True)
        started = self.clock.monotonic()
        await self._until_written(commit)
        self.metrics.observe("commit_seconds", self.clock.monotonic() - started)
        self.metrics.add("commits_total")
        self._say_how_the_log_is()
        self.board.beat("log")
        self.board.expect("log", False)
        self.log.committed(commit)
        self._in_flight = False
        self._in_flight_unsafe = 0
        if raw > WORTH:
            self._bytes_per_byte = 0.8 * self._bytes_per_byte + 0.2 * commit.size / raw
        self._acknowledge(receipts)
        for forwarder in self.forwarders:
            forwarder.committed()

    async def _until_written(self, commit: Commit) -> None:
        backoff = Backoff(first=0.25, most=5.0)
        while True:
            try:
                return await self._in_log_thread(lambda: self.log.write(commit))
            except LogError as error:
                wait = backoff.next()
                self.metrics.add("commit_failures_total")
                self.board.waiting(
                    "log", f"{error}{_hint(error)}; nothing is acknowledged; writing again in {wait:.1f} s"
                )
                log_.error("commit %d failed: %s", commit.number, error)
                await asyncio.sleep(wait)

    async def _maintain_if_due(self) -> None:
        if self.log.maintenance_due:
            await self._maintain()

    async def _maintain(self) -> None:
        try:
            result = await self._in_log_thread(self.log.maintain)
        except LogError as error:
            # The journal still holds everything; sealing is tried again in a moment, whether a commit comes or not.
            self.metrics.add("seal_failures_total")
            self._sealing_failed = (f"sealing failed: {error}{_hint(error)}", self._seals)
            self._say_how_the_log_is()
            log_.error("sealing failed: %s", error)
            return
        self._sealing_failed = ("", 0)
        self._say_how_the_log_is()
        if result is not None:
            self.note_gaps(self.log.maintained(result))

    @property
    def _seals(self) -> object:
        return self.log.stats()["seals"]

    def _say_how_the_log_is(self) -> None:
        """After a commit or a seal: while sealing fails, commits that succeed do not make it well."""
        reason, seals = self._sealing_failed
        if reason and self._seals == seals:
            self.board.waiting("log", reason)
        elif self.log.full:
            self.board.waiting("log", self.log.trouble)
        else:
            self.board.up("log", self.log.trouble)

    def note_gaps(self, gaps: Sequence[Gap]) -> None:
        """Count what is gone before everyone who reads it had it; what all had read is what a ring forgets."""
        for gap in gaps:
            readers = [forwarder.reader for forwarder in self.forwarders] + [lane.reader for lane in self._shaper.lanes]
            places = [self.log.positions.where(reader, gap.stream) for reader in readers]
            positions = [place for place in places if place is not None]
            lost = gap.last + 1 - max(gap.first, min(positions, default=gap.last + 1))
            if lost > 0:
                self.lost[gap.stream] = self.lost.get(gap.stream, 0) + lost
                self.metrics.add("gap_records_total", lost, cause=gap.cause, stream=gap.stream)
                log_.warning(
                    "%d records of %s are gone before everyone had them (%s): up to offset %d, %d since the start",
                    *(lost, gap.stream, gap.cause, gap.last, self.lost[gap.stream]),
                )

    async def _in_log_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _acknowledge_gathered(self) -> None:
        receipts, self.receipts = self.receipts, []
        self._acknowledge(receipts)

    def _acknowledge(self, receipts: list[tuple[str, object]]) -> None:
        by_driver: dict[str, list[object]] = {}
        for name, receipt in receipts:
            by_driver.setdefault(name, []).append(receipt)
        for name, own in by_driver.items():
            self._call(name, "acknowledge", own)


def _hint(error: LogError) -> str:
    """What to try."""
    return "; free some room (df -h shows where), or lower log: size" if isinstance(error, LogFull) else ""
