"""YAML with places: YAML 1.2 scalars, refusals in plain words, and the exact character a text's offset stands for."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.marks import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse

PRINTABLE = st.characters(
    min_codepoint=32, max_codepoint=0x2FFF, exclude_characters="\x7f\u2028\u2029", exclude_categories=["Cc", "Cs"]
)


def tree(text, **environ):
    root, problems = parse("f", text.encode(), environ)
    assert not problems, problems
    return root


def problems(text, **environ):
    return [str(problem) for problem in parse("f", text.encode(), environ)[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("on", "off", "yes", "no", "NO", "y", "Off", "1:30", "2026-05-01", "0b1", "1_000", "=")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, None) for word in ("null", "~", "", "Null")),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("+1.5e3", 1500.0), (".5", 0.5), ("1e3", 1000.0),
        ("'12'", "12"), ('"true"', "true"), ("9" * 500, "9" * 500),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text, value):
    found = tree(f"a: {text}").value["a"].value
    assert (found, type(found)) == (value, type(value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(PRINTABLE, max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(PRINTABLE, max_size=10).filter(lambda k: k != "<<"), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_json_reads_as_itself(value):
    text = json.dumps(value, ensure_ascii=False).replace("${", "$ {")
    assert tree(text).plain() == json.loads(text)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_tree_or_problems(data):
    root, found = parse("f", data, {})
    assert root is not None or found


@given(st.text(st.sampled_from("abä \n'\"\\:#-"), max_size=60), st.sampled_from(["'", '"', "|", ">"]))
def test_an_offset_leads_to_the_character_it_counts(text, style):
    source = yaml.dump({"k": {"key": text}}, default_style=style, allow_unicode=True, width=20)
    node = tree(source).value["k"].value["key"]
    assert node.value == text
    lines = source.split("\n")
    for offset, character in enumerate(text):
        place = node.at(offset)
        shown = lines[place.line - 1][place.column - 1 :][:1]
        escaped = node.style == '"' and shown == "\\"
        assert shown == character or escaped or character in " \n", (source, offset, character, shown)


@pytest.mark.parametrize(
    ("source", "word", "line", "column"),
    [
        ("a: c > wrong", "wrong", 1, 8),
        ("a: c >\n   wrong", "wrong", 2, 4),
        ("a: 'it''s wrong'", "wrong", 1, 11),
        ('a: "\\u00e9\\t wrong"', "wrong", 1, 14),
        ('a: "one \\\n    wrong"', "wrong", 2, 5),
        ("a: |\n    one\n      two wrong\n", "wrong", 3, 11),
        ("a: >-\n  one\n\n  two\n\n\n  wrong\n", "wrong", 7, 3),
        ("a: >\n  one\n   more\n  wrong\n", "wrong", 4, 3),
        ("a: |2\n     lead\n   wrong\n", "wrong", 3, 4),
        ("a: ${X} ${Y:-no} wrong", "wrong", 1, 18),
        ("a: before ${X} after", "much longer", 1, 11),
        ("{a: 'wrong'}", "wrong", 1, 6),
    ],
)  # fmt: skip
def test_a_mistake_inside_a_text_is_shown_at_its_own_line_and_column(source, word, line, column):
    node = tree(source, X="much longer than its name").value["a"]
    place = node.at(node.value.index(word))
    assert (place.line, place.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x 1", "f:1:4: a: anchors (&x) are not supported"),
        ("a: *x", "f:1:4: a: aliases (*x) are not supported"),
        ("a: {b: !!str 1}", "f:1:8: a.b: tags (!!str) are not supported"),
        ("a: [!include x]", "f:1:5: a[0]: tags (!include) are not supported"),
        ("a:\n  <<: {b: 1}", "f:2:3: a.<<: merge keys are not supported"),
        ("a: 1\nb: {c: 1}\na: 2", "f:3:1: a: given twice, first at line 1, column 1"),
        ("x: {b: {c: 1, c: 2}}", "f:1:15: x.b.c: given twice, first at line 1, column 9"),
        ("a: 1\n---\nb: 1", "f:2:1: yaml: a second document begins"),
        ("? [a]\n: 1", "f:1:3: yaml: a map or list as a key"),
        ("a: \x00", "f:1:4: yaml: the character U+0000 cannot stand in YAML"),
        ("a: ${X}", "f:1:4: a: the environment has no X; set it, or write ${X:-default}"),
        ("a: 'b ${X}'", "f:1:7: a: the environment has no X"),
        ("a: ${9}", "f:1:4: a: '${' begins a name from the environment"),
        ("a: {b: ${X}}", 'f:1:9: yaml: inside { } or [ ], a ${NAME} needs quotes: "${NAME}"'),
        ("a:\n\tb: 1", "f:2:1: yaml: a tab; indent with spaces"),
        ("a: b: c", "f:1:5: yaml: a ':' where none can stand"),
        ("a: 'b", "f:1:4: yaml: the quote that begins at line 1 is never closed"),
        ("a: [1,\nb: 2", "f:1:4: yaml: a comma or the closing bracket of the '[' at line 1 is missing"),
        ("a: @b", "f:1:4: yaml: text cannot begin with '@'; put quotes around it"),
        ("%b: 1", "f:1:1: yaml: text cannot begin with '%'; put quotes around it"),
        ("[" * 100, f"f:1:{MAX_DEPTH + 1}: yaml: nested more than {MAX_DEPTH} deep"),
        ("- 1\n" * (MAX_NODES + 1), f"f:{MAX_NODES}:3: yaml: more than {MAX_NODES} values in one file"),
        ("#" * (MAX_BYTES + 1), "f:1:1: file: is larger than 1 MiB"),
    ],
)  # fmt: skip
def test_what_is_refused_is_explained_at_its_place(text, problem):
    assert any(found.startswith(problem) for found in problems(text)), problems(text)


def test_text_that_is_no_utf_8_is_shown_where_it_stops_being():
    _, (problem,) = parse("f", b"a: 1\nb: \xc3\xa9\xff", {})
    assert (problem.line, problem.column) == (2, 5)


def test_what_comes_from_the_environment_cannot_change_the_structure():
    root = tree("a: ${X}\nb: '${X}'\nc: $${X} ${NONE:-} ${NONE:-d e}", X="1, x: [&a {")
    assert root.plain() == {"a": "1, x: [&a {", "b": "1, x: [&a {", "c": "${X}  d e"}


def test_keys_are_always_text():
    assert tree("on: 1\n1: 2\nnull: 3\ntrue: 4").plain() == {"on": 1, "1": 2, "null": 3, "true": 4}
