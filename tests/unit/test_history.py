from gateway.history import MOST, MOST_MARKS, STEPS, Growth, History, Meter


def test_series_have_one_length_and_what_is_not_known_is_none():
    history = History()
    history.add(10, {"in": 1.0})
    history.add(20, {"in": 2.0, "out": 3.0})
    history.add(30, {"out": float("inf")})
    assert history.whole() == {"step_s": 10, "until": 30, "series": {"in": [1, 2, None], "out": [None, 3, None]}}
    assert history.newest() == {"until": 30, "values": {"in": None, "out": None}}


def test_only_the_last_hour_is_kept_in_order():
    history = History()
    for i in range(STEPS + 40):
        history.add(i, {"in": i})
    (series,) = history.whole()["series"].values()
    assert series == list(range(40, STEPS + 40))


def test_steps_that_nobody_took_are_holes():
    history = History()
    history.add(1, {"in": 1})
    history.add(2, {"in": 2}, missed=3)
    assert history.whole()["series"]["in"] == [1, None, None, None, 2]
    history.add(3, {"in": 3}, missed=10**9)  # a laptop that slept for years
    assert history.whole()["series"] == {"in": [None] * (STEPS - 1) + [3]}


def test_series_are_bounded_and_give_their_place_away_when_they_end():
    history = History()
    history.add(0, {f"a{i}": i for i in range(MOST + 10)})
    assert len(history.whole()["series"]) == MOST
    for _ in range(STEPS):
        history.add(0, {"a0": 1, "new": 1})
    assert set(history.whole()["series"]) == {"a0", "new"}


def test_a_rate_is_of_the_last_one_or_two_steps():
    meter = Meter(0, 0)
    assert meter.rate(5, 0.5) == 0  # too short to say
    assert meter.rate(50, 5) == 10
    assert meter.read(100, 10) == 10
    assert meter.read(100, 20) == 0
    assert meter.rate(100, 20) == 0
    assert meter.rate(200, 25) == 100 / 15
    assert meter.read(50, 30) == 0  # a counter that began again is no negative rate


def test_the_mean_needs_a_minute_and_then_follows_slowly():
    meter = Meter(0, 0)
    total = 0
    for at in range(10, 60, 10):
        meter.read(total := total + 20, at)
        assert meter.mean is None
    for at in range(60, 7200, 10):
        meter.read(total := total + 20, at)
    assert abs(meter.mean - 2) < 0.01
    meter.read(total, 7210)
    assert abs(meter.mean - 2) < 0.02


def test_silence_is_ten_times_longer_than_any_pause_before():
    meter = Meter(0, 0)
    total = 0
    for at in range(10, 1000, 10):
        meter.read(total := total + 1, at)
    last = at
    assert meter.silent(last + 200) is None
    assert meter.silent(last + 301) == 301
    door = Meter(0, 0)
    for at in (10, 4000, 12_000):
        total += 1
        door.read(total, at)
    assert door.silent(12_000 + 70_000) is None
    assert door.silent(12_000 + 80_001) == 80_001
    assert Meter(0, 0).silent(10**6) is None  # it never said anything: nobody knows how often it should


def test_when_a_record_was_recorded_is_known_however_old_its_event_is():
    growth = Growth(100)
    for now, end in ((10, 100), (20, 103), (30, 103), (40, 110)):
        growth.note(end, now)
    assert [growth.recorded(offset, 5) for offset in (100, 102, 103, 109)] == [20, 20, 40, 40]
    assert growth.recorded(100, 99) == 40  # a clock that is ahead
    assert growth.recorded(99, 5) == 5  # from before: its own time must do
    assert growth.recorded(99, 50) == 20
    growth.forget(104)
    assert growth.recorded(104, 5) == 40


def test_what_is_known_of_a_long_backlog_is_bounded_and_never_far_off_its_own_time():
    growth = Growth(0)
    for n in range(10_000):
        growth.note(n + 1, n * 10)
        assert len(growth._marks) <= MOST_MARKS
    assert growth.recorded(0, 0) == 0
    for n in range(0, 10_000, 77):
        assert n * 10 <= growth.recorded(n, n * 10) <= n * 10 + 10
    growth.forget(9_999)
    assert len(growth._marks) == 1
