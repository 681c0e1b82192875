"""A growing sample of numbers and what it says: exact while it is small, within 1 % once it is large.

Values are kept in a list. A list that outgrows `EXACT` is folded into a summary of bounded size: sums, and counts in
buckets that are 2 % of their value wide (a DDSketch), so that a quantile is within 1 % of the value of that rank.
Lists and summaries are plain data, which is what a state may consist of.
"""

import math
from typing import Any

EXACT = 4096  # values
BUCKETS = 2048  # the most of one summary; beyond that the smallest values share one

_ACCURACY = 0.01
_WIDTH = math.log((1 + _ACCURACY) / (1 - _ACCURACY))
_CENTRE = math.log(1 - _ACCURACY)  # of a bucket, seen from its upper end
_ONE = 50_000  # the bucket of 1; floats reach 36,000 buckets either way, so numbers in order are values in order

Folded = list[Any]  # [count, total, low, high, first, last, s1, s2, {bucket: count}]


class Spread:
    """What a sample says: the values that are still kept as they came, and what was folded before."""

    __slots__ = ("buckets", "count", "first", "high", "last", "low", "ordered", "s1", "s2", "total")

    def __init__(self, values: list[float], folded: Folded | None) -> None:
        self.ordered = sorted(values) if folded is None else []
        whole = _sums(values, folded) if folded is None or not values else fold(values, folded)
        self.count, self.total, self.low, self.high, self.first, self.last, self.s1, self.s2, self.buckets = whole

    def mean(self) -> float:
        mean: float = self.total / self.count
        return mean

    def deviation(self) -> float:
        return deviation(self.count, self.s1, self.s2)

    def quantile(self, share: float) -> float:
        """By nearest rank: the smallest value that at least `share` of all values do not exceed."""
        rank = math.ceil(share * self.count)
        if self.ordered:
            return float(self.ordered[rank - 1])
        number = 0
        for number in sorted(self.buckets):
            rank -= self.buckets[number]
            if rank <= 0:
                break
        value: float = min(max(_centre(number), self.low), self.high)
        return value


def fold(values: list[float], folded: Folded | None) -> Folded:
    """What was folded before and these values (at least one), together. Neither argument is changed."""
    whole = _sums(values, folded)
    buckets: dict[int, int] = whole[-1]
    for value in values:
        number = _bucket(value)
        buckets[number] = buckets.get(number, 0) + 1
    if len(buckets) > BUCKETS:
        numbers = sorted(buckets)
        for number in numbers[:-BUCKETS]:
            buckets[numbers[-BUCKETS]] += buckets.pop(number)
    return whole


def deviation(count: int, s1: float, s2: float) -> float:
    """The standard deviation of a sample (n - 1), 0 for a single value, from sums around any pivot near its mean."""
    if count < 2:
        return 0.0
    squares = s2 - s1 * s1 / count
    return math.sqrt(squares / (count - 1)) if squares > 0 else 0.0 if squares <= 0 else squares


def _sums(values: list[float], folded: Folded | None) -> Folded:
    """The two together, with the buckets of `folded` only."""
    if not folded:
        first = last = values[0]
        count, total, low, high, s1, s2 = 0, 0.0 if isinstance(first, float) else 0, first, first, 0.0, 0.0
        buckets: dict[int, int] = {}
    else:
        count, total, low, high, first, last, s1, s2, buckets = folded
    if values:
        deviations = [float(value - first) for value in values]
        s1 += sum(deviations)
        s2 += sum([d * d for d in deviations])
        low, high, last = min([low, *values]), max([high, *values]), values[-1]
        total += sum(values)
        if not -(2**63) <= total < 2**63:
            total = float(total)  # a snapshot holds 64 bits, and an int sum of that size is refused anyway
    return [count + len(values), total, low, high, first, last, s1, s2, dict(buckets)]


def _bucket(value: float) -> int:
    if value == 0:
        return 0
    number = _ONE + math.ceil(math.log(abs(value)) / _WIDTH)
    return number if value > 0 else -number


def _centre(number: int) -> float:
    if number == 0:
        return 0.0
    # The largest floats' bucket ends beyond them; min() keeps exp() in range, the sample's bounds do the rest.
    size = math.exp(min((abs(number) - _ONE) * _WIDTH + _CENTRE, 709.0))
    return size if number > 0 else -size
