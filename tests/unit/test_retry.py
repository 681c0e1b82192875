import asyncio
import logging

import pytest

from gateway.errors import DriverUnavailable, SinkUnavailable
from gateway.health import Board
from gateway.retry import SETTLED_S, Backoff, keep_running


class ManualClock:
    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return int(self.seconds * 1e9)

    def monotonic(self):
        return self.seconds


def lives(*scripts):
    """Run scripted lives under the supervisor; the last one is cancelled. Returns waits and the board's words."""
    clock, waits, seen = ManualClock(), [], []
    board = Board(clock)
    script = iter(scripts)

    async def make():
        step = next(script, None)
        if step is None:
            await asyncio.Event().wait()
        lasts, error = step
        clock.seconds += lasts
        board.up("driver:x")
        if error is not None:
            raise error

    async def sleep(seconds):
        (part,) = board.components()
        waits.append(seconds)
        seen.append((part.state, part.detail))

    async def scenario():
        backoff = Backoff(1, 60, random=lambda: 1.0)
        task = asyncio.create_task(keep_running(make, board, "driver:x", backoff, clock, sleep=sleep))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    return waits, seen, board.components()[0]


def test_waits_double_to_their_bound_and_are_spread_over_all_of_it():
    backoff = Backoff(first=1, most=60, random=lambda: 1.0)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next() == 1
    assert Backoff(first=4, random=lambda: 0.25).next() == 1
    assert all(0 <= Backoff(first=4).next() <= 4 for _ in range(100))


def test_a_source_that_is_away_is_waited_for_in_its_own_words():
    away = DriverUnavailable("no such port")
    waits, seen, part = lives((0, away), (0, away), (0, away))
    assert waits == [1, 2, 4]
    assert seen[0] == ("waiting", "no such port; trying again in 1 s")
    assert part.restarts == 3


def test_a_crash_is_shown_logged_and_started_again(caplog):
    with caplog.at_level(logging.ERROR):
        _, seen, part = lives((0, ZeroDivisionError("boom")))
    assert seen == [("failed", "ZeroDivisionError: boom; trying again in 1 s")]
    assert part.state == "failed"
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_coming_to_an_end_is_a_failure_too():
    _, seen, _ = lives((0, None))
    assert seen[0] == ("failed", "it ended by itself; trying again in 1 s")


def test_after_a_long_life_the_wait_is_short_again():
    away = DriverUnavailable("away")
    waits, _, _ = lives((0, away), (0, away), (SETTLED_S, away), (0, away))
    assert waits == [1, 2, 1, 2]


def test_the_far_side_may_say_when_to_come_back():
    waits, seen, _ = lives((0, SinkUnavailable("quota", retry_after_s=17)))
    assert waits == [17]
    assert seen[0] == ("waiting", "quota; trying again in 17 s")


def test_an_expected_error_out_of_a_task_group_is_still_expected_and_a_bug_beside_it_is_not():
    expected = ExceptionGroup("tasks", [DriverUnavailable("gone")])
    mixed = ExceptionGroup("tasks", [DriverUnavailable("gone"), ValueError("bug")])
    _, seen, _ = lives((0, expected), (0, mixed))
    assert [state for state, _ in seen] == ["waiting", "failed"]
