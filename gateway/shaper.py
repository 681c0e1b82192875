"""The shaper: runs pipelines over what was recorded, in the same turn, and records what they derive.

- A pipeline reads from its position; what was just recorded is the usual case of that, not a case of its own.
- Outputs depend on record order alone. A pipeline of one input runs on records as they come; a pipeline of several
  inputs runs once per commit, when it is known what the commit holds: inputs merge by (commit, config order, offset).
- Its position moves in the commit that holds its outputs, so both are there after a crash or neither is.
- Its state is snapshotted now and then. After a restart the records since the snapshot are run again with the outputs
  thrown away: they are recorded already.
- One that needs longer than its budget falls behind by itself and delays nobody's acknowledgement.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from gateway.clock import Clock
from gateway.deadletters import DeadLetters
from gateway.health import Board
from gateway.log import Log, Recovery, Snapshot, Tick
from gateway.metrics import Metrics
from gateway.plugin import Program
from gateway.record import DEAD_LETTERS, Batch, Gap

log_ = logging.getLogger("tidegate.shaper")

SLICE = 2_000  # records between two looks at the clock: one or two milliseconds
BUDGET_S = 0.010  # per pipeline and turn
BLOCK = 8_192  # records fetched from disk at a time
MOST_PENDING = 2 << 20  # bytes gathered for the coming commit, above which nothing more is derived

ReadAhead = Callable[[str, int, Callable[[Batch | Gap | None], None]], None]


class Outputs:
    """What a run derived, as columns per stream, until the shaper appends it."""

    __slots__ = ("columns",)

    def __init__(self) -> None:
        self.columns: dict[str, tuple[list[int], list[str], list[bytes]]] = {}

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None:
        columns = self.columns.get(stream)
        if columns is None:
            columns = self.columns[stream] = ([], [], [])
        columns[0].append(time)
        columns[1].append(key)
        columns[2].append(value)


class Nothing:
    """Outputs that are recorded already: a replay throws them away."""

    __slots__ = ()

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None:
        pass


class Lane:
    """One pipeline on its way through its inputs."""

    __slots__ = ("ahead", "at", "behind", "failed", "fetching", "program", "reader", "urgent")

    def __init__(self, program: Program, urgent: bool) -> None:
        self.program, self.urgent = program, urgent
        self.reader = f"pipeline:{program.name}"
        self.at: dict[str, int] = {}  # input -> offset of the next record to run
        self.ahead: dict[str, Batch] = {}  # input -> a block fetched from disk, while the pipeline is behind
        self.behind = False
        self.failed = False
        self.fetching: set[str] = set()  # inputs whose next block is on its way from the disk


class Shaper:
    """Every pipeline, in the order of the chain. Methods run on the event loop; `read_ahead` fetches in a thread."""

    def __init__(
        self,
        programs: Sequence[Program],
        log: Log,
        clock: Clock,
        metrics: Metrics,
        board: Board,
        *,
        urgent: frozenset[str],
        read_ahead: ReadAhead,
        urgent_news: Callable[[], None],
        letters: DeadLetters,
    ) -> None:
        self._log, self._clock, self._metrics, self._board, self._letters = log, clock, metrics, board, letters
        self._urgent, self._read_ahead, self._urgent_news = urgent, read_ahead, urgent_news
        self.lanes = [Lane(program, not urgent.isdisjoint(program.outputs)) for program in programs]

    # -- start -------------------------------------------------------------------------------------------------------

    def recover(self, recovery: Recovery) -> dict[str, Snapshot]:
        """BLOCKING. Bring every state to where its position is; returns what must be stored before the first turn."""
        fresh: dict[str, Snapshot] = {}
        for lane in self.lanes:
            name, signature = lane.program.name, lane.program.signature
            positions = {stream: self._log.positions.where(lane.reader, stream) for stream in lane.program.inputs}
            snapshot = recovery.snapshots.get(name)
            known = snapshot is not None and snapshot.signature == signature
            for stream, position in positions.items():
                if position is None:
                    lane.at[stream] = self._start(lane, stream)
                    self._log.positions.start(lane.reader, stream, lane.at[stream])
                else:
                    lane.at[stream] = position
            if known:
                assert snapshot is not None
                self._replay(lane, snapshot, [tick for tick in recovery.ticks if tick.pipeline == name])
            else:
                if snapshot is not None:
                    log_.warning("pipeline %s: its definition changed, its state starts empty", name)
                fresh[name] = self._snapshot(lane)
            self._board.up(f"pipeline:{name}")
        return fresh

    def _start(self, lane: Lane, stream: str) -> int:
        start = lane.program.start
        if start == "latest":
            return self._log.next(stream)
        if isinstance(start, int):  # below zero: that long ago
            return self._log.seek(stream, start if start >= 0 else self._clock.now() + start)
        return self._log.oldest(stream)

    def _replay(self, lane: Lane, snapshot: Snapshot, ticks: Sequence[Tick]) -> None:
        """Run the records between the snapshot and the position again, with the ticks where they were."""
        until = dict(lane.at)
        lane.program.restore(snapshot.state)
        lane.at = {stream: snapshot.positions.get(stream, until[stream]) for stream in until}
        nothing = Nothing()
        for tick in ticks:
            self._replay_to(lane, tick.positions, nothing)
            lane.program.tick(tick.now, nothing)
        self._replay_to(lane, until, nothing)
        lane.at = until

    def _replay_to(self, lane: Lane, until: Mapping[str, int], nothing: Nothing) -> None:
        def fetch(stream: str, first: int) -> Batch | None:
            while first < until.get(stream, first):
                found = self._log.read(stream, first, min(BLOCK, until[stream] - first))
                if isinstance(found, Batch):
                    return found
                if found is None:
                    break
                log_.warning(
                    "pipeline %s: %d records of %s that its state was made of are gone (%s); it may differ",
                    *(lane.program.name, len(found), stream, found.cause),
                )
                first = lane.at[stream] = found.last + 1
            return None

        while self._merge_step(lane, fetch, nothing):
            pass

    # -- a turn ------------------------------------------------------------------------------------------------------

    def shape(self) -> bool:
        """Run pipelines of one input on what is there; those of several wait for the commit to be complete.

        Returns True if some pipeline was stopped by its budget and wants another turn at once.
        """
        hungry = False
        for lane in self.lanes:
            if len(lane.at) == 1:
                hungry |= self._advance(lane)
        return hungry

    def close(self, now: int) -> bool:
        """The coming commit is complete: run everything that is left of it, several inputs too, and let time pass.

        In the order of the chain, each with its ticks, so that what one derives in this commit the next one sees in it.
        Returns True if some pipeline can go on as soon as the commit is gathered.
        """
        hungry = False
        for lane in self.lanes:
            hungry |= self._advance(lane)
            self._tick(lane, now)
            # Also one that a slow commit held back: once this one is gathered there is room, and nobody else calls it.
            hungry |= lane.behind and not lane.failed and not lane.fetching
        self._letters.settle()
        return hungry

    def wants_commit(self) -> bool:
        """A pipeline of several inputs waits for one: it is urgent and has news, or it is behind and can go on."""
        return any(
            (lane.urgent or lane.behind) and self._waiting(lane)
            for lane in self.lanes
            if len(lane.at) > 1 and not lane.failed and not lane.fetching
        )

    def due(self, now: int) -> bool:
        """Would a tick make some pipeline act now?"""
        for lane in self.lanes:
            if not lane.failed and not lane.behind:
                due = lane.program.due()
                if due is not None and due <= now:
                    return True
        return False

    def _tick(self, lane: Lane, now: int) -> None:
        """Let time pass for a pipeline that has run everything and waits for it."""
        if lane.behind or lane.failed or self._waiting(lane):
            return
        with self._alone(lane):
            due = lane.program.due()
            if due is None or due > now:
                return
            out = Outputs()
            lane.program.tick(now, out)
            self._log.tick(lane.program.name, now)
            self._append(lane, out)

    def snapshots(self) -> dict[str, Snapshot]:
        """Every state as it is in the commit that is being made; one that failed keeps its last good one."""
        states: dict[str, Snapshot] = {}
        for lane in self.lanes:
            if not lane.failed:
                with self._alone(lane):
                    states[lane.program.name] = self._snapshot(lane)
        return states

    def _snapshot(self, lane: Lane) -> Snapshot:
        return Snapshot(lane.program.signature, lane.program.snapshot(), dict(lane.at))

    def _waiting(self, lane: Lane) -> bool:
        return any(at < self._log.next(stream) for stream, at in lane.at.items())

    def _advance(self, lane: Lane) -> bool:
        if lane.failed or not self._waiting(lane):
            return False
        if self._log.pending_bytes > MOST_PENDING:  # a commit is slow: what is derived must not pile up behind it
            lane.behind = True
            return False
        out = Outputs()
        started = self._clock.monotonic()
        missing: list[tuple[str, int]] = []

        def fetch(stream: str, first: int) -> Batch | None:
            if first >= self._log.next(stream):
                return None
            block = lane.ahead.get(stream)
            if block is not None:
                if block.first <= first < block.next:
                    return block.slice(first, first + SLICE)
                del lane.ahead[stream]
            chunk = self._log.peek(stream, first, SLICE)
            if chunk is None:
                missing.append((stream, first))
            return chunk

        hungry = False
        with self._alone(lane):
            while self._merge_step(lane, fetch, out, missing):
                if self._clock.monotonic() - started > BUDGET_S:
                    hungry = self._waiting(lane)
                    break
            self._append(lane, out)
        if lane.failed:
            return False
        for stream, at in lane.at.items():
            self._log.positions.move(lane.reader, stream, at)
        for stream, first in missing:
            self._fetch_block(lane, stream, first)
        lane.behind = hungry or bool(missing)
        self._metrics.observe("processing_seconds", self._clock.monotonic() - started, pipeline=lane.program.name)
        return hungry

    @contextmanager
    def _alone(self, lane: Lane) -> Iterator[None]:
        """A record's failure is a dead letter; what comes out here is a defect of a step. It stops this pipeline alone:
        its position stays, its lag grows, and a restart runs it again from its snapshot.
        """
        before = dict(lane.at)
        try:
            yield
        except Exception as error:
            log_.exception("pipeline %s stopped", lane.program.name)
            self._board.failed(f"pipeline:{lane.program.name}", f"{type(error).__name__}: {error}")
            lane.at, lane.failed = before, True

    def _merge_step(
        self,
        lane: Lane,
        fetch: Callable[[str, int], Batch | None],
        out: Any,
        missing: Sequence[object] = (),
    ) -> bool:
        """Run the next stretch of records in merge order; False when there is none (or one must be fetched first)."""
        if len(lane.at) == 1:
            ((stream, at),) = lane.at.items()
            batch = fetch(stream, at)
            if batch is None:
                return False
            lane.program.run(batch, out)
            lane.at[stream] = batch.next
            return True
        heads = [(stream, batch) for stream, at in lane.at.items() if (batch := fetch(stream, at)) is not None]
        if missing or not heads:
            return False
        commit = min(batch.commits[0][0] for _, batch in heads)
        stream, batch = next((s, b) for s, b in heads if b.commits[0][0] == commit)
        part = batch.slice(batch.first, batch.first + batch.commits[0][1])
        lane.program.run(part, out)
        lane.at[stream] = part.next
        return True

    def _fetch_block(self, lane: Lane, stream: str, first: int) -> None:
        if stream in lane.fetching:
            return
        lane.fetching.add(stream)

        def arrived(found: Batch | Gap | None) -> None:
            lane.fetching.discard(stream)
            if isinstance(found, Batch):
                lane.ahead[stream] = found
            elif isinstance(found, Gap) and lane.at[stream] == first:
                lane.at[stream] = found.last + 1
                self._log.positions.skip(lane.reader, found)

        self._read_ahead(stream, first, arrived)

    def _append(self, lane: Lane, out: Outputs) -> None:
        for stream, (times, keys, values) in out.columns.items():
            news = len(values)
            if stream == DEAD_LETTERS:
                news = self._letters.bury(times, keys, values)
                self._metrics.add("dead_total", len(values), reason="pipeline")
                self._board.up(f"pipeline:{lane.program.name}", _last_of(values, lane.program.stats().get("dead", 0)))
            else:
                self._log.append(stream, times, keys, values)
                self._metrics.add("derived_total", news, pipeline=lane.program.name, stream=stream)
            if news and stream in self._urgent:
                self._urgent_news()


def _last_of(letters: Sequence[bytes], total: int) -> str:
    """Dead letters in words for the status: the newest says more than a count."""
    newest = msgspec.json.decode(letters[-1], type=dict[str, msgspec.Raw])
    step, reason = (msgspec.json.decode(newest[name], type=str) for name in ("step", "reason"))
    noun = "dead letter" if total == 1 else "dead letters"
    return f"{total} {noun} since the start, the last at {step}: {reason} (tidegate read {DEAD_LETTERS})"
