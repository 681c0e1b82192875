"""Dead letters in bounded numbers: few are kept of what is alike, and all are counted."""

import json

import pytest
from shaped import HandClock

from gateway import deadletters
from gateway.deadletters import BURST, MOST_KINDS, DeadLetters
from gateway.log import Keep, Log, LogOptions
from gateway.metrics import Metrics
from gateway.record import DEAD_LETTERS, Batch, Record, dead_letter

SECOND = 1_000_000_000


class House:
    def __init__(self, folder) -> None:
        self.clock, self.metrics = HandClock(), Metrics()
        self.log = Log(LogOptions(path=str(folder)), self.clock)
        self.log.open()
        self.log.declare(DEAD_LETTERS, Keep(size=None, age_s=None))
        self.letters = DeadLetters(self.log, self.clock, self.metrics)

    def fail(self, *reasons: str, by: str = "p", step: str = "decode", value: bytes = b"{}") -> int:
        made = [dead_letter(by, step, reason, "in", Record(7, 1, "k", value)) for reason in reasons]
        return self.letters.bury([1] * len(made), ["k"] * len(made), made)

    def commit(self) -> list[dict]:
        """Every letter in the log."""
        return [json.loads(value) for value in self.commit_raw()]

    def commit_raw(self) -> list[bytes]:
        self.letters.settle()
        if self.log.pending:
            commit = self.log.gather()
            self.log.write(commit)
            self.log.committed(commit)
        values, at = [], 0
        while isinstance(batch := self.log.read(DEAD_LETTERS, at, 8192), Batch):
            values += batch.values
            at = batch.next
        return values


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.log.close()


def told(letters) -> int:
    return sum(1 + letter.get("more", 0) for letter in letters)


def test_a_flood_of_one_reason_leaves_a_burst_and_one_letter_that_tells_of_the_rest(house):
    house.fail(*["division by zero"] * 5_000)
    letters = house.commit()
    assert len(letters) == BURST + 1
    assert letters[-1]["more"] == 5_000 - BURST - 1
    assert [letter for letter in letters if "more" in letter] == letters[-1:]
    assert house.metrics.value("dead_suppressed_total", by="p") == 5_000 - len(letters)


def test_numbers_and_quoted_parts_make_no_other_reason_but_steps_words_and_parts_of_the_house_do(house):
    house.fail(*[f"the event time 2026-11-{n % 28:02}T10:00 is ahead of {n}.5, see 'it\\'s {n}'" for n in range(1_000)])
    assert len(house.commit()) == BURST + 1
    assert house.letters.kinds == 1
    house.fail("missing v", "missing w")
    house.fail("missing v", step="emit")
    house.fail("missing v", by="sink:cloud")
    assert house.letters.kinds == 5
    assert len(house.commit()) == BURST + 1 + 4


def test_the_next_letter_of_its_kind_tells_of_what_was_kept_back(house):
    house.fail(*["no"] * (BURST + 3))
    house.clock.ns += SECOND // 10
    house.fail("no")
    letters = house.commit()
    assert len(letters) == BURST + 1
    assert letters[-1]["more"] == 3


def test_a_steady_flood_leaves_ten_letters_a_second_and_one_per_commit(house):
    for _ in range(600):
        house.clock.ns += SECOND // 10
        house.fail(*["no"] * 100)
    letters = house.commit()
    assert len(letters) <= BURST + 601
    assert told(letters) == 60_000
    assert house.metrics.value("dead_suppressed_total") == 60_000 - len(letters)


def test_what_was_kept_back_is_told_in_the_very_commit_whatever_comes_after(house):
    house.fail(*["no"] * 1_000)
    assert told(house.commit()) == 1_000
    assert told(house.commit()) == 1_000, "and once"


def test_reasons_without_end_fill_neither_the_log_nor_the_memory(house):
    words = ["".join(chr(97 + n // 26**i % 26) for i in range(4)) for n in range(20_000)]
    house.fail(*words)
    letters = house.commit()
    assert house.letters.kinds == MOST_KINDS
    assert len(letters) == MOST_KINDS + BURST + 1
    assert told(letters) == 20_000
    house.clock.ns += 61 * SECOND
    house.fail("something new")
    assert house.letters.kinds == MOST_KINDS, "what did not come for a minute makes room"
    assert told(house.commit()) == 20_001


def test_large_payloads_are_not_held_beyond_a_bound(house, monkeypatch):
    monkeypatch.setattr(deadletters, "BURST", 1)
    payload = json.dumps("x" * 60_000).encode()
    words = ["".join(chr(97 + n // 26**i % 26) for i in range(2)) for n in range(200)]
    house.fail(*words, value=payload)
    house.fail(*words, value=payload)
    assert house.letters.held_bytes < deadletters.MOST_HELD + 200_000
    assert told(house.commit()) == 400
    assert house.letters.held_bytes == 0


@pytest.mark.parametrize("value", [b"[" * 900 + b"]" * 900, b'{"a":1e999}', b'","stream":"', b"\xff\x00", b"12"])
def test_no_payload_and_no_reason_breaks_a_letter(house, value):
    reason = f'why,"stream":"x{value!r}"\n\u2028'
    house.fail(*[reason] * (BURST + 5), value=value, step='steps[0],"stream":')
    letters = house.commit_raw()
    assert len(letters) == BURST + 1
    assert letters[-1].endswith(b',"more":4}')
