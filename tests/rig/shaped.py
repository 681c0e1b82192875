"""A log and its shaper, turned by hand: what the intake does in a turn and a commit, without a loop and without time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.deadletters import DeadLetters
from gateway.health import Board
from gateway.log import Keep, Log, LogOptions
from gateway.metrics import Metrics
from gateway.plugin import compiler
from gateway.record import DEAD_LETTERS, Batch, Record
from gateway.shaper import Shaper

START = 1_790_000_000_000_000_000


class HandClock:
    """Goes only where it is put."""

    def __init__(self) -> None:
        self.ns = START

    def now(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return (self.ns - START) / 1e9


class Shaped:
    def __init__(
        self,
        folder: Path,
        pipelines: Mapping[str, Mapping[str, Any]],
        *,
        urgent: frozenset[str] = frozenset(),
        **options,
    ) -> None:
        self.clock = HandClock()
        self._folder, self._pipelines, self._urgent, self._options = folder, pipelines, urgent, options
        self.urgent_news = 0
        self.open()

    def open(self) -> None:
        """Also after a kill: everything that was not committed is gone."""
        self.log = Log(LogOptions(path=str(self._folder / "log"), **self._options), self.clock)
        self.recovery = self.log.open()
        programs = [compiler()(name, definition, {}) for name, definition in self._pipelines.items()]
        assert not [program for program in programs if isinstance(program, list)], programs
        for program in programs:
            for stream in (*program.inputs, *program.outputs, DEAD_LETTERS):
                self.log.declare(stream, Keep(size=None, age_s=None))
        self.board, self.metrics = Board(self.clock), Metrics()
        self.letters = DeadLetters(self.log, self.clock, self.metrics)
        self.shaper = Shaper(
            programs,
            self.log,
            self.clock,
            self.metrics,
            self.board,
            urgent=self._urgent,
            read_ahead=lambda stream, first, arrived: arrived(self.log.read(stream, first, 8192)),
            urgent_news=self._count_news,
            letters=self.letters,
        )
        fresh = self.shaper.recover(self.recovery)
        if fresh:
            self._write(self.log.gather(fresh))

    def _count_news(self) -> None:
        self.urgent_news += 1

    def record(self, stream: str, *payloads: bytes, key: str = "k") -> None:
        self.log.append(stream, [self.clock.now()] * len(payloads), [key] * len(payloads), list(payloads))

    def turn(self) -> None:
        while self.shaper.shape():
            pass

    def commit(self, *, snapshots: bool = False) -> None:
        while self.shaper.close(self.clock.now()):
            pass
        wanted = self.shaper.wants_snapshots
        if self.log.pending or wanted:
            due = snapshots or wanted or self.log.turnover_due
            self._write(self.log.gather(self.shaper.snapshots() if due else None))

    def _write(self, commit) -> None:
        self.log.write(commit)
        self.log.committed(commit)
        while self.log.maintenance_due and (done := self.log.maintain()) is not None:
            self.log.maintained(done)

    def kill(self) -> None:
        self.log.close()
        self.open()

    def records(self, stream: str) -> list[Record]:
        found: list[Record] = []
        at = 0
        while isinstance(batch := self.log.read(stream, at, 8192), Batch):
            found += batch.records()
            at = batch.next
        return found

    def values(self, stream: str) -> Sequence[bytes]:
        return [record.value for record in self.records(stream)]
