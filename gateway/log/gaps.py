"""The gaps of one stream: sorted, never overlapping, neighbours of one cause joined."""

from bisect import bisect_right
from collections.abc import Sequence

from gateway.record import Gap


def add_gap(gaps: Sequence[Gap], new: Gap) -> tuple[tuple[Gap, ...], list[Gap]]:
    """(all gaps with the new one among them, the parts of the new one that were in no gap before).

    Offsets that were gone already keep their first cause: nothing is lost twice.
    """
    parts, at = [], new.first
    for gap in gaps:
        if gap.last < at:
            continue
        if gap.first > new.last:
            break
        if gap.first > at:
            parts.append(Gap(new.stream, at, gap.first - 1, new.cause))
        at = gap.last + 1
    if at <= new.last:
        parts.append(Gap(new.stream, at, new.last, new.cause))
    out: list[Gap] = []
    for gap in sorted([*gaps, *parts], key=lambda gap: gap.first):
        if out and out[-1].cause == gap.cause and out[-1].last + 1 == gap.first:
            out[-1] = Gap(gap.stream, out[-1].first, gap.last, gap.cause)
        else:
            out.append(gap)
    return tuple(out), parts


def gap_at(gaps: Sequence[Gap], offset: int) -> Gap | None:
    """The gap that holds this offset, from this offset on."""
    at = bisect_right(gaps, offset, key=lambda gap: gap.first) - 1
    if at < 0 or gaps[at].last < offset:
        return None
    gap = gaps[at]
    return gap if gap.first == offset else Gap(gap.stream, offset, gap.last, gap.cause)


def gaps_between(gaps: Sequence[Gap], first: int, last: int) -> list[Gap]:
    """What is missing of first..last, clipped to it."""
    return [
        Gap(gap.stream, max(gap.first, first), min(gap.last, last), gap.cause)
        for gap in gaps
        if gap.first <= last and gap.last >= first
    ]
