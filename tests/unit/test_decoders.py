"""csv, regex, influx and struct: what payloads come to, and what is refused."""

import builtins
import re
import struct
from pathlib import Path

import pytest
import yaml
from shaping import Event, mistakes, program, run

from gateway.decode import decoding, explorer, names
from gateway.plugin import Mistake


def decoded(options, payload, schema):
    """The fields of a payload; or the reason of its dead letter, or None where it is no record."""
    made = program([{"emit": {name: name for name in schema}}], schema=schema, decoders={"in": options})
    out = run(made, [Event("k", payload)])
    if not out.emitted:
        assert made.stats()["no_record"] == 1
        return None
    return out.rows()[0] if out.rows() else out.letters()[0][1]


SEMI = {"columns": ["ts", "t", "room", ""], "delimiter": ";"}


@pytest.mark.parametrize(
    ("options", "payload", "told"),
    [
        ({}, b'1763899200;21.5;"boiler; room";x\r\n', {"t": 21.5, "room": "boiler; room"}),
        ({}, b"1;21.5;;", {"t": 21.5}),
        ({}, b"1; 21.5 ; cellar ;", {"t": 21.5, "room": "cellar"}),
        ({}, b'1;7;"he said ""so""";', {"t": 7.0, "room": 'he said "so"'}),
        ({}, b"1;;x;", "missing t"),
        ({}, b"1;21,5;x;", "t is str, not float"),
        ({"decimal": "comma"}, b"1;21,5;x;", {"t": 21.5, "room": "x"}),
        ({"decimal": "comma"}, b"1;1.234,5;x;", "t is str, not float"),
        ({"decimal": "comma"}, b"1;21.5;x;", "t is str, not float"),
        ({}, b"1;nan;x;", "t is str, not float"),
        ({}, b"1;21.5;x", "3 values, not 4"),
        ({}, b"1;21.5;x;y;z", "5 values, not 4"),
        ({}, b"1;21.5;x;y\n2;22;x;y\n", "more than one line"),
        ({}, b'1;2;"x";y\n2;22;"x";y\n', "more than one line"),
        ({}, b'1;2;"x;', "unexpected end of data"),
        ({}, b"1;\xff;x;", "not valid UTF-8 text"),
        ({}, b"ts;t;room;\r\n", None),
        ({}, b"", None),
        ({}, b"\r\n", None),
        ({"skip": ["#", "Zeit"]}, b"# comment", None),
        ({"skip": ["#", "Zeit"]}, b"Zeit;Temp;Raum;\n", None),
        ({"quote": None}, b'1;2;"x;', {"t": 2.0, "room": '"x'}),
        ({"quote": "'"}, b"1;2;'x;y';", {"t": 2.0, "room": "x;y"}),
        ({"delimiter": "\t"}, b"1\t2\tx\t", {"t": 2.0, "room": "x"}),
        ({"delimiter": " "}, b"  1   2\tx  y\n", {"t": 2.0, "room": "x"}),
        ({"delimiter": " "}, b' 1   2  "x y"  z', {"t": 2.0, "room": "x y"}),
    ],
)
def test_a_line_of_separated_values(options, payload, told):
    assert decoded({"csv": {**SEMI, **options}}, payload, {"t": "float", "room": "str?"}) == told


def test_values_are_what_the_schema_says():
    options = {"csv": {"columns": ["a", "b", "c", "d"]}}
    schema = {"a": "int", "b": "bool", "c": "time", "d": "str"}
    assert decoded(options, b"007,true,1763899200,007", schema) == {
        "a": 7, "b": True, "c": "2025-11-23T12:00:00Z", "d": "007",
    }  # fmt: skip
    assert decoded(options, b"7,1,2025-11-23T12:00:00Z,", {**schema, "d": "str?"})["b"] is True
    assert decoded(options, b"7.5,1,0,x", schema) == "a is float, not int"


@pytest.mark.parametrize(
    ("options", "payload", "told"),
    [
        ({"pattern": r"T=(?P<t>[-\d.]+) ?(?P<unit>[CF])?"}, b"T=-21.5 C\r\n", {"t": -21.5, "unit": "C"}),
        ({"pattern": r"T=(?P<t>[-\d.]+) ?(?P<unit>[CF])?"}, b"T=21.5", {"t": 21.5}),
        ({"pattern": r"T=(?P<t>[-\d.]+)"}, b"xx T=21.5 C", "the pattern does not match"),
        ({"pattern": r"T=(?P<t>[-\d.]+)", "match": "search"}, b"xx T=21.5 C", {"t": 21.5}),
        ({"pattern": r"T=(?P<t>[-\d,]+)", "decimal": "comma"}, b"T=21,5", {"t": 21.5}),
        ({"pattern": r"T=(?P<t>\S+)"}, b"T=warm", "t is str, not float"),
        ({"pattern": r"T=(?P<t>\S*)"}, b"T=", "missing t"),
        ({"pattern": r"(?P<unit>[°µ]C)(?P<t>.*)"}, "°C21".encode(), {"t": 21.0, "unit": "°C"}),
        ({"pattern": r"(?P<t>\d+)(?s:.*)"}, b"5\xff", "the pattern does not match"),
        ({"pattern": r"(?P<t>\d+)\C*"}, b"5\xff", {"t": 5.0}),
        ({"pattern": r"(?P<t>\d+)x*"}, b"5" + b"x" * 4095 + b"\r\n", {"t": 5.0}),
        ({"pattern": r"(?P<t>\d+)x*"}, b"5" + b"x" * 4096, "more than 4096 bytes"),
    ],
)
def test_the_named_groups_of_an_expression_are_the_fields(options, payload, told):
    assert decoded({"regex": options}, payload, {"t": "float", "unit": "str?"}) == told


@pytest.mark.parametrize(
    ("pattern", "at", "message"),
    [
        ("T=(?P<t>[z-a])", 9, "this is no regular expression: invalid character class range: z-a; correct it here"),
        ("T=(?P<t>(?=x))", 8, "this is no regular expression: invalid perl operator: (?=; correct it here"),
        ("(\\d+)", 0, "no group has a name, so there are no fields; write (?P<name>…) around a value"),
        ("(?P<t>a)(?P<t>b)", 12, "two groups are called t; rename one"),
    ],
)
def test_what_is_wrong_in_an_expression_is_told_at_its_place(pattern, at, message):
    with pytest.raises(Mistake) as caught:
        decoding({"regex": {"pattern": pattern}})
    assert (caught.value.path, caught.value.offset, str(caught.value)) == (("pattern",), at, message)


def test_without_its_library_the_expression_names_the_command_that_installs_it(monkeypatch):
    original = builtins.__import__

    def without(name, *args):
        if name == "re2":
            raise ModuleNotFoundError(name=name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Mistake, match="pip install google-re2"):
        decoding({"regex": {"pattern": "(?P<v>.)"}})


INFLUX = {
    "measurement": "str", "tags.host": "str?", "tags.n": "int?", "fields.v": "float?", "fields.n": "int?",
    "fields.s": "str?", "fields.ok": "bool?", "timestamp": "time[ns]?",
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told"),
    [
        # from the public description of the format
        (r'myMeasurement,tag1=value1,host=value2 fieldKey="fieldValue",v=1 1556813561098000000',
         {"measurement": "myMeasurement", "tags.host": "value2", "fields.v": 1.0, "timestamp": "2019-05-02T16:12:41.098Z"}),
        ("m v=1.0", {"measurement": "m", "fields.v": 1.0}),
        ("m v=-1.234456e+78", {"measurement": "m", "fields.v": -1.234456e78}),
        ("m n=1i", {"measurement": "m", "fields.n": 1}),
        ("m n=12485903i,x=-12i", {"measurement": "m", "fields.n": 12485903}),
        ("m n=12485903u", {"measurement": "m", "fields.n": 12485903}),
        ('m s="this is a string"', {"measurement": "m", "fields.s": "this is a string"}),
        *((f"m ok={text}", {"measurement": "m", "fields.ok": True}) for text in ("t", "T", "true", "True", "TRUE")),
        *((f"m ok={text}", {"measurement": "m", "fields.ok": False}) for text in ("f", "F", "false", "False", "FALSE")),
        ('m s="/path/to\\file,a=b c"', {"measurement": "m", "fields.s": "/path/to\\file,a=b c"}),
        (r'm s="\"string\" within a \\ string"', {"measurement": "m", "fields.s": '"string" within a \\ string'}),
        (r"my\ Measure\,ment,host=string\ val\=ue\, v=1", {"measurement": "my Measure,ment", "tags.host": "string val=ue,", "fields.v": 1.0}),
        ('my"Measurement",host=x v=1', {"measurement": 'my"Measurement"', "tags.host": "x", "fields.v": 1.0}),
        ("m,host=launch🚀 s=\"Launch 🚀\" 1556813561098000000",
         {"measurement": "m", "tags.host": "launch🚀", "fields.s": "Launch 🚀", "timestamp": "2019-05-02T16:12:41.098Z"}),
        # what gateways want of it
        ("m,n=7 v=1", {"measurement": "m", "tags.n": 7, "fields.v": 1.0}),
        ("m,n=x v=1", "tags.n is str, not int or null"),
        ("m  v=1   1556813561098000000\n", {"measurement": "m", "fields.v": 1.0, "timestamp": "2019-05-02T16:12:41.098Z"}),
        ("m v=1,v=2", {"measurement": "m", "fields.v": 2.0}),
        ("# comment", None), ("", None), ("\n", None),
        # what is none
        ("m", "no fields"), ("m,host=a", "no fields"), ("m ", "no fields"), (",host=a v=1", "no measurement at the beginning of the line"),
        ("m,host v=1", "no tag at ',host v=1'"), ("m,host= v=1", "no tag at ',host= v=1'"),
        ("m v", "no field=value at 'v'"), ("m v=", "no field=value at 'v='"), ("m v=1,", "no field=value at 'v=1,'"),
        ("m v=1, n=1i", "no field=value at 'v=1, n=1i'"), ('m s="open', "no field=value at 's=\"open'"),
        ("m v=nan", "'nan' is no value; a text stands in quotes"), ("m n=-1u", "'-1u' is no value; a text stands in quotes"),
        ("m v=1_0", "'1_0' is no value; a text stands in quotes"),
        ("m n=1", "fields.n is float, not int or null"),
        ("m n=18446744073709551615u", "fields.n is out of range: it must be <= 9223372036854775807"),
        ("m v=1 soon", "'soon' is no timestamp"), ("m v=1 1.5", "'1.5' is no timestamp"),
        ("m v=1 1\nm v=2 2", "more than one line"), ("m v=1\nm v=2", "'1\\nm' is no value; a text stands in quotes"),
        ("m v=1 -1", "timestamp is out of range: it must be >= 0"),
    ],
)  # fmt: skip
def test_a_line_of_influx(line, told):
    assert decoded("influx", line.encode(), INFLUX) == told


@pytest.mark.parametrize("unit", [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_timestamp_of_any_precision_is_the_same_time(unit):
    name, per_second = unit
    line = b"m v=1 %d" % (1763899200 * per_second)
    row = decoded({"influx": {"precision": name}}, line, {"timestamp": "time[ns]"})
    assert row == {"timestamp": "2025-11-23T12:00:00Z"}


LAYOUT = [
    {"name": "t", "type": "i16", "scale": 0.01, "offset": -40},
    {"skip": 2},
    {"name": "state", "type": "u8", "bits": {"alarm": 0, "door": 7, "mode": "1..3"}},
    {"name": "id", "type": "text", "length": 6},
    {"name": "n", "type": "u32"},
    {"name": "r", "type": "f32"},
]
SCHEMA = {
    "t": "float", "state": "int", "alarm": "bool", "door": "bool", "mode": "int", "id": "str", "n": "int", "r": "float",
}  # fmt: skip


@pytest.mark.parametrize(("order", "sign"), [("big", ">"), ("little", "<")])
def test_bytes_in_fixed_places(order, sign):
    payload = struct.pack(f"{sign}h2xB6sIf", 6158, 0b10001010, b"AB1\0\0\0", 4_000_000_000, 0.5)
    options = {"struct": {"order": order, "layout": LAYOUT}}
    assert decoded(options, payload, SCHEMA) == {
        "t": 21.58, "state": 138, "alarm": False, "door": True, "mode": 5, "id": "AB1", "n": 4_000_000_000, "r": 0.5,
    }  # fmt: skip
    assert decoded(options, payload + b"\0", SCHEMA) == "20 bytes, not 19"
    assert decoded(options, b"", SCHEMA) == "0 bytes, not 19"
    nan = struct.pack(f"{sign}h2xB6sIf", 0, 0, b"", 0, float("nan"))
    assert decoded(options, nan, SCHEMA).startswith("r is out of range")
    text = struct.pack(f"{sign}h2xB6sIf", 0, 0, b"\xff", 0, 0)
    assert decoded(options, text, SCHEMA) == "not valid UTF-8 text"


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"csv": {"columns": ["a", "b", "a"]}}, ("columns", 2), "'a' names two columns; every name must be another, or empty"),
        ({"csv": {"columns": [""]}}, ("columns",), "every column is without a name; name those you want"),
        ({"csv": {"columns": ["a"], "decimal": "comma"}}, ("decimal",), 'numbers with a comma need another delimiter; write delimiter: ";"'),
        ({"csv": {"columns": ["a"], "delimiter": "\n"}}, ("delimiter",), "a line end cannot stand inside a line; write another character"),
        ({"csv": {"columns": ["a"], "quote": ","}}, ("delimiter",), "the delimiter and the quote are the same; write another"),
        ({"struct": {"order": "big", "layout": [{"skip": 1}]}}, ("layout",), "every byte is skipped; name those you want"),
        ({"struct": {"order": "big", "layout": [{"name": "a", "type": "u8"}] * 2}}, ("layout", 1), "'a' names two fields; rename one"),
        ({"struct": {"order": "big", "layout": [{"skip": 60000}, {"name": "a", "type": "text", "length": 4096}, {"skip": 4000}]}},
         ("layout",), "is longer than 65536 bytes, the most that a payload may have"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_at_their_place(options, path, message):
    with pytest.raises(Mistake) as caught:
        decoding(options)
    assert (caught.value.path, str(caught.value)) == (path, message)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": "a"}, "missing; add `type: u8`, or `skip: 1` for bytes of no interest"),
        ({"type": "u8"}, "missing; add `name: …`, or write `skip` for bytes of no interest"),
        ({"skip": 1, "name": "a"}, "bytes that are skipped have no name and no type; remove these, or `skip`"),
        ({"name": "a", "type": "text"}, "a text has a length, and nothing else has; add or remove it"),
        ({"name": "a", "type": "u8", "length": 2}, "a text has a length, and nothing else has; add or remove it"),
        ({"name": "a", "type": "text", "length": 2, "scale": 2}, "a text cannot be scaled; remove `scale` and `offset`"),
        ({"name": "a", "type": "u8", "scale": 0}, "everything times 0 is 0; write another scale"),
        ({"type": "i8", "bits": {"b": 0}}, "bits belong to an unsigned number; write u8, u16, u32 or u64"),
        ({"type": "u8", "bits": {"b": 8}}, '8 are no bits of u8; write one from 0 to 7, or several as "4..6"'),
        ({"type": "u8", "bits": {"b": "5..4"}}, "'5..4' are no bits of u8; write one from 0 to 7, or several as \"4..6\""),
        ({"type": "u8", "bits": {"b": -1}}, '-1 are no bits of u8; write one from 0 to 7, or several as "4..6"'),
    ],
)  # fmt: skip
def test_a_part_of_a_layout_says_what_is_wrong_with_it(part, message):
    with pytest.raises(Mistake) as caught:
        decoding({"struct": {"order": "big", "layout": [part]}})
    assert str(caught.value) == message


def manual():
    """The rows of the manual's table of decoders: what `decode:` says, a payload, and the fields it has."""
    text = (Path(__file__).parents[2] / "docs" / "language.md").read_text().split("## Payloads that are not JSON")[1]
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)`(?:, as bytes)? \| (.+?) \|$", text.split("\n## ")[0], re.MULTILINE)
    return [(yaml.safe_load(said), payload, re.findall(r"`([\w.]+)", fields)) for said, payload, fields in rows]


@pytest.mark.parametrize(("said", "payload", "fields"), manual(), ids=str)
def test_the_manual_says_what_payloads_come_to(said, payload, fields):
    raw = bytes.fromhex(payload) if "struct" in said else payload.encode()
    found = explorer(decoding(said))(raw)
    flat = {f"{name}.{inner}" for name, one in found.items() if isinstance(one, dict) for inner in one}
    assert flat | {name for name, one in found.items() if not isinstance(one, dict)} == set(fields)
    t = next(found[name] for name in ("t", "v", "water_temperature_c", "fields") if name in found)
    t = t["t"] if isinstance(t, dict) else t
    assert t in (21.5, "ON")


def test_the_manual_tells_of_every_decoder_but_json():
    told = {said if isinstance(said, str) else next(iter(said)) for said, _, _ in manual()}
    assert told == set(names()) - {"json"}


def test_a_field_that_the_decoder_cannot_carry_is_refused_at_load():
    (found,) = mistakes(schema={"t": "float", "x": "int"}, decoders={"in": {"csv": {"columns": ["t", "", "u"]}}})
    assert (found.path, str(found)) == (
        ("schema", "x"),
        "stream `in` is decoded as csv, which has only the fields t, u",
    )
    (found,) = mistakes(schema={"temp": "float"}, decoders={"in": "influx"})
    assert str(found).endswith("which has only the fields measurement, tags, fields, timestamp")


@pytest.mark.parametrize(
    ("part", "declared", "told"),
    [
        ("{name: t, type: i16, scale: 0.1}", "int", "stream `in`: t is a number; write t: float"),
        ("{name: t, type: u8}", "bool", "stream `in`: t is a whole number; write t: int"),
        ("{name: t, type: text, length: 4}", "float", "stream `in`: t is text; write t: str"),
        ("{type: u8, bits: {t: 0}}", "int", "stream `in`: t is true or false; write t: bool"),
        ("{type: u8, bits: {t: 1..2}}", "str", "stream `in`: t is a whole number; write t: int"),
    ],
)
def test_a_field_of_another_type_than_its_layout_gives_is_told_at_load(part, declared, told):
    decoders = {"in": {"struct": {"order": "big", "layout": [yaml.safe_load(part)]}}}
    (found,) = mistakes(schema={"t": declared}, decoders=decoders)
    assert (found.path, str(found)) == (("schema", "t"), told)


@pytest.mark.parametrize(("scale", "declared"), [(1, "int"), (10, "int"), (0.1, "float"), (1, "float"), (1, "time[s]")])
def test_a_number_of_a_layout_may_be_any_number_that_it_is(scale, declared):
    layout = [{"name": "t", "type": "u32", "scale": scale}]
    made = program(schema={"t": declared}, decoders={"in": {"struct": {"order": "big", "layout": layout}}})
    assert not run(made, [Event("k", b"\0\0\0\x07")]).letters()


def test_other_options_are_another_pipeline():
    """A state must not survive what gives the same payload another meaning."""
    one, same, other = (
        program(schema={"a": "float"}, decoders={"in": {"csv": {"columns": columns}}}).signature
        for columns in (["a", "b"], ["a", "b"], ["b", "a"])
    )
    assert one == same != other
