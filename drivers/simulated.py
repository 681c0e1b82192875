"""A fleet of sensors that are not there: the same seed gives the same readings, byte for byte.

For demos, tests, benchmarks, and for trying a pipeline before the first sensor is wired.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from typing import Annotated

import msgspec

from gateway.plugin import Inlet, Plugin

EXAMPLE = """\
driver: simulated
stream: freezers
sensors: 40
rate: 20
seed: 7
faults: {drop: 0.01, garbage: 0.001, spike: 0.005, late: 0.01}
"""

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]

DAY_S = 86400.0
LATE_BY = 16  # a late reading comes after up to this many others
MOST_AT_ONCE = 10_000  # readings of one turn: after a pause the fleet catches up in steps
URGENT_S = 0.05  # how often readings are made for an urgent stream


class Faults(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What goes wrong, as probabilities per reading.

    drop: the reading is lost; its `seq` is missing.
    garbage: the payload is cut or broken and does not parse.
    spike: the value is far off.
    late: the reading arrives after others that are newer.
    """

    drop: Probability = 0.0
    garbage: Probability = 0.0
    spike: Probability = 0.0
    late: Probability = 0.0

    def __post_init__(self) -> None:
        if self.drop >= 1 or self.drop + self.garbage + self.spike + self.late > 1:
            raise ValueError("the faults of a reading exclude each other: together at most 1, and drop less than that")


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Simulated sensors. A reading is `{"ts":1790000000.050,"v":21.37,"unit":"C","seq":12}`, its key `sim/07/temp`.

    stream: where the readings go.
    sensors: how many there are; they take turns.
    rate: readings per second, all sensors together.
    seed: another number, another fleet.
    mean: what the value of every sensor is about; without it each has its own, between -5 and 25.
    swing: how far it goes up and down from there in the course of a day; without it each has its own, 0.5 to 4.
    start: `ts` of the first reading in seconds since 1970, the time of the start unless given; with it, two runs give
        the very same bytes.
    count: stop after so many readings.
    faults: what goes wrong and how often: `drop`, `garbage`, `spike`, `late`, each a probability from 0 to 1.
    """

    stream: str
    sensors: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20
    rate: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 10.0
    seed: int = 1
    mean: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] | None = None
    swing: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    start: float | None = None
    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    faults: Faults = Faults()

    def streams(self) -> list[str]:
        return [self.stream]


def readings(
    seed: int,
    sensors: int,
    *,
    rate: float = 10.0,
    start: float = 1_790_000_000.0,
    faults: Faults | None = None,
    mean: float | None = None,
    swing: float | None = None,
) -> Iterator[tuple[str, bytes]]:
    """(key, payload) of one reading after the other, for ever. The sequence depends on the arguments alone.

    `rate` and `start` only set the event times: `ts` goes up by 1 / rate from `start`. Each sensor follows a daily
    curve of its own, with noise: by `swing` up and down about `mean`, where they are given. `seq` counts
    per sensor, so a receiver can tell what is missing.
    """
    rng = random.Random(seed)
    faults = faults or Faults()
    faulty = faults != Faults()
    width = len(str(sensors - 1))
    keys = [f"sim/{n:0{width}}/temp" for n in range(sensors)]
    shapes = [(rng.uniform(-5, 25), rng.uniform(0.5, 4), rng.uniform(0, DAY_S)) for _ in range(sensors)]
    if mean is not None or swing is not None:  # what is not given stays as the seed has it
        shapes = [(m if mean is None else mean, s if swing is None else swing, phase) for m, s, phase in shapes]
    delayed: list[tuple[int, str, bytes]] = []
    at = 0
    while True:
        sensor, seq = at % sensors, at // sensors
        middle, height, phase = shapes[sensor]
        ts = start + at / rate
        v = middle + height * math.sin((ts + phase) * math.tau / DAY_S) + rng.gauss(0, 0.05)
        reading = keys[sensor], b'{"ts":%.3f,"v":%.2f,"unit":"C","seq":%d}' % (ts, v, seq)
        at += 1
        if not faulty:
            yield reading
            continue
        fate = rng.random()
        key, value = reading
        if fate < faults.drop:
            pass
        elif (fate := fate - faults.drop) < faults.garbage:
            yield key, _broken(value, rng)
        elif (fate := fate - faults.garbage) < faults.spike:
            yield key, b'{"ts":%.3f,"v":%.2f,"unit":"C","seq":%d}' % (ts, v + rng.choice((-500, 500)), seq)
        elif fate - faults.spike < faults.late:
            delayed.append((at + rng.randint(1, LATE_BY), key, value))
        else:
            yield reading
        while delayed and min(delayed)[0] <= at:
            due = min(delayed)
            delayed.remove(due)
            yield due[1], due[2]


def _broken(value: bytes, rng: random.Random) -> bytes:
    """The bytes of a reading that a bad line or a brown-out left."""
    if rng.random() < 0.5:
        return value[: rng.randrange(len(value))]
    return bytes([rng.randrange(256) for _ in range(rng.randint(1, len(value)))])


class Simulated:
    """Makes, in every turn, the readings that are due by the clock."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._options, self._inlet = options, inlet
        self._source: Iterator[tuple[str, bytes]] | None = None
        self._began = 0.0
        self._made = 0
        self._paused = False

    async def run(self) -> None:
        options, clock = self._options, self._inlet.clock
        start = clock.now() / 1e9 if options.start is None else options.start
        self._source = readings(
            options.seed,
            options.sensors,
            rate=options.rate,
            start=start,
            faults=options.faults,
            mean=options.mean,
            swing=options.swing,
        )
        self._began, self._made = clock.monotonic(), 0
        self._inlet.up(f"{options.sensors} simulated sensors")
        while True:
            await asyncio.sleep(URGENT_S if self._inlet.urgent else 3600)
            self.turn()

    def turn(self) -> None:
        if self._source is None or self._paused:
            return
        options, clock = self._options, self._inlet.clock
        due = int((clock.monotonic() - self._began) * options.rate)
        if options.count is not None:
            due = min(due, options.count)
        many = min(due - self._made, MOST_AT_ONCE)
        if many <= 0:
            return
        self._made += many
        pairs = [next(self._source) for _ in range(many)]
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        self._inlet.record(options.stream, [clock.now()] * many, keys, values)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def acknowledge(self, receipts: object) -> None:
        """A sensor that is not there waits for nothing."""


plugin = Plugin(Options, Simulated)
