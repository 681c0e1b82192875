"""Metrics: counters, gauges and histograms, kept as plain numbers and added to once per batch.

`SERIES` is the one table of what they are called and mean. A plugin may count under a name of its own that ends in
`_total`; it needs no entry here.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

T = TypeVar("T")

PREFIX = "tidegate_"
MOST_SERIES = 2_000  # that become records at a time
Labels = tuple[tuple[str, str], ...]
Kind = Literal["counter", "gauge", "histogram"]

# Seconds, up to which an observation counts: from a commit on a good SSD to a card that stalls.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Series(NamedTuple):
    kind: Kind
    help: str


SERIES: dict[str, Series] = {
    "records_in_total": Series("counter", "Records that a driver gave to the log."),
    "redelivered_total": Series("counter", "Records that a broker or a client sent again and that were recognised."),
    "retained_ignored_total": Series("counter", "Retained messages that a driver was told to ignore, and did."),
    "own_status_total": Series("counter", "Messages of our own at a status topic that came back, and are no readings."),
    "frames_bad_total": Series("counter", "Frames that were no record and were dropped."),
    "uart_overruns_total": Series("counter", "Bytes that a UART lost because nobody took them from it in time."),
    "uart_framing_errors_total": Series("counter", "Bytes without a stop bit: the baud is wrong, or the line noisy."),
    "uart_parity_errors_total": Series("counter", "Bytes whose parity bit was wrong."),
    "uart_breaks_total": Series("counter", "Times that a line was held low for longer than a byte takes."),
    "uart_buffer_overruns_total": Series(
        "counter", "Bytes that the kernel lost because its buffer of a line was full."
    ),
    "answers_missing_total": Series("counter", "Questions on a line to which nothing came in time."),
    "input_full_total": Series("counter", "Times that the kernel's buffer of an input was found full."),
    "input_lost_bytes_total": Series("counter", "Bytes that were given up because the gateway could take no more."),
    "commits_total": Series("counter", "Commits that are on the device."),
    "commit_failures_total": Series("counter", "Commits that failed and were written again."),
    "commit_seconds": Series("histogram", "Time from the start of a commit until it was on the device."),
    "seal_failures_total": Series("counter", "Times that sealing blocks failed and was put off."),
    "log_bytes": Series("gauge", "Size of the log on the device."),
    "log_device_bytes_total": Series("counter", "Bytes that the log wrote to the device."),
    "device_bytes_total": Series("counter", "Bytes that the device of the log took from everybody since the start."),
    "commit_interval_seconds": Series("gauge", "How long a commit may wait now; `wear:` stretches it."),
    "lag_records": Series("gauge", "Records that a reader has not finished: the newest minus its position."),
    "oldest_unsent_seconds": Series("gauge", "Age of the oldest record that a reader has not finished."),
    "derived_total": Series("counter", "Records that a pipeline derived."),
    "delivered_total": Series("counter", "Records whose delivery was confirmed."),
    "delivery_seconds": Series("histogram", "Time from sending a batch until it was confirmed."),
    "retries_total": Series("counter", "Times that a sink waited before it tried again."),
    "wire_bytes_total": Series("counter", "Bytes of batches that went to a sink, retries included."),
    "dead_total": Series("counter", "Records that could not be processed or delivered."),
    "dead_suppressed_total": Series(
        "counter", "Such records that have no dead letter of their own but are told by another one."
    ),
    "gap_records_total": Series("counter", "Records that were gone before everyone who reads them had them, by cause."),
    "pipeline_dead": Series("gauge", "Records of a pipeline that became dead letters since the start."),
    "pipeline_filtered": Series("gauge", "Records that a pipeline's filters let go since the start."),
    "pipeline_no_record": Series("gauge", "Payloads that are no readings by themselves, as comments, since the start."),
    "pipeline_late": Series("gauge", "Records that came after their window had closed, since the start."),
    "pipeline_evicted": Series(
        "gauge", "Keys whose state was given up for want of room (max_keys), since the start; a window's row is sent."
    ),
    "pipeline_unchanged": Series("gauge", "Records that a deadband let go since the start."),
    "pipeline_throttled": Series("gauge", "Records that a throttle let go since the start."),
    "pipeline_duplicate": Series("gauge", "Records that a dedupe let go since the start."),
    "pipeline_unrouted": Series("gauge", "Records that no case of a route took since the start."),
    "pipeline_alarms": Series("gauge", "Alarms that were raised since the start."),
    "pipeline_raised": Series("gauge", "Alarms that are raised now, a key each."),
    "pipeline_remembered": Series("gauge", "Values that a dedupe remembers."),
    "pipeline_keys": Series("gauge", "Keys that a pipeline holds state of, summed over its steps."),
    "pipeline_windows": Series("gauge", "Windows that are open."),
    "processing_seconds": Series("histogram", "Time from the arrival of a batch to the pipeline's results."),
    "loss_window_records": Series("gauge", "Records read, not yet committed, that their source cannot send again."),
    "uptime_seconds": Series("gauge", "Time since the start of the daemon."),
    "restarts_total": Series("counter", "Times that a driver or sink was started again after it ended."),
    "repeated_total": Series("counter", "Deliveries that came again and were there already."),
    "metrics_left_out_total": Series("counter", "Numbers that were too many to become records of the stream _metrics."),
    "files_removed_total": Series("counter", "Files that a file sink deleted to keep its number."),
}

_OWN_COUNTER = re.compile(r"[a-z][a-z0-9_]*_total").fullmatch
_OF_A_STEP = re.compile(r"pipeline_[a-z][a-z0-9_]*").fullmatch  # what a step counts, under a name of its own


class Histogram:
    """Observations by bucket. `counts[i]` are those up to BUCKETS[i]; the last one holds the rest."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)


class Metrics:
    """All numbers of one daemon. Used from the event loop; a number is read while it is written without harm."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}

    def add(self, name: str, n: float = 1, **labels: str) -> None:
        """Count. Raises ValueError for a name that is no counter."""
        key = (name, tuple(sorted(labels.items())))
        try:
            self._numbers[key] += n
        except KeyError:
            if _kind(name) != "counter":
                raise ValueError(f"{name} is no counter") from None
            self._numbers[key] = n

    def set(self, name: str, value: float, **labels: str) -> None:
        """Say how much it is now, for gauges; and for counters that are kept elsewhere."""
        self._numbers[name, tuple(sorted(labels.items()))] = value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Record how long something took."""
        key = (name, tuple(sorted(labels.items())))
        histogram = self._histograms.get(key)
        if histogram is None:
            if _kind(name) != "histogram":
                raise ValueError(f"{name} is no histogram")
            histogram = self._histograms[key] = Histogram()
        histogram.observe(seconds)

    def forget(self, **labels: str) -> None:
        """Drop the gauges with these labels: the reader or stream they were about is gone."""
        gone = [key for key in self._numbers if _kind(key[0]) == "gauge" and labels.items() <= dict(key[1]).items()]
        for key in gone:
            del self._numbers[key]

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge, summed over the labels that are not given."""
        wanted = labels.items()
        return sum(
            value for (known, at), value in self._numbers.items() if known == name and wanted <= dict(at).items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """A counter or gauge, summed per value of one label."""
        sums: dict[str, float] = {}
        for (known, at), value in self._numbers.items():
            if known == name:
                which = dict(at).get(label, "")
                sums[which] = sums.get(which, 0) + value
        return sums

    def snapshot(self) -> list[tuple[str, Labels, float]]:
        """Every number as plain data, sorted; a histogram gives its `_count` and `_sum`."""
        rows = [(name, labels, value) for (name, labels), value in self._numbers.items()]
        for (name, labels), histogram in self._histograms.items():
            rows += [(f"{name}_count", labels, histogram.count), (f"{name}_sum", labels, histogram.sum)]
        return sorted(rows)

    def records(self) -> tuple[list[str], list[bytes]]:
        """Every number as a record, keys and values: `tidegate_lag_records{reader=sink:cloud,stream=temps}` and
        `{"name":"tidegate_lag_records","value":12,"reader":"sink:cloud","stream":"temps"}`. Always in the same order.
        """
        rows = self.snapshot()
        if len(rows) > MOST_SERIES:
            self.add("metrics_left_out_total", len(rows) - MOST_SERIES)
        keys, values = [], []
        for name, labels, value in rows[:MOST_SERIES]:
            inside = ",".join([f"{label}={said}" for label, said in labels])
            keys.append(f"{PREFIX}{name}{{{inside}}}" if inside else PREFIX + name)
            number = int(value) if value == int(value) else round(value, 6)
            values.append(msgspec.json.encode({"name": PREFIX + name, "value": number, **dict(labels)}))
        return keys, values

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        from prometheus_client.exposition import generate_latest
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        text: bytes = generate_latest(registry)
        return text

    def collect(self) -> "Iterator[Metric]":
        """For prometheus_client: one family per name, with the union of its labels."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, names, rows in _families(self._numbers):
            make = CounterMetricFamily if _kind(name) == "counter" else GaugeMetricFamily
            family = make(PREFIX + name, _help(name), labels=names)
            for labels, value in rows:
                family.add_metric(labels, value)
            yield family
        for name, names, histograms in _families(self._histograms):
            timing = HistogramMetricFamily(PREFIX + name, _help(name), labels=names)
            for labels, histogram in histograms:
                running = accumulate(histogram.counts)
                buckets = [(str(bound), float(n)) for bound, n in zip((*BUCKETS, "+Inf"), running, strict=True)]
                timing.add_metric(labels, buckets, histogram.sum)
            yield timing


def _families(numbers: dict[tuple[str, Labels], T]) -> Iterator[tuple[str, list[str], list[tuple[list[str], T]]]]:
    """Per name: the union of its label names, and every number with a value for each of them."""
    by_name: dict[str, list[tuple[dict[str, str], T]]] = {}
    for (name, labels), number in sorted(numbers.items(), key=itemgetter(0)):
        by_name.setdefault(name, []).append((dict(labels), number))
    for name, rows in by_name.items():
        names = sorted(set().union(*[labels for labels, _ in rows]))
        yield name, names, [([labels.get(label, "") for label in names], number) for labels, number in rows]


def _help(name: str) -> str:
    return SERIES[name].help if name in SERIES else "Counted by a plugin."


def _kind(name: str) -> Kind:
    if name in SERIES:
        return SERIES[name].kind
    if _OWN_COUNTER(name):
        return "counter"
    if _OF_A_STEP(name):
        return "gauge"
    raise ValueError(f"{name!r} is not known; a plugin's own counter is a word that ends in _total")
