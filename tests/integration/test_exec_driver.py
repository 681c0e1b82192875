"""Commands and pipes with the real daemon: nothing they write is lost, nothing of them is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import GatewayProcess

CONFIG = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB, turn: 50ms, commit: 200ms}}
drivers:
  tool: {{driver: exec, command: {command}, stream: readings, {more}}}
"""
NONE = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB, turn: 50ms, commit: 200ms}}
"""
PIPED = """\
gateway: {{id: g1, status: "127.0.0.1:{status}"}}
log: {{path: {log}, size: 256MiB, turn: 50ms, commit: 200ms}}
drivers:
  piped: {{driver: stdin, stream: readings}}
"""


@pytest.fixture
def many(full):
    return 20_000_000 if full else 1_000_000


def wait_for(holds, timeout_s=30):
    until = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return found


def shell(script):
    """A command that runs this in a shell, as YAML."""
    return f"[sh, -c, '{script}']"


def gateway_with(folder, command, more=""):
    return GatewayProcess(folder, CONFIG, command=command, more=more)


def records(gateway, stream="readings", first=0, limit=1000):
    found = gateway.json(f"/api/v1/streams/{stream}/records?from={first}&limit={limit}")["records"]
    return [str(record["v"]) for record in found]


def part(gateway, name="driver:tool"):
    return next(one for one in gateway.json("/api/v1/status")["components"] if one["name"] == name)


def next_of(gateway, stream="readings"):
    return next((s["next"] for s in gateway.json("/api/v1/status")["streams"] if s["name"] == stream), 0)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def children(pid):
    """(pid, state, name) of every process whose parent this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid:
            found.append((int(path.parent.name), state, head.partition("(")[2]))
    return found


def memory(pid):
    """Resident KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def test_a_command_that_is_killed_is_told_of_and_started_again(tmp_path):
    command = shell("echo begun $$; echo last words >&2; while :; do sleep 0.05; echo on; done")
    with gateway_with(tmp_path, command) as gateway:
        first = wait_for(lambda: [line for line in records(gateway) if line.startswith("begun")])[0].split()[1]
        assert part(gateway)["state"] == "up"
        gateway.wait_for_line("tool says: last words")
        os.kill(int(first), signal.SIGKILL)
        gateway.wait_for_line("driver:tool waits: sh ended with signal SIGKILL: last words after ")
        again = wait_for(lambda: [line for line in records(gateway) if line.startswith("begun")][1:])[0].split()[1]
        assert not alive(int(first))
        assert alive(int(again))
        assert gateway.metric("tidegate_restarts_total") >= 1


STUBBORN = 'trap "" TERM HUP INT; (trap "" TERM; echo $$; exec sleep 1000) & echo $!; while :; do sleep 1; done'


@pytest.mark.fault
def test_what_a_command_started_ends_though_the_gateway_is_killed(tmp_path):
    gateway = gateway_with(tmp_path, f"[sh, -c, '{STUBBORN}']")
    gateway.start()
    pids = [int(pid) for pid in wait_for(lambda: len(records(gateway)) == 2 and records(gateway))]
    mine = [pid for pid, _, _ in children(gateway.pid)]
    assert set(pids) & set(mine)
    gateway.kill()
    wait_for(lambda: not any(map(alive, {*pids, *mine})))  # SIGTERM is ignored, what comes 3 s later is not


def test_a_command_is_asked_to_end_when_the_gateway_stops(tmp_path):
    left = tmp_path / "left"
    command = shell(f'trap "echo in order > {left}; exit" TERM; echo on; while :; do sleep 0.05; done')
    with gateway_with(tmp_path, command) as gateway:
        wait_for(lambda: records(gateway))
        assert gateway.stop() == 0
    assert left.read_text() == "in order\n"


def test_a_command_that_does_not_want_to_end_is_killed_in_time(tmp_path):
    with gateway_with(tmp_path, f"[sh, -c, '{STUBBORN}']") as gateway:
        pids = [int(pid) for pid in wait_for(lambda: len(records(gateway)) == 2 and records(gateway))]
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 10
    assert not any(map(alive, pids))


def test_a_command_that_writes_faster_than_we_commit_waits_and_loses_nothing(tmp_path, many):
    with gateway_with(tmp_path, f"[seq, '{many}']", "restart: never") as gateway:
        gateway.wait_for_records("readings", many, timeout_s=200)
        wait_for(lambda: "that is all" in part(gateway)["detail"])
        assert next_of(gateway) == many
        assert f"ended with exit code 0 after {many} records" in part(gateway)["detail"]
        assert records(gateway, first=many - 3, limit=10) == [str(n) for n in range(many - 2, many + 1)]
        assert part(gateway)["state"] == "up"


def test_bytes_without_an_end_are_counted_and_take_no_memory(tmp_path):
    command = shell("head -c 200000000 /dev/zero; echo; echo good; exec sleep 1000")
    with gateway_with(tmp_path, command) as gateway:
        before = memory(gateway.pid)
        wait_for(lambda: records(gateway) == ["good"])
        assert memory(gateway.pid) - before < 20_000
        assert gateway.metric("tidegate_frames_bad_total") >= 1
        assert "without an end" in part(gateway)["bad_frames"][0]["reason"]


def test_a_flood_of_complaints_is_bounded_in_the_log_and_the_command_goes_on(tmp_path):
    command = shell("yes complaint | head -n 300000 >&2; echo done; exec sleep 1000")
    with gateway_with(tmp_path, command) as gateway:
        wait_for(lambda: records(gateway) == ["done"], 60)
        wait_for(lambda: gateway.metric("tidegate_stderr_lines_total") == 300_000)
        assert gateway.output.read_bytes().count(b"tool says") < 60
        assert gateway.output.stat().st_size < 20_000


def test_a_reload_that_takes_the_driver_out_ends_its_command(tmp_path):
    with gateway_with(tmp_path, shell("echo $$; while :; do sleep 0.05; done")) as gateway:
        pid = int(wait_for(lambda: records(gateway))[0])
        gateway.write_config(NONE)
        assert gateway.reload() == ["driver tool removed"]
        assert not alive(pid)
        assert children(gateway.pid) == []
        gateway.write_config(CONFIG, command=shell("echo other; exec sleep 1000"), more="")
        gateway.reload()
        wait_for(lambda: records(gateway)[-1] == "other")


def test_a_command_is_run_again_and_again_and_leaves_no_process_behind(tmp_path):
    with gateway_with(tmp_path, shell("echo 7; sleep 1000 & exit 0"), "every: 100ms, decode: number") as gateway:
        wait_for(lambda: next_of(gateway) >= 20)
        assert part(gateway)["state"] == "up"
        assert "sh every 0.1 s; the last time it took" in part(gateway)["detail"]
        assert gateway.metric("tidegate_runs_total") >= 20
        for _ in range(20):  # at most the run that is under way: its guard, its shell, what that started
            assert len(children(gateway.pid)) <= 3
            assert [name for _, state, name in children(gateway.pid) if name == "sleep"] == []
            time.sleep(0.01)
        gateway.write_config(NONE)
        gateway.reload()
        assert children(gateway.pid) == []


def test_a_run_that_fails_or_takes_too_long_is_told_of_and_what_it_wrote_is_kept(tmp_path):
    with gateway_with(tmp_path, shell("echo 1; echo no sensor >&2; exit 3"), "every: 300ms") as gateway:
        wait_for(lambda: next_of(gateway) >= 2)
        told = part(gateway)
        assert (told["state"], told["detail"]) == (
            "waiting", "sh ended with exit code 3: no sensor; it runs every 0.3 s",
        )  # fmt: skip
        gateway.write_config(CONFIG, command=shell("echo late; exec sleep 1000"), more="every: 400ms, timeout: 200ms")
        gateway.reload()
        wait_for(lambda: "took too long and was stopped" in part(gateway)["detail"])
        wait_for(lambda: records(gateway).count("late") >= 2)
        assert gateway.metric("tidegate_runs_failed_total") >= 3


def test_a_program_that_is_not_there_is_told_of_with_what_to_try(tmp_path):
    with gateway_with(tmp_path, "[/no/such/program]") as gateway:
        wait_for(lambda: part(gateway)["state"] == "waiting")
        assert "/no/such/program does not start: there is no such program" in part(gateway)["detail"]
        assert b"/no/such/program is no program that can be run here" in gateway.output.read_bytes()
        assert gateway.get("/readyz")[0] == 503


def test_a_command_gets_a_small_environment_and_secrets_from_files(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    monkeypatch.setenv("SOME_TOKEN", "ours")
    (tmp_path / "token").write_text("abc\n")
    more = f"every: 10s, cwd: {tmp_path}, env: {{{{PLAIN: word}}}}, env_files: {{{{TOKEN: token}}}}"
    gateway = GatewayProcess(tmp_path, CONFIG.replace("{more}", more), command=shell("env; pwd"))
    with gateway:
        lines = wait_for(lambda: "PWD" in "".join(records(gateway)) and records(gateway))
        names = {line.partition("=")[0] for line in lines[:-1]}
        assert {"PLAIN=word", "TOKEN=abc"} <= set(lines)
        assert lines[-1] == str(tmp_path)
        known = {
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "TZ",
            "TMPDIR",
            "PWD",
            "PLAIN",
            "TOKEN",
            "OLDPWD",
        }
        assert names <= known


# -- standard input ----------------------------------------------------------------------------------------------------


def test_everything_that_is_piped_in_is_recorded_and_its_end_is_told(tmp_path):
    count = 300_000
    producer = subprocess.Popen(["seq", str(count)], stdout=subprocess.PIPE)
    gateway = GatewayProcess(tmp_path, PIPED)
    gateway.start(stdin=producer.stdout)
    try:
        producer.stdout.close()
        gateway.wait_for_records("readings", count, timeout_s=60)
        wait_for(lambda: part(gateway, "driver:piped")["state"] == "waiting")
        assert part(gateway, "driver:piped")["detail"] == (
            f"the pipe at standard input has ended after {count} records; start the gateway again, as producer | tidegate run"
        )
        assert records(gateway, first=count - 1) == [str(count)]
        assert producer.wait(10) == 0
    finally:
        assert gateway.stop() == 0


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_a_file_as_standard_input_is_read_once(tmp_path, kind):
    file = tmp_path / "readings.txt"
    file.write_bytes(b"".join(b"%d\n" % n for n in range(200_000)) + b"the end without a line end")
    gateway = GatewayProcess(tmp_path, PIPED)
    with file.open("rb") if kind == "file" else open(os.devnull, "rb") as stdin:
        gateway.start(stdin=stdin)
    with_more = PIPED.replace("stream: readings", "stream: readings, key: other")
    try:
        count = 200_001 if kind == "file" else 0
        wait_for(lambda: f"ended after {count} records" in part(gateway, "driver:piped")["detail"])
        gateway.write_config(with_more)
        gateway.reload()
        wait_for(lambda: "ended after 0 records" in part(gateway, "driver:piped")["detail"])
        assert next_of(gateway) == count
    finally:
        gateway.stop()


# -- sniffing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["exec", "command=[sh, -c, 'while :; do echo 21.5; sleep 0.01; done']", "stream=s"], ""),
        (["stdin", "stream=s"], "21.5\n" * 30),
    ],
)
def test_a_command_and_a_pipe_can_be_looked_at(arguments, stdin):
    seen = subprocess.run(
        [sys.executable, "-m", "gateway", "sniff", *arguments, "--count", "20", "--raw"],
        input=stdin, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert seen.returncode == 0, seen.stderr
    assert "20 records" in seen.stdout + seen.stderr
    assert "decode: number" in seen.stdout + seen.stderr
