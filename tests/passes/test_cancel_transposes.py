"""CancelTransposes: transpositions around elementwise operators."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.cancel_transposes import CancelTransposes

X = "float[N, 3, 4, 5] x"
TO, FROM = "Transpose<perm=[0, 2, 3, 1]>", "Transpose<perm=[0, 3, 1, 2]>"
CANCELLED = {
    "unary": (f"a = {TO}(x)  b = Relu(a)  y = {FROM}(b)", ["Relu"]),
    "a chain": (f"a = {TO}(x)  b = Relu(a)  c = Neg(b)  y = {FROM}(c)", ["Relu", "Neg"]),
    "a vector": (f"a = {TO}(x)  b = Add(a, v)  y = {FROM}(b)", ["Add"]),
    "a vector in front": (f"a = {TO}(x)  b = Sub(v, a)  y = {FROM}(b)", ["Sub"]),
    "a matrix": (f"a = {TO}(x)  b = Mul(a, m)  y = {FROM}(b)", ["Mul"]),
    "a scalar": (f"a = {TO}(x)  b = Div(a, k)  y = {FROM}(b)", ["Div"]),
    "bounds": (f"a = {TO}(x)  b = Clip(a, k)  y = {FROM}(b)", ["Clip"]),
    "swish": (f"a = {TO}(x)  b = Sigmoid(a)  c = Mul(a, b)  y = {FROM}(c)", ["Sigmoid", "Mul"]),
    "softmax": (f"a = {TO}(x)  b = Softmax<axis=1>(a)  y = {FROM}(b)", ["Softmax"]),
    "where": (
        f"a = {TO}(x)  g = Greater(a, v)  b = Where(g, a, k)  y = {FROM}(b)", ["Greater", "Where"],
    ),
    "read in between too": (
        f"a = {TO}(x)  b = Relu(a)  c = {FROM}(b)  d = ReduceSum<keepdims=0>(a)  y = Add(c, d)",
        ["Transpose", "Relu", "ReduceSum", "Add"],
    ),
}  # fmt: skip


@pytest.fixture
def weights(rng):
    return {
        "v": rng.standard_normal(3).astype("f"),
        "m": rng.standard_normal((5, 1)).astype("f"),
        "k": np.float32(2),
    }


def used(weights, body):
    return {name: w for name, w in weights.items() if f" {name})" in body or f"({name}," in body}


@pytest.mark.parametrize("case", CANCELLED)
def test_nothing_is_transposed_any_more(rewrite, weights, case):
    body, ops = CANCELLED[case]

    text = f"g ({X}) => (float[N, 3, 4, 5] y) {{ {body} }}"
    done = rewrite(CancelTransposes(), text, used(weights, body), tolerance=1e-6)

    assert done.ops == ops


FEWER = {
    "three": (
        f"a = {TO}(x)  n = Neg(x)  b = {TO}(n)  c = Add(a, b)  y = {FROM}(c)", "N, 3, 4, 5",
        ["Neg", "Add"],
    ),
    "one is left": (
        f"a = {TO}(x)  b = Add(a, v)  y = {TO}(b)", "N, 5, 3, 4", ["Add", "Transpose"],
    ),
    "after a sum, not before": (
        f"a = {TO}(x)  n = Neg(x)  b = {TO}(n)  y = Add(a, b)", "N, 4, 5, 3",
        ["Neg", "Add", "Transpose"],
    ),
    "after a concatenation": (
        f"a = {TO}(x)  n = Neg(x)  b = {TO}(n)  y = Concat<axis=-1>(a, b)", "N, 4, 5, 6",
        ["Neg", "Concat", "Transpose"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FEWER)
def test_one_transposition_less(rewrite, weights, case):
    body, shape, ops = FEWER[case]

    text = f"g ({X}) => (float[{shape}] y) {{ {body} }}"
    done = rewrite(CancelTransposes(), text, used(weights, body), tolerance=1e-6)

    assert done.ops == ops


KEPT = {
    "no transposition at the other operand": (
        f"a = {TO}(x)  r = Reshape(x, s)  b = Add(a, r)  y = {FROM}(b)",
        {"s": np.array([0, 4, 5, 3])}, "N, 3, 4, 5", [],
    ),
    "softmax along the last axis": (
        f"a = {TO}(x)  b = Softmax<axis=-1>(a)  y = {FROM}(b)", {}, "N, 3, 4, 5",
        ["Softmax is slower along another axis than the last"],
    ),
    "a result in the middle is read": (
        f"a = {TO}(x)  b = Relu(a)  n = Neg(b)  c = {FROM}(n)  d = ReduceSum<keepdims=0>(b)"
        "  y = Add(c, d)",
        {}, "N, 3, 4, 5", [],
    ),
    "the result in between is read": (
        f"a = {TO}(x)  b = Relu(a)  c = {FROM}(b)  d = ReduceSum<keepdims=0>(b)  y = Add(c, d)",
        {}, "N, 3, 4, 5", [],
    ),
    "as many as before": (
        f"a = {TO}(x)  b = Relu(a)  c = {TO}(b)  d = ReduceSum<keepdims=0>(a)  y = Add(c, d)",
        {}, "N, 5, 3, 4", [],
    ),
}  # fmt: skip


def test_transpositions_that_differ_stay(rewrite):
    text = f"""g (float[N, 3, 4, 4] x) => (float[N, 4, 4, 3] y)
    {{ a = {TO}(x)  b = Transpose<perm=[0, 3, 2, 1]>(x)  y = Add(a, b) }}"""

    assert not rewrite(CancelTransposes(), text).entry.changed


@pytest.mark.parametrize("case", KEPT)
def test_what_would_not_become_less_stays(rewrite, case):
    body, weights, shape, reasons = KEPT[case]

    text = f"g ({X}) => (float[{shape}] y) {{ {body} }}"
    done = rewrite(CancelTransposes(), text, weights)

    assert not done.entry.changed
    assert done.reasons == reasons


def test_a_large_constant_is_not_stored_twice(rewrite):
    text = f"""g (float[N, 2, 64, 64] x) => (float[N, 2, 64, 64] y, float[64, 64, 2] z)
    {{ a = {TO}(x)  b = Add(a, w)  y = {FROM}(b)  z = Neg(w) }}"""
    weights = {"w": np.ones((64, 64, 2), "f")}

    done = rewrite(CancelTransposes(), text, weights)

    assert done.reasons == ["a large constant is read elsewhere too"]
    alone = text.replace(", float[64, 64, 2] z", "").replace("z = Neg(w)", "")
    assert rewrite(CancelTransposes(), alone, weights).ops == ["Add"]


def test_softmax_of_old_opsets(rewrite):
    text = (
        f"g ({X}) => (float[N, 3, 4, 5] y) {{ a = {TO}(x) b = Softmax<axis=1>(a) y = {FROM}(b) }}"
    )

    done = rewrite(CancelTransposes(), text, opset=11)

    assert done.reasons == ["Softmax takes all later axes together in this opset"]


def test_half_precision_inside_a_branch(rewrite):
    text = f"""g (float16[N, 3, 4, 5] x, bool c) => (float16[N, 3, 4, 5] y) {{
    y = If (c) <
        then_branch = t () => (float16[N, 3, 4, 5] u)
            {{ a = {TO}(x)  b = Mul(a, v)  u = {FROM}(b) }},
        else_branch = e () => (float16[N, 3, 4, 5] u) {{ u = Neg(x) }}
    > }}"""

    done = rewrite(CancelTransposes(), text, {"v": np.arange(3).astype(np.float16)})

    assert done.ops == ["If", "Mul", "Neg"]
