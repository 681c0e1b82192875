"""`tidegate replace`: a log goes on here under its epoch, on purpose, and only where that is safe to ask for."""

import os

import pytest
from click.testing import CliRunner
from log_disk import append, commit, open_log

from gateway.cli import main
from gateway.log import SystemFiles
from gateway.log.identity import FILE, mark_copy


class Other(SystemFiles):
    def machine(self):
        return "board of another machine"


@pytest.fixture
def brought(tmp_path):
    """A log that was recorded elsewhere: (folder, epoch)."""
    log = open_log(tmp_path / "log", Other())
    append(log, "s", [b"1", b"2"])
    commit(log)
    log.close()
    return tmp_path / "log", log.epoch


def run(folder, *arguments, answer=None):
    return CliRunner().invoke(main, ["replace", "--log", str(folder), *arguments], input=answer)


def opened(folder):
    log = open_log(folder)
    log.close()
    return log


def test_it_asks_says_what_may_happen_and_keeps_the_epoch(brought):
    folder, epoch = brought
    owner = os.stat(folder / "journal").st_uid
    result = run(folder, answer="y\n")
    assert result.exit_code == 0, result.output
    assert "both give the same ids to different readings" in result.output
    assert os.stat(folder / FILE).st_uid == owner
    log = opened(folder)
    assert (log.epoch, log.recovery.moved) == (epoch, "")
    assert "nothing to do" in run(folder).output


def test_answered_no_it_changes_nothing(brought):
    folder, epoch = brought
    before = (folder / FILE).read_bytes()
    assert run(folder, answer="n\n").exit_code == 1
    assert (folder / FILE).read_bytes() == before
    assert opened(folder).epoch != epoch


def test_yes_asks_nothing(brought):
    folder, epoch = brought
    assert run(folder, "--yes").exit_code == 0
    assert opened(folder).epoch == epoch


def test_while_a_gateway_has_the_log_it_refuses(brought):
    folder, _ = brought
    log = open_log(folder, Other())
    before = (folder / FILE).read_bytes()
    result = run(folder, "--yes")
    assert result.exit_code == 1
    assert "is in use: stop the gateway first" in result.output
    assert (folder / FILE).read_bytes() == before
    log.close()


def test_a_backup_of_a_gateway_that_went_on_is_refused_and_one_of_a_stopped_gateway_is_not(brought):
    folder, epoch = brought
    mark_copy(str(folder), SystemFiles(), live=True)
    result = run(folder, "--yes")
    assert (result.exit_code, "Start the gateway" in result.output) == (1, True)
    mark_copy(str(folder), SystemFiles(), live=False)
    assert run(folder, "--yes").exit_code == 0
    assert opened(folder).epoch == epoch


def test_where_there_is_no_log_it_says_so_and_makes_none(tmp_path):
    result = run(tmp_path / "log", "--yes")
    assert (result.exit_code, "there is no log" in result.output) == (1, True)
    assert not (tmp_path / "log").exists()
