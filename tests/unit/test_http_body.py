"""What was posted, taken apart: values are the bytes that were sent, and what is wrong is told with its place."""

import gzip
import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers._http_body import KeyField, TooMany, type_of, values_of
from gateway.errors import Malformed
from gateway.formats import Bloated, unpack

JSON, LINES = "application/json", "application/x-ndjson"


@pytest.mark.parametrize(
    "body,content_type,values",
    [
        (b' {"a" : 1.50}\r\n', JSON, [b'{"a" : 1.50}']),
        (b'[ {"a":1 } , 2.50,"x, y", [1, 2] ,null]\n', JSON, [b'{"a":1 }', b"2.50", b'"x, y"', b"[1, 2]", b"null"]),
        (b"[]", JSON, []),
        ("[\"é\",{\"ü\":1}]".encode(), JSON, ["\"é\"".encode(), "{\"ü\":1}".encode()]),
        (b'{"v":1}\n\n {"v":2.0}\r\n"x"', LINES, [b'{"v":1}', b'{"v":2.0}', b'"x"']),
        (b"\n \n", LINES, []),
        (b"[1,2]\n[3]", "application/jsonl", [b"[1,2]", b"[3]"]),
        (b" [1,2]\n", "text/plain", [b" [1,2]\n"]),
        (b"\x00\xff\n", "", [b"\x00\xff\n"]),
        (b'{"v":1}', "application/x-www-form-urlencoded", [b'{"v":1}']),
    ],
)  # fmt: skip
def test_every_value_is_the_bytes_that_were_sent(body, content_type, values):
    assert values_of(body, content_type, 10) == values


@pytest.mark.parametrize(
    "body,content_type,said",
    [
        (b"", JSON, "the body: JSON ends too early"),
        (b"", "text/plain", "there is nothing in the body"),
        (b'{"v":}', JSON, "the body: JSON is malformed: invalid character (byte 5)"),
        (b'{"v":1} x', JSON, "the body: JSON is malformed: trailing characters (byte 9)"),
        (b'[{"v":1},{"v":nan}]', JSON, "the body: JSON is malformed: invalid character (byte 15)"),
        (b"[1,2", JSON, "the body: JSON ends too early"),
        (b"[" * 100_000, JSON, "the body: JSON is nested too deeply"),
        (b'["\xff"]', JSON, "the body is no UTF-8 at byte 2"),
        (b'{"v":1}\n\n{"v":', LINES, "line 3: JSON ends too early"),
        (b'{"v":1} {"v":2}', LINES, "line 1: JSON is malformed: trailing characters (byte 9)"),
        (b'{"v":\n1}', LINES, "line 1: JSON ends too early"),
        (b'"\xff"', LINES, "the body is no UTF-8 at byte 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(body, content_type, said):
    with pytest.raises(Malformed) as found:
        values_of(body, content_type, 10)
    assert str(found.value) == said


@pytest.mark.parametrize("body,content_type", [(b"[1,2,3,4]", JSON), (b"1\n2\n3\n4", LINES), (b"\n" * 20, LINES)])
def test_more_records_than_allowed_are_refused_whole(body, content_type):
    with pytest.raises(TooMany):
        values_of(body, content_type, 3)


def test_an_array_of_very_many_is_refused_without_taking_it_apart():
    body = b"[" + b"1," * 2_000_000 + b"1]"
    started = time.process_time()
    with pytest.raises(TooMany):
        values_of(body, JSON, 1000)
    counted = time.process_time() - started
    started = time.process_time()
    msgspec.json.decode(body, type=list[msgspec.Raw])
    assert counted < time.process_time() - started


def test_commas_inside_of_records_do_not_count():
    wide = json.dumps([{"text": "a,b,c,[", "list": list(range(50)), "n": n} for n in range(9)]).encode()
    assert len(values_of(wide, JSON, 10)) == 9


@given(
    st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8), max_size=20)
)
def test_any_array_and_its_lines_have_the_same_values(values):
    written = [json.dumps(value).encode() for value in values]
    try:
        expected = values_of(b"\n".join(written), LINES, 20)
    except Malformed:  # half of a surrogate pair is no text
        expected = None
    if expected is not None:
        assert expected == written
        assert values_of(b"[" + b" ,\n".join(written) + b"]", JSON, 20) == written


@given(st.binary(max_size=300), st.sampled_from([JSON, LINES, ""]))
def test_whatever_comes_it_is_taken_or_malformed(body, content_type):
    try:
        values_of(body, content_type, 100)
    except Malformed:
        pass


@pytest.mark.parametrize(
    "path,value,key",
    [
        ("device", b'{"device":"a/b","v":1}', "a/b"), ("device", b'{"device":7}', "7"), ("device", b'{"v":1}', "other"),
        ("device", b'{"device":null}', "other"), ("device", b'{"device":""}', "other"),
        ("info.dev-id", b'{"info":{"dev-id":"x"}}', "x"), ("info.dev-id", b'{"info":null}', "other"),
        ("info.dev-id", b'{"info":{}}', "other"), ("class", b'{"class":"x"}', "x"),
    ],
)  # fmt: skip
def test_the_key_is_a_field_of_the_record_or_the_default(path, value, key):
    assert KeyField(path).keys([value, b"{}"], "other") == [key, "other"]


@pytest.mark.parametrize("value", [b"21.5", b'"on"', b"null", b"[1]", b'{"device":"a"}', b'{"device":null}'])
def test_a_value_that_has_no_such_field_has_the_default_key(value):
    assert KeyField("device.id").keys([value, b'{"device":{"id":"a"}}'], "other") == ["other", "a"]


@pytest.mark.parametrize(
    ("header", "body", "kind"),
    [
        ("application/x-www-form-urlencoded", b' {"v":1}', JSON),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", b"[1]", JSON),
        ("application/x-www-form-urlencoded", b"v=1", "application/x-www-form-urlencoded"),
        ("text/plain", b"[1]", "text/plain"),
        ("", b"{}", ""),
        ("Application/JSON; charset=utf-8", b"x", JSON),
    ],
)
def test_what_curl_calls_a_form_is_json_where_it_begins_as_no_form_does(header, body, kind):
    assert type_of(header, body) == kind


@pytest.mark.parametrize("value", [b'{"device":1.5}', b'{"device":{}}', b'{"device":"%b"}' % (b"x" * 513), b'{"device":"\\u0000"}'])  # fmt: skip
def test_what_can_be_no_key_is_malformed(value):
    with pytest.raises(Malformed):
        KeyField("device").keys([value], "other")


def test_what_unpacks_to_too_much_is_told_apart_from_what_does_not_unpack():
    with pytest.raises(Bloated):
        unpack(gzip.compress(bytes(100_000)), "gzip", 1000)
    with pytest.raises(Malformed) as found:
        unpack(b"no gzip", "gzip", 1000)
    assert not isinstance(found.value, Bloated)
