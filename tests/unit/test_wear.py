"""What the log costs its card: how it is measured, told, and kept within a budget. All in virtual time."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.device import Device, device_under
from gateway.quantity import Rate, Size
from gateway.wear import DAY_S, EASY, SPAN_S, Budget, Wear

STEP_S = 10.0
PAGE = 4096.0


def lived(budget: Budget, cost, days: float) -> tuple[list[float], float]:
    """(how long a commit may wait, at every step; bytes) of a log that writes `cost(commit_s, step)` bytes a step."""
    waits, written = [], 0.0
    for step in range(int(days * DAY_S / STEP_S)):
        count = cost(budget.commit_s, step)
        budget.spent(count, STEP_S)
        written += count
        waits.append(budget.commit_s)
    return waits, written


def pages(per_second: float):
    """A page for each commit, and so many bytes of readings beside."""
    return lambda commit_s, step: STEP_S * (PAGE / commit_s + per_second)


def turns(waits: list[float]) -> int:
    """How often it changed its mind: went down after it had gone up, or up after down."""
    steps = [b - a for a, b in zip(waits, waits[1:], strict=False) if abs(b - a) > 1e-9 * a]
    return sum(1 for a, b in zip(steps, steps[1:], strict=False) if (a > 0) != (b > 0))


def test_without_a_budget_a_commit_waits_as_long_as_it_was_told_whatever_is_written():
    waits, _ = lived(Budget(None, 1.0, 10.0), pages(1e6), 0.1)
    assert set(waits) == {1.0}


def test_within_the_budget_nothing_is_stretched():
    waits, _ = lived(Budget(Rate.parse("400MB/day"), 1.0, 10.0), pages(200), 2)
    assert set(waits) == {1.0}


def test_over_the_budget_commits_wait_just_as_long_as_it_takes_to_keep_to_it():
    budget = Budget(Rate.parse("100MB/day"), 1.0, 10.0)
    waits, written = lived(budget, pages(200), 3)
    needed = PAGE / (100e6 / DAY_S - 200)
    assert waits[-1] == pytest.approx(needed, rel=0.01)
    assert budget.stretched
    assert not budget.exceeded
    assert written <= 3 * 100e6 + 0.2 * 100e6  # what had been saved in the bucket, once


def test_no_commit_waits_longer_than_commit_max_and_it_is_told_that_this_does_not_do():
    budget = Budget(Rate.parse("20MB/day"), 1.0, 10.0)
    waits, _ = lived(budget, pages(200), 1)
    assert max(waits) == 10.0
    assert budget.exceeded


def test_a_commit_max_below_commit_stretches_nothing():
    waits, _ = lived(Budget(Rate.parse("20MB/day"), 5.0, 1.0), pages(200), 0.5)
    assert set(waits) == {5.0}


@settings(max_examples=40)
@given(
    budget=st.floats(20e6, 1e9),
    base=st.floats(0.25, 5.0),
    factor=st.floats(1.0, 60.0),
    share=st.floats(0.0, 1.2),
)
def test_under_a_steady_load_it_comes_to_rest_from_one_side(budget, base, factor, share):
    """Whatever is written beside the pages: the wait turns round at most once, at the first step of a load that is
    many times too much, and never swings. Where commit_max can keep to the budget, it is kept, but for what the bucket
    held at the start.
    """
    allowed, beside, days = budget / DAY_S, share * budget / DAY_S, 0.5
    waits, written = lived(Budget(Rate(budget), base, base * factor), pages(beside), days)
    assert turns(waits) <= 1
    if PAGE / (base * factor) + beside <= allowed:
        first = STEP_S * (PAGE / base + beside)  # before anything was known of the load
        assert written <= allowed * (days * DAY_S + EASY * SPAN_S) + first


def test_blocks_that_are_sealed_in_lumps_do_not_make_it_swing():
    lump, every = 150_000, 82  # bytes, steps: 10 readings/s

    def cost(commit_s: float, step: int) -> float:
        return STEP_S * PAGE / commit_s + (lump if step % every == 0 else 0)

    budget = Budget(Rate.parse("100MB/day"), 1.0, 10.0)
    waits, written = lived(budget, cost, 2)
    assert not budget.easy
    settled = waits[len(waits) // 3 :]
    assert max(settled) <= 1.1 * min(settled)
    assert written <= 2.2 * 100e6


def test_after_a_burst_it_goes_back_to_what_it_was_told():
    budget = Budget(Rate.parse("200MB/day"), 1.0, 10.0)
    lived(budget, pages(5000), 0.5)
    assert budget.stretched
    assert not budget.easy
    waits, _ = lived(budget, lambda commit_s, step: STEP_S * 100.0, 0.5)
    assert waits[-1] == 1.0
    assert budget.easy


def test_new_settings_count_at_once():
    budget = Budget(Rate.parse("100MB/day"), 1.0, 10.0)
    lived(budget, pages(200), 2)
    stretched = budget.commit_s
    budget.change(Rate.parse("100MB/day"), 2.0, 20.0)
    assert budget.commit_s == pytest.approx(2 * stretched)
    budget.change(None, 2.0, 20.0)
    assert budget.commit_s == 2.0
    budget.change(Rate.parse("100MB/day"), 1.0, 10.0)
    assert budget.commit_s == 1.0


class Card(Device):
    """A device that took what the test says."""

    taken = 10**12

    def written(self) -> int | None:
        return self.taken


def watched(device: Device | None, budget: Budget | None = None) -> Wear:
    wear = Wear(budget or Budget(None, 1.0, 10.0), Size.parse("4TB"), lambda folder: device)
    wear.find("/var/lib/tidegate")
    return wear


def test_both_are_told_what_the_device_took_from_everybody_and_what_the_log_asked_for():
    card = Card("mmcblk0", "")
    wear = watched(card)
    for step in range(61):
        wear.look(step * 40_000, step * STEP_S)
        card.__class__.taken = 10**12 + step * 50_000
    told = wear.status()
    assert told["device"] == "mmcblk0"
    assert told["device_bytes"] == 59 * 50_000
    assert told["log_day_bytes"] == pytest.approx(345_600_000, rel=0.01)
    assert told["device_day_bytes"] == pytest.approx(432_000_000, rel=0.03)
    assert told["life_days"] == pytest.approx(4e12 / 432e6, rel=0.03)
    assert told["told"].startswith("the log writes 346 MB a day, mmcblk0 takes ")
    assert "a card made for 4 TB lasts 2" in told["told"]


def test_in_the_first_minute_nobody_knows_yet_and_nothing_is_said():
    wear = watched(Card("sda", ""))
    wear.look(0, 0.0)
    wear.look(8 << 20, 10.0)
    told = wear.status()
    assert told["log_day_bytes"] is told["device_day_bytes"] is told["life_days"] is None
    assert told["told"] == ""


def test_where_no_device_is_known_that_is_said_and_the_log_counts_alone():
    wear = watched(None)
    for step in range(30):
        wear.look(step * 40_000, step * STEP_S)
    told = wear.status()
    assert told["device"] is told["device_bytes"] is told["device_day_bytes"] is None
    assert told["life_days"] == pytest.approx(4e12 / 345.6e6, rel=0.01)
    assert "what its device takes is not known" in told["told"]


def test_a_budget_that_stretches_is_told_in_words():
    budget = Budget(Rate.parse("100MB/day"), 1.0, 10.0)
    lived(budget, pages(200), 2)
    assert watched(None, budget).told() == "commits wait up to 4.3 s to keep within 100 MB a day"
    lived(budget, pages(9000), 1)
    assert "within 100 MB a day, which is not enough: raise wear:" in watched(None, budget).told()


# -- the device --------------------------------------------------------------------------------------------------------


@pytest.fixture
def block(tmp_path):
    """/sys/dev/block and what it points to, with the device of tmp_path as the test says."""
    number = os.stat(tmp_path).st_dev
    (tmp_path / "dev").mkdir()

    def made(there: str, parts: dict[str, str]) -> str:
        for path, content in parts.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        (tmp_path / "dev" / f"{os.major(number)}:{os.minor(number)}").symlink_to(tmp_path / there)
        return str(tmp_path / "dev")

    return made


STAT = "   12345    67  890123  4567  {sectors} 1 {sectors} 99 0 1 2\n"


def test_of_a_partition_the_whole_card_counts(tmp_path, block):
    stat = {"mmcblk0/stat": STAT.format(sectors=2000), "mmcblk0/mmcblk0p2/stat": STAT.format(sectors=5)}
    found = device_under(str(tmp_path), block("mmcblk0/mmcblk0p2", {**stat, "mmcblk0/mmcblk0p2/partition": "2"}))
    assert found is not None
    assert (found.name, found.written()) == ("mmcblk0", 2000 * 512)


def test_of_an_encrypted_volume_what_is_below_it_counts(tmp_path, block):
    disk = {"nvme0n1/stat": STAT.format(sectors=7), "nvme0n1/nvme0n1p3/partition": "3"}
    folder = block("dm-0", {**disk, "dm-0/stat": STAT.format(sectors=1)})
    (tmp_path / "dm-0" / "slaves").mkdir()
    (tmp_path / "dm-0" / "slaves" / "nvme0n1p3").symlink_to(tmp_path / "nvme0n1" / "nvme0n1p3")
    found = device_under(str(tmp_path), folder)
    assert found is not None
    assert (found.name, found.written()) == ("nvme0n1", 7 * 512)


def test_what_has_no_device_of_its_own_has_none(tmp_path):
    assert device_under(str(tmp_path), str(tmp_path)) is None
    assert device_under(str(tmp_path / "nowhere")) is None


def test_a_device_that_tells_nothing_is_no_trouble(tmp_path):
    assert Device("sda", str(tmp_path)).written() is None
    (tmp_path / "stat").write_text("1 2 3")
    assert Device("sda", str(tmp_path)).written() is None


def test_what_this_machine_says_of_a_device_of_its_own_only_grows(tmp_path):
    found = device_under(str(tmp_path))
    if found is not None:
        first = found.written()
        assert first is not None
        (tmp_path / "file").write_bytes(bytes(1 << 20))
        os.sync()
        assert found.written() >= first
