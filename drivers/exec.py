"""A command's output: of one that is kept alive, or of one that is run again and again.

- Its output waits in the pipe between turns, and is read in bulk; while we cannot take more, the command waits.
- What it writes to its standard error goes to the log, a few lines of it, and its last words into the status.
- It never outlives us, and nothing that it starts does (gateway.child).
"""

import asyncio
import errno
import json
import logging
import math
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, NoReturn

import msgspec

from drivers._pipe import Pipe
from gateway.child import PATH, Child, how_it_ended
from gateway.errors import DriverUnavailable
from gateway.framing import FrameOptions
from gateway.plugin import Inlet, Mistake, Plugin
from gateway.quantity import Duration, LocalPath, Secret

EXAMPLE = """\
driver: exec
command: [rtl_433, -F, json, -M, utc]
stream: radio
"""

log_ = logging.getLogger("tidegate.exec")

STOP_S = 3.0  # between SIGTERM and SIGKILL
LEAST_EVERY, MOST_EVERY = Duration(0.1), Duration(7 * 86_400)
WORDS = 64 * 1024  # bytes of its standard error that are read per turn; what is more waits, and so does the command
LINES = 10  # of them that go to the log
LONGEST_LINE = 2000  # bytes of a line of it
LONGEST_WORD = 200  # characters of its last line that are shown
LAST_LOOKS = 4  # at its standard error once it has ended
SHELLS = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1")


class Options(FrameOptions, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Read what a command writes to its standard output.

    command: the program and its arguments as a list, `[rtl_433, -F, json]`; the program by its absolute path, or by its
        name if it is in PATH. No shell reads it: for pipes and wildcards write `[sh, -c, "…"]`.
    stream: where the readings go.
    key: of every reading; the driver's name unless given.
    every: run the command again and again, this long from start to start; without it, it is kept alive.
    timeout: how long such a run may take before it is stopped; as long as `every` unless given.
    restart: what happens when a command ends that is kept alive: `always` starts it again after a wait, `on_failure`
        only if its exit code is not 0, `never` leaves it at that until the gateway is started again.
    cwd: the folder it runs in; the gateway's own unless given.
    env: variables of its environment, beside PATH, HOME, USER, LANG, TZ and TMPDIR; it gets no others of ours.
    env_files: the same for secrets: each is read from this file at every start of the command.
    stderr: what it writes to its standard error goes to the `log`, or nowhere with `ignore`.
    """

    command: list[str] | str
    stream: str
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    every: Annotated[Duration, msgspec.Meta(extra={"ge": LEAST_EVERY, "le": MOST_EVERY})] | None = None
    timeout: Annotated[Duration, msgspec.Meta(extra={"ge": LEAST_EVERY, "le": MOST_EVERY})] | None = None
    restart: Literal["always", "on_failure", "never"] | None = None
    cwd: LocalPath | None = None
    env: dict[str, str] = msgspec.field(default_factory=dict)
    env_files: dict[str, Secret] = msgspec.field(default_factory=dict)
    stderr: Literal["log", "ignore"] = "log"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.command, str):
            raise Mistake(("command",), f"must be a list, as no shell reads it; write {_as_list(self.command)}")
        if not self.command or not self.command[0]:
            raise Mistake(("command",), "names no program; write it like [rtl_433, -F, json]")
        for i, word in enumerate(self.command):
            if "\0" in word:
                raise Mistake(("command", i), "a word of a command cannot hold a zero byte; remove it")
        if "/" in self.program and not os.path.isabs(self.program):
            raise Mistake(
                ("command", 0), f"{self.program!r} is a relative path; write an absolute one, or a name in PATH"
            )
        if self.every is not None and self.restart is not None:
            raise Mistake(("restart",), "with `every` it is run again in any case; remove one of both")
        if self.timeout is not None and self.every is None:
            raise Mistake(("timeout",), "belongs to `every`: a command that is kept alive may run for ever; remove it")
        if self.timeout is not None and self.every is not None and self.timeout > self.every:
            raise Mistake(
                ("timeout",), f"is longer than `every`, {self.every:g} s, and runs do not overlap; write less"
            )
        for name in self.env.keys() & self.env_files.keys():
            raise Mistake(("env_files", name), f"{name} is given by `env` too; remove one")
        for option, variables in (("env", self.env), ("env_files", self.env_files)):
            for name in variables:
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                    raise Mistake((option, name), f"{name!r} is no name of a variable; write letters, digits and _")
        for name, value in self.env.items():
            if "\0" in value:
                raise Mistake(("env", name), "a variable cannot hold a zero byte; remove it")

    @property
    def words(self) -> list[str]:
        """The command."""
        assert isinstance(self.command, list)
        return self.command

    @property
    def program(self) -> str:
        return self.words[0]

    def streams(self) -> list[str]:
        return [self.stream]

    def warnings(self) -> list[Mistake]:
        found = self.frame_doubts()
        for i, word in enumerate(self.words):
            if word in SHELLS:
                told = f'{word!r} is handed to the program as it is; if a shell should read it, write [sh, -c, "…"]'
                found.append(Mistake(("command", i), told))
        path = self.env.get("PATH") or os.environ.get("PATH") or PATH
        if shutil.which(self.program, path=path) is None:
            told = f"{self.program} is no program that can be run here; install it, or write its absolute path"
            found.append(Mistake(("command", 0), told))
        return found


class Run(NamedTuple):
    """How one run ended."""

    code: int | None  # None: it took too long and was stopped
    records: int
    took_s: float


class Exec:
    """One run at a time. What it says and how it ended is for the person who reads the status."""

    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._options, self._inlet = options, inlet
        self._pipe = Pipe(options, inlet, options.stream, options.key or inlet.name)
        self._child: Child | None = None
        self._last_words = ""  # the last line of its standard error
        self._said_rest = b""  # what came after its last line end

    # -- gateway.plugin.Driver -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        if self._options.every is not None:
            await self._again_and_again(self._options.every, self._options.timeout or self._options.every)
        run = await self._once(None)
        restart = self._options.restart or "always"
        told = f"{self._how(run)} after {_records(run.records)}"
        if run.code == 0 and self._options.restart is None:
            told += "; if it is meant to end, write every: 30s"
        if restart == "always" or (restart == "on_failure" and run.code):
            raise DriverUnavailable(told)
        if run.code:
            self._inlet.waiting(f"{told}; with restart: {restart} it is started again with the gateway")
        else:
            self._inlet.up(f"{told}, and that is all; with restart: {restart} it is started again with the gateway")
        await asyncio.Event().wait()

    def turn(self) -> None:
        self._pipe.turn()
        self._listen()

    def pause(self) -> None:
        self._pipe.pause()

    def resume(self) -> None:
        self._pipe.resume()

    def acknowledge(self, receipts: Sequence[object]) -> None:
        """A command cannot be told, and sends nothing again."""

    # -- runs ----------------------------------------------------------------------------------------------------------

    async def _again_and_again(self, every_s: float, timeout_s: float) -> NoReturn:
        inlet, clock = self._inlet, self._inlet.clock
        due = clock.monotonic()
        while True:
            run = await self._once(timeout_s)
            inlet.count("runs_total")
            now = clock.monotonic()
            due += every_s * max(1.0, math.ceil((now - due) / every_s))  # a time that has passed is left out
            if run.code == 0:
                took = f"the last time it took {run.took_s * 1000:.0f} ms and gave {_records(run.records)}"
                inlet.up(f"{self._options.program} every {every_s:g} s; {took}")
            else:
                inlet.count("runs_failed_total")
                inlet.waiting(f"{self._how(run)}; it runs every {every_s:g} s")
            await asyncio.sleep(due - now)

    async def _once(self, timeout_s: float | None) -> Run:
        """From its start until it has ended and all it wrote is read. Raises DriverUnavailable if it does not start."""
        options, pipe, clock = self._options, self._pipe, self._inlet.clock
        began = clock.monotonic()
        self._last_words, self._said_rest = "", b""
        child = self._child = Child(options.words, self._environment(), options.cwd, stderr=options.stderr == "log")
        late = whole = False
        try:
            try:
                pipe.open(child.start().fileno())
            except OSError as error:
                raise DriverUnavailable(f"{options.program} does not start: {_why_not(options, error)}") from error
            if timeout_s is None:
                self._tell(child)
            late = not await self._ended(child, timeout_s)
            await child.end(STOP_S)
            await pipe.emptied()
            whole = not late and child.code == 0
        finally:
            await child.end(STOP_S)  # where we were cancelled: taken out, or the gateway stops
            for _ in range(LAST_LOOKS):
                if not self._listen():
                    break
            pipe.close(whole)
            child.close()
            self._child = None
        return Run(None if late else child.code, pipe.records, clock.monotonic() - began)

    async def _ended(self, child: Child, timeout_s: float | None) -> bool:
        """Wait for its end; False where it takes too long. While we take nothing from it, its time stands still."""
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    await child.ended()
            except TimeoutError:
                if not self._pipe.paused:
                    return False
            else:
                return True

    def _environment(self) -> dict[str, str]:
        found = dict(self._options.env)
        for name, file in self._options.env_files.items():
            try:
                found[name] = file.read().decode()
            except (OSError, UnicodeDecodeError) as error:
                raise DriverUnavailable(f"env_files: {name}: {file.path} cannot be read: {error}") from error
        return found

    def _how(self, run: Run) -> str:
        how = "took too long and was stopped" if run.code is None else f"ended with {how_it_ended(run.code)}"
        return f"{self._options.program} {how}{f': {self._last_words}' if self._last_words else ''}"

    # -- its standard error --------------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Take what it said since the last turn: a few lines to the log, the last for the status. False: nothing."""
        child = self._child
        if child is None or child.stderr is None:
            return False
        try:
            said = os.read(child.stderr.fileno(), WORDS)
        except BlockingIOError:
            return False
        lines = (self._said_rest + said).split(b"\n")
        self._said_rest = lines.pop()[:LONGEST_LINE] if said else b""  # at the end its last line may have no line end
        told = [text for line in lines if (text := line[:LONGEST_LINE].decode(errors="backslashreplace").strip())]
        if told:
            self._last_words = told[-1][:LONGEST_WORD]
            self._inlet.count("stderr_lines_total", len(told))
            for text in told[:LINES]:  # the name is part of what the log counts as alike: each driver has its own limit
                log_.info(f"{self._inlet.name} says: %s", text)
            if len(told) > LINES:
                log_.info(f"{self._inlet.name} says %d lines more", len(told) - LINES)
            if self._options.every is None and child.code is None:
                self._tell(child)
        return bool(said)

    def _tell(self, child: Child) -> None:
        says = f", and says: {self._last_words}" if self._last_words else ""
        self._inlet.up(f"{self._options.program} runs as process {child.pid}{says}")


def _as_list(text: str) -> str:
    """A command line as the list that it means, in YAML."""
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed
        words = text.split()
    if any(word in SHELLS for word in words):
        words = ["sh", "-c", text]
    plain = re.compile(r"[A-Za-z/_.-][A-Za-z0-9/_.=+@%-]*")
    return f"[{', '.join(word if plain.fullmatch(word) else json.dumps(word) for word in words)}]"


def _why_not(options: Options, error: OSError) -> str:
    """Why a program does not start, and what to try."""
    if error.filename is not None and error.filename == options.cwd:
        return f"its folder {options.cwd}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        if os.path.exists(options.program):
            return "what its first line names is not there; correct that line, #!/bin/sh or the like"
        return "there is no such program; install it, or correct its path"
    if isinstance(error, PermissionError):
        return f"it may not be run by this user; chmod a+x {options.program}, and look at the folders above it"
    if error.errno == errno.ENOEXEC:
        return "it is no program for this machine, or a script whose first line is not #!/bin/sh or the like"
    return error.strerror or str(error)


def _records(n: int) -> str:
    return f"{n} record{'s' * (n != 1)}"


plugin = Plugin(Options, Exec)
