"""EliminateExpand: what broadcasts needs no Expand in front of it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.eliminate_expand import EliminateExpand


def i(*numbers):
    return np.array(numbers, dtype=np.int64)


GONE = {
    "one axis": (
        "float[2, 3] x, float[1, 3] z", "float[2, 3] y", "a = Expand(z, s)  y = Add(x, a)",
    ),
    "more dimensions": (
        "float[2, 3] x, float[3] z", "float[2, 3] y", "a = Expand(z, s)  y = Sub(a, x)",
    ),
    "by symbols": (
        "float[N, 3] x, float[1, 3] z", "float[N, 3] y",
        "s = Shape(x)  a = Expand(z, s)  y = Mul(x, a)",
    ),
    "where": (
        "float[2, 3] x, float[1] z", "float[2, 3] y",
        "g = Greater(x, z)  a = Expand(z, s)  y = Where(g, a, x)",
    ),
    "a slope": (
        "float[2, 3] x, float[1, 3] z", "float[2, 3] y", "a = Expand(z, s)  y = PRelu(x, a)",
    ),
    "expand-expand": (
        "float[2, 1] x, float[1] z", "float[2, 3] y",
        "t = Shape(x)  b = Expand(z, t)  y = Expand(b, s)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("case", GONE)
def test_the_operator_broadcasts_itself(rewrite, case, dtype):
    inputs, outputs, body = GONE[case]
    weights = {} if "s = Shape" in body else {"s": i(2, 3)}
    if dtype == "float16" and case == "a slope":
        pytest.skip("ONNX Runtime has no PRelu of half precision")

    text = f"g ({inputs}) => ({outputs}) {{ {body} }}".replace("float", dtype)
    done = rewrite(EliminateExpand(), text, weights)

    assert done.entry.rewritten == 1
    assert done.ops[-1] == body.rpartition(" = ")[2].partition("(")[0]
    assert case == "expand-expand" or "Expand" not in done.ops


KEPT = {
    "it lengthens the result": (
        "float[1, 3] x, float[1, 3] z", "float[2, 3] y", "a = Expand(z, s)  y = Add(x, a)",
    ),
    "it adds a dimension": (
        "float[3] x, float[3] z", "float[1, 3] y", "a = Expand(z, h)  y = Add(x, a)",
    ),
    "other symbols": (
        "float[1, 3] x, float[N, 3] w, float[1, 3] z", "float[N, 3] y",
        "s = Shape(w)  a = Expand(z, s)  y = Mul(x, a)",
    ),
    "what a slope may not": (
        "float[1, 3] x, float[2, 3] z", "float[2, 3] y", "a = Expand(x, s)  y = PRelu(a, z)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_counts_stays(rewrite, case):
    inputs, outputs, body = KEPT[case]
    weights = {
        n: w
        for n, w in {"s": i(2, 3), "h": i(1, 3)}.items()
        if f", {n})" in body and "s = Shape" not in body
    }

    done = rewrite(EliminateExpand(), f"g ({inputs}) => ({outputs}) {{ {body} }}", weights)

    assert not done.entry.changed
    assert done.reasons == ([] if "slope" in case else ["the Expand may lengthen the result"])


def test_an_expand_that_others_read_stays(rewrite):
    text = """g (float[2, 3] x, float[1, 3] z) => (float[2, 3] y, float[2, 3] a)
    { a = Expand(z, s)  y = Add(x, a) }"""

    done = rewrite(EliminateExpand(), text, {"s": i(2, 3)})

    assert done.ops == ["Expand", "Add"]
    assert [value.name for value in done.after.graph[1].inputs] == ["x", "z"]


def test_twice_the_same_stays_one(rewrite):
    text = "g (float[1, 3] z) => (float[2, 3] y) { a = Expand(z, s)  y = Add(a, a) }"

    assert rewrite(EliminateExpand(), text, {"s": i(2, 3)}).ops == ["Expand", "Add"]


def test_inside_a_branch(rewrite):
    text = """g (float[2, 3] x, bool c) => (float[2, 3] y) {
    y = If (c) <
        then_branch = t () => (float[2, 3] u) { a = Expand(z, s)  u = Add(x, a) },
        else_branch = e () => (float[2, 3] u) { u = Neg(x) }
    > }"""

    done = rewrite(EliminateExpand(), text, {"s": i(2, 3), "z": np.ones((1, 3), "f")})

    assert done.ops == ["If", "Add", "Neg"]
