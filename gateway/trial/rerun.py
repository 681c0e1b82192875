"""A pipeline over what the log holds, beside what the running version recorded meanwhile. Nothing is written.

The span is one of whole commits: from the one that recorded the first input at or after `since` to the last one before
`until`. What was recorded by the same commits, the running version derived from the same records; unless it was behind
then, or is fed by others, too. State from before the span is not known: with `warm`, the records of so much time before
it run first, and what comes of them is thrown away.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from gateway.config import PipelineEntry
from gateway.deadletters import pattern
from gateway.derive import Columns, Outputs, next_stretch
from gateway.errors import TidegateError
from gateway.log.archive import Archive
from gateway.record import DEAD_LETTERS, Batch, Gap
from gateway.trial.course import Course
from gateway.trial.difference import Difference, Differing

CHUNK = 4096  # inputs between two comparisons
MOST_REASONS = 200  # kinds of dead letters, and alarms, told apart


class NothingRecorded(TidegateError):
    """The log holds none of the pipeline's inputs."""


class Input(msgspec.Struct):
    """What came in. Times are ns, None where nothing came; `gone` records were evicted or damaged."""

    stream: str
    records: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    gone: int = 0


class Output(msgspec.Struct):
    """What came out by a stream, and what was recorded of it; `bytes` are of payloads."""

    stream: str
    also_fed_by: list[str]
    records: int = 0
    bytes: int = 0
    recorded: int = 0
    recorded_bytes: int = 0
    same: int = 0
    changed: int = 0  # of the same key and time, with another payload
    added: int = 0  # not recorded
    missing: int = 0  # recorded, and not derived now; where others feed the stream, too, it may be theirs
    examples: list[Differing] = []

    @property
    def differing(self) -> int:
        """Records that are not as they were recorded, as far as it can be told."""
        return self.changed + self.added + (0 if self.also_fed_by else self.missing)


class Reason(msgspec.Struct):
    """Dead letters that are alike, derived now and recorded; `key`, `sample` and `payload` of the first one."""

    step: str
    sample: str
    key: str
    payload: msgspec.Raw
    count: int = 0
    recorded: int = 0


class Alarm(msgspec.Struct):
    """How often an alarm was raised and cleared, now and as recorded."""

    stream: str
    name: str
    raised: int = 0
    cleared: int = 0
    recorded_raised: int = 0
    recorded_cleared: int = 0


class Result(msgspec.Struct):
    """All of a run. `since` and `until` are ns; `counters` what the program counted, and held in the end."""

    pipeline: str
    since: int
    until: int
    warm_s: float
    warmed: int  # records that ran first
    earlier: bool  # the log holds inputs from before the span, with which it could be warmed
    inputs: list[Input]
    outputs: list[Output]
    dead: list[Reason]
    alarms: list[Alarm]
    counters: dict[str, int]


def rerun(
    entry: PipelineEntry,
    archive: Archive,
    *,
    since: int,
    until: int | None,
    warm_s: float = 0.0,
    shown: int = 5,
    feeders: Mapping[str, Sequence[str]] = {},
) -> Result:
    """Run a pipeline over the records that arrived from `since` to `until` (ns; None: to the newest).

    Raises NothingRecorded, and LogError.
    """
    program = entry.program
    inputs = [stream for stream in program.inputs if stream in archive.streams()]
    if not inputs:
        known = ", ".join(archive.streams()[:20]) or "nothing"
        raise NothingRecorded(f"the log holds nothing of {', '.join(program.inputs)}; it holds {known}")
    low, high = _commits(archive, inputs, since, until)
    at = {stream: archive.seek_commit(stream, low) for stream in inputs}
    stop = {
        stream: archive.next(stream) if high is None else archive.seek_commit(stream, high + 1) for stream in inputs
    }
    out = Outputs()
    course = Course(program, out)
    warmed = _warm_up(course, archive, at, since - round(warm_s * 1e9)) if warm_s else 0
    earlier = any(archive.oldest(stream) < at[stream] for stream in inputs)
    out.take()
    program.caught_up()
    comparison = _Comparison(entry, archive, low, high, shown, feeders)
    coming = {stream: Input(stream) for stream in program.inputs}
    waiting = 0
    for part in merged(archive, inputs, at, stop):
        one = coming[part.stream]
        if isinstance(part, Gap):
            one.gone += len(part)
            continue
        one.records += len(part)
        one.bytes += sum(map(len, part.values))
        one.first = part.times[0] if one.first is None else one.first
        one.last = part.times[-1]
        course.run(part)
        waiting += len(part)
        if waiting >= CHUNK:
            comparison.take(out.take(), part.commits[-1][0])
            waiting = 0
    newest = max([one.last for one in coming.values() if one.last is not None], default=since)
    end = max(archive.written, newest) if until is None else until
    course.wait(end)
    comparison.take(out.take(), None)
    comparison.finish()
    return Result(
        pipeline=entry.name,
        since=since,
        until=end,
        warm_s=warm_s,
        warmed=warmed,
        earlier=earlier,
        inputs=list(coming.values()),
        outputs=list(comparison.outputs.values()),
        dead=sorted(comparison.reasons.values(), key=lambda one: -max(one.count, one.recorded)),
        alarms=list(comparison.alarms.values()),
        counters=dict(program.stats()),
    )


def _warm_up(course: Course, archive: Archive, until: Mapping[str, int], since: int) -> int:
    """Run what lies between `since` and the span; how many records that were."""
    low, _ = _commits(archive, list(until), since, None)
    at = {stream: min(archive.seek_commit(stream, low), stop) for stream, stop in until.items()}
    count = 0
    for part in merged(archive, list(until), at, until):
        if isinstance(part, Batch):
            course.run(part)
            count += len(part)
    return count


def _commits(archive: Archive, streams: Iterable[str], since: int, until: int | None) -> tuple[int, int | None]:
    """The commits that recorded the first record at or after `since` and the last one before `until`."""
    firsts: list[int] = []
    lasts: list[int] = []
    for stream in streams:
        low, end = archive.seek(stream, since), archive.next(stream)
        high = end if until is None else archive.seek(stream, until)
        part = next((part for part in archive.batches(stream, low, end) if isinstance(part, Batch)), None)
        if part is not None:
            firsts.append(part.commits[0][0])
        last = archive.read(stream, high - 1) if high > low else None
        if isinstance(last, Batch):
            lasts.append(last.commits[0][0])
    low_commit = min(firsts, default=1 << 62)
    return low_commit, None if until is None else max(lasts, default=low_commit - 1)


def merged(
    archive: Archive, streams: Sequence[str], at: Mapping[str, int], stop: Mapping[str, int]
) -> Iterator[Batch | Gap]:
    """Stretches of several streams, listed as they are configured, in the order in which a pipeline reads them."""
    if len(streams) == 1:
        yield from archive.batches(streams[0], at[streams[0]], stop[streams[0]])
        return
    coming = {stream: archive.batches(stream, at[stream], stop[stream]) for stream in streams}
    heads: dict[str, Batch] = {}
    while coming or heads:
        for stream in list(coming):
            while stream not in heads:
                part = next(coming[stream], None)
                if part is None:
                    del coming[stream]
                    break
                if isinstance(part, Gap):
                    yield part
                else:
                    heads[stream] = part
        if not heads:
            return
        part = next_stretch([heads[stream] for stream in streams if stream in heads])
        yield part
        whole = heads.pop(part.stream)
        if part.next < whole.next:
            heads[part.stream] = whole.slice(part.next, whole.next)


class _Recorded:
    """What commits recorded of a stream, handed out as the comparison comes by."""

    def __init__(self, archive: Archive, stream: str, low: int, high: int | None) -> None:
        known = stream in archive.streams()
        first = archive.seek_commit(stream, low) if known else 0
        stop = 0 if not known else archive.next(stream) if high is None else archive.seek_commit(stream, high + 1)
        self._parts = archive.batches(stream, first, stop) if known else iter(())
        self._left: Batch | None = None

    def take(self, commit: int | None) -> Columns:
        """Everything up to that commit; all that is left for None."""
        times: list[int] = []
        keys: list[str] = []
        values: list[bytes] = []
        while True:
            part = self._left if self._left is not None else next(self._parts, None)
            self._left = None
            if part is None:
                break
            if isinstance(part, Gap):
                continue
            count = len(part) if commit is None else sum([n for number, n in part.commits if number <= commit])
            here = part.slice(part.first, part.first + count)
            times += here.times
            keys += here.keys
            values += here.values
            if count < len(part):
                self._left = part.slice(part.first + count, part.next)
                break
        return Columns(times, keys, values)


class _Letter(msgspec.Struct):
    """What is looked at of a dead letter."""

    by: str
    step: str
    reason: str
    key: str
    value: msgspec.Raw
    more: int = 0


class _Told(msgspec.Struct):
    """What is looked at of an alarm."""

    name: str
    state: str
    reminder: bool = False


class _Comparison:
    """What was derived beside what was recorded, stretch by stretch."""

    def __init__(
        self,
        entry: PipelineEntry,
        archive: Archive,
        low: int,
        high: int | None,
        shown: int,
        feeders: Mapping[str, Sequence[str]],
    ) -> None:
        self._name = entry.name
        self._program = program = entry.program
        self._recorded = {stream: _Recorded(archive, stream, low, high) for stream in program.outputs}
        self.outputs = {
            stream: Output(stream, [one for one in feeders.get(stream, ()) if one != f"pipeline {entry.name}"])
            for stream in program.outputs
            if stream != DEAD_LETTERS
        }
        self._differences = {
            stream: Difference(shown, shared=bool(output.also_fed_by)) for stream, output in self.outputs.items()
        }
        self.reasons: dict[tuple[str, str], Reason] = {}
        self.alarms: dict[tuple[str, str], Alarm] = {}
        self._letter = msgspec.json.Decoder(_Letter).decode
        self._told = msgspec.json.Decoder(_Told).decode

    def take(self, derived: Mapping[str, Columns], commit: int | None) -> None:
        """Compare what was derived up to a commit; for None, all that is left."""
        for stream, recorded in self._recorded.items():
            ours, theirs = derived.get(stream, Columns([], [], [])), recorded.take(commit)
            if stream == DEAD_LETTERS:
                self._count_letters(ours, theirs)
                continue
            output = self.outputs[stream]
            output.records += len(ours.values)
            output.bytes += sum(map(len, ours.values))
            output.recorded += len(theirs.values)
            output.recorded_bytes += sum(map(len, theirs.values))
            self._differences[stream].take(ours, theirs)
            if stream in self._program.alarms:
                self._count_alarms(stream, ours, theirs)

    def finish(self) -> None:
        for stream, difference in self._differences.items():
            difference.finish()
            output = self.outputs[stream]
            output.same, output.changed = difference.same, difference.changed
            output.added, output.missing = difference.added, difference.missing
            output.examples = difference.first()

    def _count_letters(self, ours: Columns, theirs: Columns) -> None:
        for value in ours.values:
            self._reason(self._letter(value)).count += 1
        for value in theirs.values:
            letter = self._letter(value)
            if letter.by == self._name:
                self._reason(letter).recorded += 1 + letter.more

    def _reason(self, letter: _Letter) -> Reason:
        alike = (letter.step, pattern(letter.reason))
        if alike not in self.reasons and len(self.reasons) >= MOST_REASONS:
            alike = ("", "other reasons")
            letter = _Letter("", "", "other reasons", "", msgspec.Raw(b'""'))
        found = self.reasons.get(alike)
        if found is None:
            found = self.reasons[alike] = Reason(letter.step, letter.reason, letter.key, letter.value)
        return found

    def _count_alarms(self, stream: str, ours: Columns, theirs: Columns) -> None:
        for columns, prefix in ((ours, ""), (theirs, "recorded_")):
            for value in columns.values:
                try:
                    told = self._told(value)
                except msgspec.DecodeError:
                    continue  # this stream has something else in it, too
                if told.reminder or told.state not in ("raised", "cleared"):
                    continue
                if (stream, told.name) not in self.alarms and len(self.alarms) >= MOST_REASONS:
                    continue
                alarm = self.alarms.setdefault((stream, told.name), Alarm(stream, told.name))
                name = f"{prefix}{told.state}"
                setattr(alarm, name, getattr(alarm, name) + 1)
