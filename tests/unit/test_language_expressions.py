"""Expressions: what they come to, what is refused when a configuration is loaded, and where the refusal points."""

import pytest
from shaping import NOON, Event, mistakes, program, run, value_of

from pipelines.language.parse import Wrong, parse, parse_path, write_path

SCHEMA = {"v": "float", "u": "str", "o": "float?", "s": "str?", "n": "int", "b": "bool", "ts": "time", "t2": "time?"}
FIELDS = ", ".join(SCHEMA)
PAYLOAD = {"v": 21.5, "u": "kWh", "n": 7, "b": True, "ts": 1763899190}


def refused(expression):
    """(offset, message) of each mistake in an expression."""
    return [(m.offset, str(m)) for m in mistakes([{"emit": {"x": expression}}], schema=SCHEMA)]


HOSTILE = [
    "'a'*10**9", "u * 1000000000", "9**9**9", "v.__class__", "().__class__.__bases__", "[x for x in range(9)]",
    "__import__('os')", "lambda: 1", "f'{v}'", "v := 3", "n << 99", "1e999", "~n", "v(1)", "exec('1')", "v[0]",
    "await v", "print", "yield v", "v; v", "v #", "v\\\n", "@v", "v if v", "-" * 900 + "v", "not " * 200 + "b",
    "(" * 150 + "v" + ")" * 150, "+".join(["v"] * 90), "min(" * 70 + "v" + ")" * 70, "v +" * 320 + "v",
    "open('/etc/passwd')", "getattr(v, 'x')", "{v}", "{'a': v}", "*v", "**v", "v, v", "v @ v", "...", "b'x'", "r'x'",
    "u'x'", "0x10", "0b1", "1_000", "1j", "None", "v is v", "v in (1, 2)", "99999999999999999999", "'" + "x" * 300 + "'",
    "u.format(v)", "'{0.__class__}'.format(v)", "u % v", "str(v, v)", "round(n, -1000000000)", "round(n, n)",
    "default(default(o, o), 0)", "glob(u, u)", "topic_part(n)", "has(v + 1)", "'\\x41'", "`id`", "$v", "v;import os",
    "progress", "out", "payload", "emit(v)", "f0", "c1", "Reject('x')", "_part('a', 0)", "key.split('/')", "x" * 1001,
]  # fmt: skip


@pytest.mark.parametrize("expression", HOSTILE, ids=lambda text: text[:30])
def test_what_could_do_more_than_calculate_is_refused_at_load(expression):
    assert refused(expression)


@pytest.mark.parametrize(
    ("expression", "offset", "message"),
    [
        ("v > 'x'", 0, "`>` cannot compare float with str; to read a number from text, write float(…)"),
        ("b and v", 6, "`and` needs true or false, and `v` is float; to compare it, write for example v != 0"),
        ("b and u", 6, "`and` needs true or false, and `u` is str; to compare it, write for example u != ''"),
        ("1 + o > 3", 4, "`o` may be missing, and `+` needs it: write default(o, …), or ask has(o) first"),
        ("u * 3", 0, "`*` cannot take str and int; to read a number from text, write float(u)"),
        ("u + v", 0, "`+` cannot take str and float; to join text, write str(v)"),
        ("b < b", 0, "`<` cannot order true and false"),
        ("b + 1", 0, "`+` cannot take bool and int"),
        ("ts > 5", 0, "`>` cannot compare time with int; the difference of two times is a number of seconds: arrival - ts > 60"),
        ("v && b", 2, "write `and` instead of `&&`"),
        ("v || b", 2, "write `or` instead of `||`"),
        ("v = 3", 2, "to compare, write `==`"),
        ("!b", 0, "write `not` instead of `!`"),
        ("v == null", 5, "a missing value is asked for with has(x) and replaced with default(x, …); there is no null to write"),
        ("b ? v : 1", 2, "write `a if condition else b` instead of `condition ? a : b`"),
        ("1 + volt", 4, f"no field `volt` in the schema, which declares {FIELDS}; declare it in `schema:`"),
        ("vv + 1", 0, f"no field `vv` in the schema, which declares {FIELDS}; did you mean `v`?"),
        ("v > 3 AND b", 6, "write `and`, in lower case"),
        ("b OR v > 3", 2, "write `or`, in lower case"),
        ("NOT b", 0, "write `not`, in lower case"),
        ("NOT(b)", 0, "write `not`, in lower case"),
        ("b == TRUE", 5, "write `true`, in lower case"),
        ("v > 50%", 6, "`%` is the rest of a division; for 50 percent write 50, alone"),
        ("v > 50 % and b", 7, "`%` is the rest of a division; for 50 percent write 50, alone"),
        ("u == “C”", 5, "a typographic quote; write straight ones: 'text'"),
        ("avg(v)", 0, "avg() summarises records; it belongs into the `agg` of a `window`, as mean(…)"),
        ("1 + sqr(v)", 4, "no function `sqr`; did you mean `sqrt`?"),
        ("mean(v)", 0, "mean() summarises records; it belongs into the `agg` of a `window`"),
        ("abs(v, v)", 0, "write abs(x)"),
        ("sqrt(u)", 5, "sqrt() needs number, and `u` is str"),
        ("v if b else u", 0, "this is either float or str; both must be of one type"),
        ("(v", 2, "the parenthesis at character 1 is never closed"),
        ("v + 'abc", 4, "this quote is never closed"),
        ("v if b", 2, "`if` needs an `else`: write `a if condition else b`"),
        ("one_of(n, 'a')", 10, "one_of() cannot compare int with str"),
        ("ü + v", 0, f"no field `ü` in the schema, which declares {FIELDS}; declare it in `schema:`"),
        ("'ü' + v", 0, "`+` cannot take str and float; to join text, write str(v)"),
        ("has(o) or o > 3", 10, "`o` may be missing, and `>` needs it: write default(o, …), or ask has(o) first"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_at_its_character_with_what_to_write_instead(expression, offset, message):
    assert refused(expression) == [(offset, message)]


def test_every_mistake_of_an_expression_is_told_at_once():
    found = refused("volt + 1 > 'x' and u and o > 3")
    assert [offset for offset, _ in found] == [0, 19, 25]


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(v - 32) * 5 / 9 if u == 'F' else v", 21.5),
        ("n / 2", 3.5), ("n // 2", 3), ("n % 4", 3), ("-n", -7), ("- n * 2 + 1", -13), ("7 // 2 * 2.0", 6.0),
        ("not b or n > 3", True), ("0 < n <= 7", True), ("b == true and n != 8", True), ("True", True),
        ("abs(-3)", 3), ("round(v)", 22), ("round(21.256, 2)", 21.26), ("min(n, v, 3)", 3.0), ("max(1, n)", 7),
        ("sqrt(16)", 4.0), ("log(1)", 0.0), ("floor(v)", 21), ("ceil(v)", 22), ("pow(2, 10)", 1024.0),
        ("clamp(v, 0, 10)", 10.0), ("len(u)", 3), ("lower(u)", "kwh"), ("upper(u)", "KWH"),
        ("startswith(u, 'kW')", True), ("endswith(u, 'x')", False), ("contains(u, 'W')", True),
        ("glob(u, 'k?h')", True), ("glob(u, '*x')", False), ("one_of(u, 'Wh', 'kWh')", True), ("one_of(n, 1, 7.0)", True),
        ("float('21.5') + 1", 22.5), ("int('-7')", -7), ("int(21.9)", 21), ("str(n) + u", "7kWh"), ("str(b)", "true"),
        ("str(v)", "21.5"), ("str(ts)", "2025-11-23T11:59:50Z"), ("topic_part(1)", "a"), ("topic_part(-1)", "temp"),
        ("key", "site/a/temp"), ("retained", False), ("arrival - ts", 10.0), ("ts + 0.5", "2025-11-23T11:59:50.500Z"),
        ("ts - 10 < ts", True), ("has(o)", False), ("default(o, 5)", 5.0), ("default(s, 'none')", "none"), ("o", None),
        ("o if has(o) else 0", 0.0), ("has(o) and o > 3", False), ("not has(o) or o > 3", True),
        ("1 if not has(o) else o", 1.0), ("payload.v", 21.5), ("1.5e3", 1500.0), (".5", 0.5),
        ("'it\\'s' + \"\\\\\"", "it's\\"), ("b", True), ("arrival", "2025-11-23T12:00:00Z"),
    ],
)  # fmt: skip
def test_what_an_expression_comes_to(expression, result):
    got = value_of(expression, SCHEMA, PAYLOAD)
    assert got == result
    assert type(got) is type(result)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("v / (n - 7)", "division by zero"),
        ("n % 0", "division by zero"),
        ("sqrt(-v)", "outside what the function is defined for, as sqrt(-1) is"),
        ("pow(9, pow(9, 9))", "the result is too large"),
        ("v * 1e308", "the result is not a finite number"),
        ("9223372036854775807 + n", "the result does not fit into a 64-bit int"),
        ("int('9999999999999999999')", "the result does not fit into a 64-bit int"),
        ("int(float('1e300'))", "the result does not fit into a 64-bit int"),
        ("int('12x')", "'12x' is no whole number"),
        ("float('nan')", "'nan' is no number"),
        ("float('1_0')", "'1_0' is no number"),
        ("float(str(n) + u)", "'7kWh' is no number"),
        ("topic_part(9)", "the key 'site/a/temp' has no part 9"),
        ("ts - 1e10", "10000000000.0 s is more than a time can be moved by"),
        ("ts - 9e9", "the time is before 1970 or after 2262"),
    ],
)
def test_what_fails_at_run_time_says_why_in_plain_words(expression, reason):
    assert value_of(expression, SCHEMA, PAYLOAD) == reason


def test_text_grows_no_further_than_its_bound():
    doubling = [{"set": {"w": "u"}}, *({"set": {"w": "w + w"}} for _ in range(20))]
    out = run(program(doubling, schema={"u": "str"}), [Event("k", b'{"u": "0123456789abcdef"}')])
    assert out.letters() == [("steps[9].set.w", "the result is a text of more than 4096 characters")]


def test_what_a_filter_has_proven_holds_for_the_steps_after_it():
    made = program([{"filter": "b and (has(o) and has(s))"}, {"emit": {"x": "o * len(s)"}}], schema=SCHEMA)
    full = b'{"v":1,"u":"","n":1,"b":true,"ts":1,"o":2,"s":"abc"}'
    assert run(made, [Event("k", full), Event("k", full.replace(b'"o":2,', b""))]).rows() == [{"x": 6.0}]


def test_a_field_that_is_set_anew_has_to_be_proven_anew():
    found = mistakes([{"filter": "has(o)"}, {"set": {"o": "s"}}, {"emit": {"x": "lower(o)"}}], schema=SCHEMA)
    assert [(m.path, m.offset) for m in found] == [(("steps", 2, "emit", "x"), 6)]


def test_a_set_step_sees_what_it_named_before_and_other_steps_see_the_last_meaning():
    made = program([{"set": {"a": "v + 1", "v": "a * 2"}}, {"emit": {"a": "a", "v": "v"}}], schema={"v": "float"})
    assert run(made, [Event("k", b'{"v": 1}')]).rows() == [{"a": 2.0, "v": 4.0}]


def test_what_is_always_written_alike_is_read_back_alike():
    for path in [("a", "b"), ("switch:0", "apower"), ("SENSOR", "DS18B20-1", "T"), ("if",), ("it's", "\\")]:
        assert parse_path(write_path(path)) == path


@pytest.mark.parametrize(
    "text", ["'" * 3, "\x00", "v" * 1000, "(" * 1000, "-" * 1000, "not " * 250, "a." * 400, "1" * 999]
)
def test_no_text_brings_the_parser_down(text):
    try:
        parse(text)
    except Wrong as wrong:
        assert 0 <= wrong.at <= len(text)


def test_the_arrival_is_the_records_own_time():
    made = program([{"emit": {"at": "arrival", "old": "retained"}}])
    out = run(made, [Event("k", b"whatever", NOON), Event("k", b"", NOON + 1, flags=1)])
    assert out.rows() == [
        {"at": "2025-11-23T12:00:00Z", "old": False},
        {"at": "2025-11-23T12:00:00.000000001Z", "old": True},
    ]


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("replace(u, 'k', 'M')", "MWh"), ("replace(u, 'x', 'y')", "kWh"), ("replace('a/b/c', '/', '')", "abc"),
        ("replace('~/state', '~', 'house/meter')", "house/meter/state"),
        ("replace(u, '', 'x')", "replace() cannot look for an empty text"),
        ("is_number('21.5')", True), ("is_number(' -1e3 ')", True), ("is_number('nan')", False), ("is_number('1e999')", False),
        ("is_number('')", False), ("is_number('1,5')", False), ("is_number(u)", False),
        ("when(v > 20, u)", "kWh"), ("when(v > 30, u)", None), ("when(has(o), o * 2)", None), ("when(not has(o), n)", 7),
    ],
)  # fmt: skip
def test_text_is_replaced_numbers_are_told_apart_and_what_depends_may_be_missing(expression, told):
    assert value_of(expression, SCHEMA, PAYLOAD) == told


def test_is_number_says_when_float_gives_a_number():
    for text in ("1", "1.", ".5", "+1", "--1", "1e5", "1e400", "9" * 64, "9" * 65, "inf", "0x10", " 7 ", "١"):
        promise = value_of("is_number(payload.s)", {"s": "str"}, {"s": text})
        assert promise == isinstance(value_of("float(payload.s)", {"s": "str"}, {"s": text}), float), text


def test_replacing_is_bounded_before_it_is_done():
    text, long = "a" * 4000, "b" * 250
    assert (
        value_of(f"replace(s, 'a', '{long}')", {"s": "str"}, {"s": text})
        == "the result is a text of more than 4096 characters"
    )
    assert value_of("replace(s, 'a', '')", {"s": "str"}, {"s": text}) == ""


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("when(v, 1)", "when() needs true or false, and `v` is float; to compare it, write for example v != 0"),
        ("when(b)", "write when(condition, value)"),
        ("when(b, o + 1)", "`o` may be missing, and `+` needs it: write default(o, …), or ask has(o) first"),
        ("when(b, 1) + 1", "`when(b, 1)` may be missing, and `+` needs it: name it in a `set` step first, then ask has() of that name, or replace it with default()"),
        ("replace(u, 'a')", "replace() takes 3 values, not 2"),
        ("is_number(v)", "is_number() needs str, and `v` is float"),
    ],
)  # fmt: skip
def test_what_these_cannot_take_is_told(expression, message):
    assert refused(expression)[0][1] == message
