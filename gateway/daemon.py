"""The daemon: builds every part from a configuration, runs them in one group of named tasks, stops them in order."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from gateway.clock import Clock, SystemClock, synchronized
from gateway.config import LIVE, Changes, Config, SinkEntry, changes, urgent_streams
from gateway.config import load as load_config
from gateway.crew import Crew
from gateway.deadletters import DeadLetters
from gateway.errors import ConfigError, LogError, NotNow, Problem
from gateway.formats import Format
from gateway.forwarder import Forwarder
from gateway.health import Board
from gateway.history import STEP_S
from gateway.intake import GATHER, Intake
from gateway.log import Files, Keep, Log, LogOptions, Snapshot, SystemFiles
from gateway.metrics import Metrics
from gateway.notify import Notifier
from gateway.plugin import Outlet, Program, Remembered, Sink, load
from gateway.record import METRICS, Batch, Gap
from gateway.report import Report
from gateway.shaper import BLOCK, Shaper
from gateway.status import Status
from gateway.wear import Budget, Wear

log_ = logging.getLogger("tidegate.daemon")

SETTLE_S = 3.0  # what the log gets at a stop to make durable what was read, and drivers to acknowledge it
LAST_COMMIT_S = 2.0  # what the last commit gets, with the positions that the drain moved
DRAIN_S = 4.0  # what sinks get at a stop to have confirmed what is under way
STUCK_S = 90.0  # a part that has work and makes no progress for this long starves the watchdog; a card may take 60 s


T = TypeVar("T")


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
        self.wear = Wear(Budget(settings.wear, settings.commit, settings.commit_max), settings.endurance)
        self._letters = DeadLetters(self.log, self.clock, self.metrics)
        self._log_thread = ThreadPoolExecutor(1, "log")  # the one that writes
        self._readers = ThreadPoolExecutor(1, "log-read")
        self._crew = Crew(self.clock, self.metrics, self.board)
        self._stop = asyncio.Event()
        self.ready = False
        self.loaded = self.clock.now()  # ns: when this configuration was taken
        self.reloads = 0
        self.problems: Sequence[Problem] = ()  # for which the last reload was refused
        self.report = Report(self)
        self.moved = ""  # why this start began a new epoch of the log, in words
        self.hung = False  # after run(): the log's thread never came back from the disk
        self._started = time.monotonic()
        self._reloads: set[asyncio.Task[list[str]]] = set()  # under way or waiting for the one before
        self._one_reload = asyncio.Lock()
        self._hung_up = False  # by a signal that came before there was anything to reload

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve until SIGTERM, SIGINT or `stop`, then stop in order. Raises LogError if the log cannot open."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        remembered = await self._open(loop)
        own = self.config.gateway
        status = Status(own.serves, self.report, gateway=own.id, folder=self.config.log.path)
        status.bind()
        crew = self._crew
        async with crew.group:
            crew.task("status", status.serve())
            crew.task("watchdog", self._watch())
            crew.task("turns", self.intake.turns())
            commits = crew.task("commits", self.intake.commits())
            for forwarder in self.intake.forwarders:
                crew.start_sink(forwarder)
            for entry in self.config.drivers.values():
                crew.start_driver(entry, remembered.get(entry.name, ()), self.intake)
            # What was built up to here lives as long as we do, and batches hold no cycles: look for garbage rarely.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 50, 50)
            self.ready = True
            crew.task("history", self._sample())
            crew.task("metrics", self._record_metrics())
            self._notify.ready(self.report.outlook.verdict().sentence)
            log_.info("ready after %.2f s", time.monotonic() - self._started)
            if self._hung_up:
                self._hang_up()
            await self._stop.wait()
            await self._wind_down(commits)

    def stop(self) -> None:
        """Begin the ordered stop."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Mapping[str, Sequence[Remembered]]:
        """Recover the log and build what works on it; returns what each driver should recognise."""
        recovery = await loop.run_in_executor(self._log_thread, self.log.open)
        log_.info(
            "log open in %.2f s: %d commits replayed%s%s",
            recovery.took_s,
            recovery.commits,
            ", torn tail" if recovery.torn else "",
            f", {recovery.damaged} damaged journal records" if recovery.damaged else "",
        )
        if recovery.told:
            log_.warning("the log was damaged: %s", recovery.told)
        if recovery.moved:
            log_.warning("%s", recovery.moved)
        self.moved = recovery.moved
        await loop.run_in_executor(self._log_thread, self.wear.find, self.config.log.path)
        self._declare_streams(self.config)
        urgent = urgent_streams(self.config)
        self._shaper = Shaper(
            [entry.program for entry in self.config.pipelines.values()],
            self.log,
            self.clock,
            self.metrics,
            self.board,
            urgent=urgent,
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
            commit_s=self.wear.budget.commit_s,
            urgent=urgent,
            summary=self.report.summary,
        )
        fresh = await loop.run_in_executor(self._log_thread, self._shaper.recover, recovery)
        self.intake.forwarders = [self._forwarder(entry, urgent) for entry in self.config.sinks.values()]
        for forwarder in self.intake.forwarders:
            forwarder.open(await self.in_reading_thread(forwarder.starts))
        if fresh:
            await self.intake.store_snapshots(fresh)
        self.intake.note_gaps(recovery.gaps)
        self._release_cuts()
        self._trust_clock()
        self.board.up("log", self.log.trouble)
        return recovery.remembered

    def _declare_streams(self, config: Config) -> None:
        """Every stream there is, with how it is kept; what nobody configures any more is kept without a limit."""
        for name in self.log.streams():
            if name not in config.streams:
                self.log.declare(name, Keep())
        for stream in config.streams.values():
            keep = Keep(size=stream.keep.size, age_s=stream.keep.age, urgent=stream.priority == "urgent")
            self.log.declare(stream.name, keep)

    def _trust_clock(self) -> None:
        """Nothing expires by age while nobody keeps the clock right; where nothing does anyway, nobody is asked."""
        ages = any(stream.keep.age is not None for stream in self.config.streams.values())
        self.log.clock_trusted = not ages or synchronized()

    def _release_cuts(self) -> None:
        """Cuts of sinks and streams that nobody asks for any more must not keep their blocks; positions stay parked."""
        wanted = {(forwarder.reader, lane.stream) for forwarder in self.intake.forwarders for lane in forwarder.lanes}
        for reader, streams in self.log.positions.readers().items():
            for stream in streams:
                if reader.startswith("sink:") and (reader, stream) not in wanted:
                    self.log.positions.release(reader, stream)

    async def _wind_down(self, commits: asyncio.Task[None]) -> None:
        """Inputs first, then the log, then the outputs: nothing that was read is lost by stopping."""
        self._notify.stopping()
        self.ready = False
        log_.info("stopping")
        for reload in self._reloads:
            reload.cancel()
        if self._reloads:
            await asyncio.wait(self._reloads)
        await self._crew.end("turns", "metrics")
        self.intake.close_inputs()
        try:
            async with asyncio.timeout(SETTLE_S):
                await self.intake.settle()
        except TimeoutError:
            log_.warning("the log did not take what was gathered; it was not acknowledged, its sources send it again")
        await self._crew.end("driver:*")
        try:
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*[forwarder.drain() for forwarder in self.intake.forwarders])
        except TimeoutError:
            log_.info("some batches were not confirmed in time; they go out again after the next start")
        await self._crew.end("forward:*", "sink:*")
        self.intake.finish()
        await asyncio.wait([commits], timeout=LAST_COMMIT_S)
        self.hung = not commits.done()
        await self._crew.end("commits", "watchdog", "history", "status")
        if self.hung:
            log_.error("the disk does not answer; leaving without it, nothing that was acknowledged is lost")
            return
        await asyncio.get_running_loop().run_in_executor(self._log_thread, self.log.close)
        self._log_thread.shutdown()
        self._readers.shutdown()
        log_.info("stopped")

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
        """Remember the numbers of every step, for the rates and the last hour; commit as often as the card may bear."""
        stretched = False
        while True:
            self.report.outlook.sample()
            figures: dict[str, Any] = self.log.stats()
            self.wear.look(figures["device_bytes"], self.clock.monotonic())
            self.intake.commit_s = self.wear.budget.commit_s
            if not stretched and self.wear.budget.stretched:
                stretched = True
                log_.info("%s", self.wear.told())
            elif stretched and self.wear.budget.easy:
                stretched = False
                log_.info("commits are as often as configured again")
            await asyncio.sleep(STEP_S)

    # -- reload --------------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        """SIGHUP."""
        if self.ready or self.stopping:
            asyncio.ensure_future(self.reload()).add_done_callback(_log_refusal)
        else:
            self._hung_up = True

    async def reload(self) -> list[str]:
        """Take the configuration as its files are now; only what differs is stopped and started.

        Returns what changed, in words. Raises ConfigError or NotNow, having changed nothing. It goes on to its end
        though the caller is cancelled.
        """
        if not self.ready:
            raise NotNow(
                f"the gateway is {'stopping' if self.stopping else 'starting'}; its files are read at the start"
            )
        task = asyncio.ensure_future(self._take_files())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return await asyncio.shield(task)

    async def _take_files(self) -> list[str]:
        async with self._one_reload:
            self._notify.reloading()
            try:
                config = await asyncio.to_thread(load_config, self.config.files[0])
                told = await self._change_to(config)
            except ConfigError as error:
                self.problems = error.problems
                first = " | ".join(map(str, error.problems[:10]))
                log_.warning("the changed configuration is refused, and nothing was changed: %s", first)
                raise
            finally:
                if not self.stopping:
                    self._notify.ready(self.report.outlook.verdict().sentence)
            self.loaded, self.reloads, self.problems = self.clock.now(), self.reloads + 1, ()
            log_.info("reloaded: %s", "; ".join(told) or "nothing differs")
            for doubt in config.warnings:
                log_.warning("%s", doubt)
            return told

    async def _change_to(self, config: Config) -> list[str]:
        """From the configuration in use to this one. What could fail comes before anything is touched."""
        found, urgent = changes(self.config, config), urgent_streams(config)
        running = {lane.program.name: lane.program for lane in self._shaper.lanes}
        programs = {
            name: entry.program if name in found.pipelines.start else running[name]
            for name, entry in config.pipelines.items()
        }
        sinks = {name: self._forwarder(config.sinks[name], urgent) for name in found.sinks.start}
        for name in config.streams.keys() - set(self.log.streams()):
            self.log.declare(name, Keep())
        begun = await self.in_reading_thread(lambda: {name: self._shaper.starts(programs[name]) for name in programs})
        parked = await self.in_reading_thread(lambda: self._parked(found.pipelines.added))
        first = await self.in_reading_thread(lambda: {name: sink.starts() for name, sink in sinks.items()})

        kept = await self._crew.take_out_sinks(found.sinks.stop, self.intake)
        await self._crew.take_out_drivers(found.drivers.stop, self.intake)
        memories = await asyncio.get_running_loop().run_in_executor(
            self._log_thread, lambda: {name: self.log.remembered(name) for name in found.drivers.start}
        )

        # From here to the starts no step waits for anything: no turn and no commit sees a half of it.
        told = self._shaper.arrange(list(programs.values()), begun, parked, urgent)
        self.intake.urgent = urgent
        self.wear.change(config.log.wear, config.log.commit, config.log.commit_max, config.log.endurance)
        self.intake.turn_s, self.intake.commit_s = config.log.turn, self.wear.budget.commit_s
        self.intake.forwarders = [sinks.get(name) or kept[name] for name in config.sinks]
        for name, sink in sinks.items():
            sink.open(first[name])
        self._declare_streams(config)
        self._release_cuts()
        self.config = self._in_use(config, programs)
        self._trust_clock()
        for name in found.sinks.start:
            self._crew.start_sink(sinks[name])
        for name in found.drivers.start:
            self._crew.start_driver(config.drivers[name], memories[name], self.intake)
        self.intake.look_again()
        await self.intake.barrier()  # the states of the new definitions are stored
        return _words(found, told)

    def _parked(self, names: Set[str]) -> dict[str, Snapshot]:
        """BLOCKING, any thread. The states of pipelines that ran before and were taken out."""
        found = {name: self.log.snapshot(name) for name in names}
        return {name: snapshot for name, snapshot in found.items() if snapshot is not None}

    def _in_use(self, config: Config, programs: Mapping[str, Program]) -> Config:
        """The configuration with what is in use of it: programs that went on, and settings that wait for a start."""
        entries = {
            name: msgspec.structs.replace(entry, program=programs[name]) for name, entry in config.pipelines.items()
        }
        live = {name.removeprefix("log."): getattr(config.log, name.removeprefix("log.")) for name in LIVE}
        log = msgspec.structs.replace(self.config.log, **live)
        return msgspec.structs.replace(config, gateway=self.config.gateway, log=log, pipelines=entries)

    # -- sinks and what reads ------------------------------------------------------------------------------------------

    def _forwarder(self, entry: SinkEntry, urgent: Set[str]) -> Forwarder:
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
            urgent=urgent,
            read=self.read,
            request_commit=lambda: self.intake.commit_in(0.0),
            summary=self.report.summary,
            letters=self._letters,
        )

    async def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None:
        """Durable records: from memory at once, from disk in the reading thread."""
        if self.log.in_memory(stream, first):
            return self.log.read(stream, first, limit)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.log.read, stream, first, limit)

    async def in_reading_thread(self, work: Callable[[], T]) -> T:
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


def _words(found: Changes, pipelines: Sequence[str]) -> list[str]:
    """What a reload did."""
    return [
        *found.drivers.words("driver"),
        *[f"pipeline {words}" for words in pipelines],
        *found.sinks.words("sink"),
        *[f"stream {name} changed" for name in found.streams],
        *[f"{name} changed{'' if name in LIVE else ', from the next start on'}" for name in found.settings],
    ]


def _log_refusal(reload: "asyncio.Future[list[str]]") -> None:
    """Nobody waits for a reload by SIGHUP. What is wrong with a configuration was logged already."""
    if not reload.cancelled() and not isinstance(error := reload.exception(), ConfigError | NotNow | None):
        log_.error("the configuration could not be changed: %s", error, exc_info=error)


def serve(config: Config) -> None:
    """Run a daemon in this process until it is told to stop."""
    os.umask(os.umask(0o027) | 0o027)  # nothing for others; for the group, what our own umask leaves it
    for doubt in config.warnings:
        log_.warning("%s", doubt)
    daemon = Daemon(config)

    async def run() -> None:
        await daemon.run()
        # Nobody is left to hear it, and once the loop is closed it would kill the process on its way out.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    asyncio.run(run())
    if daemon.hung:
        logging.shutdown()
        os._exit(1)  # the interpreter would wait for the thread for ever
