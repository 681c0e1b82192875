"""The configuration that an installation begins with: it runs as it stands, and every example in it is right."""

import re
from itertools import groupby
from pathlib import Path

import pytest

from gateway.config import load

FILE = Path(__file__).parents[2] / "raspberry-pi" / "tidegate.yaml"
LINES = FILE.read_text().splitlines()


def is_example(line: str) -> bool:
    """`#name:` and `#  option:`; a sentence begins with `# ` and no further space."""
    return re.match(r"\s*#(\w|  )", line) is not None


EXAMPLES = [
    [at for at, _ in group] for found, group in groupby(enumerate(LINES), lambda pair: is_example(pair[1])) if found
]


def with_examples(folder: Path, *chosen: list[int]) -> str:
    """The file with the # of these lines taken away."""
    wanted = {at for example in chosen for at in example}
    path = folder / "tidegate.yaml"
    path.write_text("\n".join(line.replace("#", "", 1) if at in wanted else line for at, line in enumerate(LINES)))
    return str(path)


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setenv("HOSTNAME", "pi")


def test_it_is_right_as_it_stands_and_begins_with_simulated_sensors_and_a_page():
    config = load(str(FILE))
    assert [entry.driver for entry in config.drivers.values()] == ["simulated"]
    assert config.gateway.serves is not None
    assert list(config.warnings) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda lines: LINES[lines[0]].strip(" #").split(":")[0])
def test_every_example_in_it_is_right_once_its_hashes_are_taken_away(tmp_path, example):
    before, config = load(str(FILE)), load(with_examples(tmp_path, example))
    assert list(config.warnings) == []
    assert (config.drivers, config.streams, config.sinks) != (
        before.drivers,
        before.streams,
        before.sinks,
    ) or "include" in LINES[example[0]]


def test_all_its_examples_go_together(tmp_path):
    config = load(with_examples(tmp_path, *EXAMPLES))
    assert list(config.warnings) == []
    assert len(config.drivers) + len(config.sinks) >= 4
