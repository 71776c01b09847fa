"""Formulas against arithmetic on integers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.analysis.facts import Dim, Expr, evaluate
from onnxslim_rx.analysis.facts.bounds import low
from onnxslim_rx.analysis.facts.dims import fresh, symbol
from onnxslim_rx.analysis.facts.division import (
    broadcast,
    ceil_div,
    divide,
    floor_div,
    largest,
    smallest,
    vanishes_with,
)

NAMES = ("b", "s", "h w")
B, S, W = map(symbol, NAMES)
KEYS = ("b", "s", "'h w'")
LEAVES = st.one_of(st.sampled_from([B, S, W]), st.integers(-6, 12))
VALUES = st.fixed_dictionaries({key: st.integers(0, 40) for key in KEYS})


def _operators(children):
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(largest),
        pairs.map(smallest),
        st.tuples(children, st.integers(1, 9)).map(lambda p: floor_div(*p)),
    )


DIMS = st.recursive(LEAVES, _operators, max_leaves=6)


@given(a=DIMS, b=DIMS, values=VALUES)
@settings(max_examples=300, deadline=None)
def test_arithmetic(a, b, values):
    x, y = evaluate(a, values), evaluate(b, values)

    assert evaluate(a + b, values) == x + y
    assert evaluate(a - b, values) == x - y
    assert evaluate(a * b, values) == x * y
    assert evaluate(3 - a, values) == 3 - x
    assert evaluate(largest([a, b, 2]), values) == max(x, y, 2)
    assert evaluate(smallest([a, b, 2]), values) == min(x, y, 2)
    if y != 0:
        assert evaluate(floor_div(a, b), values) == x // y
        assert evaluate(ceil_div(a, b), values) == -(-x // y)
        exact = divide(a, b)
        assert exact is None or evaluate(exact, values) * y == x


@given(a=DIMS, b=DIMS, values=VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_proven_holds(a, b, values):
    x, y = evaluate(a, values), evaluate(b, values)

    least = low(a)
    assert least is None or least <= x
    if a == b:
        assert x == y
    if vanishes_with(a, b) and y == 0:
        assert x == 0


@given(a=DIMS, b=DIMS)
@settings(deadline=None)
def test_a_result_is_a_number_or_varies(a, b):
    for result in (a + b, a - b, a * b):
        assert isinstance(result, int | Expr)
        assert isinstance(result, int) or any(monomial for monomial, _ in result.terms)


@given(x=st.integers(0, 5), y=st.integers(0, 5), z=st.integers(0, 5))
def test_broadcast(x, y, z):
    sizes = {size for size in (x, y, z) if size != 1}
    if len(sizes) > 1:
        return  # they do not fit
    values = {"b": x, "s": y, "'h w'": z}
    stretched = broadcast(broadcast(B, S), W)

    assert evaluate(stretched, values) == (sizes.pop() if sizes else 1)
    assert stretched == broadcast(W, broadcast(S, B)) == broadcast(stretched, S)


def test_normal_forms():
    assert (B + S) * (B - S) == B * B - S * S
    assert floor_div(B - 1, 2) + 1 == floor_div(B + 1, 2)
    assert floor_div(floor_div(B, 2), 3) == floor_div(B, 6)
    assert floor_div(B * S * 768, B * 12) == S * 64
    assert floor_div(6 * B + 3, 4 * S) == floor_div(6 * B + 3, S * 4)
    assert divide((B + S) * (B - S) * W, B + S) == (B - S) * W
    assert divide(B * B + 1, B) is None
    assert divide(B, 0) is None
    assert B - B == 0
    assert symbol("b") == B
    assert hash(symbol("b") * 2) == hash(B * 2)


def test_what_is_not_proven():
    assert fresh() != fresh()
    assert symbol("?0") != fresh()
    assert broadcast(B, S) != B
    assert broadcast(B, 5) == 5
    assert largest([B - 1, 0]) != B - 1
    assert low(B - 1) == -1
    assert low(B - S) is None
    assert low(B - smallest([B, 5])) == 0
    assert low(fresh(None)) is None
    assert not vanishes_with(B, B * S)
    assert vanishes_with(B * S * 4, S)
    with pytest.raises(ValueError, match="do not fit"):
        broadcast(3, 4)


def test_long_formulas_become_symbols():
    total: Dim = symbol("a")
    for index in range(40):
        total = total * (symbol(f"a{index}") + 1)

    assert isinstance(total, Expr)
    assert len(total.terms) <= 32
    deep = smallest([B, 5])
    for _ in range(60):
        deep = smallest([floor_div(deep * S + 1, W), S * deep + W])
    assert len(str(deep)) < 10_000


def test_text():
    assert str(2 * B * S - 1) == "2*b*s - 1"
    assert repr(floor_div(W, 2)) == "floor(('h w')/(2))"
    total = B * W + floor_div(S, 3)
    assert isinstance(total, Expr)
    assert total.symbols == set(KEYS)
