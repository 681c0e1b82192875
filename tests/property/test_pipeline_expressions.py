"""What generated code computes is what the same expression says by Python's own rules; and no text gets further than it may."""

import ast
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from shaping import Event, program, run

from pipelines.language.build import Code, first_stage
from pipelines.language.check import check
from pipelines.language.fields import declared
from pipelines.language.parse import Wrong, parse

SCHEMA = {
    "i": "int",
    "j": "int",
    "x": "float",
    "y": "float",
    "s": "str",
    "t": "str",
    "b": "bool",
    "c": "bool",
    "o": "float?",
}
LEAVES = ["i", "j", "x", "y", "0", "1", "2", "7", "0.5", "1e3", "(i + j)", "123456", "default(o, 5)", "len(s + t)"]
FACTS = ["b", "c", "s == t", "s < t", "contains(s, t)", "has(o)", "true"]


@st.composite
def expressions(draw):
    """Text of a number or a truth, a few levels deep, with and without the parentheses Python would not need."""

    def pick(*choices):
        return draw(st.sampled_from(choices))

    def number(depth):
        if depth == 0 or pick(True, False, False):
            return pick(*LEAVES)
        a, b, c = (number(depth - 1) for _ in range(3))
        operator = pick("+", "-", "*", "/", "//", "%")
        return pick(
            f"{a} {operator} {b}", f"{a} {operator} {b}", f"({a} {operator} {b})", f"-{a}", f"min({a}, {b})", f"max({a}, {b}, {c})",
            f"clamp({a}, {b}, {c})", f"abs({a})", f"round({a}, 2)", f"round({a})", f"floor({a})", f"sqrt({a})",
            f"({a} if {truth(depth - 1)} else {b})",
        )  # fmt: skip

    def truth(depth):
        if depth == 0:
            return pick(*FACTS)
        a, b, c = (number(depth - 1) for _ in range(3))
        p, q = truth(depth - 1), truth(depth - 1)
        first, second = pick("<", "<=", "==", "!=", ">", ">="), pick("<", "<=", "==", "!=", ">", ">=")
        return pick(
            f"{a} {first} {b}", f"{a} {first} {b} {second} {c}", f"{p} and {q}", f"{p} or {q}", f"({p} or {q})", f"not {p}",
            f"(({p}) == ({q}))",
        )  # fmt: skip

    return draw(st.sampled_from([number, truth]))(draw(st.integers(0, 3)))


PAYLOADS = st.fixed_dictionaries(
    {
        "i": st.integers(-(10**9), 10**9),
        "j": st.integers(-20, 20),
        "x": st.floats(-1e9, 1e9),
        "y": st.floats(allow_nan=False, allow_infinity=False),
        "s": st.text(max_size=5),
        "t": st.text(max_size=2),
        "b": st.booleans(),
        "c": st.booleans(),
    },
    optional={"o": st.floats(-1e3, 1e3)},
)


class Failed:
    """What should be a dead letter."""


def kind(node):
    """int or float, by the rule that an int becomes a float wherever the other choice is one."""
    match node:
        case ast.Constant():
            return type(node.value)
        case ast.Name():
            return {"int": int}.get(SCHEMA.get(node.id), float)
        case ast.UnaryOp():
            return kind(node.operand)
        case ast.BinOp():
            parts = () if isinstance(node.op, ast.Div) else (node.left, node.right)
        case ast.IfExp():
            parts = node.body, node.orelse
        case ast.Call(func=ast.Name(id="floor" | "len")) | ast.Call(func=ast.Name(id="round"), args=[_]):
            return int
        case ast.Call(func=ast.Name(id="sqrt")):
            return float
        case ast.Call(func=ast.Name(id="round")):
            return kind(node.args[0])
        case ast.Call():
            parts = node.args
    return int if parts and all(kind(part) is int for part in parts) else float


def plainly(node, names):
    """The same by walking the tree that Python itself makes of the text: no code of ours, no code made of it."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return True if node.id == "true" else names.get(node.id)
        case ast.UnaryOp(op=ast.USub()):
            return -plainly(node.operand, names)
        case ast.UnaryOp():
            return not plainly(node.operand, names)
        case ast.BoolOp():
            results = (plainly(value, names) for value in node.values)
            return all(results) if isinstance(node.op, ast.And) else any(results)
        case ast.IfExp():
            return kind(node)(plainly(node.body if plainly(node.test, names) else node.orelse, names))
        case ast.Compare():
            ask = {
                ast.Lt: "__lt__", ast.LtE: "__le__", ast.Gt: "__gt__", ast.GtE: "__ge__", ast.Eq: "__eq__", ast.NotEq: "__ne__",
            }  # fmt: skip
            left = plainly(node.left, names)
            for op, part in zip(node.ops, node.comparators, strict=True):
                right = plainly(part, names)
                if not compare(left, ask[type(op)], right):
                    return False  # what follows in a chain is not asked
                left = right
            return True
        case ast.BinOp():
            a, b = plainly(node.left, names), plainly(node.right, names)
            return {
                ast.Add: lambda: a + b, ast.Sub: lambda: a - b, ast.Mult: lambda: a * b, ast.Div: lambda: a / b,
                ast.FloorDiv: lambda: a // b, ast.Mod: lambda: a % b,
            }[type(node.op)]()  # fmt: skip
        case ast.Call(func=ast.Name(id=name)):
            if name == "has":
                return names.get(node.args[0].id) is not None
            args = [plainly(arg, names) for arg in node.args]
            if name in {"min", "max", "clamp", "default"}:
                args = [arg if arg is None else kind(node)(arg) for arg in args]
            return {
                "min": min, "max": max, "abs": abs, "round": round, "floor": math.floor, "sqrt": math.sqrt, "len": len,
                "clamp": lambda v, low, high: min(max(v, low), high), "contains": lambda text, piece: piece in text,
                "default": lambda value, other: other if value is None else value,
            }[name](*args)  # fmt: skip
    raise AssertionError(ast.dump(node))


def compare(a, ask, b):
    result = getattr(a, ask)(b)
    return getattr(float(a), ask)(b) if result is NotImplemented else result


def expected(text, payload):
    try:
        value = plainly(ast.parse(text, mode="eval").body, payload)
    except (ArithmeticError, ValueError):
        return Failed
    if isinstance(value, float) and not math.isfinite(value):
        return Failed
    if type(value) is int and not -(2**63) <= value < 2**63:
        return Failed
    return value


@settings(max_examples=300, deadline=None)
@given(text=expressions().filter(lambda e: len(e) < 900), payloads=st.lists(PAYLOADS, min_size=1, max_size=5))
def test_an_expression_comes_to_what_it_says(text, payloads):
    made = program([{"emit": {"r": text, "o": "1"}}], schema=SCHEMA)
    for payload in payloads:
        out = run(made, [Event("k", msgspec.json.encode(payload))])
        wanted = expected(text, payload)
        if wanted is Failed:
            assert [step for step, _ in out.letters()] == ["steps[0].emit.r"]
        else:
            assert out.rows() == [{"r": wanted, "o": 1}]


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                "v u o n ( ) ( ) , . . + - * / // % < <= == != and or not if else has default min 1 2.5 'x' true __class__ "
                "__import__ lambda : [ ] { } ** := = & | ' \" \\ import eval f0 c0 key payload 'a b' topic_part".split()
            ),
            max_size=14,
        ).map(" ".join),
    )
)
def test_no_text_gets_further_than_the_checker_and_what_passes_it_is_made_of_our_own_names(text):
    schema = {field.path: field for field in [declared("v", "float"), declared("u", "str"), declared("o", "float?")]}
    code = Code("p", 10, 0, first_stage(schema))
    try:
        parse(text)
    except Wrong as wrong:
        assert 0 <= wrong.at <= len(text)
    result = check(text, code.scope, code.constant)
    assert all(0 <= wrong.at <= len(text) for wrong in result.mistakes)
    if not result.mistakes:
        tree = ast.parse(result.value.code, mode="eval")
        ours = {"f0", "f1", "f2", "key", "at", "flag", "len", "abs", "round", "min", "max", "float", "str", "repr"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                assert node.id in ours or node.id in code.namespace
            if isinstance(node, ast.Attribute):
                assert node.attr in {"lower", "upper", "startswith", "endswith"}
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, str))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=8))
def test_hostile_payloads_become_dead_letters_and_never_more(payloads):
    good = b'{"v":1}'
    for decoder, fine in (("json", good), ("number", b"1"), ("keyvalue", b"v=1")):
        made = program([{"emit": {"v": "v"}}], schema={"v": "float"}, decoders={"in": decoder})
        events = [Event("k", payload) for payload in [*payloads, fine]]
        out = run(made, events)
        assert len(out.emitted) == len(events)
        assert out.emitted[-1][0] == "out"
