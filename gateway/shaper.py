"""The shaper: runs pipelines over what was recorded, in the same turn, and records what they derive.

- A pipeline reads from its position; what was just recorded is the usual case of that, not a case of its own.
- Outputs depend on record order alone. A pipeline of one input runs on records as they come; a pipeline of several
  inputs runs once per commit, when it is known what the commit holds: inputs merge by (commit, config order, offset).
- Its position moves in the commit that holds its outputs, so both are there after a crash or neither is.
- Its state is snapshotted now and then. After a restart the records since the snapshot are run again with the outputs
  thrown away: they are recorded already.
- One that needs longer than its budget falls behind by itself and delays nobody's acknowledgement.
- A changed definition takes over the state of every step that still means the same. The next commit stores the states
  as they are then, so a crash finds what belongs to the new definitions.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

import msgspec

from gateway.clock import Clock
from gateway.deadletters import DeadLetters
from gateway.derive import Outputs, next_stretch
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
        urgent: Set[str],
        read_ahead: ReadAhead,
        urgent_news: Callable[[], None],
        letters: DeadLetters,
    ) -> None:
        self._log, self._clock, self._metrics, self._board, self._letters = log, clock, metrics, board, letters
        self._urgent, self._read_ahead, self._urgent_news = urgent, read_ahead, urgent_news
        self.lanes = [self._lane(program) for program in programs]
        self._leaving: dict[str, Snapshot] = {}  # the last states of pipelines that were taken out, to be stored
        self.wants_snapshots = False  # the coming commit must store the states: some definition is new

    def _lane(self, program: Program) -> Lane:
        return Lane(program, any(stream in self._urgent for stream in program.outputs))

    # -- start -------------------------------------------------------------------------------------------------------

    def recover(self, recovery: Recovery) -> dict[str, Snapshot]:
        """BLOCKING. Bring every state to where its position is; returns what must be stored before the first turn."""
        fresh: dict[str, Snapshot] = {}
        for lane in self.lanes:
            name, program = lane.program.name, lane.program
            self._place(lane, self.starts(program))
            snapshot = recovery.snapshots.get(name)
            if snapshot is None:
                fresh[name] = self._snapshot(lane)
            else:
                ticks = [tick for tick in recovery.ticks if tick.pipeline == name]
                if snapshot.signature == program.signature:
                    program.restore(snapshot.state)
                    self._replay(lane, snapshot, ticks)
                else:
                    empty = program.adopt(snapshot.state)
                    self._replay(lane, snapshot, ticks)
                    program.clear(empty)  # what they made of those records went nowhere, so they have not seen them
                    log_.warning("pipeline %s", _told_of_change(name, empty))
                    fresh[name] = self._snapshot(lane)
            program.caught_up()
            self._board.up(f"pipeline:{name}")
        return fresh

    def starts(self, program: Program) -> dict[str, int]:
        """BLOCKING, any thread. Where a pipeline begins to read those of its inputs that it has not read before."""
        places = self._log.positions.of(f"pipeline:{program.name}")
        return {stream: self._start(program.start, stream) for stream in program.inputs if stream not in places}

    def _start(self, start: str | int, stream: str) -> int:
        if start == "latest":
            return self._log.next(stream)
        if isinstance(start, int):  # below zero: that long ago
            return self._log.seek(stream, start if start >= 0 else self._clock.now() + start)
        return self._log.oldest(stream)

    def _place(self, lane: Lane, starts: Mapping[str, int]) -> None:
        """Have the lane stand where its reader stands, or at its start where that never read."""
        for stream in lane.program.inputs:
            position = self._log.positions.where(lane.reader, stream)
            if position is None:
                position = starts[stream]
                self._log.positions.start(lane.reader, stream, position)
            lane.at[stream] = position

    def arrange(
        self,
        programs: Sequence[Program],
        starts: Mapping[str, Mapping[str, int]],
        parked: Mapping[str, Snapshot],
        urgent: Set[str],
    ) -> list[str]:
        """Between turns: from now on these pipelines run, in this order. A program that runs already goes on as it is.

        `starts`: what starts() said of the others, by name; `parked`: the stored states of those that ran before, but
        do not run now. Returns what there is to tell of each pipeline that changed, in words.
        """
        self._urgent = urgent
        running = {lane.program.name: lane for lane in self.lanes}
        told, lanes = [], []
        for program in programs:
            name = program.name
            before = running.pop(name, None)
            lane = self._lane(program)
            if before is not None and before.program is program:
                before.urgent = lane.urgent
                lanes.append(before)
                continue
            self._place(lane, starts.get(name, {}))
            state = self._state_of(before) if before is not None else parked.get(name)
            if state is not None and all(state.positions.get(stream, at) == at for stream, at in lane.at.items()):
                empty = program.adopt(state.state)
                told.append(_told_of_change(name, empty) + self._told_of_alarms(before, program))
            else:
                told.append(f"{name} added" if before is None else f"{name} changed; starting empty: all of it")
            self._board.up(f"pipeline:{name}")
            self._metrics.forget(reader=lane.reader)  # perhaps of an input that it does not read any more
            lanes.append(lane)
        for name, lane in running.items():
            if (last := self._state_of(lane)) is not None:
                self._leaving[name] = last
            told.append(f"{name} removed")
            self._board.forget(f"pipeline:{name}")
            self._metrics.forget(pipeline=name)
            self._metrics.forget(reader=lane.reader)
        self.lanes = lanes
        self.wants_snapshots |= bool(told)
        return told

    def _told_of_alarms(self, before: Lane | None, program: Program) -> str:
        """Words for alarms that were raised and that nobody knows of any more."""
        known = before.program.stats().get("raised", 0) if before is not None else 0
        forgotten = known - program.stats().get("raised", 0)
        return f"; {forgotten} raised alarms are forgotten and will not be told as cleared" if forgotten > 0 else ""

    def _state_of(self, lane: Lane) -> Snapshot | None:
        """None where the pipeline has stopped: its state is not one that belongs to its position."""
        return None if lane.failed else self._snapshot(lane)

    def _replay(self, lane: Lane, snapshot: Snapshot, ticks: Sequence[Tick]) -> None:
        """Run the records between the snapshot and the position again, with the ticks where they were."""
        until = dict(lane.at)
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
        states, self._leaving, self.wants_snapshots = self._leaving, {}, False
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
        heads = [batch for stream, at in lane.at.items() if (batch := fetch(stream, at)) is not None]
        if missing or not heads:
            return False
        part = next_stretch(heads)
        lane.program.run(part, out)
        lane.at[part.stream] = part.next
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


def _told_of_change(name: str, empty: Sequence[str]) -> str:
    return f"{name} changed; starting empty: {', '.join(empty)}" if empty else f"{name} changed, its state goes on"


def _last_of(letters: Sequence[bytes], total: int) -> str:
    """Dead letters in words for the status: the newest says more than a count."""
    newest = msgspec.json.decode(letters[-1], type=dict[str, msgspec.Raw])
    step, reason = (msgspec.json.decode(newest[name], type=str) for name in ("step", "reason"))
    noun = "dead letter" if total == 1 else "dead letters"
    return f"{total} {noun} since the start, the last at {step}: {reason} (tidegate dead)"
