"""`tidegate check`, `plugins` and `schema`: what they print, how they exit, and that nothing is imported before its use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import plugin
from gateway.cli import main

CONFIGS = Path(__file__).parents[1] / "config"


@pytest.fixture
def tidegate(monkeypatch):
    monkeypatch.chdir(CONFIGS)
    monkeypatch.delenv("TIDEGATE_CONFIG", raising=False)

    def tidegate(*arguments, **environ):
        return CliRunner().invoke(main, arguments, env=environ)

    return tidegate


def test_check_says_ok_in_one_line(tidegate):
    found = tidegate("check", "--config", "good_greenhouse.yaml")
    assert (found.exit_code, found.stdout) == (0, "ok: 2 drivers, 5 streams, 1 pipeline, 3 sinks\n")
    found = tidegate("check", "--json", TIDEGATE_CONFIG="good_greenhouse.yaml")
    told = json.loads(found.stdout)
    assert (told["ok"], told["drivers"], told["files"]) == (True, 2, ["good_greenhouse.yaml", "more/meter.yaml"])


def test_check_prints_every_problem_and_exits_with_78(tidegate):
    found = tidegate("check", "-c", "bad_eight.yaml")
    assert (found.exit_code, found.stdout) == (78, (CONFIGS / "bad_eight.txt").read_text())
    told = json.loads(tidegate("check", "-c", "bad_eight.yaml", "--json").stdout)
    assert not told["ok"]
    assert len(told["problems"]) == 8
    assert told["problems"][0] == {
        "file": "bad_eight.yaml",
        "line": 3,
        "column": 50,
        "path": "log.turn",
        "message": "5ms is too little; write at least 20ms",
    }


def test_check_tells_what_is_doubtful_and_still_says_ok(tidegate):
    found = tidegate("check", "doubtful_mqtt.yaml")
    warned = [line.removeprefix("warning: ") for line in found.stdout.splitlines() if line.startswith("warning: ")]
    assert warned == (CONFIGS / "doubtful_mqtt.txt").read_text().splitlines()
    assert (found.exit_code, found.stdout.splitlines()[-1][:3]) == (0, "ok:")
    told = json.loads(tidegate("check", "doubtful_mqtt.yaml", "--json").stdout)
    assert told["ok"]
    assert [warning["line"] for warning in told["warnings"]] == [int(line.split(":")[1]) for line in warned]


def test_check_takes_the_file_as_an_argument(tidegate):
    found = tidegate("check", "good_greenhouse.yaml", TIDEGATE_CONFIG="bad_eight.yaml")
    assert (found.exit_code, found.stdout[:3]) == (0, "ok:")
    assert tidegate("check", "good_greenhouse.yaml", "-c", "bad_eight.yaml").exit_code == 2


def test_a_file_that_does_not_say_where_the_gateway_is_is_sent_to_check(tidegate):
    found = tidegate("status", "-c", "bad_tab.yaml")
    assert (found.exit_code, found.stdout) == (78, "")
    assert "try: tidegate check bad_tab.yaml" in found.stderr
    assert "a tab; indent with spaces" in found.stderr


def test_check_does_not_touch_the_log(tidegate, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"gateway: {{id: g}}\nlog: {{path: {tmp_path / 'log'}}}\n")
    assert tidegate("check", "-c", str(path)).exit_code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]


def test_a_missing_configuration_is_a_configuration_error(tidegate):
    found = tidegate("check", "-c", "none.yaml")
    assert (found.exit_code, found.stdout) == (
        78,
        "none.yaml:1:1: file: there is no file none.yaml; create it, or correct the path\n",
    )


def test_usage_errors_exit_with_2_and_say_what_was_meant(tidegate):
    found = tidegate("chek")
    assert found.exit_code == 2
    assert "there is no command 'chek'; did you mean check?" in found.stderr
    assert tidegate("check", "--colour").exit_code == 2
    found = tidegate("plugins", "mqqt")
    assert (found.exit_code, found.stderr) == (2, "there is no plugin 'mqqt'; did you mean mqtt?\n")
    assert tidegate("plugins", "sim").stderr == "there is no plugin 'sim'; did you mean simulated?\n"


def test_plugins_prints_a_recipe_as_it_is_included(tidegate, tmp_path):
    assert "\n  recipe:shelly" in tidegate("plugins").stdout
    text = tidegate("plugins", "recipe:shelly").stdout
    assert text == plugin.recipes()["shelly"].read_text()
    assert json.loads(tidegate("plugins", "recipe:shelly", "--json").stdout) == {"name": "recipe:shelly", "text": text}
    (tmp_path / "shelly.yaml").write_text(text)
    assert tidegate("test", str(tmp_path / "shelly.yaml")).exit_code == 0
    wrong = tidegate("plugins", "recipe:shely")
    assert (wrong.exit_code, "there are esphome, " in wrong.stderr) == (2, True)


def test_plugins_lists_families_and_shows_options(tidegate):
    listed = tidegate("plugins").stdout
    assert "drivers:\n" in listed
    assert "  simulated  " in listed
    told = json.loads(tidegate("plugins", "--json").stdout)
    assert set(told) == {"drivers", "decoders", "sinks", "steps", "recipes"}
    shown = tidegate("plugins", "mqtt").stdout
    assert "drivers/mqtt: " in shown
    assert "sinks/mqtt: " in shown
    assert "receive_maximum  (whole number; 1 … 65535; default 2000)" in shown
    (one,) = json.loads(tidegate("plugins", "drivers/mqtt", "--json").stdout)
    assert {option["name"] for option in one["options"]} >= {"url", "subscribe", "password_file", "password_credential"}
    assert one["example"].startswith("driver: mqtt")


def test_schema_config_is_json(tidegate):
    assert json.loads(tidegate("schema", "config").stdout)["$schema"].endswith("2020-12/schema")


def test_version(tidegate):
    from gateway import __version__

    assert tidegate("--version").stdout == f"tidegate {__version__}\n"


def test_listing_the_commands_imports_none_of_them():
    code = (
        "import sys; from gateway.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'yaml', 'msgspec', 'asyncio', 'zstandard', 'gateway.config', 'gateway.plugin', 'gateway.cli.check'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "check" in found
    assert found.splitlines()[-1] == "[]"
