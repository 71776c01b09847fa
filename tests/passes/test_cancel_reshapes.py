"""CancelReshapes: shapes that are changed and changed back around elementwise operators."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.cancel_reshapes import CancelReshapes

TO, BACK = "Reshape(x, s)", "Reshape({}, t)"
S, T = np.array([-1, 2, 6]), np.array([0, 12])
GONE = {
    "unary": (f"a = {TO}  b = Relu(a)  y = {BACK.format('b')}", ["Relu"]),
    "a scalar": (f"a = {TO}  b = Mul(k, a)  y = {BACK.format('b')}", ["Mul"]),
    "gelu": (
        f"a = {TO}  b = Mul(a, k)  c = Tanh(b)  d = Mul(a, c)  y = {BACK.format('d')}",
        ["Mul", "Tanh", "Mul"],
    ),
    "two tensors": (
        f"a = {TO}  n = Neg(x)  b = Reshape(n, s)  c = Sub(b, a)  y = {BACK.format('c')}",
        ["Neg", "Sub"],
    ),
    "read in between too": (
        f"a = {TO}  b = Relu(a)  c = {BACK.format('b')}  d = ReduceSum<keepdims=0>(a)"
        "  y = Add(c, d)",
        ["Reshape", "Relu", "ReduceSum", "Add"],
    ),
}


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", GONE)
def test_the_shape_stays(rewrite, case, dtype):
    body, ops = GONE[case]
    weights = {"s": S, "t": T, "k": np.asarray(0.5, "f" if dtype == "float" else "e")}
    weights = {name: w for name, w in weights.items() if f" {name})" in body or f"({name}," in body}

    text = f"g ({dtype}[N, 12] x) => ({dtype}[N, 12] y) {{ {body} }}"
    done = rewrite(CancelReshapes(), text, weights)

    assert done.ops == ops


def test_a_vector_along_the_last_axis(rewrite):
    text = """g (float[N, 3, 4] x) => (float[N, 3, 4] y)
    { a = Reshape(x, s)  b = Add(a, v)  y = Reshape(b, t) }"""
    weights = {"s": np.array([-1, 4]), "t": np.array([-1, 3, 4]), "v": np.arange(4).astype("f")}

    assert rewrite(CancelReshapes(), text, weights).ops == ["Add"]


KEPT: dict[str, tuple[str, dict[str, np.ndarray], list[str]]] = {
    "a vector along an axis that changes": ("b = Add(a, v)", {"v": np.ones(6, "f")}, []),
    "a matrix": ("b = Add(a, m)", {"m": np.ones((2, 6), "f")}, []),
    "more dimensions": ("b = Add(a, m)", {"m": np.ones((1, 1, 1, 1), "f")}, []),
    "more dimensions than there will be": ("b = Add(a, m)", {"m": np.ones((1, 1, 1), "f")}, []),
    "a tensor that broadcasts": ("r = ReduceMax<axes=[1]>(a)  b = Sub(a, r)", {}, []),
    "no elementwise operator": ("b = Softmax(a)", {}, []),
    "a result that is read": ("c = Relu(a)  b = Neg(c)  z = Exp(c)", {}, []),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_depends_on_the_shape_stays(rewrite, case):
    body, weights, reasons = KEPT[case]
    shape = "1, N, 12" if case == "more dimensions" else "N, 12"
    more = ", float[N, 2, 6] z" if "z =" in body else ""

    done = rewrite(
        CancelReshapes(),
        f"g (float[N, 12] x) => (float[{shape}] y{more}) {{ a = {TO}  {body}  y = Reshape(b, t) }}",
        {**weights, "s": S, "t": np.array([1, -1, 12]) if case == "more dimensions" else T},
        tolerance=1e-6,
    )

    assert not done.entry.changed
    assert done.reasons == reasons


def test_another_shape_stays(rewrite):
    text = f"""g (float[N, 12] x) => (float[N, 3, 4] y)
    {{ a = {TO}  b = Relu(a)  y = Reshape(b, t) }}"""

    done = rewrite(CancelReshapes(), text, {"s": S, "t": np.array([0, 3, 4])})

    assert done.reasons == ["the shapes before and after are not proven to be the same"]


def test_inside_a_branch(rewrite):
    text = """g (float[N, 12] x, bool c) => (float[N, 12] y) {
    y = If (c) <
        then_branch = t () => (float[N, 12] u)
            { a = Unsqueeze(x, o)  b = Relu(a)  u = Squeeze(b, o) },
        else_branch = e () => (float[N, 12] u) { u = Neg(x) }
    > }"""

    assert rewrite(CancelReshapes(), text, {"o": np.array([1])}).ops == ["If", "Relu", "Neg"]
