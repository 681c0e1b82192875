"""One driver and real commands, without a daemon around them: how runs end, and what becomes of the last bytes."""

import asyncio
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from house import FakeInlet, House, until

from drivers.exec import Options, plugin
from drivers.stdin import Options as StdinOptions
from drivers.stdin import plugin as stdin
from gateway.child import Child


def in_loop(test):
    @functools.wraps(test)
    def call(*arguments, **named):
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60))

    return call


def house(script, **options):
    return House(plugin, Options(command=["sh", "-c", script], stream="s", **options), name="tool")


def last(house):
    return house.inlet.states[-1] if house.inlet.states else ("", "")


@in_loop
async def test_a_command_that_is_done_is_left_alone_where_only_failures_count():
    async with house("echo 1; echo 2", restart="on_failure") as one:
        told = "sh ended with exit code 0 after 2 records, and that is all; with restart: on_failure"
        await until(lambda: last(one) == ("up", f"{told} it is started again with the gateway"))
        await asyncio.sleep(0.2)
        assert one.inlet.values == [b"1", b"2"]
        assert one.failures == []


@pytest.mark.parametrize("restart", ["on_failure", None])
@in_loop
async def test_a_command_that_fails_is_started_again(restart):
    async with house("echo 1; echo why >&2; exit 3", restart=restart) as one:
        await until(lambda: len(one.failures) >= 2)
        assert one.failures[0] == "sh ended with exit code 3: why after 1 record"


@in_loop
async def test_a_command_that_fails_once_is_left_alone_where_it_shall_never_be_started_again():
    async with house("kill -SEGV $$", restart="never") as one:
        await until(lambda: last(one) == (
            "waiting", "sh ended with signal SIGSEGV after 0 records; with restart: never it is started again with the gateway",
        ))  # fmt: skip
        assert one.failures == []


@in_loop
async def test_a_command_that_ends_well_is_told_how_to_be_run_again_and_again():
    async with house("echo 1") as one:
        await until(lambda: one.failures)
        assert "if it is meant to end, write every: 30s" in one.failures[0]


@pytest.mark.parametrize(("end", "kept"), [("exit 0", True), ("exit 1", False), ("kill -9 $$", False)])
@in_loop
async def test_a_last_line_without_its_end_is_a_record_only_of_a_command_that_ended_well(end, kept):
    async with house(f"echo 1; printf 21.; sleep 0.1; printf 5; {end}", restart="never") as one:
        await until(lambda: "restart: never" in last(one)[1])
        assert one.inlet.values == ([b"1", b"21.5"] if kept else [b"1"])
        assert [reason for reason, _ in one.inlet.bad] == ([] if kept else ["cut off: its end did not come"])


@in_loop
async def test_what_a_command_says_last_is_shown_while_it_runs():
    async with house("echo listening on 868 MHz >&2; exec sleep 100") as one:
        await until(lambda: last(one)[1].endswith(", and says: listening on 868 MHz"))


@in_loop
async def test_while_we_take_nothing_a_run_has_all_the_time_and_what_it_wrote_waits():
    inlet = FakeInlet("tool")
    options = Options(command=["sh", "-c", "echo 1; sleep 0.5; echo 2"], stream="s", every=0.2, timeout=0.2)
    driver = plugin.build(options, inlet)
    driver.pause()
    running = asyncio.create_task(driver.run())
    await asyncio.sleep(1.2)
    assert inlet.values == []
    driver.resume()
    await until(lambda: inlet.values[:2] == [b"1", b"2"])
    assert inlet.states[0][0] == "up"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@in_loop
async def test_what_is_urgent_is_read_at_once_and_what_ends_with_silence_too():
    for options in ({}, {"frame": {"gap": {"silence": "20ms"}}}):
        import msgspec

        from gateway.quantity import option_hook

        said = {"command": ["sh", "-c", "printf '1\n'; exec sleep 100"], "stream": "s", **options}
        inlet = FakeInlet("tool", urgent=not options)
        driver = plugin.build(msgspec.convert(said, Options, dec_hook=option_hook), inlet)
        running = asyncio.create_task(driver.run())
        await until(lambda: inlet.values)  # noqa: B023
        assert inlet.values[0].strip() == b"1"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@in_loop
async def test_a_program_that_left_the_group_and_holds_the_pipe_does_not_hold_up_the_end(tmp_path):
    pid = tmp_path / "pid"
    script = f"echo 1; setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & while [ ! -s {pid} ]; do sleep 0.01; done"
    async with house(script, restart="never") as one:
        await until(lambda: "restart: never" in last(one)[1])
        assert one.inlet.values == [b"1"]
    os.kill(int(pid.read_text()), 9)


@in_loop
async def test_a_program_that_does_not_start_leaves_no_guard_behind(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    plain = tmp_path / "plain"
    plain.write_text("x")
    script.chmod(0o755)
    for program, told in [
        ("/no/such/program", "there is no such program; install it, or correct its path"),
        (str(script), "what its first line names is not there; correct that line, #!/bin/sh or the like"),
        (str(plain), f"it may not be run by this user; chmod a+x {plain}, and look at the folders above it"),
    ]:
        async with House(plugin, Options(command=[program], stream="s")) as one:
            await until(lambda: one.failures)  # noqa: B023
            assert one.failures[0] == f"{program} does not start: {told}"
    async with House(plugin, Options(command=["true"], stream="s", cwd=str(tmp_path / "away"))) as one:
        await until(lambda: one.failures)
        assert one.failures[0] == f"true does not start: its folder {tmp_path / 'away'}: No such file or directory"
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() == []


@in_loop
async def test_runs_leave_no_descriptor_behind():
    async def one():
        child = Child(["true"], {}, None, True)
        child.start()
        await child.ended()
        await child.end(1)
        child.close()
        return child.code

    assert await one() == 0
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert await one() == 0
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.fault
def test_killed_at_any_moment_the_gateway_leaves_nothing_behind(tmp_path, full):
    """Starts runs as fast as it can, and dies. What every run starts has a name that nothing else has."""
    mark = f"3{os.getpid()}"
    program = f"""
import asyncio
from gateway.child import Child
async def main():
    while True:
        child = Child(["sh", "-c", "trap '' TERM; sleep {mark} & sleep {mark}"], {{}}, None, True)
        child.start()
        await asyncio.sleep(0)
        await child.end(0)
        child.close()
asyncio.run(main())
"""
    for n in range(200 if full else 25):
        starter = subprocess.Popen([sys.executable, "-c", program])
        try:
            starter.wait(0.15 + n % 25 * 0.004)
        except subprocess.TimeoutExpired:
            starter.kill()
        assert starter.wait() == -9

    async def gone():
        await until(lambda: not left(mark), 30)

    asyncio.run(gone())


def left(mark):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(mark.encode() in word for word in words) and int(path.parent.name) != os.getpid():
            found.append(words)
    return found


@in_loop
async def test_a_socket_as_standard_input_is_read_like_a_pipe(monkeypatch):
    ours, theirs = socket.socketpair()
    kept = os.dup(0)
    os.dup2(theirs.fileno(), 0)
    try:
        async with House(stdin, StdinOptions(stream="s", key="k")) as one:
            ours.sendall(b"1\n2")
            await until(lambda: one.inlet.values == [b"1"])
            ours.close()
            await until(lambda: one.inlet.values == [b"1", b"2"])
            await until(lambda: "standard input has ended after 2 records" in last(one)[1])
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        theirs.close()
