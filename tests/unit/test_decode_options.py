"""`decode:` in the configuration: a name or {name: options}, every mistake at its place."""

import msgspec
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


def test_mistakes_in_options_are_told_where_they_stand(problems):
    assert problems(
        "streams:\n"
        "  a: {decode: csv}\n"
        "  b: {decode: {csv: {column: [v]}}}\n"
        "  c:\n    decode:\n      regex:\n        pattern: 'T=(?P<t>[z-a])'\n"
        "  d:\n    decode:\n      struct:\n        order: big\n        layout:\n"
        "          - {name: t, type: i17}\n"
        "          - {type: u8, bits: {alarm: 8}}\n"
        "  e: {decode: {influx: {precision: h}}}\n"
        "drivers:\n  t: {driver: simulated, stream: e, decode: {csv: {columns: [v], delimiter: ''}}}\n"
    ) == [
        "c.yaml:3:15: streams.a.decode: csv must be told columns; write decode: {csv: {columns: [ts, v]}}",
        "c.yaml:4:16: streams.b.decode.csv.columns: missing; add `columns: …`, a list of texts",
        "c.yaml:4:22: streams.b.decode.csv.column: unknown option; did you mean columns?",
        (
            "c.yaml:8:28: streams.c.decode.regex.pattern: this is no regular expression: "
            "invalid character class range: z-a; correct it here"
        ),
        "c.yaml:14:29: streams.d.decode.struct.layout[0].type: 'i17' is none of its values; did you mean i16?",
        (
            "c.yaml:15:38: streams.d.decode.struct.layout[1].bits.alarm: 8 are no bits of u8; "
            'write one from 0 to 7, or several as "4..6"'
        ),
        "c.yaml:16:36: streams.e.decode.influx.precision: 'h' is none of its values; choose from ms, ns, s, us",
        "c.yaml:18:77: drivers.t.decode.csv.delimiter: is empty; write a text",
    ]


def test_those_who_feed_one_stream_agree_on_the_options_too(problems):
    assert problems(
        "drivers:\n"
        "  a: {driver: simulated, stream: s, decode: {csv: {columns: [v]}}}\n"
        "  b: {driver: simulated, stream: s, decode: {csv: {columns: [v, w]}}}\n"
    ) == [
        (
            "c.yaml:4:37: drivers.b.decode: s is csv here and with other options by drivers.a; "
            "use two streams, or one decoder"
        )
    ]


def test_a_plugin_of_the_users_own_decodes(tmp_path, monkeypatch, streams):
    from gateway import plugin
    from gateway.decode import reader

    (tmp_path / "plugins" / "decoders").mkdir(parents=True)
    (tmp_path / "plugins" / "decoders" / "shout.py").write_text(
        "import msgspec\nfrom gateway.plugin import Plugin\n"
        "class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):\n    times: int = 1\n"
        "class Shout:\n    def __init__(self, options): self.options = options\n    def fields(self): return ('v',)\n"
        "    def reader(self, shape): return lambda p: shape(p.decode().upper() * self.options.times)\n"
        "plugin = Plugin(Options, Shout)\n"
    )
    monkeypatch.setattr(plugin, "SITE_PLUGINS", tmp_path / "plugins")
    said = streams("streams: {s: {decode: {shout: {times: 2}}}}\n")["s"].decode
    shape = msgspec.defstruct("Shape", [("v", str)])
    assert reader(said, shape)(b"on").v == "ONON"


def test_what_is_doubtful_in_the_options_of_a_decoder_is_told_at_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(HEAD + "streams:\n  gps: {decode: {nmea: {types: [GGA, RCM]}}}\n")
    told = [str(warning) for warning in load("c.yaml").warnings]
    assert any(
        one.startswith("c.yaml:3:38: streams.gps.decode.nmea.types[1]: no sentence is known as RCM;") for one in told
    )
