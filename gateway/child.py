"""A program that runs beside the gateway. It, and all that it starts, end together and do not outlive us.

A run is a process group of its own. The first in it is a guard: a shell of one line that reads from a pipe whose other
end nobody but the gateway holds. When the gateway is gone, however it went, that read ends, and the guard ends the
group: first with SIGTERM, then with SIGKILL. Because the guard is there before the program is, no moment is without it;
because it is a process, it also reaches what the program started, which a parent-death signal would not.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")  # of our environment
_GUARD = ("/bin/sh", "-c", "trap '' HUP INT TERM; read -r _; kill -TERM 0; sleep 3; kill -KILL 0")


class Child:
    """One run of a program, used on the event loop. `code`: None while it runs, below zero where a signal ended it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: str | None, stderr: bool) -> None:
        self._command, self._environment, self._cwd, self._wants_stderr = command, environment, cwd, stderr
        self._guard: subprocess.Popen[bytes] | None = None
        self._program: subprocess.Popen[bytes] | None = None

    def start(self) -> IO[bytes]:
        """Start it; returns its output. Its input is empty. Raises OSError; end() and close() follow in any case."""
        environment = {"PATH": PATH, **{name: os.environ[name] for name in INHERITED if name in os.environ}}
        environment.update(self._environment)
        nothing = subprocess.DEVNULL
        self._guard = subprocess.Popen(
            _GUARD, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, cwd="/", process_group=0
        )
        self._program = subprocess.Popen(
            self._command,
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self._wants_stderr else nothing,
            cwd=self._cwd,
            env=environment,
            bufsize=0,
            process_group=self._guard.pid,
        )
        assert self._program.stdout is not None
        if self._program.stderr is not None:
            os.set_blocking(self._program.stderr.fileno(), False)
        return self._program.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """What it says beside its output; None where nobody wants it, or it did not start."""
        return self._program.stderr if self._program is not None else None

    @property
    def pid(self) -> int:
        """0 where it did not start."""
        return self._program.pid if self._program is not None else 0

    @property
    def code(self) -> int | None:
        return self._program.returncode if self._program is not None else None

    async def ended(self) -> None:
        """Wait for the program itself; what it started may run on."""
        if self._program is not None:
            await _ended(self._program)

    async def end(self, patience_s: float) -> None:
        """End what still runs: with SIGTERM, and after this time with SIGKILL. What it wrote can still be read."""
        if self._guard is None:
            return
        if self._program is not None and self._program.poll() is None:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await _ended(self._program)
        self._signal(signal.SIGKILL)  # also what the program left behind, and the guard
        with suppress(TimeoutError):  # what hangs in the kernel, as on a broken disk, ends when that lets it go
            async with asyncio.timeout(patience_s):
                await self.ended()
                await _ended(self._guard)

    def close(self) -> None:
        """Let go of its pipes."""
        for process in (self._guard, self._program):
            for pipe in (process.stdin, process.stdout, process.stderr) if process is not None else ():
                if pipe is not None:
                    pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        # The group's number cannot belong to anybody else: its first process, the guard, was not waited for yet.
        if self._guard is not None and self._guard.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._guard.pid, number)


async def _ended(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process of ours, without a thread and without polling."""
    if process.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


def how_it_ended(code: int) -> str:
    """An exit code in words; below zero it is a signal's number."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
