from gateway.health import SAMPLE_BYTES, SAMPLES, Board


class ManualClock:
    def __init__(self):
        self.seconds = 1000.0

    def now(self):
        return int(self.seconds * 1e9)

    def monotonic(self):
        return self.seconds


def make():
    clock = ManualClock()
    return clock, Board(clock)


def test_what_is_not_up_comes_with_the_failed_first_and_can_be_found_and_forgotten():
    _, board = make()
    assert board.find("log") is None
    board.up("log")
    assert board.not_up() == []
    board.waiting("sink:cloud", "connection refused")
    board.failed("driver:boiler", "ValueError: x")
    assert [part.name for part in board.not_up()] == ["driver:boiler", "sink:cloud"]
    assert board.find("sink:cloud").detail == "connection refused"
    board.forget("driver:boiler")
    assert [part.name for part in board.not_up()] == ["sink:cloud"]


def test_since_is_when_the_state_changed_not_when_it_was_told_again():
    clock, board = make()
    board.waiting("a", "one")
    clock.seconds += 5
    board.waiting("a", "two")
    (part,) = board.components()
    assert (part.state, part.detail, part.since) == ("waiting", "two", 1000 * 10**9)
    board.up("a")
    assert part.since == 1005 * 10**9


def test_only_who_has_work_and_makes_no_progress_is_stuck():
    clock, board = make()
    board.up("a")
    board.up("b")
    board.expect("a", True)
    clock.seconds += 60
    assert board.stuck(60) == ["a"]
    board.beat("a")
    board.beat("b")
    assert board.stuck(60) == []
    clock.seconds += 40
    board.expect("a", True)  # told again: the clock goes on
    clock.seconds += 20
    assert board.stuck(60) == ["a"]
    board.expect("a", False)
    assert board.stuck(60) == []


def test_who_waits_for_the_far_side_is_not_stuck_and_gets_its_time_when_it_is_back():
    clock, board = make()
    board.up("sink:x")
    board.expect("sink:x", True)
    board.waiting("sink:x", "broker away")
    clock.seconds += 1000
    assert board.stuck(60) == []
    board.up("sink:x")
    assert board.stuck(60) == []
    clock.seconds += 60
    assert board.stuck(60) == ["sink:x"]


def test_work_before_the_first_sign_of_life_counts_too():
    clock, board = make()
    board.expect("log", True)
    clock.seconds += 61
    assert board.stuck(60) == ["log"]


def test_bad_frames_are_kept_in_small_number_and_size():
    _, board = make()
    for i in range(20):
        board.sample("driver:x", f"reason {i}" * 100, bytes([i]) * 10_000)
    (part,) = board.components()
    assert len(part.bad_frames) == SAMPLES
    assert part.bad_frames[-1].sample == bytes([19]) * SAMPLE_BYTES
    assert all(len(frame.reason) <= SAMPLE_BYTES for frame in part.bad_frames)
