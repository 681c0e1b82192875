"""What the shell offers when tab is pressed: commands, options, and the names of this configuration; else nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import main
from gateway.plugin import recipes

CONFIGS = Path(__file__).parents[1] / "config"


def complete(*words, config="none.yaml", kind="plain"):
    """The words offered for the last one, or what the shell is to complete as the name of a file."""
    environ = os.environ | {
        "COMP_WORDS": " ".join(["tidegate", *words]),
        "COMP_CWORD": str(len(words)),
        "_TIDEGATE_COMPLETE": "bash_complete",
        "TIDEGATE_CONFIG": str(config),
    }
    code = "from gateway.cli import main; main(prog_name='tidegate')"
    found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert found.stderr == ""
    offered = [line.split(",", 1) for line in found.stdout.split()]
    return [word for what, word in offered if what == kind]


def test_commands_and_options_are_offered():
    assert complete("sta") == ["status"]
    assert "--watch" in complete("status", "--w")


def test_streams_are_those_of_the_configuration_and_what_it_includes_while_nothing_runs():
    offered = complete("tail", "''", config=CONFIGS / "good_greenhouse.yaml")
    assert set(offered) >= {"freezers", "doors", "freezer-means", "meter"}
    assert complete("read", "freezer-", config=CONFIGS / "good_greenhouse.yaml") == ["freezer-means"]


def test_streams_of_a_running_gateway_are_asked_for_and_not_offered_twice(tmp_path):
    server = Server()
    try:
        config = tmp_path / "tidegate.yaml"
        config.write_text(f'gateway: {{id: g, status: "127.0.0.1:{server.port}"}}\nlog: {{path: none}}\n')
        assert complete("tail", "b", config=config) == ["boiler"]
        assert complete("read", "lar", config=config) == ["large"]
        assert complete("tail", "boiler", "b", config=config) == []
    finally:
        server.stop()


def test_plugins_kinds_and_pipelines_of_recipes_are_offered(tmp_path):
    assert complete("plugins", "sim") == ["simulated"]
    assert complete("plugins", "sinks/f") == ["sinks/file"]
    assert complete("plugins", "recipe") == [f"recipe:{name}" for name in recipes()]
    assert complete("sniff", "mq") == ["mqtt"]
    config = tmp_path / "tidegate.yaml"
    config.write_text("include: ['recipe:tasmota']\ndrivers: {mqtter: {driver: simulated, stream: s}}\n")
    assert complete("sniff", "mq", config=config) == ["mqtter", "mqtt"]
    assert "tasmota-sensor" in complete("try", "tasmota-s", config=config)


@pytest.mark.parametrize(
    "words", [["check", "ti"], ["tail", "-c", "../ti"], ["read", "x", "--token-file", "ti"], ["test", "ti"]]
)
def test_where_a_file_can_stand_the_shell_offers_its_own(words):
    assert complete(*words, kind="file") == [words[-1]]
    assert complete(*words) == []


def test_a_test_offers_the_pipelines_of_the_file_before_it(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("pipelines: {here: {from: s}}\n")
    assert complete("test", str(file), "he") == ["here"]
    assert complete("test", str(file), "he", kind="file") == []
    assert complete("test", "he", config=file) == ["here"]


@pytest.mark.parametrize("text", [None, "gateway: [", "\tx", "drivers: 3\nstreams: {a\x1b: 1}\npipelines: [1]\n"])
def test_a_configuration_that_is_missing_or_broken_offers_nothing_and_says_nothing(tmp_path, text):
    config = tmp_path / "tidegate.yaml"
    if text is not None:
        config.write_text(text)
    assert complete("tail", "a", config=config) == []


def test_bash_completes_with_the_script_it_is_given(tmp_path):
    script = CliRunner().invoke(main, ["completion", "bash"])
    assert script.exit_code == 0
    program = tmp_path / "tidegate"
    program.write_text(f"#!{sys.executable}\nfrom gateway.cli import main\nmain(prog_name='tidegate')\n")
    program.chmod(0o755)
    (tmp_path / "script").write_text(script.stdout)
    line = (
        "source ./script; COMP_WORDS=(tidegate tai); COMP_CWORD=1; _tidegate_completion tidegate; echo ${COMPREPLY[@]}"
    )
    found = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("tail\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell):
    assert "_TIDEGATE_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).stdout
