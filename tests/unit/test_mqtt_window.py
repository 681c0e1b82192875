"""The learned in-flight window against a model of a broker, a source, turns and commits."""

import random

import pytest

from gateway.mqtt import Window

STEP = 0.01  # s


class World:
    """A source publishes, a broker lets `broker` messages out unacknowledged, the house turns and commits."""

    def __init__(self, *, broker=10**9, rate=0.0, arrivals=None, ceiling=2000):
        self.window = Window(ceiling)
        self.broker, self.rate, self.arrivals = broker, rate, arrivals
        self.rng = random.Random(1)
        self.delivered = self.commits = self.early = 0
        self._step = 0
        self._queued = self._flying = self._buffered = self._gathered = 0
        self._owed = 0.0
        self._probe, self._oldest, self._last_commit, self._wanted = None, None, 0.0, False

    def run(self, seconds, turn=0.25, commit=1.0):
        """Returns (delivered, commits, early commits) of these seconds."""
        before = self.delivered, self.commits, self.early
        for _ in range(round(seconds / STEP)):
            self._advance(round(turn / STEP), commit)
        return tuple(now - then for now, then in zip((self.delivered, self.commits, self.early), before, strict=True))

    def _advance(self, turn, commit):
        self._step += 1
        now, window = self._step * STEP, self.window
        if self.arrivals is not None:
            self._queued += self.arrivals(self._step)
        else:
            self._owed += self.rate * STEP * self.rng.uniform(0.5, 1.5)
            self._queued += int(self._owed)
            self._owed -= int(self._owed)
        out = max(min(self._queued, self.broker - self._flying), 0)
        self._queued, self._flying, self._buffered = self._queued - out, self._flying + out, self._buffered + out
        probe = self._probe is not None and now >= self._probe
        look = self._step % turn == 0 or probe
        woken = self._buffered >= window.room > 0
        if look or woken:
            news, self._buffered = self._buffered, 0
            window.received(news)
            self._gathered += news
            self.delivered += news
            if self._gathered and self._oldest is None:
                self._oldest = now
            if look:
                self._probe = None if probe else self._probe
                window.looked(news, now)
            self._wanted |= window.full(now)
        due = self._oldest is not None and now - self._oldest >= commit
        if self._gathered and (due or self._wanted) and now - self._last_commit >= 0.02:
            self.commits += 1
            self.early += not due
            self._last_commit, self._oldest, self._wanted = now, None, False
            self._flying -= self._gathered
            if window.acknowledged(self._gathered, now, 0.05):
                self._probe = now + 0.05
            self._gathered = 0


def test_a_window_of_20_is_learned_within_seconds_and_then_200_a_second_flow_without_a_stall():
    world = World(broker=20, rate=200)
    world.run(5)
    assert world.window.size == 20
    world.run(2)  # what piled up meanwhile
    delivered, commits, _ = world.run(10)
    assert delivered >= 0.97 * 200 * 10, "the broker had to wait for us"
    assert commits <= 13 * 10, "about ten commits a second are enough"


@pytest.mark.parametrize("size", [1, 5, 32, 100, 1000])
def test_other_windows_are_learned_exactly(size):
    world = World(broker=size, rate=size * 4)
    world.run(8)
    assert world.window.size == size


@pytest.mark.parametrize("rate", [0.5, 3, 20, 200, 1000])
def test_a_source_that_is_slower_than_the_window_causes_no_early_commits(rate):
    _, commits, early = World(rate=rate).run(300)
    assert early <= max(5, 0.02 * commits)


def test_bursts_of_a_source_that_is_quiet_in_between_cost_no_commits_beyond_one_a_burst():
    world = World(arrivals=lambda step: 40 if step % 100 == 0 else 0)
    _, commits, _ = world.run(120)
    assert commits <= 121


def test_a_wrong_window_is_forgotten_when_more_messages_come():
    world = World(broker=20, rate=200)
    world.run(5)
    assert world.window.size == 20
    world.broker = 10**9
    _, _, early = world.run(60)
    assert world.window.size == 2000
    assert early <= 15 * 11, "found out at the first test"


def test_testing_a_right_window_gets_rarer_and_costs_a_turn_or_two():
    world = World(broker=20, rate=150)
    world.run(10)
    delivered, _, _ = world.run(300)
    assert world.window.size == 20
    assert delivered >= 0.98 * 150 * 300


def test_our_own_receive_maximum_is_a_window_from_the_start():
    window = Window(100)
    window.received(89)
    assert not window.full(0.0)
    window.received(1)
    assert window.full(0.0)
    window.acknowledged(90, 0.0, 0.1)
    assert not window.full(0.0)
