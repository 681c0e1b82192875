"""A proposed schema compiles, survives YAML, and decodes every payload it was made from."""

import json

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from shaping import NOON, Event, Out, batches

from gateway import decode
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


TEXT = st.sampled_from(["1", "2.5", "-3", "007", "1e400", "C", "nan", "true", "", "2025-11-23T12:00:00Z", "x" * 70])
BINARY = {
    "struct": {"order": "big", "layout": [{"name": "a", "type": "u8"}, {"name": "b", "type": "text", "length": 2}]}
}
WRITTEN = {
    "keyvalue": ("keyvalue", lambda row: " ".join(f'{n}="{v}"' for n, v in zip("abc", row))),
    "csv": ({"csv": {"columns": ["a", "b", "c"]}}, ",".join),
    "influx": (
        "influx",
        lambda row: f'w,tag={row[0] or "x"} a={"2i" if len(row[1]) % 2 else "2.5"},b="{row[2]}" 1763899200000000000',
    ),
    "struct": (BINARY, lambda row: chr(len(row[0])) + row[1][:2].ljust(2)),
    "text": ("text", lambda row: row[0]),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WRITTEN)), st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6))
def test_what_other_decoders_read_decodes_with_what_is_proposed(name, rows):
    said, write = WRITTEN[name]
    kind = decode.decoding(said)
    explore = decode.explorer(kind)
    found = [write(row).encode() for row in rows]
    made = Inference("Europe/Berlin")
    for payload in found:
        made.add(explore(payload), NOON)
    said = yaml.safe_load(made.propose().yaml())
    definition = {"from": "in", "to": "out", "steps": [{"emit": used(said["schema"] or {})}], **said}
    program = compile_pipeline("p", definition, {"in": kind})
    assert not isinstance(program, list), [(mistake.path, str(mistake)) for mistake in program]
    out = Out()
    for batch in batches([Event("k", payload) for payload in found], 100):
        program.run(batch, out)
    assert out.letters() == []
