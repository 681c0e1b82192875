"""How the gateway is, in one sentence: does everything arrive, what waits, how long will the room do, what was lost.

The page, `tidegate status`, systemd's status line and the status topic all show this sentence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

Level = Literal["ok", "attention", "trouble"]

NEWS_S = 3600.0  # what was lost or went to the dead letters this recently asks for attention
TIGHT_S = 6 * 3600.0  # a destination that is away is trouble when the room does for less than this
UNDER_WAY_S = 30.0  # an unsent record of this age is on its way, whatever ends its batch
ON_TIME_S = 5.0  # what a delivery may take after its batch was due, and be nothing to speak of
STILL_S = 10.0  # a destination that takes nothing for this long, while something is due, is told
MOST_CLAUSES = 4
DETAIL = 160  # characters of a reason

_SEVERITY: Mapping[Level, int] = {"trouble": 0, "attention": 1, "ok": 2}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A driver, a pipeline or the log."""

    name: str
    state: str  # starting, up, waiting, failed
    detail: str = ""
    since_s: float = 0.0  # in this state
    silent_s: float | None = None  # nothing came for this long, unlike before


class Destination(Part, frozen=True, kw_only=True):
    """A sink, and what waits for it."""

    lag: int = 0  # records
    oldest_s: float | None = None  # age of the oldest one that is not delivered
    batch_s: float = 0.0  # how long a record may wait for its batch
    still_s: float = 0.0  # since it took something, or since it is there
    room_s: float | None = None  # until the oldest that waits is forgotten; None: not known


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the sentence is made of."""

    phase: Literal["starting", "running", "stopping"] = "running"
    log: Part = Part(name="log", state="up")
    drivers: Sequence[Part] = ()
    pipelines: Sequence[Part] = ()
    sinks: Sequence[Destination] = ()
    dead: int = 0  # letters since the start
    dead_ago_s: float | None = None
    lost: Mapping[str, int] = {}  # stream -> records gone before everyone had them, since the start
    lost_ago_s: float | None = None
    raised: int = 0  # alarms that pipelines have raised: news from the sensors, no trouble of the gateway
    clock_trusted: bool = True  # False: something should expire by age, and does not
    refused: int = 0  # mistakes for which the last reload was refused


class Verdict(msgspec.Struct, frozen=True):
    level: Level
    sentence: str


def summary(figures: Figures) -> Verdict:
    """The sentence, the worst first."""
    if figures.phase == "starting":
        return Verdict("attention", "Starting: the log is being recovered")
    if figures.phase == "stopping":
        return Verdict("attention", "Stopping: what was read is made durable")
    clauses = sorted(_clauses(figures), key=lambda clause: _SEVERITY[clause[0]])
    texts = [text for _, text in clauses[:MOST_CLAUSES]]
    if len(clauses) > MOST_CLAUSES:
        texts.append(f"and {len(clauses) - MOST_CLAUSES} more")
    sentence = "; ".join(texts)
    return Verdict(clauses[0][0], sentence[:1].upper() + sentence[1:])


def _clauses(figures: Figures) -> Iterator[tuple[Level, str]]:
    if figures.log.state in ("waiting", "failed"):
        yield "trouble", f"the log has trouble with its disk: {_reason(figures.log)}"
    for part in (*figures.pipelines, *figures.drivers, *figures.sinks):
        if part.state == "failed":
            yield "trouble", f"{part.name} stopped: {_reason(part)}"
    yield from _lost(figures)
    yield from _away(figures.sinks)
    yield from _sources(figures.drivers)
    if figures.refused:
        yield "attention", f"the last reload was refused for {_count(figures.refused, 'mistake')} (tidegate check)"
    if figures.dead:
        recent = figures.dead_ago_s is not None and figures.dead_ago_s < NEWS_S
        yield "attention" if recent else "ok", f"{_count(figures.dead, 'dead letter')} since the start (tidegate dead)"
    if not figures.clock_trusted:
        yield "attention", "nothing expires by age: this machine's clock is not known to be right (timedatectl)"
    yield from _delivery(figures.sinks)
    if figures.raised:
        yield "ok", alarms(figures.raised)


def alarms(raised: int) -> str:
    """How many are raised now, in words."""
    return f"{_count(raised, 'alarm')} raised"


def _lost(figures: Figures) -> Iterator[tuple[Level, str]]:
    if not figures.lost:
        return
    recent = figures.lost_ago_s is not None and figures.lost_ago_s < NEWS_S
    count = sum(figures.lost.values())
    where = next(iter(figures.lost)) if len(figures.lost) == 1 else f"{len(figures.lost)} streams"
    are = "is" if count == 1 else "are"
    yield (
        "trouble" if recent else "attention",
        f"{_count(count, 'record')} of {where} {are} gone before everyone had them",
    )


def _away(sinks: Sequence[Destination]) -> Iterator[tuple[Level, str]]:
    for sink in sinks:
        if sink.state == "waiting":
            text = f"{sink.name} unreachable for {duration(sink.since_s)}"
            text += f" ({_reason(sink)})" if sink.detail else ""
            if not sink.lag:
                yield "attention", f"{text}, nothing waits"
                continue
            text += f": {_count(sink.lag, 'reading')} {'waits' if sink.lag == 1 else 'wait'}"
            if sink.room_s is not None and sink.room_s <= 0:
                yield "trouble", f"{text}, no room left: the oldest go"
            elif sink.room_s is not None:
                yield "trouble" if sink.room_s < TIGHT_S else "attention", f"{text}, room for {duration(sink.room_s)}"
            else:
                yield "attention", text
        elif sink.state == "up" and (_late(sink) or _stands(sink)):
            does = "takes nothing" if _stands(sink) else "catches up"
            waits = f"{_count(sink.lag, 'reading')} {'waits' if sink.lag == 1 else 'wait'}"
            yield "attention", f"{sink.name} {does}: {waits}, the oldest for {duration(sink.oldest_s or 0.0)}"


def _late(sink: Destination) -> bool:
    return sink.oldest_s is not None and sink.oldest_s > sink.batch_s + 2 * UNDER_WAY_S


def _stands(sink: Destination) -> bool:
    return sink.oldest_s is not None and sink.oldest_s > sink.batch_s + STILL_S and sink.still_s > STILL_S


def _under_way(sink: Destination) -> bool:
    """Something waits longer than for its batch alone."""
    usual = min(sink.batch_s + ON_TIME_S, UNDER_WAY_S)
    return sink.lag > 0 and (sink.oldest_s is None or sink.oldest_s > usual)


def _sources(drivers: Sequence[Part]) -> Iterator[tuple[Level, str]]:
    away = [driver for driver in drivers if driver.state == "waiting"]
    if len(away) > 2:
        longest = duration(max(driver.since_s for driver in away))
        yield "attention", f"{away[0].name} and {len(away) - 1} more sources away for up to {longest}"
    else:
        for driver in away:
            yield "attention", f"{driver.name} away for {duration(driver.since_s)}: {_reason(driver)}"
    for driver in drivers:
        if driver.state == "up" and driver.silent_s is not None:
            yield "attention", f"{driver.name} silent for {duration(driver.silent_s)}"


def _delivery(sinks: Sequence[Destination]) -> Iterator[tuple[Level, str]]:
    if not sinks:
        yield "ok", "everything recorded, no sink is configured"
        return
    connecting = [sink.name for sink in sinks if sink.state == "starting"]
    if connecting:
        yield "attention", f"connecting to {', '.join(connecting[:3])}"
    ready = [sink for sink in sinks if sink.state == "up" and not _late(sink) and not _stands(sink)]
    slow = [sink for sink in ready if _under_way(sink)]
    if slow:
        yield "ok", f"delivering, {_count(sum(sink.lag for sink in slow), 'reading')} under way"
    elif len(ready) == len(sinks):
        yield "ok", "everything delivered"


def _reason(part: Part) -> str:
    """Why, without what changes from one try to the next."""
    text = " ".join(part.detail.partition("; trying again in")[0].split()) or part.state
    return text if len(text) <= DETAIL else f"{text[: DETAIL - 1]}…"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """In words, and coarse: `less than a minute`, `12 min`, `3 h`, `9 days`."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 2 * 3600:
        return f"{seconds // 60:.0f} min"
    if seconds < 2 * 86_400:
        return f"{seconds // 3600:.0f} h"
    return f"{seconds // 86_400:,.0f} days"
