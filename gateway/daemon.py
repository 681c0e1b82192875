"""The daemon: builds every part from a configuration, runs them in one group of named tasks, stops them in order."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gateway.clock import Clock, SystemClock, synchronized
from gateway.config import Config
from gateway.config import load as load_config
from gateway.deadletters import DeadLetters
from gateway.errors import ConfigError, LogError, Problem
from gateway.formats import Format
from gateway.forwarder import Forwarder
from gateway.health import Board
from gateway.history import STEP_S
from gateway.intake import GATHER, Inlet, Intake
from gateway.log import Files, Keep, Log, LogOptions, SystemFiles
from gateway.metrics import Metrics
from gateway.notify import Notifier
from gateway.plugin import Outlet, Sink, load
from gateway.record import METRICS, Batch, Gap
from gateway.report import Report
from gateway.retry import Backoff, keep_running
from gateway.shaper import BLOCK, Shaper
from gateway.status import Status

log_ = logging.getLogger("tidegate.daemon")

SETTLE_S = 3.0  # what the log gets at a stop to make durable what was read, and drivers to acknowledge it
LAST_COMMIT_S = 2.0  # what the last commit gets, with the positions that the drain moved
DRAIN_S = 4.0  # what sinks get at a stop to have confirmed what is under way
STUCK_S = 90.0  # a part that has work and makes no progress for this long starves the watchdog; a card may take 60 s


class Daemon:
    """One gateway. `run` returns after an ordered stop."""

    def __init__(self, config: Config, clock: Clock | None = None, files: Files | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.metrics = Metrics()
        self.board = Board(self.clock)
        self._notify = Notifier()
        settings = config.log
        self.log = Log(
            LogOptions(path=settings.path, size=settings.size, journal=settings.journal, memory=settings.memory),
            self.clock,
            files or SystemFiles(),
        )
        self._letters = DeadLetters(self.log, self.clock, self.metrics)
        self._urgent = frozenset(s.name for s in config.streams.values() if s.priority == "urgent")
        self._log_thread = ThreadPoolExecutor(1, "log")  # the one that writes
        self._readers = ThreadPoolExecutor(1, "log-read")
        self._stop = asyncio.Event()
        self.ready = False
        self.loaded = self.clock.now()  # ns: when this configuration was taken
        self.reloads = 0
        self.problems: tuple[Problem, ...] = ()  # for which the last reload was refused
        self.report = Report(self)
        self.hung = False  # after run(): the log's thread never came back from the disk
        self._started = time.monotonic()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve until SIGTERM, SIGINT or `stop`, then stop in order. Raises LogError if the log cannot open."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._no_reload)
        await self._open(loop)
        own = self.config.gateway
        status = Status(own.serves, self.report, gateway=own.id, folder=self.config.log.path)
        status.bind()
        async with asyncio.TaskGroup() as group:
            self._task(group, "status", status.serve())
            self._task(group, "watchdog", self._watch())
            self._task(group, "turns", self.intake.turns())
            self._task(group, "commits", self.intake.commits())
            for forwarder in self.intake.forwarders:
                self._supervised(group, f"sink:{forwarder.name}", forwarder.sink.run)
                self._supervised(group, f"sink:{forwarder.name}", forwarder.run, task=f"forward:{forwarder.name}")
            for entry in self.config.drivers.values():
                self._supervised(group, f"driver:{entry.name}", self._serve_driver(entry))
            # What was built up to here lives as long as we do, and batches hold no cycles: look for garbage rarely.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 50, 50)
            self.ready = True
            self._task(group, "history", self._sample())
            self._task(group, "metrics", self._record_metrics())
            self._notify.ready(self.report.outlook.verdict().sentence)
            log_.info("ready after %.2f s", time.monotonic() - self._started)
            await self._stop.wait()
            await self._wind_down()

    def stop(self) -> None:
        """Begin the ordered stop."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def reload(self) -> dict[str, Any]:
        """Take the configuration as its files are now: {"ok": True, "changes"}, or {"ok": False, "problems"}."""
        try:
            await asyncio.to_thread(load_config, self.config.files[0])
        except ConfigError as error:
            self.problems = error.problems
            return {"ok": False, "problems": [problem._asdict() for problem in error.problems]}
        self.problems = ()
        return {"ok": True, "changes": []}

    def _no_reload(self) -> None:
        log_.warning("SIGHUP: a changed configuration is taken at the next start; check it with `tidegate check` first")

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        recovery = await loop.run_in_executor(self._log_thread, self.log.open)
        log_.info(
            "log open in %.2f s: %d commits replayed%s%s",
            recovery.took_s,
            recovery.commits,
            ", torn tail" if recovery.torn else "",
            f", {recovery.damaged} damaged journal records" if recovery.damaged else "",
        )
        for stream in self.config.streams.values():
            keep = Keep(size=stream.keep.size, age_s=stream.keep.age, urgent=stream.priority == "urgent")
            await loop.run_in_executor(self._log_thread, self.log.declare, stream.name, keep)
        self._shaper = Shaper(
            [entry.program for entry in self.config.pipelines.values()],
            self.log,
            self.clock,
            self.metrics,
            self.board,
            urgent=self._urgent,
            read_ahead=self._read_ahead,
            urgent_news=lambda: self.intake.commit_in(0.0),
            letters=self._letters,
        )
        self.intake: Intake = Intake(
            self.log,
            self._shaper,
            self.clock,
            self.metrics,
            self.board,
            self._log_thread,
            gateway=self.config.gateway.id,
            turn_s=self.config.log.turn,
            commit_s=self.config.log.commit,
            urgent=self._urgent,
            summary=self.report.summary,
        )
        self._remembered = recovery.remembered
        fresh = await loop.run_in_executor(self._log_thread, self._shaper.recover, recovery)
        self.intake.forwarders = [self._forwarder(entry) for entry in self.config.sinks.values()]
        for forwarder in self.intake.forwarders:
            await loop.run_in_executor(self._log_thread, forwarder.open)
        if fresh:
            await self.intake.store_snapshots(fresh)
        self.intake.note_gaps(recovery.gaps)
        self._release_cuts()
        self._trust_clock()
        self.board.up("log")

    def _trust_clock(self) -> None:
        """Nothing expires by age while nobody keeps the clock right."""
        if any(stream.keep.age is not None for stream in self.config.streams.values()):
            self.log.clock_trusted = synchronized()

    def _release_cuts(self) -> None:
        """Cuts of sinks and streams that nobody asks for any more must not keep their blocks; positions stay parked."""
        wanted = {(forwarder.reader, lane.stream) for forwarder in self.intake.forwarders for lane in forwarder.lanes}
        for reader, streams in self.log.positions.readers().items():
            for stream in streams:
                if reader.startswith("sink:") and (reader, stream) not in wanted:
                    self.log.positions.release(reader, stream)

    async def _wind_down(self) -> None:
        """Inputs first, then the log, then the outputs: nothing that was read is lost by stopping."""
        self._notify.stopping()
        self.ready = False
        log_.info("stopping")
        await self._end("turns", "metrics")
        self.intake.close_inputs()
        try:
            async with asyncio.timeout(SETTLE_S):
                await self.intake.settle()
        except TimeoutError:
            log_.warning("the log did not take what was gathered; it was not acknowledged, its sources send it again")
        await self._end(*[name for name in self._tasks if name.startswith("driver:")])
        try:
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*[forwarder.drain() for forwarder in self.intake.forwarders])
        except TimeoutError:
            log_.info("some batches were not confirmed in time; they go out again after the next start")
        await self._end(*[name for name in self._tasks if name.startswith(("forward:", "sink:"))])
        self.intake.finish()
        await asyncio.wait([self._tasks["commits"]], timeout=LAST_COMMIT_S)
        self.hung = not self._tasks["commits"].done()
        await self._end("commits", "watchdog", "history", "status")
        if self.hung:
            log_.error("the disk does not answer; leaving without it, nothing that was acknowledged is lost")
            return
        await asyncio.get_running_loop().run_in_executor(self._log_thread, self.log.close)
        self._log_thread.shutdown()
        self._readers.shutdown()
        log_.info("stopped")

    async def _end(self, *names: str) -> None:
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, group: asyncio.TaskGroup, name: str, work: Any) -> None:
        self._tasks[name] = group.create_task(work, name=name)

    def _supervised(
        self, group: asyncio.TaskGroup, component: str, work: Callable[[], Any], task: str | None = None
    ) -> None:
        def restarted() -> None:
            self.metrics.add("restarts_total", component=component)

        running = keep_running(work, self.board, component, Backoff(), self.clock, on_restart=restarted)
        self._task(group, task or component, running)

    async def _record_metrics(self) -> None:
        """Our own numbers as records of a stream, for those who cannot be scraped, as long as somebody reads it."""
        while True:
            readers = [*(entry.program.inputs for entry in self.config.pipelines.values())]
            readers += [entry.streams for entry in self.config.sinks.values()]
            # behind a commit that does not come back nothing may pile up; counters are totals, so nothing is missed
            if any(METRICS in streams for streams in readers) and self.log.pending_bytes < GATHER:
                self.report.measure()
                keys, values = self.metrics.records()
                self.log.append(METRICS, [self.clock.now()] * len(keys), keys, values)
                self.intake.gathered(METRICS)
            await asyncio.sleep(self.config.gateway.metrics_every)

    async def _watch(self) -> None:
        """Ping systemd's watchdog as long as every part that has work makes progress."""
        interval = self._notify.interval_s or STUCK_S
        said = ""
        while True:
            await asyncio.sleep(min(interval / 2, 5.0))
            self._trust_clock()
            if (sentence := self.report.outlook.verdict().sentence) != said:
                said = sentence
                self._notify.status(sentence)
            stuck = self.board.stuck(STUCK_S)
            if stuck:
                log_.error("no progress for %.0f s: %s", STUCK_S, ", ".join(stuck))
            else:
                self._notify.watchdog()

    async def _sample(self) -> None:
        """Remember the numbers of every step, for the rates and the last hour."""
        while True:
            self.report.outlook.sample()
            await asyncio.sleep(STEP_S)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _serve_driver(self, entry: Any) -> Callable[[], Any]:
        urgent = not self._urgent.isdisjoint(entry.streams)
        self.board.expect(f"driver:{entry.name}", False)  # known, and not up, from the start
        inlet = Inlet(entry.name, self.intake, self._remembered.get(entry.name, ()), urgent)
        # Built once: what it remembers of a session must outlive a lost connection.
        driver = load("drivers", entry.driver).build(entry.options, inlet)

        async def serve() -> None:
            crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            running = asyncio.ensure_future(driver.run())
            self.intake.attach(entry.name, driver, crashed)
            try:
                await asyncio.wait({running, crashed}, return_when=asyncio.FIRST_COMPLETED)
                (crashed if crashed.done() else running).result()
            finally:
                crashed.cancel()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self.intake.detach(entry.name)

        return serve

    def _forwarder(self, entry: Any) -> Forwarder:
        def build(outlet: Outlet) -> Sink:
            sink: Sink = load("sinks", entry.sink).build(entry.options, outlet)
            return sink

        return Forwarder(
            entry.name,
            build,
            entry.streams,
            entry.batch,
            Format.parse(entry.format),
            entry.in_flight,
            start=entry.start.resolve(self.clock.now()),
            gateway=self.config.gateway.id,
            log=self.log,
            clock=self.clock,
            metrics=self.metrics,
            board=self.board,
            urgent=self._urgent,
            read=self.read,
            request_commit=lambda: self.intake.commit_in(0.0),
            summary=self.report.summary,
            letters=self._letters,
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    async def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None:
        """Durable records: from memory at once, from disk in the reading thread."""
        if self.log.in_memory(stream, first):
            return self.log.read(stream, first, limit)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.log.read, stream, first, limit)

    async def in_reading_thread(self, work: Callable[[], int]) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _read_ahead(self, stream: str, first: int, arrived: Callable[[Batch | Gap | None], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._readers, self.log.read, stream, first, BLOCK)

        def done(result: "asyncio.Future[Batch | Gap | None]") -> None:
            if result.cancelled():
                return
            try:
                arrived(result.result())
            except LogError as error:  # the disk did not give it: the same question again in a moment
                log_.error("reading %s from offset %d failed: %s", stream, first, error)
                asyncio.get_running_loop().call_later(1.0, arrived, None)
                asyncio.get_running_loop().call_later(1.0, self.intake.look_again)
            else:
                self.intake.look_again()

        future.add_done_callback(done)


def serve(config: Config) -> None:
    """Run a daemon in this process until it is told to stop."""
    os.umask(0o077)
    for doubt in config.warnings:
        log_.warning("%s", doubt)
    daemon = Daemon(config)
    asyncio.run(daemon.run())
    if daemon.hung:
        logging.shutdown()
        os._exit(1)  # the interpreter would wait for the thread for ever
