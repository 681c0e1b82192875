"""Results depend on the order of records and ticks alone; and windows are what a plain reading of the rules says."""

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shaping import NOON, Event, Out, S, batches, program

AGG = {
    "n": "count()",
    "s": "sum(v)",
    "m": "mean(v)",
    "hi": "max(v)",
    "sd": "stddev(v)",
    "p95": "p95(v)",
    "l": "last(v)",
}


def windowed(**more):
    return program(
        [
            {"filter": "v != 13"},
            {"set": {"w": "v * 2"}},
            {"window": {"tumbling": "10s", "agg": AGG | {"w": "sum(w)"}, "late": "side"}},
            {"set": {"odd": "1 / (n - 5)"}},
            {
                "window": {
                    "tumbling": "30s",
                    "agg": {"n": "sum(n)", "rows": "count()", "hi": "max(hi)", "odd": "min(odd)"},
                }
            },
        ],
        **{"from": ["a", "b"]}
        | {"schema": {"ts": "time", "v": "float"}, "time": {"event": "ts", "lateness": "2s", "idle": "20s"}}
        | more,
    )


class Twins:
    """Two programs of one definition, compiled once. Each is emptied by restoring the state it was born with."""

    def __init__(self, **more):
        self.pair = windowed(**more), windowed(**more)
        self.empty = self.pair[0].snapshot()

    def other(self, made=None):
        return self.pair[made is self.pair[0]]

    def fresh(self):
        self.pair[0].restore(self.empty)
        return self.pair[0]


class Tick(int):
    """The time at which the house ticks."""


def feed(twins, items, cuts, restarts):
    """Run records and ticks in order: batches end at `cuts`, and the program is replaced at `restarts`."""
    made, out, part = twins.fresh(), Out(), []

    def flush():
        for batch in offset_batches(part, seen):
            made.run(batch, out)
        part.clear()

    seen = {}
    for i, item in enumerate(items):
        if i in cuts:
            flush()
        if i in restarts:
            flush()
            state = made.snapshot()
            made = twins.other(made)
            made.restore(state)
        if isinstance(item, Tick):
            flush()
            made.tick(item, out)
        else:
            part.append(item)
    flush()
    return out.emitted, made.snapshot()


def offset_batches(events, seen):
    for batch in batches(events, 1000):
        first = seen.get(batch.stream, 0)
        seen[batch.stream] = first + len(batch)
        yield msgspec.structs.replace(batch, first=first)


@st.composite
def histories(draw):
    """Readings of two inputs with gaps, disorder, junk, ticks, and a clock that is sometimes set back."""
    arrival, items = NOON, []
    for _ in range(draw(st.integers(1, 60))):
        arrival += draw(st.sampled_from((0, 1, 1, 3, 7, 18, 25, 60, -1, -30))) * S
        kind = draw(st.integers(0, 9))
        if kind == 0:
            items.append(Tick(arrival))
            continue
        second = (arrival - NOON) // S + draw(st.sampled_from((0, 0, 0, -1, -3, -12, -40, 5, 90)))
        value = draw(st.sampled_from((1, 2, 5, 13, 0.5, -4)))
        payload = b"junk" if kind == 1 else f'{{"ts":{NOON // S + second},"v":{value}}}'.encode()
        items.append(Event(draw(st.sampled_from("xyz")), payload, arrival, draw(st.sampled_from("aab"))))
    return items


TWINS = Twins(), Twins(max_keys=2), Twins(time={"lateness": "2s"})


@settings(max_examples=150, deadline=None)
@given(items=histories(), data=st.data())
def test_neither_batches_nor_restarts_change_a_byte(items, data):
    positions = st.sets(st.integers(0, len(items)), max_size=len(items))
    for twins in TWINS:
        whole = feed(twins, items, (), ())
        each = feed(twins, items, range(len(items)), ())
        some = feed(twins, items, data.draw(positions), data.draw(positions))
        assert whole == each == some


@settings(max_examples=150, deadline=None)
@given(items=histories())
def test_a_tick_only_makes_prompt_what_the_next_record_would_do(items):
    """Event time: ticks that come as soon as they are due give the same rows in the same order as no ticks at all."""
    records = [item for item in items if isinstance(item, Event)]
    silent, _ = feed(TWINS[0], records, (), ())
    made, out, offsets = TWINS[0].fresh(), Out(), {}
    for record in records:
        while (due := made.due()) is not None and due <= record.time:
            made.tick(due, out)
        for batch in offset_batches([record], offsets):
            made.run(batch, out)
    assert out.emitted == silent


class Plain:
    """The rules of docs/language.md for a window, in the plainest words: everything is looked at for every record."""

    def __init__(self, inputs, width, lateness, patience):
        self.width, self.lateness, self.patience = width, lateness, patience
        self.top = dict.fromkeys(inputs, -1)
        self.heard = dict.fromkeys(inputs)
        self.idle = dict.fromkeys(inputs, False)
        self.mark = 0
        self.open, self.rows, self.late = {}, [], 0

    def close(self, until):
        last = 0
        for start in sorted(self.open):
            if start + self.width <= until:
                last = start + self.width
                self.rows += [(last, key, values) for key, values in self.open.pop(start).items()]
        return last

    def time_passes(self, now):
        if None in self.heard.values():
            return
        for name in sorted(self.heard, key=self.heard.get):
            self.event_time_passes()
            if now - self.heard[name] >= self.patience:
                self.idle[name] = True
        if all(self.idle.values()):
            told = [self.top[n] + now - self.heard[n] for n in self.top if self.top[n] >= 0]
            self.mark = max(self.mark, self.close(max(told, default=0) - self.lateness))
        else:
            self.event_time_passes()

    def event_time_passes(self):
        awake = [top for name, top in self.top.items() if not self.idle[name]]
        self.mark = max(self.mark, min(awake, default=0) - self.lateness)
        self.close(self.mark)

    def record(self, event):
        if None in self.heard.values():
            self.heard = dict.fromkeys(self.heard, event.time)
        if self.heard[event.stream] > event.time + self.patience:
            self.heard = {name: min(heard, event.time) for name, heard in self.heard.items()}
        self.time_passes(event.time)
        try:
            reading = msgspec.json.decode(event.value)
        except msgspec.DecodeError:
            return
        moment = reading["ts"] * S
        if moment > self.top[event.stream] and moment > event.time + 60 * S:
            return
        self.top[event.stream] = max(self.top[event.stream], moment)
        self.heard[event.stream] = max(self.heard[event.stream], event.time)
        self.idle[event.stream] = False
        self.event_time_passes()
        start = moment - moment % self.width
        if start + self.width <= self.mark:
            self.late += 1
        else:
            self.open.setdefault(start, {}).setdefault(event.key, []).append(reading["v"])


@settings(max_examples=200, deadline=None)
@given(items=histories())
def test_windows_are_what_the_rules_say(items):
    made = program(
        [{"window": {"tumbling": "10s", "agg": AGG}}],
        **{"from": ["a", "b"]},
        schema={"ts": "time", "v": "float"},
        time={"event": "ts", "lateness": "2s", "idle": "20s"},
    )
    out, plain, offsets = Out(), Plain("ab", 10 * S, 2 * S, 20 * S), {}
    for item in items:
        if isinstance(item, Tick):
            made.tick(item, out)
            if plain.open:
                plain.time_passes(item)
        else:
            plain.record(item)
            for batch in offset_batches([item], offsets):
                made.run(batch, out)
    rows = [(time, key, msgspec.json.decode(value)) for stream, time, key, value in out.emitted if stream == "out"]
    assert [(time, key, row["n"]) for time, key, row in rows] == [(end, key, len(vs)) for end, key, vs in plain.rows]
    assert made.stats()["late"] == plain.late
    for (_, _, row), (_, _, values) in zip(rows, plain.rows, strict=True):
        mean = math.fsum(values) / len(values)
        spread = math.fsum((value - mean) ** 2 for value in values)
        assert math.isclose(row["s"], math.fsum(values), abs_tol=1e-9)
        assert math.isclose(row["m"], mean, abs_tol=1e-9)
        assert math.isclose(row["sd"], math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else 0, abs_tol=1e-6)
        assert (row["hi"], row["l"]) == (max(values), values[-1])
        assert row["p95"] == sorted(values)[math.ceil(0.95 * len(values)) - 1]


def twenty_thousand():
    """20,000 readings of 10,000 keys from two inputs: disorder, late ones, junk, silences, and ticks between them."""
    rng, arrival, items = random.Random(20_000), NOON, []
    for i in range(20_000):
        if i % 4000 == 3999:
            arrival += 45 * S
            items.append(Tick(arrival))
        arrival += rng.choice((0, 0, 0, 1_000_000, 8_000_000))
        jitter = rng.choice((0, 0, 0, -1, -2, -5, -30))
        moment = (arrival + jitter * S) / S
        value = 13 if i % 50 == 0 else rng.gauss(20, 5)
        payload = b'{"ts":1' if i % 997 == 0 else f'{{"ts":{moment:.3f},"v":{value:.3f}}}'.encode()
        items.append(Event(f"site/{rng.randrange(10_000)}", payload, arrival, "b" if i % 7 == 0 else "a"))
    items.append(Tick(arrival + 300 * S))
    return items


@pytest.mark.parametrize(
    "more", [{}, {"max_keys": 500}, {"time": {"lateness": "1s"}}], ids=["event", "few keys", "arrival"]
)
def test_twenty_thousand_records_give_the_same_bytes_in_any_batches_and_across_restarts(more):
    items = twenty_thousand()
    twins = Twins(**more)
    one = feed(twins, items, range(len(items)), ())
    by_37 = feed(twins, items, range(0, len(items), 37), ())
    by_1000 = feed(twins, items, range(0, len(items), 1000), ())
    restarted = feed(twins, items, range(0, len(items), 1000), (3_333, 10_000, 15_999, 16_000, 16_001))
    assert one == by_37 == by_1000 == restarted
    streams = {stream for stream, *_ in one[0]}
    assert streams == {"out", "_dead", "p.late"} if "time" not in more else streams == {"out", "_dead"}
    assert len(one[0]) > 5_000
