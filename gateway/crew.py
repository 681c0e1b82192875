"""The drivers and sinks that run, each in supervised tasks of its own. One can be taken out while the rest goes on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence, Set
from typing import Any

from gateway.clock import Clock
from gateway.config import DriverEntry
from gateway.forwarder import Forwarder
from gateway.health import Board
from gateway.intake import Inlet, Intake
from gateway.metrics import Metrics
from gateway.plugin import Driver, Remembered, load
from gateway.retry import Backoff, keep_running

log_ = logging.getLogger("tidegate.crew")

RETURN_S = 5.0  # what a sink that is taken out gets to have its receipts; what is left goes out again by its successor


class Crew:
    """Used on the event loop, inside `async with crew.group`: the group ends when all tasks have."""

    def __init__(self, clock: Clock, metrics: Metrics, board: Board) -> None:
        self.group = asyncio.TaskGroup()
        self._clock, self._metrics, self._board = clock, metrics, board
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def task(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this until it ends or end() is called; what it raises ends everything."""
        self._tasks[name] = self.group.create_task(work, name=name)
        return self._tasks[name]

    async def end(self, *names: str) -> None:
        """Cancel the tasks of these names, and wait for them. `driver:*` is all that begins with `driver:`."""
        whole = [known for known in self._tasks if known in names or f"{known.partition(':')[0]}:*" in names]
        tasks = [self._tasks.pop(name) for name in whole]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _supervised(self, name: str, component: str, work: Callable[[], Awaitable[None]]) -> None:
        def restarted() -> None:
            self._metrics.add("restarts_total", component=component)

        running = keep_running(work, self._board, component, Backoff(), self._clock, on_restart=restarted)
        self.task(name, running)

    # -- drivers -------------------------------------------------------------------------------------------------------

    def start_driver(self, entry: DriverEntry, memory: Sequence[Remembered], intake: Intake) -> None:
        """`memory`: the last records of this driver that carried delivery ids."""
        component = f"driver:{entry.name}"
        self._board.expect(component, False)  # known, and not up, from the start
        inlet = Inlet(entry.name, intake, memory, not intake.urgent.isdisjoint(entry.streams))
        driver: Driver | None = None

        async def serve() -> None:
            nonlocal driver
            if driver is None:  # built once: what it remembers of a session must outlive a lost connection
                driver = load("drivers", entry.driver).build(entry.options, inlet)
                inlet.memory = ()
            crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            running = asyncio.ensure_future(driver.run())
            intake.attach(entry.name, driver, crashed)
            try:
                await asyncio.wait({running, crashed}, return_when=asyncio.FIRST_COMPLETED)
                (crashed if crashed.done() else running).result()
            finally:
                crashed.cancel()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                intake.detach(entry.name)

        self._supervised(component, component, serve)

    async def take_out_drivers(self, names: Set[str], intake: Intake) -> None:
        """Stop these, after everything they read is acknowledged."""
        for name in names:
            intake.retire(name)
        if names:
            await intake.barrier()
        for name in names:
            await self.end(f"driver:{name}")
            intake.retired(name)
            self._board.forget(f"driver:{name}")

    # -- sinks ---------------------------------------------------------------------------------------------------------

    def start_sink(self, forwarder: Forwarder) -> None:
        """Its connection and its sending."""
        self._supervised(forwarder.reader, forwarder.reader, forwarder.sink.run)
        self._supervised(f"forward:{forwarder.name}", forwarder.reader, forwarder.run)

    async def take_out_sinks(self, names: Set[str], intake: Intake) -> dict[str, Forwarder]:
        """Stop these, once their receipts have come or did not in time; returns the others by name."""
        running = {forwarder.name: forwarder for forwarder in intake.forwarders}
        leaving = [running.pop(name) for name in names]
        for forwarder in leaving:
            forwarder.retire()
        try:
            async with asyncio.timeout(RETURN_S):
                await asyncio.gather(*[forwarder.returned() for forwarder in leaving])
        except TimeoutError:
            log_.info("some batches were not confirmed in time; they go out again")
        if leaving:
            await intake.barrier()  # what was cut is part of a commit now: a successor may send it
        for forwarder in leaving:
            await self.end(f"forward:{forwarder.name}", forwarder.reader)
            self._board.forget(forwarder.reader)
            self._metrics.forget(reader=forwarder.reader)
        return running
