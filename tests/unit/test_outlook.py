"""Rates, lags, room and the sentence over a real log, with a clock that is turned by hand."""

import random
from types import SimpleNamespace

import pytest

from gateway.config import Keep as ConfigKeep
from gateway.config import StreamEntry
from gateway.health import Board
from gateway.log import Keep, Log, LogOptions
from gateway.metrics import Metrics
from gateway.outlook import Outlook
from gateway.quantity import Duration, Size
from gateway.summary import Verdict

START = 1_790_000_000


class TurnedClock:
    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return round((START + self.seconds) * 1e9)

    def monotonic(self):
        return 1000.0 + self.seconds


class Away:
    """A forwarder whose sink takes nothing."""

    reader, lanes = "sink:cloud", (SimpleNamespace(stream="temps"), SimpleNamespace(stream="alarms"))

    def __init__(self, log):
        self._log = log

    def oldest(self, stream):
        found = self._log.peek(stream, 0, 1)
        return found.times[0] if found else None


@pytest.fixture
def daemon(tmp_path):
    clock = TurnedClock()
    log = Log(LogOptions(str(tmp_path), size=16 << 20, seal=256), clock)
    log.open()
    for stream in ("temps", "alarms"):
        log.declare(stream, Keep())
        log.positions.start("sink:cloud", stream, 0)
    sink = SimpleNamespace(sink="mqtt", streams=("temps", "alarms"), batch=SimpleNamespace(age=10.0))
    config = SimpleNamespace(
        drivers={"boiler": SimpleNamespace(driver="serial", streams=("temps",))},
        pipelines={},
        sinks={"cloud": sink},
        streams={name: StreamEntry(name=name) for name in ("temps", "alarms")},
        log=SimpleNamespace(size=16 << 20),
    )
    daemon = SimpleNamespace(
        config=config,
        log=log,
        metrics=Metrics(),
        board=Board(clock),
        clock=clock,
        ready=True,
        stopping=False,
        problems=(),
        chance=random.Random(7),
        intake=SimpleNamespace(lost={}, forwarders=[Away(log)]),
    )
    for part in ("log", "driver:boiler", "sink:cloud"):
        daemon.board.up(part)
    daemon.outlook = Outlook(daemon)
    yield daemon
    log.close()


def let_pass(daemon, seconds, rate, commit=True):
    """Time with a sample every ten seconds, and so many records per second."""
    number = 0
    for _ in range(int(seconds / 10)):
        count = round(rate * 10)
        if count:
            values = [daemon.chance.randbytes(100).hex().encode() for _ in range(count)]
            daemon.log.append("temps", [daemon.clock.now()] * count, ["k"] * count, values)
            daemon.metrics.add("records_in_total", count, driver="boiler", stream="temps")
        if commit and daemon.log.pending:
            made = daemon.log.gather()
            daemon.log.write(made)
            daemon.log.committed(made)
            if done := daemon.log.maintain():
                daemon.log.maintained(done)
        daemon.clock.seconds += 10
        daemon.outlook.sample()
        number += count
    return number


def test_the_history_tells_what_came_what_waits_and_what_the_log_takes(daemon):
    daemon.outlook.sample()
    let_pass(daemon, 30, 20)
    let_pass(daemon, 10, 0)
    series = daemon.outlook.history.whole()["series"]
    assert series["driver:boiler"] == series["in"] == [20, 20, 20, 0]
    assert series["waiting"] == series["lag:cloud"] == [200, 400, 600, 600]
    assert series["sink:cloud"] == series["out"] == [0] * 4
    assert all(number > 0 for number in series["log_bytes"])
    assert daemon.outlook.rate("stream:temps", 600) == 0  # right after a step it is that of the step


def test_a_pause_of_the_machine_is_a_hole_and_no_peak(daemon):
    daemon.outlook.sample()
    let_pass(daemon, 10, 5)
    daemon.clock.seconds += 100
    let_pass(daemon, 10, 55)
    assert daemon.outlook.history.whole()["series"]["in"] == [5, *[None] * 10, 5]


def test_a_destination_away_says_what_waits_and_for_how_long_there_is_room(daemon):
    daemon.outlook.sample()
    daemon.board.waiting("sink:cloud", "connection refused; trying again in 3 s")
    let_pass(daemon, 720, 20)
    verdict = daemon.outlook.verdict()
    room = daemon.outlook.room_s()
    assert verdict.sentence.startswith(
        "Cloud unreachable for 12 min (connection refused): 14,400 readings wait, room for"
    )
    used = daemon.log.stats()["used_bytes"]
    assert used / 720 * 0.5 < ((16 << 20) - used) / room < used / 720 * 1.2  # bytes per second
    let_pass(daemon, 720, 20)
    assert room - 900 < daemon.outlook.room_s() < room - 540  # twelve minutes later there are about twelve less


def test_a_destination_that_is_there_and_takes_nothing_is_told_until_it_takes_something(daemon):
    daemon.outlook.sample()
    let_pass(daemon, 10, 20)
    assert daemon.outlook.verdict().sentence == "Everything delivered"  # for its batch it may wait as long
    let_pass(daemon, 20, 20)
    assert daemon.outlook.verdict() == (
        Verdict("attention", "Cloud takes nothing: 600 readings wait, the oldest for less than a minute")
    )
    daemon.metrics.add("delivered_total", 100, sink="cloud", stream="temps")
    assert daemon.outlook.verdict() == Verdict("ok", "Delivering, 600 readings under way")


def test_the_room_of_a_stream_that_keeps_little_is_its_own(daemon):
    daemon.outlook.sample()
    daemon.board.waiting("sink:cloud", "away")
    let_pass(daemon, 600, 20)
    daemon.config.streams["temps"] = StreamEntry(name="temps", keep=ConfigKeep(age=Duration(3600.0)))
    assert "room for 50 min" in daemon.outlook.verdict().sentence
    daemon.config.streams["temps"] = StreamEntry(name="temps", keep=ConfigKeep(size=Size(64 << 10)))
    verdict = daemon.outlook.verdict()
    assert (verdict.level, verdict.sentence.endswith("no room left: the oldest go")) == ("trouble", True)
    daemon.config.streams["alarms"] = StreamEntry(name="alarms", keep=ConfigKeep(age=Duration(1.0)))
    daemon.config.streams["temps"] = StreamEntry(name="temps")
    assert "room for" in daemon.outlook.verdict().sentence  # nothing of the alarms waits: their room does not matter


def test_a_driver_that_used_to_talk_is_told_to_be_silent(daemon):
    daemon.outlook.sample()
    daemon.intake.forwarders = []
    let_pass(daemon, 120, 1)
    let_pass(daemon, 200, 0)
    assert daemon.outlook.verdict().sentence == "Everything delivered"
    let_pass(daemon, 400, 0)
    assert daemon.outlook.verdict().sentence == "Boiler silent for 10 min; everything delivered"


def test_dead_letters_and_losses_are_news_for_an_hour(daemon):
    daemon.outlook.sample()
    daemon.intake.forwarders = []
    let_pass(daemon, 20, 0)
    daemon.metrics.add("dead_total", 3, reason="pipeline")
    daemon.intake.lost["temps"] = 7
    assert daemon.outlook.verdict().level == "trouble"  # also between two samples
    let_pass(daemon, 1800, 0)
    verdict = daemon.outlook.verdict()
    assert verdict.level == "trouble"
    assert "7 records of temps are gone" in verdict.sentence
    let_pass(daemon, 1900, 0)
    assert daemon.outlook.verdict().level == "attention"  # a loss stays one
    daemon.intake.lost.clear()
    verdict = daemon.outlook.verdict()
    assert (verdict.level, "3 dead letters since the start" in verdict.sentence) == ("ok", True)


def test_a_clock_that_is_not_trusted_is_told_and_no_longer_than_that(daemon):
    before = daemon.outlook.verdict()
    daemon.log.clock_trusted = False
    assert daemon.outlook.verdict().sentence.startswith("Nothing expires by age: ")
    daemon.log.clock_trusted = True
    assert daemon.outlook.verdict() == before


def test_before_the_log_is_there_and_at_the_stop_it_says_so(daemon):
    daemon.ready = False
    assert daemon.outlook.verdict().sentence == "Starting: the log is being recovered"
    daemon.stopping = True
    assert daemon.outlook.verdict().sentence.startswith("Stopping")


def test_times_of_the_oldest_and_newest_record_survive_a_restart_and_eviction(tmp_path):
    clock = TurnedClock()
    options = LogOptions(str(tmp_path / "log"), size=1 << 20, seal=64, journal=1 << 20)

    def check(log):
        first = log.read("temps", log.oldest("temps"), 1)
        assert log.oldest_time("temps") == first.times[0]
        assert log.newest_time("temps") == log.read("temps", log.durable("temps") - 1, 1).times[0]

    log = Log(options, clock)
    log.open()
    assert (log.streams(), log.stats()["evicted_blocks"]) == ([], 0)
    for i in range(400):
        clock.seconds += 1
        values = [b"%0200x" % (hash((i, j)) ** 5 & (1 << 700) - 1) for j in range(64)]
        log.append("temps", [clock.now()] * 64, ["k"] * 64, values)
        made = log.gather()
        log.write(made)
        log.committed(made)
        if done := log.maintain():
            log.maintained(done)
        check(log)
    assert log.stats()["evicted_blocks"] > 10
    newest = log.newest_time("temps")
    log.close()
    log = Log(options, clock)
    log.open()
    check(log)
    assert log.newest_time("temps") == newest
    log.close()
