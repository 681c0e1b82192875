"""A proposed schema compiles, survives YAML, and decodes every payload it was made from."""

import json

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from shaping import NOON, Event, Out, batches

from pipelines.language import compile_pipeline
from pipelines.language.infer import Inference, reach
from pipelines.language.parse import parse_path

names = st.one_of(
    st.sampled_from(
        [
            "v",
            "ts",
            "key",
            "payload",
            "arrival",
            "and",
            "true",
            "on",
            "switch:0",
            "it's",
            "a.b",
            "n",
            "null",
            "é",
            "x y",
        ]
    ),
    st.text(max_size=8),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(1_763_000_000, 1_764_000_000),
    st.integers(1_763_000_000_000, 1_764_000_000_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [
            "2025-11-23T12:00:00Z",
            "2025-11-23 12:00:00",
            "2025-11-23T12:00:00+01:00",
            "21.5",
            "C",
            "",
            "9999-01-01T00:00",
        ]
    ),
    st.text(max_size=30),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
payloads = st.lists(st.dictionaries(names, values, max_size=6), min_size=1, max_size=8)


def inferred(found, zone="Europe/Berlin"):
    made = Inference(zone)
    for payload in found:
        made.add(msgspec.json.decode(json.dumps(payload)), NOON)
    return made


def used(schema):
    """An emit that looks at every field."""
    return {f"x{i}": reach(parse_path(name)) for i, name in enumerate(schema)} or {"x": "1"}


def letters(proposal, found):
    said = yaml.safe_load(proposal.yaml())
    assert (said["schema"] or {}) == proposal.schema
    definition = {"from": "in", "to": "out", "steps": [{"emit": used(said["schema"] or {})}], **said}
    program = compile_pipeline("p", definition, {})
    assert not isinstance(program, list), [(mistake.path, str(mistake)) for mistake in program]
    out = Out()
    for batch in batches([Event("k", json.dumps(payload).encode()) for payload in found], 100):
        program.run(batch, out)
    assert len(out.rows()) + len(out.letters()) == len(found)
    return out.letters()


@settings(max_examples=400, deadline=None)
@given(payloads)
def test_every_payload_that_was_seen_decodes_with_what_is_proposed(found):
    assert letters(inferred(found).propose(), found) == []


@settings(max_examples=100, deadline=None)
@given(payloads, payloads)
def test_merging_knows_as_much_as_adding(one, other):
    merged = inferred(one)
    merged.merge(inferred(other))
    proposal, whole = merged.propose(), inferred(one + other).propose()
    assert letters(proposal, one + other) == []
    assert proposal.schema == whole.schema
