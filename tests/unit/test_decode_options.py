"""`decode:` in the configuration: a name or {name: options}, every mistake at its place."""

import pytest

from gateway.config import load
from gateway.config.schema import schema
from gateway.decode import decoding, names
from gateway.errors import ConfigError
from gateway.plugin import Decoding

HEAD = "gateway: {id: g}\n"


@pytest.fixture
def streams(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text, **environ):
        (tmp_path / "c.yaml").write_text(HEAD + text)
        return load("c.yaml", environ=environ).streams

    return read


@pytest.fixture
def problems(streams):
    def read(text):
        with pytest.raises(ConfigError) as caught:
            streams(text)
        return [str(problem) for problem in caught.value.problems]

    return read


@pytest.mark.parametrize("said", ["number", "{number: }", "{number: {}}", '"${KIND}"'])
def test_a_decoder_that_needs_nothing_is_the_same_however_it_is_said(streams, said):
    assert streams(f"streams: {{s: {{decode: {said}}}}}\n", KIND="number")["s"].decode == Decoding("number")


def test_what_is_no_decoder_is_told_at_its_place(problems):
    assert problems(
        "streams:\n  a: {decode: {jsn: {}}}\n  b: {decode: {json: {x: 1}}}\n  c: {decode: [json]}\n"
        "  d: {decode: {json: {}, number: {}}}\n  e: {decode: 5}\n"
    ) == [
        "c.yaml:3:16: streams.a.decode.jsn: no decoder is called 'jsn'; did you mean json?",
        "c.yaml:4:23: streams.b.decode.json.x: unknown option; there is none to choose from",
        "c.yaml:5:7: streams.c.decode: expected the name of a decoder, got a list; write it like json",
        "c.yaml:6:7: streams.d.decode: names 2 decoders; write one, as {csv: {…}}",
        "c.yaml:7:15: streams.e.decode: expected the name of a decoder, got 5; write it like json",
    ]


def test_the_schema_knows_every_decoder_with_its_options():
    rule = schema()["$defs"]["decode"]["anyOf"]
    assert {"json", "number", "key=value"} <= set(rule[0]["enum"])
    assert set(rule[1]["properties"]) == set(names())


def test_what_reads_alike_is_equal_and_what_does_not_differs():
    assert decoding("key=value") == decoding({"keyvalue": {}}) == Decoding("keyvalue")
    assert decoding("json") != decoding("number")
