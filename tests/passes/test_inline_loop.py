"""InlineLoop: a body that runs once, with its names and constants, in the place of the Loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim_rx_passes.inline_loop import InlineLoop

TEXT = """g (float[N, 3] x) => (float[N, 3] y) {
    r = Sigmoid(x)
    y = Loop (n, c, r) <body = b (int64 i, bool ci, float[N, 3] v) => (bool co, float[N, 3] vo)
        { co = Identity(ci)  w = Add(v, x)  vo = Relu(w) }> }"""
ONCE: dict[str, Any] = {"n": np.array([1]), "c": np.True_}


def test_the_body_takes_the_place(rewrite):
    done = rewrite(InlineLoop(), TEXT, ONCE, tolerance=1e-6)

    assert done.ops == ["Sigmoid", "Identity", "Add", "Relu"]
    assert set(done.after.graph.initializers) == {"condition"}  # which dead code reads


def test_without_a_condition(rewrite):
    text = TEXT.replace("(n, c, r)", "(n, , r)")

    assert "Loop" not in rewrite(InlineLoop(), text, {"n": np.array([1])}, tolerance=1e-6).ops


KEPT: dict[str, tuple[dict[str, Any], str]] = {
    "two trips": ({"n": np.array([2]), "c": np.True_}, "it does not run once"),
    "no trip": ({"n": np.array([0]), "c": np.True_}, "it does not run once"),
    "a condition that is false": (
        {"n": np.array([1]), "c": np.False_},
        "the condition is computed",
    ),
    "a computed number of trips": ({"c": np.True_}, "the number of trips is computed"),
    "a computed condition": ({"n": np.array([1])}, "the condition is computed"),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_loops_stay(rewrite, case):
    weights, why = KEPT[case]
    text = TEXT
    if "n" not in weights:
        text = text.replace("float[N, 3] x)", "float[N, 3] x, int64 n)", 1)
    if "c" not in weights:
        text = text.replace("float[N, 3] x)", "float[N, 3] x, bool c)", 1)

    done = rewrite(InlineLoop(), text, weights, tolerance=1e-6)

    assert not done.entry.changed
    assert done.reasons == [why]


@pytest.mark.parametrize("opset", [11, 17])
def test_collected_values_get_an_axis(rewrite, opset):
    text = """g (float16[N, 3] x) => (float16[N, 3] y, float16[T, N, 3] s, int64[T] k) {
    y, s, k = Loop (n, c, x) <body = b (int64 i, bool ci, float16[N, 3] v)
        => (bool ci, float16[N, 3] vo, float16[N, 3] vs, int64 j)
        { vo = Neg(v)  vs = Sub(v, vo)  j = Identity(i) }> }"""

    done = rewrite(InlineLoop(), text, ONCE, opset=opset)

    assert sorted(done.ops) == ["Identity", "Neg", "Sub", "Unsqueeze", "Unsqueeze"]


def test_a_body_that_returns_what_it_is_given(rewrite):
    text = """g (float[N] x, float[N] z) => (float[N] a, float[N] b, float[N] y) {
    a, b, d = Loop (n, c, x, z, x) <body =
        l (int64 i, bool ci, float[N] v, float[N] w, float[N] u)
        => (bool ci, float[N] w, float[N] v, float[N] u) { t = Neg(v) }>
    y = Exp(d) }"""

    done = rewrite(InlineLoop(), text, ONCE, tolerance=1e-6)

    assert sorted(done.ops) == ["Exp", "Identity", "Identity", "Neg"]


def test_a_value_that_is_returned_twice(rewrite):
    text = """g (float[N] x) => (float[N] a, float[N] b) {
    a, b = Loop (n, c, x, x) <body =
        l (int64 i, bool ci, float[N] v, float[N] w) => (bool ci, float[N] o, float[N] o)
        { o = Add(v, w) }> }"""

    done = rewrite(InlineLoop(), text, ONCE, runs=False)

    assert sorted(done.ops) == ["Add", "Identity", "Identity"]


def test_names_and_constants_of_the_body_collide_with_nothing(rewrite):
    loop = """Loop (n, c, x) <body = b (int64 i, bool ci, float[2] v) => (bool ci, float[2] o)
        <float[2] w = {3.0, 4.0}> { k = Mul(v, w)  o = Neg(k) }>"""
    text = f"g (float[2] x) => (float[2] y) {{ p = {loop}  q = {loop}  y = Add(p, q) }}"

    done = rewrite(InlineLoop(), text, ONCE)

    assert done.ops == ["Mul", "Neg", "Mul", "Neg", "Add"]


def test_loops_in_loops_and_branches(rewrite):
    inner = """Loop (n, c, v) <body = k (int64 j, bool cj, float[N] q) => (bool cj, float[N] qo)
        { qo = Neg(q) }>"""
    text = f"""g (float[N] x, bool d) => (float[N] y) {{
    y = If (d) <
        then_branch = t () => (float[N] z)
            {{ z = Loop (n, c, x) <body = b (int64 i, bool ci, float[N] v) => (bool ci, float[N] vo)
                {{ vo = {inner} }}> }},
        else_branch = e () => (float[N] u) {{ u = Exp(x) }}
    > }}"""

    assert rewrite(InlineLoop(), text, ONCE, tolerance=1e-6).ops == ["If", "Neg", "Exp"]
