"""The examples of docs/language.md do what it says."""

import re
from pathlib import Path

import pytest
import yaml
from shaping import NOON, Event, Out, S, batches

from gateway.trial import run_case
from pipelines.language import compile_pipeline

MANUAL = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n```\n(.*?)```", MANUAL, re.DOTALL)


@pytest.mark.parametrize(("definition", "told"), EXAMPLES)
def test_an_example_of_the_manual_does_what_it_says(definition, told):
    read = yaml.safe_load(definition)
    made = compile_pipeline("<pipeline>", read, {})
    assert not isinstance(made, list), [str(mistake) for mistake in made]
    if made.tests:
        outcomes = [run_case(made, case) for case in made.tests]
        assert [f"pass  {one.case.name}" for one in outcomes if one.passed] == told.splitlines()
        return
    events, wanted = [], []
    for line in told.splitlines():
        kind, *rest = line.split(maxsplit=3)
        if kind == "in":
            second, key, payload = rest
            events.append(Event(key, payload.encode(), NOON + int(second) * S, read["from"]))
        else:
            wanted.append(tuple(rest))
    out = Out()
    for batch in batches(events, 1000):
        made.run(batch, out)
    letters = [f"{step}: {reason}" for step, reason in out.letters()]
    found = [
        (stream, key, letters.pop(0) if stream == "_dead" else value.decode()) for stream, _, key, value in out.emitted
    ]
    assert found == wanted


def test_the_manual_has_examples():
    assert len(EXAMPLES) >= 6
    assert MANUAL.count("```yaml") == len(EXAMPLES)
