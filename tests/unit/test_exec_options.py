"""exec and stdin in the configuration: every mistake at its place, with what to write."""

import pytest

from gateway.config import load
from gateway.errors import ConfigError

HEAD = "gateway: {id: g}\ndrivers:\n"


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("x")

    def read(*entries):
        text = HEAD + "".join(f"  d{i}: {{driver: {entry}}}\n" for i, entry in enumerate(entries))
        (tmp_path / "c.yaml").write_text(text)
        try:
            return [str(one) for one in load("c.yaml").warnings]
        except ConfigError as error:
            return [str(one) for one in error.problems]

    return read


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("command: rtl_433 -F json", "42: drivers.d0.command: must be a list, as no shell reads it; write [rtl_433, -F, json]"),
        ("command: cat x | sort", 'must be a list, as no shell reads it; write [sh, -c, "cat x | sort"]'),
        ("command: 'a b 868 it'", 'write [a, b, "868", it]'),
        ("command: [rtl_433, -f, 868.3]", 'drivers.d0.command[2]: expected text, got 868.3; put quotes around it: "868.3"'),
        ("command: []", "drivers.d0.command: names no program; write it like [rtl_433, -F, json]"),
        ("command: [./poll.sh]", "drivers.d0.command[0]: './poll.sh' is a relative path; write an absolute one, or a name in PATH"),
        ("command: [ls], every: 1s, restart: never", "drivers.d0.restart: with `every` it is run again in any case; remove one of both"),
        ("command: [ls], timeout: 1s", "drivers.d0.timeout: belongs to `every`: a command that is kept alive may run for ever; remove it"),
        ("command: [ls], every: 1s, timeout: 2s", "drivers.d0.timeout: is longer than `every`, 1 s, and runs do not overlap; write less"),
        ("command: [ls], every: 1ms", "drivers.d0.every: 1ms is too"),
        ("command: [ls], env: {A-B: x}", "drivers.d0.env.A-B: 'A-B' is no name of a variable; write letters, digits and _"),
        ("command: [ls], env: {A: x}, env_files: {A: token}", "drivers.d0.env_files.A: A is given by `env` too; remove one"),
        ("command: [ls], env_files: {A: missing}", "drivers.d0.env_files.A: "),
        ("command: [ls], frame: {fixed: {size: 8}}", "drivers.d0.frame.fixed: without start and checksum nobody sees where a frame begins"),
        ("command: [ls, '|', wc]", 'drivers.d0.command[1]: \'|\' is handed to the program as it is; if a shell should read it, write [sh, -c, "…"]'),
        ("command: [no-such-program]", "drivers.d0.command[0]: no-such-program is no program that can be run here; install it, or write its absolute path"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_to_write(problems, options, told):
    (found,) = problems(f"exec, stream: s, {options}")
    assert found.startswith("c.yaml:3:")
    assert told in found


@pytest.mark.parametrize(
    "entry",
    [
        "exec, stream: s, command: [ls]",
        "exec, stream: s, command: [/bin/sh, -c, 'ls | wc'], every: 1s, timeout: 500ms, key: k, cwd: /",
        "exec, stream: s, command: [ls], restart: on_failure, frame: slip, stderr: ignore, env_files: {A: token}",
        "stdin, stream: s, frame: {delimiter: {end: ';'}}, key: k",
    ],
)
def test_what_is_right_is_taken(problems, entry):
    assert problems(entry) == []


def test_standard_input_is_one_drivers_alone(problems):
    (found,) = problems("stdin, stream: s", "stdin, stream: t")
    assert "the gateway's standard input is that of drivers.d0 too, and only one can have it" in found
