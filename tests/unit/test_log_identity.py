"""The epoch is bound to the machine: a copy elsewhere begins a new one, and nothing else changes."""

import shutil

import pytest
from log_disk import Died, DyingDisk, append, commit, killed, open_log, values

from gateway.log import Snapshot, SystemFiles, Tick
from gateway.log.identity import FILE, Standing, adopt, mark_copy, standing
from gateway.record import Extent


class Pi(SystemFiles):
    """A machine by its name."""

    def __init__(self, name="board 1000000012345678"):
        self.name = name

    def machine(self):
        return self.name


THERE = Pi("board 10000000ffffffff")


def recorded(folder, files=None):
    """Some records, sealed and not, with a cut under way, a tick and a pipeline's state."""
    log = open_log(folder, files or Pi())
    for i in range(20):
        append(log, "s", [b"%d-%d" % (i, n) for n in range(10)])
        log.positions.move("pipeline:p", "s", log.next("s"))
        commit(log, {"p": Snapshot("sig", b"state", {"s": log.next("s")})} if i == 9 else None)
    log.positions.cut("sink:c", Extent("s", 0, 49))
    log.positions.settle("sink:c", Extent("s", 0, 49))
    log.positions.cut("sink:c", Extent("s", 50, 79))
    log.tick("p", 7)
    commit(log)
    return log


def copied(log, tmp_path, name="copy"):
    return killed(log, tmp_path / "log", tmp_path / name)


def test_a_card_in_another_machine_begins_a_new_epoch_and_everything_else_goes_on(tmp_path):
    log = recorded(tmp_path / "log")
    epoch, whole = log.epoch, values(log, "s")
    copy = copied(log, tmp_path)
    moved = open_log(copy, THERE)
    assert moved.epoch != epoch
    assert moved.recovery.moved.startswith("this log was recorded on another machine: a new epoch begins")
    assert (moved.recovery.gaps, moved.recovery.damaged, moved.recovery.told) == ([], 0, "")
    assert values(moved, "s") == whole
    assert moved.positions.where("sink:c", "s") == 50
    assert moved.positions.outstanding("sink:c") == [Extent("s", 50, 79)]
    assert moved.recovery.ticks == [Tick("p", 7, {"s": 200}, 21)]
    assert moved.recovery.snapshots["p"].state == b"state"
    assert append(moved, "s", [b"next"]).first == 200
    commit(moved)
    moved.close()
    again = open_log(copy, THERE)
    assert (again.epoch, again.recovery.moved) == (moved.epoch, "")
    assert values(again, "s") == {**whole, 200: b"next"}
    again.close()


def test_the_machine_it_was_recorded_on_keeps_its_epoch_also_after_a_copy_was_taken(tmp_path):
    log = recorded(tmp_path / "log")
    copied(log, tmp_path)
    back = open_log(tmp_path / "log", Pi())
    assert (back.epoch, back.recovery.moved) == (log.epoch, "")
    back.close()


def test_a_log_of_before_is_bound_silently_and_so_is_one_whose_binding_does_not_read_back(tmp_path):
    log = recorded(tmp_path / "log")
    log.close()
    for content in (None, b"", b"\0" * 64, b"bound 00 11 22222222\n", b"\xff" * 300):
        (tmp_path / "log" / FILE).unlink()
        if content is not None:
            (tmp_path / "log" / FILE).write_bytes(content)
        back = open_log(tmp_path / "log", Pi())
        assert (back.epoch, back.recovery.moved) == (log.epoch, "")
        assert standing(str(tmp_path / "log"), Pi()) is Standing.HERE
        back.close()


def test_of_the_machine_nothing_is_kept_that_names_it(tmp_path):
    recorded(tmp_path / "log").close()
    recorded(tmp_path / "other").close()
    first, second = ((tmp_path / name / FILE).read_text() for name in ("log", "other"))
    assert "12345678" not in first
    assert first != second  # salted: two logs of a machine do not tell that they are


def test_where_nobody_names_the_machine_nothing_is_bound_and_nothing_compared(tmp_path):
    log = recorded(tmp_path / "log", Pi(""))
    log.close()
    assert not (tmp_path / "log" / FILE).exists()
    back = open_log(tmp_path / "log", Pi())
    assert back.epoch == log.epoch
    back.close()
    back = open_log(tmp_path / "log", Pi(""))
    assert (back.epoch, back.recovery.moved) == (log.epoch, "")
    back.close()


@pytest.mark.parametrize("machine", [Pi(), Pi("")], ids=["the same machine", "one that nobody names"])
def test_a_restored_backup_begins_one_new_epoch_on_any_machine(tmp_path, machine):
    log = recorded(tmp_path / "log")
    copy = copied(log, tmp_path)
    mark_copy(str(copy), SystemFiles(), live=True)
    back = open_log(copy, machine)
    assert back.epoch != log.epoch
    assert "restored from a backup" in back.recovery.moved
    back.close()
    again = open_log(copy, machine)
    assert (again.epoch, again.recovery.moved) == (back.epoch, "")
    again.close()


def test_a_first_start_elsewhere_that_dies_anywhere_loses_nothing_and_the_next_one_begins_a_new_epoch(tmp_path):
    class Dying(DyingDisk):
        def machine(self):
            return THERE.name

    log = recorded(tmp_path / "log")
    whole = values(log, "s")
    copy = copied(log, tmp_path)
    at = 0
    while True:
        at += 1
        shutil.rmtree(tmp_path / "try", ignore_errors=True)
        shutil.copytree(copy, tmp_path / "try")
        dying = None
        try:
            dying = open_log(tmp_path / "try", Dying(at))
            break
        except Died:
            pass
        left = tmp_path / "left"
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(tmp_path / "try", left, ignore=shutil.ignore_patterns("*-shm"))
        back = open_log(left, THERE)
        assert back.epoch != log.epoch, at
        assert values(back, "s") == whole, at
        assert back.positions.outstanding("sink:c") == [Extent("s", 50, 79)], at
        assert (back.recovery.gaps, back.recovery.told) == ([], ""), at
        back.close()
    dying._files.at = 1 << 30
    dying.close()
    assert at > 10


def test_a_damaged_log_elsewhere_is_salvaged_and_begins_a_new_epoch_too(tmp_path):
    log = recorded(tmp_path / "log")
    for n in range(20):  # several blocks and turnovers
        append(log, "s", [b"x" * 900] * 64)
        commit(log)
    copy = copied(log, tmp_path)
    (copy / "log.db").write_bytes(b"")
    (copy / "log.db-wal").unlink(missing_ok=True)
    moved = open_log(copy, THERE)
    assert moved.epoch != log.epoch
    assert moved.recovery.moved
    assert moved.next("s") == log.next("s")
    moved.close()


def test_adopted_on_purpose_it_keeps_its_epoch_and_is_this_machines_from_then_on(tmp_path):
    log = recorded(tmp_path / "log")
    copy = copied(log, tmp_path)
    adopt(str(copy), THERE)
    moved = open_log(copy, THERE)
    assert (moved.epoch, moved.recovery.moved) == (log.epoch, "")
    moved.close()
    assert standing(str(copy), Pi()) is Standing.ELSEWHERE


@pytest.mark.parametrize(
    "serial, machine_id, name",
    [
        ("1000000012345678\0", "a" * 32 + "\n", "board 1000000012345678"),
        ("0000000000000000\0", "a" * 32 + "\n", "machine " + "a" * 32),
        (None, "a" * 32 + "\n", "machine " + "a" * 32),
        (None, "uninitialized\n", ""),
        (None, "", ""),
        (None, None, ""),
    ],
)
def test_a_machine_is_named_by_its_board_else_by_its_system_and_an_unfinished_one_by_nothing(
    tmp_path, serial, machine_id, name
):
    files = SystemFiles()
    files.board_file, files.machine_file = str(tmp_path / "serial"), str(tmp_path / "id")
    for file, text in ((files.board_file, serial), (files.machine_file, machine_id)):
        if text is not None:
            with open(file, "w") as out:
                out.write(text)
    assert files.machine() == name
