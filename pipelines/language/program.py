"""A compiled pipeline: its generated functions, its state, and what becomes of a record that fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.errors import NoRecord
from gateway.plugin import Case, Mistake, Outputs
from gateway.record import DEAD_LETTERS, Batch, Record, dead_letter
from pipelines.language.build import Held, State
from pipelines.language.progress import Progress
from pipelines.language.runtime import reason

Entry = Callable[[Batch, Outputs], None]

AMOUNTS = frozenset({"keys", "windows", "raised", "remembered"})  # of stats(): what is held now; all else is counted


class Pipeline:
    """gateway.plugin.Program. Built once per load, by compile_pipeline."""

    def __init__(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        start: str | int,
        signature: str,
        source: str,
        steps: Mapping[int, str],
        progress: Progress,
        clock: str,
        states: Sequence[State],
        held: Sequence[Held],
    ) -> None:
        self.name, self.start, self.signature = name, start, signature
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.source = source  # of the generated functions, for those who want to see
        self.steps = steps  # line of it -> the step it was written by
        self.progress, self.clock = progress, clock  # `clock` says in words what time it is that progresses
        self.states, self.held = states, held
        self._before: Mapping[str, int] = {}  # what was counted while records were run again
        self._empty = [msgspec.msgpack.encode(state.save()) for state in states]
        self.alarms: frozenset[str] = frozenset()
        self.tests: Sequence[Case] = ()
        self.doubts: Sequence[Mistake] = ()
        self.entries: dict[str, Entry] = {}  # input -> the function that takes its batches
        self.counts: dict[str, int] = {"dead": 0}

    def run(self, batch: Batch, out: Outputs) -> None:
        if type(batch.values) not in {list, tuple}:
            # the generated loop finds a failed record by what is left of an iterator, which those two can tell
            batch = msgspec.structs.replace(batch, values=list(batch.values))
        if batch.values:
            self.entries[batch.stream](batch, out)

    def due(self) -> int | None:
        return self.progress.due()

    def tick(self, now: int, out: Outputs) -> None:
        self.progress.tick(now, out)

    def snapshot(self) -> bytes:
        states = [(one.signature, state.save()) for one, state in zip(self.held, self.states, strict=True)]
        return msgspec.msgpack.encode([self.inputs, self.clock, self.progress.save(), states])

    def restore(self, state: bytes) -> None:
        _, _, progress, states = msgspec.msgpack.decode(state)
        self.progress.load(progress)
        for each, (_, saved) in zip(self.states, states, strict=True):
            each.load(saved)

    def adopt(self, state: bytes) -> Sequence[str]:
        try:
            inputs, clock, progress, states = msgspec.msgpack.decode(state)
        except (ValueError, msgspec.DecodeError):  # written by another version of the language
            inputs, clock, progress, states = (), "", None, []
        if clock == self.clock:  # else what has passed there says nothing here
            if tuple(inputs) == self.inputs:
                self.progress.load(progress)
            else:
                self.progress.resume(progress)
        left: dict[str, list[Any]] = {}
        for signature, saved in states:
            left.setdefault(signature, []).append(saved)
        empty = []
        for each, one in zip(self.states, self.held, strict=True):
            if left.get(one.signature):
                each.load(left[one.signature].pop(0))
            else:
                empty.append(one.step)
        return list(dict.fromkeys(empty))

    def clear(self, steps: Sequence[str]) -> None:
        for each, one, empty in zip(self.states, self.held, self._empty, strict=True):
            if one.step in steps:
                each.load(msgspec.msgpack.decode(empty))

    def caught_up(self) -> None:
        self._before = {}
        self._before = {name: n for name, n in self.stats().items() if name not in AMOUNTS}

    def stats(self) -> Mapping[str, int]:
        found = dict(self.counts)
        for state in self.states:
            for counter, n in state.stats().items():
                found[counter] = found.get(counter, 0) + n
        return {name: n - self._before.get(name, 0) for name, n in found.items()}

    def failed(self, error: Exception, batch: Batch, at: int, out: Outputs) -> None:
        """The record at this index of the batch could not be processed, or is none."""
        if isinstance(error, NoRecord):
            self.counts["no_record"] = self.counts.get("no_record", 0) + 1
            return
        flags = batch.flags[at] if batch.flags else 0
        record = Record(batch.first + at, batch.times[at], batch.keys[at], batch.values[at], flags)
        self._bury(error, batch.stream, record, out)

    def row_failed(self, error: Exception, key: str, time: int, evidence: bytes, out: Outputs) -> None:
        """A derived row could not be processed. It never was a record of a stream: it has no offset."""
        self._bury(error, "", Record(-1, time, key, evidence), out)

    def _bury(self, error: Exception, stream: str, record: Record, out: Outputs) -> None:
        self.counts["dead"] += 1
        trace = error.__traceback__
        step = self.steps.get(trace.tb_lineno, "") if trace else ""
        letter = dead_letter(self.name, step, reason(error), stream, record)
        out.emit(DEAD_LETTERS, record.time, record.key, letter)
