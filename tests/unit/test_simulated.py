"""The simulated fleet: same arguments, same bytes; faults as often as asked; as many readings as are due."""

import asyncio
from itertools import islice

import msgspec
import pytest
from house import FakeInlet

from drivers.simulated import Faults, Options, plugin, readings

GOLDEN = [
    b'{"ts":1790000000.000,"v":5.70,"unit":"C","seq":0}',
    b'{"ts":1790000000.050,"v":-3.41,"unit":"C","seq":0}',
    b'{"ts":1790000000.100,"v":-4.86,"unit":"C","seq":0}',
]


class Hands:
    """A clock that is turned by the test."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return 1_790_000_000_000_000_000 + int(self.seconds * 1e9)

    def monotonic(self):
        return self.seconds


def take(count, *arguments, **options):
    return list(islice(readings(*arguments, **options), count))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_does_not():
    faults = Faults(drop=0.1, garbage=0.1, spike=0.1, late=0.1)
    assert take(500, 7, 10, faults=faults) == take(500, 7, 10, faults=faults)
    assert take(500, 7, 10) != take(500, 8, 10)


def test_a_reading_is_about_54_bytes_of_json_and_sensors_take_turns():
    pairs = take(400, 1, 40, rate=100)
    assert [key for key, _ in pairs[:3]] == ["sim/00/temp", "sim/01/temp", "sim/02/temp"]
    decoded = [msgspec.json.decode(value) for _, value in pairs]
    assert [d["seq"] for d in decoded[:80:40]] == [0, 1]
    assert decoded[100]["ts"] - decoded[0]["ts"] == pytest.approx(1.0)
    assert all(set(d) == {"ts", "v", "unit", "seq"} for d in decoded)
    assert 48 <= sum(len(value) for _, value in pairs) / 400 <= 58


def test_the_readings_of_a_seed_stay_what_they_were():
    assert [value for _, value in take(3, 7, 40, rate=20)] == GOLDEN


def test_a_range_moves_the_values_and_nothing_else():
    def decoded(**options):
        return [msgspec.json.decode(value) for _, value in take(2_000, 3, 10, rate=0.02, **options)]

    cold, usual = decoded(mean=-18, swing=5), decoded()
    values = [d["v"] for d in cold]
    assert (min(values), max(values)) == (pytest.approx(-23, abs=0.3), pytest.approx(-13, abs=0.3))
    assert [(d["ts"], d["seq"]) for d in cold] == [(d["ts"], d["seq"]) for d in usual]
    assert all(abs(d["v"] - 4) < 0.3 for d in decoded(mean=4, swing=0))


def test_faults_come_about_as_often_as_asked():
    count = 5_000
    dropped = take(count, 1, 1, faults=Faults(drop=0.2))
    assert msgspec.json.decode(dropped[-1][1])["seq"] == pytest.approx(count / 0.8, rel=0.05)
    broken = 0
    for _, value in take(count, 1, 1, faults=Faults(garbage=0.2)):
        try:
            msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            broken += 1
    assert broken == pytest.approx(count * 0.2, rel=0.1)
    spikes = [msgspec.json.decode(value)["v"] for _, value in take(count, 1, 1, faults=Faults(spike=0.2))]
    assert sum(abs(v) > 300 for v in spikes) == pytest.approx(count * 0.2, rel=0.1)
    order = [msgspec.json.decode(value)["seq"] for _, value in take(count, 1, 1, faults=Faults(late=0.2))]
    assert sum(a > b for a, b in zip(order, order[1:], strict=False)) > count * 0.1
    assert len(set(order)) == count


def test_faults_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="together at most 1"):
        Faults(drop=1.0)


def test_a_turn_makes_what_is_due_by_the_clock_until_the_count_is_reached():
    async def main():
        clock = Hands()
        inlet = FakeInlet(clock=clock)
        driver = plugin.build(Options(stream="s", rate=100, sensors=4, start=1e9, count=250), inlet)
        task = asyncio.create_task(driver.run())
        await asyncio.sleep(0)
        driver.turn()
        assert inlet.rows == []
        clock.seconds = 0.5
        driver.turn()
        assert len(inlet.rows) == 50
        driver.pause()
        clock.seconds = 1.0
        driver.turn()
        assert len(inlet.rows) == 50
        driver.resume()
        driver.turn()
        assert len(inlet.rows) == 100
        clock.seconds = 60
        driver.turn()
        driver.turn()
        expected = take(250, 1, 4, rate=100, start=1e9)
        assert [(key, value) for _, key, value, _ in inlet.rows] == expected
        task.cancel()

    asyncio.run(main())
