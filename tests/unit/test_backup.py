"""A backup holds everything of one moment, whatever its gateway does meanwhile; restored, it goes on under a new epoch."""

import json
import os
import random
import stat
import tarfile

import pytest
from click.testing import CliRunner
from log_disk import append, commit, killed, maintain, open_log, values

from gateway.cli import main
from gateway.errors import LogError
from gateway.log import Snapshot, SystemFiles, Tick
from gateway.log.archive import Archive
from gateway.log.audit import audit
from gateway.log.backup import AT_ONCE, back_up
from gateway.log.identity import Standing, standing
from gateway.record import Extent

RND = random.Random(7)


def fill(log, count, stream="s"):
    for _ in range(count):
        append(log, stream, [RND.randbytes(90) for _ in range(64)])
        log.positions.move("pipeline:p", stream, log.next(stream))
        commit(log)


def lived(folder, commits=60, **options):
    log = open_log(folder, **options)
    fill(log, commits)
    log.positions.cut("sink:c", Extent("s", 0, 49))
    log.positions.settle("sink:c", Extent("s", 0, 49))
    log.positions.cut("sink:c", Extent("s", 50, 79))
    append(log, "rare", [b"only in the journal"])
    log.tick("p", 7)
    commit(log, {"p": Snapshot("sig", b"state", {"s": log.next("s")})})
    log.tick("p", 8)
    commit(log)
    return log


def backed_up(folder, target, *more, **options):
    target.mkdir()
    return back_up(str(folder), str(target), *more, **options)


def whole(folder):
    """Opened as a look does, it adds up."""
    archive = Archive(str(folder))
    archive.open()
    assert audit(archive).wrong == []


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("state", ["in use", "closed", "killed"])
def test_a_backup_is_the_whole_log_and_goes_on_under_a_new_epoch(tmp_path, state):
    log = lived(tmp_path / "log")
    wanted = {stream: values(log, stream) for stream in ("s", "rare")}
    folder = tmp_path / "log"
    if state == "closed":
        log.close()
    elif state == "killed":
        log.close = lambda: None
        folder = killed(log, folder, tmp_path / "killed")
        (folder / "log.db-shm").write_bytes((tmp_path / "log" / "log.db-shm").read_bytes())
    before = contents(folder)
    copied = backed_up(folder, tmp_path / "copy")
    assert contents(folder) == before, "nothing of the log may change"
    assert (copied.epoch, copied.live) == (log.epoch, state != "closed")
    whole(tmp_path / "copy")
    assert standing(str(tmp_path / "copy"), SystemFiles()) is (
        Standing.COPY if state == "closed" else Standing.LIVE_COPY
    )
    back = open_log(tmp_path / "copy")
    assert back.epoch != log.epoch
    assert "restored from a backup" in back.recovery.moved
    assert (back.recovery.gaps, back.recovery.told) == ([], "")
    assert {stream: values(back, stream) for stream in ("s", "rare")} == wanted
    assert back.positions.outstanding("sink:c") == [Extent("s", 50, 79)]
    assert back.positions.readers() == log.positions.readers()
    assert [tick.now for tick in back.recovery.ticks] == [8]
    assert isinstance(back.recovery.ticks[0], Tick)
    assert back.recovery.snapshots["p"].state == b"state"
    fill(back, 20)
    back.close()
    whole(tmp_path / "copy")


def test_what_the_ring_takes_while_it_is_copied_is_a_gap_in_the_copy_and_the_rest_is_whole(tmp_path):
    log = lived(tmp_path / "log", commits=AT_ONCE * 4, size=1 << 20)
    log.positions.settle("sink:c", Extent("s", 50, 79))
    commit(log)
    before = values(log, "s")
    calls = []

    def busy(done, of):
        calls.append((done, of))
        if len(calls) == 1:
            fill(log, AT_ONCE * 3)

    backed_up(tmp_path / "log", tmp_path / "copy", busy)
    assert calls[-1][0] == calls[-1][1] > AT_ONCE
    assert min(values(log, "s")) > AT_ONCE * 64 + min(before), "it must have taken blocks that were to be copied"
    whole(tmp_path / "copy")
    back = open_log(tmp_path / "copy")
    kept = values(back, "s")
    assert kept.items() <= before.items()
    assert 0 < len(kept) < len(before)
    assert len(kept) + sum(map(len, back.gaps("s", 0, back.next("s") - 1))) == back.next("s") == max(before) + 1
    fill(back, AT_ONCE * 3)  # its ring works on
    back.close()
    whole(tmp_path / "copy")
    log.close()


def test_a_journal_that_begins_again_while_it_is_read_is_read_again(tmp_path):
    log = lived(tmp_path / "log")

    class Busy(SystemFiles):
        turns = 0

        def head(self, path, size):
            if path == str(tmp_path / "log" / "journal") and size > 4096 and self.turns < 3:
                self.turns += 1
                fill(log, 30)
            return super().head(path, size)

    files = Busy()
    backed_up(tmp_path / "log", tmp_path / "copy", files=files, pause=lambda seconds: None)
    assert files.turns == 3
    whole(tmp_path / "copy")
    back = open_log(tmp_path / "copy")
    assert back.recovery.gaps == []
    assert values(back, "s") == values(log, "s")
    back.close()
    log.close()


def test_an_owner_that_stops_and_starts_while_it_is_copied_is_not_held_up(tmp_path):
    log = lived(tmp_path / "log", commits=AT_ONCE * 4)
    wanted, owners = values(log, "s"), [log]

    def restart(done, of):
        if len(owners) % 2:
            owners[-1].close()
            owners.append(None)
        else:
            owners.append(open_log(tmp_path / "log"))
            fill(owners[-1], 5)

    backed_up(tmp_path / "log", tmp_path / "copy", restart)
    assert len(owners) >= 3
    whole(tmp_path / "copy")
    back = open_log(tmp_path / "copy")
    assert values(back, "s") == wanted
    back.close()
    if owners[-1] is not None:
        owners[-1].close()


def test_a_gateway_that_came_and_went_while_it_was_copied_makes_it_a_live_copy(tmp_path):
    lived(tmp_path / "log").close()

    def come_and_go(done, of):
        log = open_log(tmp_path / "log")
        fill(log, 1)
        log.close()

    copied = backed_up(tmp_path / "log", tmp_path / "copy", come_and_go)
    assert copied.live
    assert standing(str(tmp_path / "copy"), SystemFiles()) is Standing.LIVE_COPY


def test_a_log_that_is_being_salvaged_is_refused_until_it_is_whole(tmp_path):
    log = lived(tmp_path / "log")
    maintain(log)
    (tmp_path / "log" / "salvage").mkdir()
    (tmp_path / "log" / "salvage" / "1.db").write_bytes(b"x")
    with pytest.raises(LogError, match="still coming back"):
        backed_up(tmp_path / "log", tmp_path / "copy")
    log.close()


CONFIG = """
gateway: {{id: pi, status: {{listen: "127.0.0.1:0", token_file: token}}}}
include: ["more/*.yaml"]
log: {{path: {log}}}
drivers: {{waves: {{driver: simulated, stream: s}}}}
"""


@pytest.fixture
def house(tmp_path):
    """A log and its configuration, in /etc as it were."""
    lived(tmp_path / "log").close()
    etc = tmp_path / "etc"
    (etc / "more").mkdir(parents=True)
    (etc / "tidegate.yaml").write_text(CONFIG.format(log=tmp_path / "log"))
    (etc / "more" / "one.yaml").write_text("streams: {s: {priority: urgent}}\n")
    (etc / "token").write_text("0123456789abcdef0123456789abcdef\n")
    return etc / "tidegate.yaml"


def run(*arguments):
    return CliRunner().invoke(main, ["backup", *map(str, arguments)])


@pytest.mark.parametrize("name", ["copy", "copy.tar"])
def test_the_command_takes_log_and_configuration_but_no_secrets_for_nobody_else_to_read(tmp_path, house, name):
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / name
    result = run(target, "-c", house)
    assert result.exit_code == 0, result.output
    assert "2 files of configuration" in result.output
    assert os.listdir(tmp_path / "out") == [name]
    if name.endswith(".tar"):
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        with tarfile.open(target) as tar:
            tar.extractall(tmp_path / "out" / "copy", filter="fully_trusted")
    folder = tmp_path / "out" / "copy"
    assert stat.S_IMODE((folder / "log").stat().st_mode) & 0o077 == 0
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("RESTORE.txt", "config/tidegate.yaml", "config/more/one.yaml"),
        *(f"log/{name}" for name in ("epoch", "journal", "log.db", "machine")),
    }
    whole(folder / "log")
    assert stat.S_IMODE((folder / "config" / "more").stat().st_mode) == stat.S_IMODE(
        (house.parent / "more").stat().st_mode
    )


def test_a_program_is_told_what_was_copied(tmp_path, house):
    told = json.loads(run("--json", tmp_path / "copy", "-c", house).output)
    assert (told["live"], sorted(told["config"])) == (False, ["more/one.yaml", "tidegate.yaml"])
    assert told["bytes"] > 0 and told["written"] > 0


@pytest.mark.parametrize("wrong", ["there already", "no parent", "no log"])
def test_what_cannot_be_done_is_said_and_leaves_nothing_behind(tmp_path, house, wrong):
    out = tmp_path / "out"
    out.mkdir()
    target, more = out / "copy", []
    if wrong == "there already":
        target.mkdir()
        (target / "mine").write_text("precious")
    elif wrong == "no parent":
        target = out / "deep" / "copy"
    else:
        more = ["--log", out]
    before = sorted(path.name for path in out.rglob("*"))
    result = run(target, "-c", house, *more)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert sorted(path.name for path in out.rglob("*")) == before
