"""What the README has people type works as it stands there: its first configuration, and every command that can be run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.testing import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    return README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def typed(text: str) -> list[str]:
    """The commands of its console blocks, without what is said of them."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:].partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "]


class Shell:
    """A folder with the README's configuration, where `tidegate` is this tree's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_ = folder / "bin"
        bin_.mkdir()
        (bin_ / "tidegate").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gateway "$@"\n')
        (bin_ / "tidegate").chmod(0o755)
        path = f"{bin_}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TIDEGATE_CONFIG": "tidegate.yaml"}

    def run(self, line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(line), cwd=self.folder, env=self.env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("readme"))
    (config,) = re.findall(r"```yaml\n(.*?)```", section("A first configuration"), re.DOTALL)
    told = config.replace("{id: greenhouse-7}", f'{{id: greenhouse-7, status: "127.0.0.1:{free_port()}"}}')
    assert told != config  # the usual port may be another gateway's
    (shell.folder / "tidegate.yaml").write_text(told)
    return shell


@pytest.fixture(scope="module")
def walked(shell):
    """Every command of the first configuration, in order, with what it printed; the gateway runs on."""
    said, gateway = {}, None
    try:
        for line in typed(section("A first configuration")):
            if line.endswith("&"):
                gateway = shell.start(line.rstrip("& "))
                assert gateway.stderr is not None
                next(told for told in gateway.stderr if "ready after" in told)
                continue
            stays = line.startswith("tidegate tail ")  # until ctrl-c
            said[line] = shell.run(f"{line} --no-follow" if stays else line)
        yield said
    finally:
        if gateway is not None:
            gateway.terminate()
            gateway.communicate(timeout=30)


def test_the_commands_of_the_first_configuration_work_in_their_order(walked, shell):
    kinds = {line.split()[1]: said for line, said in walked.items()}
    assert set(kinds) == {"schema", "check", "test", "tail", "top", "try", "reload"}
    assert kinds["check"] == "ok: 1 driver, 3 streams, 1 pipeline, 1 sink\n"
    assert (shell.folder / "tidegate.schema.json").read_text().startswith("{")


COMMANDS = {
    "check": "", "test": "", "try": None, "reload": "", "sniff": "fleet --count 3", "status": "", "lag": "",
    "top": "", "tail": "temps --no-follow", "read": "temps --limit 3", "dead": "", "verify": "--local", "plugins": "",
    "schema": "config", "completion": "bash", "backup": "kept.tar",
    # run in the walk, made with brokers of its own, for a gateway that does not run, and as well as the machine is:
    "run": None, "demo": None, "replace": None, "doctor": None,
}  # fmt: skip


def test_every_command_of_the_table_is_run_here_or_in_the_walk():
    told = re.findall(r"`tidegate (\w+)[^`]*`", section("Commands").split("Everything that prints", 1)[0])
    assert set(told) == set(COMMANDS)


@pytest.mark.parametrize("name", [name for name, options in COMMANDS.items() if options is not None])
def test_a_command_of_the_table_works_beside_the_first_gateway(name, walked, shell):
    assert shell.run(f"tidegate {name} {COMMANDS[name]}") or name in ("dead", "backup")


def test_a_command_that_stands_elsewhere_in_the_readme_is_one_of_those_that_are_run():
    for line in typed(README.replace(section("A first configuration"), "")):
        for words in re.findall(r"\btidegate \w+", line):
            assert words.split()[1] in COMMANDS, line


def test_what_the_text_has_people_sniff_works(walked, shell):
    (line,) = re.findall(r"`(tidegate sniff fleet [^`]*)`", README)
    assert "schema:" in shell.run(f"{line} --count 20")
