"""The forwarder: what is cut goes out once under one id, whatever the sink does."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from shaped import HandClock

from gateway.deadletters import DeadLetters
from gateway.errors import DeliveryRefused, DeliveryTooLarge, SinkUnavailable
from gateway.formats import Format
from gateway.forwarder import TRUST, Forwarder
from gateway.health import Board
from gateway.log import Keep, Log, LogOptions
from gateway.metrics import Metrics
from gateway.record import DEAD_LETTERS, Batch, Extent, Receipt, Rejected


class ScriptedSink:
    """Does what the script says, one entry per send; after its end everything is taken."""

    def __init__(self, script) -> None:
        self.script = list(script)
        self.sent: list[tuple[str, list[int]]] = []
        self.taken: list[int] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def send(self, delivery):
        offsets = [o for batch in delivery.batches for o in range(batch.first, batch.next)]
        self.sent.append((delivery.id.rsplit("/", 2)[1] + "/" + delivery.id.rsplit("/", 1)[1], offsets))
        act = self.script.pop(0) if self.script else None
        if isinstance(act, BaseException):
            raise act
        if callable(act):
            return act(delivery)
        self.taken += offsets
        return act or Receipt()


class House:
    """A log and one forwarder, with commits made by hand."""

    def __init__(self, folder, script=(), *, streams=("s",), urgent=frozenset(), **limits) -> None:
        self.folder, self.streams, self.urgent = folder, streams, urgent
        self.limits = SimpleNamespace(**{"records": 10, "bytes": 1 << 20, "age": 5.0, **limits})
        self.sink = ScriptedSink(script)
        self.clock = HandClock()
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.open()

    def open(self) -> None:
        self.log = Log(LogOptions(path=str(self.folder / "log"), seal=20), self.clock)
        self.log.open()
        for stream in (*self.streams, DEAD_LETTERS):
            self.log.declare(stream, Keep(size=None, age_s=None))
        self.metrics = Metrics()
        self.board = Board(self.clock)
        self.letters = DeadLetters(self.log, self.clock, self.metrics)
        self.forwarder = Forwarder(
            "cloud",
            lambda outlet: self.sink,
            self.streams,
            self.limits,
            Format.parse("ndjson"),
            4,
            start="earliest",
            gateway="g1",
            log=self.log,
            clock=self.clock,
            metrics=self.metrics,
            board=self.board,
            urgent=self.urgent,
            read=self.read,
            request_commit=lambda: None,
            summary=dict,
            letters=self.letters,
        )
        self.forwarder.open(self.forwarder.starts())

    async def read(self, stream, first, limit):
        return self.log.read(stream, first, limit)

    def record(self, count: int, stream: str = "s", size: int = 10) -> None:
        self.log.append(stream, [self.clock.now()] * count, ["k"] * count, [b"%0*d" % (size, n) for n in range(count)])

    def commit(self) -> None:
        self.letters.settle()
        self.forwarder.cut()
        if self.log.pending:
            commit = self.log.gather()
            self.log.write(commit)
            self.log.committed(commit)
            while self.log.maintenance_due and (done := self.log.maintain()) is not None:
                self.log.maintained(done)
        self.forwarder.committed()

    async def work(self, until, commits: bool = True) -> None:
        """Run the forwarder, committing as the intake would, until something holds."""
        running = asyncio.create_task(self.forwarder.run())
        try:
            async with asyncio.timeout(20):
                while not until():
                    if running.done():
                        running.result()
                    if commits:
                        self.commit()
                    self.forwarder._came_up.set()  # no waiting out of back-off in a test
                    await asyncio.sleep(0.001)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def reopen(self) -> None:
        self.log.close()
        self.open()

    def position(self, stream: str = "s") -> int:
        return self.log.positions.where("sink:cloud", stream) or 0


@pytest.fixture
def make(tmp_path):
    made: list[House] = []

    def build(*args, **options) -> House:
        made.append(House(tmp_path, *args, **options))
        return made[-1]

    yield build
    for house in made:
        house.runner.close()
        house.log.close()


def test_batches_are_cut_by_count_and_the_rest_by_age(make):
    house = make()
    house.record(25)
    house.run(house.work(lambda: house.position() == 20))
    assert [sent for sent, _ in house.sink.sent] == ["s/0-9", "s/10-19"]
    house.clock.ns += 6_000_000_000
    house.run(house.work(lambda: house.position() == 25))
    assert house.sink.sent[-1][0] == "s/20-24"


def test_a_record_waits_since_it_was_recorded_and_not_since_its_event(make):
    house = make()
    now = house.clock.ns
    house.log.append("s", [now - 60_000_000_000] * 3, ["k"] * 3, [b"1"] * 3)
    house.commit()
    assert house.forwarder.oldest("s") == now
    house.clock.ns += 4_000_000_000
    house.log.append("s", [now - 60_000_000_000], ["k"], [b"1"])
    house.commit()
    assert house.forwarder.oldest("s") == now
    house.reopen()  # when it was recorded is not kept: its event must do
    assert house.forwarder.oldest("s") == now - 60_000_000_000


def test_batches_are_cut_by_bytes(make):
    house = make(bytes=100)
    house.record(25, size=30)
    house.clock.ns += 6_000_000_000
    house.commit()
    house.clock.ns += 6_000_000_000
    house.run(house.work(lambda: house.position() == 25))
    assert [sent for sent, _ in house.sink.sent][:3] == ["s/0-3", "s/4-7", "s/8-11"], "four of 30 bytes reach 100"


def test_what_fails_goes_again_under_its_id_and_in_order(make):
    house = make([None, SinkUnavailable("away"), SinkUnavailable("away"), SinkUnavailable("away")])
    house.record(40)
    house.run(house.work(lambda: house.position() == 40))
    assert house.sink.taken == list(range(40))
    assert {sent for sent, _ in house.sink.sent} == {"s/0-9", "s/10-19", "s/20-29", "s/30-39"}


def test_nothing_new_starts_after_a_failure_not_even_what_was_being_read_meanwhile(make):
    house = make()
    failures = [SinkUnavailable("away")]
    read_batch, send_batch = house.forwarder._delivery, house.sink.send

    async def read(extent):
        found = await read_batch(extent)
        while extent.first == 10 and failures:  # it comes from the disk, and the first batch fails meanwhile
            await asyncio.sleep(0)
        return found

    async def send(delivery):
        if delivery.extent.first == 0 and failures:
            raise failures.pop()
        return await send_batch(delivery)

    house.forwarder._delivery, house.sink.send = read, send
    house.record(30)
    house.run(house.work(lambda: house.position() == 30))
    assert house.sink.taken == list(range(30))


def test_a_cut_that_was_committed_goes_out_as_it_is_after_a_restart(make):
    house = make()
    house.record(7)
    house.commit()
    house.clock.ns += 6_000_000_000
    house.commit()
    house.commit()
    house.reopen()
    house.record(10)
    house.run(house.work(lambda: house.position() >= 7))
    assert house.sink.sent[0] == ("s/0-6", list(range(7)))


def test_leftovers_of_a_quiet_stream_go_out_after_a_restart(make):
    house = make()
    house.record(5)
    house.commit()
    house.reopen()
    house.commit()
    house.clock.ns += 6_000_000_000
    house.run(house.work(lambda: house.position() == 5))


def test_a_refused_record_becomes_a_dead_letter_and_the_position_moves(make):
    house = make([Receipt((Rejected(3, "not wanted"),))])
    house.record(10)
    house.run(house.work(lambda: house.position() == 10 and house.log.durable(DEAD_LETTERS) == 1))
    found = house.log.read(DEAD_LETTERS, 0, 10)
    assert isinstance(found, Batch)
    assert b'"offset":3' in found.values[0]
    assert b"not wanted" in found.values[0]
    assert house.metrics.value("delivered_total", sink="cloud", stream="s") == 9


def test_refused_records_that_are_alike_are_told_by_few_letters_and_counted_exactly(make):
    def refuse(delivery):
        return Receipt(
            tuple(Rejected(o, f"no room for '{o}'") for b in delivery.batches for o in range(b.first, b.next))
        )

    house = make([refuse] * 500)
    house.record(1_000)
    house.run(house.work(lambda: house.position() == 1_000))
    house.commit()
    letters, at = [], 0
    while (batch := house.log.read(DEAD_LETTERS, at, 8192)) is not None:
        letters += map(json.loads, batch.values)
        at = batch.next
    assert len(letters) < 400
    assert sum(1 + letter.get("more", 0) for letter in letters) == 1_000
    assert house.metrics.value("dead_total") == 1_000


def test_a_refused_dead_letter_makes_no_dead_letter(make):
    def refuse(delivery):
        return Receipt(tuple(Rejected(o, "no") for batch in delivery.batches for o in range(batch.first, batch.next)))

    house = make([refuse] * 50, streams=(DEAD_LETTERS,))
    house.record(10, DEAD_LETTERS)
    house.run(house.work(lambda: house.position(DEAD_LETTERS) == 10))
    assert house.log.next(DEAD_LETTERS) == 10
    assert house.metrics.value("dead_total", reason="rejected") == 10


def test_a_batch_that_is_too_large_goes_in_halves_under_new_ids(make):
    house = make([DeliveryTooLarge("9 bytes at most")])
    house.record(10)
    house.run(house.work(lambda: house.position() == 10))
    assert [sent for sent, _ in house.sink.sent] == ["s/0-9", "s/0-4", "s/5-9"]
    assert house.sink.taken == list(range(10))


def test_halves_survive_a_restart(make):
    house = make([DeliveryTooLarge("9 bytes at most"), *[SinkUnavailable("away")] * 6])
    house.record(10)
    house.run(house.work(lambda: len(house.sink.sent) >= 4))
    house.sink.script.clear()
    house.reopen()
    assert house.log.positions.outstanding("sink:cloud") == [Extent("s", 0, 4), Extent("s", 5, 9)]
    house.run(house.work(lambda: house.position() == 10))
    assert house.sink.taken == list(range(10))


def test_one_record_that_is_too_large_becomes_a_dead_letter(make):
    house = make([DeliveryTooLarge("tiny broker")] * 3, records=1)
    house.record(1)
    house.run(house.work(lambda: house.position() == 1 and house.log.durable(DEAD_LETTERS) == 1))


def test_a_receiver_that_calls_everything_too_large_does_not_empty_the_log(make):
    house = make([DeliveryTooLarge("413")] * 20_000, records=50)
    house.record(1_000)
    house.run(house.work(lambda: house.metrics.value("retries_total") >= 20))
    assert 0 < house.metrics.value("dead_total") <= house.metrics.value("retries_total")
    assert house.board.find("sink:cloud").detail.startswith("it refuses all it is given: 413; trying again in")


def picky(house, bad):
    """A sink that refuses every batch with a bad record in it, and keeps nothing of it."""

    def judge(delivery):
        offsets = [o for batch in delivery.batches for o in range(batch.first, batch.next)]
        if bad & set(offsets):
            raise DeliveryRefused("422: no such field")
        house.sink.taken += offsets
        return Receipt()

    house.sink.script = [judge] * 20_000


def buried(house):
    letters, at = [], 0
    while (batch := house.log.read(DEAD_LETTERS, at, 8192)) is not None:
        letters += map(json.loads, batch.values)
        at = batch.next
    return letters


def test_a_bad_record_is_found_in_its_batch_and_costs_no_other(make):
    house = make(records=64)
    bad = {70, 71, 100, 250}
    picky(house, bad)
    house.record(320)
    house.run(house.work(lambda: house.position() == 320))
    house.commit()
    assert sorted(house.sink.taken) == sorted(set(range(320)) - bad)
    assert [letter["offset"] for letter in buried(house)] == sorted(bad)
    assert all("422: no such field" in letter["reason"] for letter in buried(house))
    assert len(house.sink.sent) < 5 + 3 * 2 * 7 + 10, "by halving, not one by one"


def test_more_bad_records_in_a_row_than_there_is_trust_do_not_stop_the_stream(make):
    house = make(records=50)
    bad = set(range(60, 60 + 2 * TRUST))
    picky(house, bad)
    house.record(600)
    house.run(house.work(lambda: house.position() == 600))
    house.commit()
    assert sorted(house.sink.taken) == sorted(set(range(600)) - bad)
    assert sum(1 + letter.get("more", 0) for letter in buried(house)) == len(bad)


def test_a_sink_that_refuses_all_it_is_given_is_told_so_and_buries_one_record_a_wait(make):
    house = make(records=50)
    picky(house, set(range(1_000)))
    house.record(1_000)
    house.run(house.work(lambda: house.metrics.value("retries_total") >= 20))
    assert 0 < house.metrics.value("dead_total") <= house.metrics.value("retries_total")
    part = house.board.find("sink:cloud")
    assert part.state == "waiting"
    assert part.detail.startswith("it refuses all it is given: 422: no such field; trying again in")
    picky(house, set())
    house.run(house.work(lambda: house.position() == 1_000))
    assert len(house.sink.taken) == len(set(house.sink.taken)) == 1_000 - house.metrics.value("dead_total")


def test_the_halves_of_a_batch_go_before_what_was_cut_later(make):
    house = make([*[SinkUnavailable("away")] * 4, DeliveryRefused("bad"), *[SinkUnavailable("away")] * 3])
    house.record(80)
    house.run(house.work(lambda: house.position() == 80))
    assert house.sink.taken == list(range(80))


def test_a_search_for_a_bad_record_goes_on_after_a_restart(make):
    house = make(records=64)
    picky(house, {10})
    house.record(64)
    house.run(house.work(lambda: len(house.sink.sent) >= 4))
    house.reopen()
    house.run(house.work(lambda: house.position() == 64))
    house.commit()
    assert set(house.sink.taken) == set(range(64)) - {10}
    assert [letter["offset"] for letter in buried(house)] == [10]


def test_a_sink_with_a_defect_costs_no_record(make):
    house = make([ValueError("a bug"), lambda delivery: None, None])
    house.record(30)
    house.run(house.work(lambda: house.position() == 30))
    assert sorted(set(house.sink.taken)) >= list(range(20))
    assert house.log.positions.outstanding("sink:cloud") == []


def test_cancelled_and_run_again_nothing_is_forgotten(make):
    house = make()
    house.record(40)
    house.commit()

    async def interrupted() -> None:
        for delay in (0.0, 0.0, 0.001):
            running = asyncio.create_task(house.forwarder.run())
            await asyncio.sleep(delay)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            house.commit()

    house.run(interrupted())
    house.run(house.work(lambda: house.position() == 40))
    assert sorted(set(house.sink.taken)) == list(range(40))


def test_urgent_streams_go_first_and_do_not_wait_for_age(make):
    house = make(streams=("s", "alarms"), urgent=frozenset({"alarms"}))
    house.record(30)
    house.record(1, "alarms")
    house.run(house.work(lambda: house.position("alarms") == 1 and house.position() == 30))
    assert house.sink.sent[0][0] == "alarms/0-0"


def test_a_backlog_on_disk_goes_out_in_order_and_once(make):
    house = make(records=50)
    for _ in range(40):
        house.record(25)
        commit = house.log.gather()
        house.log.write(commit)
        house.log.committed(commit)
        while house.log.maintenance_due and (done := house.log.maintain()) is not None:
            house.log.maintained(done)
    house.reopen()
    house.run(house.work(lambda: house.position() == 1000))
    assert house.sink.taken == list(range(1000))


def test_a_sink_that_was_removed_with_batches_under_way_sends_all_of_them_when_it_comes_back(make):
    house = make([SinkUnavailable("away"), None, None, None])
    house.record(40)
    house.sink.script[1:] = [None, None, None, *[SinkUnavailable("away")] * 500]
    house.run(house.work(lambda: len(house.sink.taken) == 30))
    assert house.position() == 0, "the first one is still owed"
    house.log.positions.release("sink:cloud", "s")
    house.commit()
    house.sink.script.clear()
    house.sink.taken.clear()
    house.reopen()
    house.clock.ns += 6_000_000_000
    house.run(house.work(lambda: house.position() == 40))
    assert house.sink.taken == list(range(40))
