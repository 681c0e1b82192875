"""Schemas: nested and quoted paths, types, ranges, defaults, and the ways of writing a time."""

import msgspec
import pytest
from shaping import NOON, Event, S, mistakes, program, run, value_of

TASMOTA = (
    b'{"Time":"2025-11-23T13:00:00","DS18B20-1":{"Id":"01131B123456","Temperature":21.4},'
    b'"DS18B20-2":{"Id":"0113","Temperature":-127.0},"ENERGY":{"Power":[1,2],"Total":3.185},"TempUnit":"C"}'
)
SHELLY = (
    b'{"src":"shellyplus1pm-a8032ab1","dst":"site/events","method":"NotifyStatus","params":{"ts":1763899200.52,'
    b'"switch:0":{"id":0,"aenergy":{"by_minute":[0.0,1.2],"total":104.5},"apower":8.9}}}'
)


def test_a_tasmota_payload_is_read_by_quoted_paths_and_its_zoneless_time_by_the_zone():
    made = program(
        [{"filter": "'DS18B20-1'.Temperature > -50"}, {"emit": {"at": "Time", "c": "'DS18B20-1'.Temperature"}}],
        schema={"Time": "time", "'DS18B20-1'.Temperature": "float", "'DS18B20-2'.Temperature": "float"},
        time={"event": "Time", "zone": "Europe/Berlin"},
    )
    out = run(made, [Event("tele/x/SENSOR", TASMOTA)])
    assert out.emitted == [("out", NOON, "tele/x/SENSOR", b'{"at":"2025-11-23T12:00:00Z","c":21.4}')]


def test_a_shelly_payload_is_read_by_a_path_through_a_name_that_is_no_word():
    made = program(
        [{"emit": {"w": "params.'switch:0'.apower", "wh": "params.'switch:0'.aenergy.total"}}],
        schema={"params.ts": "time", "params.'switch:0'.apower": "float", "params.'switch:0'.aenergy.total": "float"},
        time={"event": "params.ts"},
    )
    out = run(made, [Event("k", SHELLY)])
    assert out.emitted == [("out", NOON + 520_000_000, "k", b'{"w":8.9,"wh":104.5}')]


def test_an_object_of_optional_fields_may_be_missing_as_a_whole():
    schema = {"SENSOR.'DS18B20-1'.Temperature": "float?", "SENSOR.'DS18B20-1'.Unit": "str = 'C'", "SENSOR.n": "int = 3"}
    emit = {"t": "default(SENSOR.'DS18B20-1'.Temperature, -1)", "u": "SENSOR.'DS18B20-1'.Unit", "n": "SENSOR.n"}
    made = program([{"emit": emit}], schema=schema)
    payloads = [
        b"{}",
        b'{"SENSOR":null}',
        b'{"SENSOR":{"n":4}}',
        b'{"SENSOR":{"DS18B20-1":{"Temperature":5}}}',
        b'{"SENSOR":{"DS18B20-1":{"Temperature":null,"Unit":"F"}}}',
        b'{"SENSOR":[]}',
    ]
    out = run(made, [Event("k", payload) for payload in payloads])
    assert out.rows() == [
        {"t": -1.0, "u": "C", "n": 3},
        {"t": -1.0, "u": "C", "n": 3},
        {"t": -1.0, "u": "C", "n": 4},
        {"t": 5.0, "u": "C", "n": 3},
        {"t": -1.0, "u": "F", "n": 3},
    ]
    assert out.letters() == [("decode", "SENSOR is array, not object or null")]


def test_a_field_that_is_called_like_something_built_in_is_reached_through_payload():
    schema = {"key": "int", "payload": "int", "'no word'": "int"}
    row = {"a": "key", "b": "payload.key", "c": "payload.payload", "d": "payload.'no word'"}
    out = run(program([{"emit": row}], schema=schema), [Event("k", b'{"key":1,"payload":2,"no word":3}')])
    assert out.rows() == [{"a": "k", "b": 1, "c": 2, "d": 3}]


def test_only_fields_that_are_used_are_looked_at():
    made = program([{"filter": "v > 1"}], schema={"v": "float", "unused": "int"})
    assert run(made, [Event("k", b'{"v": 2, "unused": "x"}')]).emitted[0][3] == b'{"v": 2, "unused": "x"}'


def test_a_pipeline_that_uses_no_field_takes_any_payload():
    made = program([{"filter": "startswith(key, 'a')"}])
    assert [e[2:] for e in run(made, [Event("a", b"\xff"), Event("b", b"")]).emitted] == [("a", b"\xff")]


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("float", 5, 5.0),
        ("float", "5", "v is str, not float"),
        ("float", True, "v is bool, not float"),
        ("float", None, "missing v"),
        ("float?", None, None),
        ("float [0..200]", 200, 200.0),
        ("float [0..200]", 200.5, "v is out of range: it must be <= 200.0"),
        ("float? [0..]", -1, "v is out of range: it must be >= 0.0"),
        ("float [..5] = 5", None, 5.0),
        ("int", 5.5, "v is float, not int"),
        ("int", 2**63 - 1, 2**63 - 1),
        ("int [-5..5]", -6, "v is out of range: it must be >= -5"),
        ("int = -3", None, -3),
        ("str", "x" * 4096, "x" * 4096),
        ("str", 5, "v is int, not str"),
        ("str = 'it\\'s'", None, "it's"),
        ("bool", 0, "v is int, not bool"),
        ("bool = true", None, True),
    ],
)
def test_decoding_is_checking(kind, value, told):
    got = value_of("v", {"v": kind}, {} if value is None else {"v": value})
    assert got == told and type(got) is type(told)


def test_null_is_the_same_as_missing():
    assert value_of("v", {"v": "float?"}, {"v": None}) is None
    assert value_of("v", {"v": "float = 1"}, {"v": None}) == 1.0
    assert value_of("v", {"v": "float"}, {"v": None}) == "missing v"


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("time", 1763899200, "2025-11-23T12:00:00Z"),
        ("time", 1763899200.25, "2025-11-23T12:00:00.250Z"),
        ("time", 1763899200.123456, "2025-11-23T12:00:00.123456Z"),
        ("time", "2025-11-23T12:00:00Z", "2025-11-23T12:00:00Z"),
        ("time", "2025-11-23T13:00:00.5+01:00", "2025-11-23T12:00:00.500Z"),
        ("time", "1763899200.25", "2025-11-23T12:00:00.250Z"),
        ("time", "2025-11-23T12:00:00", "'2025-11-23T12:00:00' names no time zone: set `zone:` under `time:`"),
        ("time", "noon", "'noon' is no time: write ISO-8601, or seconds since 1970"),
        ("time", 1763899200123, "v is no time in the unit of its schema: perhaps it is time[ms], time[us] or time[ns]"),
        ("time", -1, "v is out of range: it must be >= 0"),
        ("time", "1969-12-31T23:59:59Z", "'1969-12-31T23:59:59Z' is before 1970 or after 2262"),
        ("time", True, "v is bool, not int or float or str"),
        ("time[s]", 1763899200, "2025-11-23T12:00:00Z"),
        ("time[s]", "2025-11-23T12:00:00Z", "v is str, not int or float"),
        ("time[ms]", 1763899200123, "2025-11-23T12:00:00.123Z"),
        ("time[ms]", 1763899200123.5, "2025-11-23T12:00:00.123500Z"),
        ("time[us]", 1763899200123456, "2025-11-23T12:00:00.123456Z"),
        ("time[ns]", 1763899200123456789, "2025-11-23T12:00:00.123456789Z"),
        ("time[ns]", 1.5, "v is float, not int"),
        ("time?", None, None),
        ("time[ns]?", None, None),
        ("time[ns]?", 1763899200123456789, "2025-11-23T12:00:00.123456789Z"),
    ],
)
def test_the_ways_of_writing_a_time(kind, value, told):
    assert value_of("v", {"v": kind}, {} if value is None else {"v": value}) == told


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("Europe/Berlin", "2025-07-01T10:00:00Z"),
        ("+05:30", "2025-07-01T06:30:00Z"),
        ("UTC", "2025-07-01T12:00:00Z"),
    ],
)
def test_text_without_a_zone_is_read_in_the_configured_one(zone, told):
    assert value_of("v", {"v": "time"}, {"v": "2025-07-01T12:00:00"}, time={"zone": zone}) == told


@pytest.mark.parametrize(
    ("name", "text", "offset", "message"),
    [
        ("v", "flot", 0, "there is no type `flot`; there are int, float, str, bool, time; did you mean `float`?"),
        ("v", "string", 0, "there is no type `string`; there are int, float, str, bool, time; did you mean `str`?"),
        ("v", "float[ms]", 6, "a unit belongs to a time: time[s], time[ms], time[us] or time[ns]"),
        ("v", "float [9..1]", 7, "this range is empty"),
        ("v", "float [a..1]", 7, "write a range as [0..200], [0..] or [..200]"),
        ("v", "str [0..1]", 5, "a range belongs to a number, and this is str"),
        ("v", "str = 5", 6, "the default must be text in quotes, written out"),
        ("v", "int = 1.5", 6, "the default must be a whole number, written out"),
        ("v", "float? = 1", 5, "a field with a default is never missing: leave out the `?`"),
        ("v", "", 0, "write a type, as in: float, int?, float [0..200], str = 'C', time[ms]"),
        ("DS18B20-1", "float", 0, "put a name that is more than letters, digits and _ in quotes, as in 'switch:0'"),
        ("1wire", "float", 0, "a field's name starts with a letter; put any other name in quotes, as in 'switch:0'"),
    ],
)
def test_a_wrong_line_of_a_schema_says_what_to_write(name, text, offset, message):
    found = mistakes(schema={name: text}, steps=[{"filter": "true"}])
    assert [(m.path, m.offset, str(m)) for m in found] == [(("schema", name), offset, message)]


def test_a_field_cannot_lie_inside_a_number():
    assert [str(m) for m in mistakes(schema={"a": "float", "a.b": "int"})] == [
        "`a` is declared as float, so nothing can lie inside it"
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not valid JSON: Input data was truncated"),
        (b"garbage", "not valid JSON: invalid character (byte 0)"),
        (b'{"v":1} x', "not valid JSON: trailing characters (byte 9)"),
        (b"[1]", "the payload is no JSON object: it begins with a list"),
        (b"21.5 22.5", "the payload is no JSON object: it begins with a number"),
        (b'{"v":1e999}', "v is too large a number"),
        (b'{"v":NaN}', "not valid JSON: invalid character (byte 5)"),
        (b'{"v":1,"s":"\xff"}', "not valid UTF-8 text"),
        (b'{"deep":' + b"[" * 50_000 + b'],"v":1}', "nested too deeply"),
        (b'{"v":1,"s":"' + b"x" * 65536 + b'"}', "the payload has more than 65536 bytes"),
        (b'{"v":1,"s":"' + b"x" * 4097 + b'"}', "s is a text of more than 4096 characters"),
    ],
)
def test_a_payload_that_cannot_be_decoded_is_a_dead_letter_with_its_bytes_and_the_next_one_is_processed(
    payload, reason
):
    made = program([{"emit": {"v": "v", "s": "s"}}], schema={"v": "float", "s": "str = ''"})
    out = run(made, [Event("bad", payload), Event("good", b'{"v":2}')])
    letter = out.dead()[0]
    assert (letter.by, letter.step, letter.reason, letter.key) == ("p", "decode", reason, "bad")
    assert (letter.stream, letter.offset, letter.time) == ("in", 0, NOON)
    assert out.emitted[0][:3] == ("_dead", NOON, "bad")
    assert out.rows() == [{"v": 2.0, "s": ""}]


def decoded(decoder, payload, schema, row=None):
    row = row or {name: name for name in schema}
    out = run(program([{"emit": row}], schema=schema, decoders={"in": decoder}), [Event("k", payload)])
    return out.rows()[0] if out.rows() else out.letters()[0][1]


@pytest.mark.parametrize(
    ("payload", "kind", "told"),
    [
        (b"21.5", "float", 21.5), (b" +021.50\r\n", "float", 21.5), (b"7", "int", 7), (b"-1e3", "float", -1000.0),
        (b"007", "int", 7), (b"9007199254740993", "int", 9007199254740993), (b"7.5", "int", "v is float, not int"),
        (b"nan", "float", "no number"), (b"inf", "float", "no number"), (b"1_000", "float", "no number"),
        (b"", "float", "no number"), (b"on", "float", "no number"), (b"\xff", "float", "no number"),
        (b"1" * 65, "int", "no number"), (b"1e999", "float", "v is out of range: it must be <= 1.7976931348623157e+308"),
        (b"1763899200", "time", "2025-11-23T12:00:00Z"),
    ],
)  # fmt: skip
def test_a_bare_number_is_the_field_v(payload, kind, told):
    got = decoded("number", payload, {"v": kind})
    assert got == (told if isinstance(told, str) and kind != "time" else {"v": told})


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"t=21.5 unit=C n=3", {"t": 21.5, "unit": "C", "n": 3}),
        (b"t=+021.5,unit=C;n=003", {"t": 21.5, "unit": "C", "n": 3}),
        (b" n = 3 ; t = 1 ; unit = '' \r\n", {"t": 1.0, "unit": "", "n": 3}),
        (b't=1 n=2 unit="kW, \\"net\\""', {"t": 1.0, "unit": 'kW, "net"', "n": 2}),
        (b"t=1 n=2 unit=5", {"t": 1.0, "unit": "5", "n": 2}),
        (b"t=1 n=2 ok=true unit=\xc2\xb0C", {"t": 1.0, "unit": "\xb0C", "n": 2, "ok": True}),
        (b"t=1 n=2 unit=C ok=0", {"t": 1.0, "unit": "C", "n": 2, "ok": False}),
        (b"t=1 t=2 n=2 unit=C", {"t": 2.0, "unit": "C", "n": 2}),
        (b"t=1 n=2", "missing unit"),
        (b"t=nan n=2 unit=C", "t is str, not float"),
        (b"t=x n=2 unit=C", "t is str, not float"),
        (b"hello world", "no key=value at 'hello world'"),
        (b"t=1 n", "no key=value at 'n'"),
        (b"t='1 n=2", 'no key=value at "t=\'1 n=2"'),
        (b"t=1 n=2 unit=\xff", "not valid UTF-8 text"),
    ],
)
def test_a_line_of_key_and_value_is_read_by_the_types_of_the_schema(payload, told):
    assert decoded("keyvalue", payload, {"t": "float", "unit": "str", "n": "int", "ok": "bool?"}) == told


def test_every_input_is_read_by_its_own_decoder():
    made = program(
        [{"emit": {"v": "v"}}],
        schema={"v": "float"},
        decoders={"b": "number", "c": "keyvalue"},
        **{"from": ["a", "b", "c"]},
    )
    events = [Event("k", b'{"v":1}', NOON, "a"), Event("k", b"2", NOON, "b"), Event("k", b"v=3", NOON, "c")]
    assert run(made, events).rows() == [{"v": 1.0}, {"v": 2.0}, {"v": 3.0}]


def test_a_decoder_that_cannot_carry_a_field_is_refused_at_load():
    found = mistakes(schema={"v": "float", "unit": "str"}, decoders={"in": "number"})
    assert [(m.path, str(m)) for m in found] == [
        (("schema", "unit"), "stream `in` is decoded as number, which has only the field v")
    ]
    (unknown,) = mistakes(decoders={"in": "jsn"})
    assert str(unknown).startswith("stream `in`: no decoder is called 'jsn'; there are ")


def test_without_emit_and_set_the_payload_goes_on_byte_for_byte():
    payload = b'{ "v" : 1.50, "other": [1, 2] }'
    out = run(program([{"filter": "v > 1"}], schema={"v": "float"}), [Event("k", payload)])
    assert out.emitted == [("out", NOON, "k", payload)]


def test_with_set_and_without_emit_the_declared_fields_and_the_new_ones_go_on():
    made = program([{"set": {"c": "v / 2"}}], schema={"ts": "time", "a.b": "int?", "v": "float"}, time={"event": "ts"})
    out = run(made, [Event("k", b'{"ts":1763899200,"v":1,"x":1}'), Event("k", b'{"ts":1763899201,"v":1,"a":{"b":2}}')])
    assert [e[3] for e in out.emitted] == [
        b'{"ts":"2025-11-23T12:00:00Z","v":1.0,"c":0.5}',
        b'{"ts":"2025-11-23T12:00:01Z","a.b":2,"v":1.0,"c":0.5}',
    ]
    assert [e[1] for e in out.emitted] == [NOON, NOON + S]


def test_what_is_emitted_is_plain_json():
    made = program([{"emit": {"a b": "u", "n": "1", "yes": "true"}}], schema={"u": "str"})
    out = run(made, [Event("k", msgspec.json.encode({"u": 'quote " and \n'}))])
    assert out.emitted[0][3] == b'{"a b":"quote \\" and \\n","n":1,"yes":true}'


@pytest.mark.parametrize(
    ("payload", "told"),
    [(b" ON\r\n", {"v": "ON"}), (b"", {"v": ""}), (b"21.5", {"v": "21.5"}), (b"\xff", "not valid UTF-8 text")],
)
def test_the_whole_payload_as_text_is_the_field_v(payload, told):
    assert decoded("text", payload, {"v": "str"}) == told
