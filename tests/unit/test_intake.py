"""The intake: turns, commits, acknowledgements, back-pressure; with a real log and drivers that are told what to do."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from gateway.clock import SystemClock
from gateway.deadletters import DeadLetters
from gateway.errors import LogFull
from gateway.health import Board
from gateway.intake import GATHER, Inlet, Intake
from gateway.log import Keep, Log, LogOptions
from gateway.metrics import Metrics
from gateway.plugin import compiler
from gateway.record import Batch, Gap
from gateway.shaper import Lane, Shaper


class ToldDriver:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.acknowledged: list[object] = []
        self.broken = ""

    @property
    def paused(self) -> bool:
        told = [call for call in self.calls if call in ("pause", "resume")]
        return told[-1:] == ["pause"]

    def __getattr__(self, name):
        if name not in ("turn", "pause", "resume"):
            raise AttributeError(name)

        def call() -> None:
            self.calls.append(name)
            if self.broken == name:
                raise RuntimeError("a defect")

        return call

    def acknowledge(self, receipts) -> None:
        self.acknowledged += receipts


class House:
    def __init__(self, folder) -> None:
        clock, metrics = SystemClock(), Metrics()
        self.board = Board(clock)
        self.log = Log(LogOptions(path=str(folder / "log")), clock)
        self.log.open()
        self.log.declare("s", Keep(size=None, age_s=None))
        self.thread = ThreadPoolExecutor(1)
        shaper = Shaper(
            [],
            self.log,
            clock,
            metrics,
            self.board,
            urgent=frozenset(),
            read_ahead=lambda *asked: None,
            urgent_news=lambda: None,
            letters=DeadLetters(self.log, clock, metrics),
        )
        self.intake = Intake(
            *(self.log, shaper, clock, metrics, self.board, self.thread),
            gateway="g1",
            turn_s=0.02,
            commit_s=0.05,
            urgent=frozenset(),
            summary=dict,
        )
        self.metrics = metrics

    def attach(self, name: str) -> tuple[ToldDriver, Inlet, asyncio.Future]:
        driver, crashed = ToldDriver(), asyncio.get_running_loop().create_future()
        self.intake.attach(name, driver, crashed)
        return driver, Inlet(name, self.intake, (), urgent=False), crashed

    def close(self) -> None:
        self.thread.shutdown()
        self.log.close()


@pytest.fixture
def play(tmp_path):
    """Run a scene with the turns and commits going, and end it in order."""

    def run(scene) -> None:
        async def whole() -> None:
            house = House(tmp_path)
            turns = asyncio.create_task(house.intake.turns())
            commits = asyncio.create_task(house.intake.commits())
            try:
                async with asyncio.timeout(20):
                    await scene(house)
                    house.intake.finish()
                    await commits
            finally:
                for task in (turns, commits):
                    task.cancel()
                await asyncio.gather(turns, commits, return_exceptions=True)
                house.close()

        asyncio.run(whole())

    return run


async def until(holds) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def test_a_receipt_comes_back_after_its_commit_and_in_order(play):
    async def scene(house):
        driver, inlet, _ = house.attach("d")
        for n in range(3):
            inlet.record("s", [1], ["k"], [b"%d" % n], ids=[n + 1], receipt=n)
        assert driver.acknowledged == []
        await until(lambda: len(driver.acknowledged) == 3)
        assert driver.acknowledged == [0, 1, 2]
        assert house.log.durable("s") == 3

    play(scene)


def test_what_a_power_cut_would_take_is_what_no_source_would_send_again(play):
    async def scene(house):
        _, inlet, _ = house.attach("d")
        inlet.record("s", [1], ["k"], [b"x"], ids=[7])
        inlet.record("s", [1], ["k"], [b"x"], receipt=1)
        assert house.intake.loss_window == 0
        inlet.record("s", [1, 1], ["k", "k"], [b"x", b"y"])
        assert house.intake.loss_window == 2

    play(scene)


def test_a_commit_that_fails_is_written_again_unchanged_and_acknowledged_once(play, monkeypatch):
    async def scene(house):
        honest, tried = house.log.write, []

        def failing(commit):
            tried.append(commit)
            if len(tried) < 3:
                raise LogFull("no room")
            honest(commit)

        monkeypatch.setattr(house.log, "write", failing)
        monkeypatch.setattr("gateway.retry.Backoff.next", lambda self: 0.01)
        driver, inlet, _ = house.attach("d")
        inlet.record("s", [1], ["k"], [b"x"], receipt="r")
        await until(lambda: driver.acknowledged)
        assert driver.acknowledged == ["r"]
        assert tried[0] is tried[1] is tried[2]
        found = house.log.read("s", 0, 10)
        assert isinstance(found, Batch)
        assert list(found.values) == [b"x"]
        assert house.metrics.value("commit_failures_total") == 2

    play(scene)


def test_behind_a_slow_commit_reads_pause_and_go_on_after_it(play, monkeypatch):
    async def scene(house):
        gate = asyncio.get_running_loop().create_future()
        honest = house.intake._in_log_thread

        async def slow(work):
            await asyncio.shield(gate)
            return await honest(work)

        monkeypatch.setattr(house.intake, "_in_log_thread", slow)
        driver, inlet, _ = house.attach("d")
        inlet.record("s", [1], ["k"], [b"first"], receipt=1)
        await until(lambda: house.intake._in_flight)
        inlet.record("s", [1], ["k"], [bytes(GATHER + 1)], receipt=2)
        await until(lambda: "pause" in driver.calls)
        late, _, _ = house.attach("late")
        assert late.calls == ["pause"], "who comes during back-pressure is under it too"
        driver.calls.clear()
        await asyncio.sleep(0.1)
        assert driver.calls == [], "no turn while paused"
        gate.set_result(None)
        await until(lambda: "resume" in driver.calls and "resume" in late.calls)
        await until(lambda: driver.acknowledged == [1, 2])

    play(scene)


def test_a_driver_with_a_defect_is_handed_to_its_supervisor_and_the_others_go_on(play):
    async def scene(house):
        broken, _, crashed = house.attach("broken")
        broken.broken = "turn"
        good, _, _ = house.attach("good")
        await until(crashed.done)
        assert isinstance(crashed.exception(), RuntimeError)
        good.calls.clear()
        await until(lambda: "turn" in good.calls)

    play(scene)


def test_positions_moved_at_the_end_are_there_after_the_next_start(play, tmp_path):
    async def scene(house):
        house.log.positions.start("sink:x", "s", 0)
        await until(lambda: not house.log.pending)
        house.log.positions.move("sink:x", "s", 5)

    play(scene)
    log = Log(LogOptions(path=str(tmp_path / "log")), SystemClock())
    log.open()
    assert log.positions.where("sink:x", "s") == 5
    log.close()


def test_what_is_gone_before_a_reader_had_it_is_counted_once_and_told(play):
    async def scene(house):
        house.intake.forwarders = [
            SimpleNamespace(reader="sink:x", cut=lambda: None, committed=lambda: None, due=lambda now: False)
        ]
        house.log.positions.start("sink:x", "s", 10)
        house.intake.note_gaps([Gap("s", 0, 9, "evicted"), Gap("s", 8, 14, "evicted")])
        assert house.intake.lost == {"s": 5}
        assert house.metrics.value("gap_records_total", cause="evicted", stream="s") == 5

    play(scene)


def test_a_pipeline_held_back_by_a_slow_commit_goes_on_without_news(play, monkeypatch):
    async def scene(house):
        program = compiler()("copy", {"from": "s", "steps": [], "to": "out"}, {})
        house.log.declare("out", Keep(size=None, age_s=None))
        shaper = house.intake._shaper
        shaper.lanes.append(lane := Lane(program, urgent=False))
        lane.at["s"] = 0
        gate = asyncio.get_running_loop().create_future()
        honest = house.intake._in_log_thread

        async def slow(work):
            await asyncio.shield(gate)
            return await honest(work)

        monkeypatch.setattr(house.intake, "_in_log_thread", slow)
        _, inlet, _ = house.attach("d")
        inlet.record("s", [1], ["k"], [b"first"])
        await until(lambda: house.intake._in_flight)
        inlet.record("s", [1], ["k"], [bytes(3 << 20)])  # more than may pile up behind a commit
        await until(lambda: lane.behind)
        gate.set_result(None)
        await until(lambda: house.log.durable("out") == 2)

    play(scene)


def test_while_sealing_fails_the_status_says_so_and_it_is_well_again_without_another_record(play, monkeypatch):
    async def scene(house):
        honest, well, due = house.log.maintain, False, True

        def maintain():
            nonlocal due
            if not well:
                raise LogFull("no room")
            due = False
            return honest()

        monkeypatch.setattr(house.log, "maintain", maintain)
        monkeypatch.setattr(type(house.log), "maintenance_due", property(lambda self: due))
        _, inlet, _ = house.attach("d")
        await until(lambda: house.board.state("log") == "waiting")
        for n in range(3):
            inlet.record("s", [1], ["k"], [b"%d" % n])
            await house.intake.barrier()
            assert house.board.state("log") == "waiting", "a commit that succeeds does not make it well"
            assert (
                house.board.find("log").detail
                == "sealing failed: no room; free some room (df -h shows where), or lower log: size"
            )
        well = True
        await until(lambda: house.board.state("log") == "up")

    play(scene)


def test_a_driver_that_is_taken_out_reads_nothing_more_though_it_breaks_off_meanwhile(play):
    async def scene(house):
        driver, inlet, _ = house.attach("d")
        inlet.record("s", [1], ["k"], [b"1"], ids=[1], receipt=1)
        house.intake.retire("d")
        assert driver.paused
        await house.intake.barrier()
        assert driver.acknowledged == [1], "what it read is acknowledged"
        assert driver.paused, "a commit lets nobody read on who is leaving"
        house.intake.detach("d")
        again, _, _ = house.attach("d")
        assert again.paused
        house.intake.detach("d")
        house.intake.retired("d")
        successor, _, _ = house.attach("d")
        assert not successor.paused

    play(scene)


def test_however_far_commits_are_stretched_nobody_who_waits_and_nothing_urgent_waits_longer(play):
    async def scene(house):
        driver, inlet, _ = house.attach("d")
        house.intake.commit_s = 3600.0
        house.intake.urgent = frozenset({"alarms"})
        inlet.record("s", [1], ["k"], [b"x"], receipt=1)
        inlet.hurry()
        await until(lambda: driver.acknowledged == [1])
        inlet.record("alarms", [1], ["k"], [b"x"], receipt=2)
        await until(lambda: driver.acknowledged == [1, 2])
        inlet.record("s", [1] * 200, ["k"] * 200, [secrets.token_bytes(500)] * 200, receipt=3)  # more than four pages
        await until(lambda: driver.acknowledged == [1, 2, 3])
        inlet.record("s", [1], ["k"], [b"x"], receipt=4)
        await asyncio.sleep(5 * house.intake.turn_s)
        assert driver.acknowledged == [1, 2, 3]

    play(scene)
