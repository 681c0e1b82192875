"""Whole configurations: each `bad_….yaml` has the problems of its `bad_….txt`, each `good_….yaml` loads,
each `doubtful_….yaml` loads with the warnings of its `doubtful_….txt`.

After a message was changed on purpose: TIDEGATE_GOLDEN=write pytest tests/config, and read the difference.
"""

import os
from pathlib import Path

import pytest

from gateway.config import load
from gateway.errors import ConfigError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(HERE)


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("bad_*.yaml")))
def test_each_mistake_is_explained_at_its_place(file):
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    found = f"{caught.value}\n"
    golden = Path(file).with_suffix(".txt")
    if os.environ.get("TIDEGATE_GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()
    assert "hunter2" not in found


def test_eight_mistakes_are_eight_problems_in_one_run():
    with pytest.raises(ConfigError) as caught:
        load("bad_eight.yaml", environ={})
    lines = Path("bad_eight.yaml").read_text().split("\n")
    shown = [lines[problem.line - 1][problem.column - 1 :].split()[0] for problem in caught.value.problems]
    assert shown == ["5ms}", "password:", "2", "strem:", "30", "vv", "freezer-temp]", "10}"]


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("doubtful_*.yaml")))
def test_what_is_legal_and_doubtful_is_told_at_its_place(file):
    found = "".join(f"{warning}\n" for warning in load(file, environ={}).warnings)
    golden = Path(file).with_suffix(".txt")
    if os.environ.get("TIDEGATE_GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("good_*.yaml")))
def test_a_good_configuration_loads(file):
    config = load(file, environ={})
    assert config.warnings == ()
    assert set(config.streams) == {"freezers", "doors", "meter", "freezer-means", "_dead"}
    assert config.streams["meter"].keep.age == 86400
    assert config.drivers["sensors"].streams == ("freezers", "doors")
    assert config.pipelines["freezer-means"].program.inputs == ("freezers",)
    assert config.gateway.id == "greenhouse-7"
    assert load(file, environ={"GATEWAY_ID": "x"}).gateway.id == "x"
