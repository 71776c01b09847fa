"""NarrowExpands: chains on the smaller tensor, with the same results."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.narrow_expands import NarrowExpands

DROPPED = {
    "at once": "y = Add(x, e)",
    "behind a sum": "f = Sub(e, c)  y = Add(x, f)",
    "behind two": "f = Neg(e)  g = Sub(f, c)  y = Mul(g, x)",
    "on both sides": "f = Mul(e, e)  y = Add(f, x)",
}
KEPT = {
    "the chain is returned": "y = Neg(e)",
    "not elementwise": "f = Softmax(e)  y = Add(x, f)",
    "at the end of a chain": "f = Neg(e)  g = Softmax(f)  y = Add(x, g)",
    "nobody else is as long": "f = Neg(e)  y = Add(w, f)",
    "two chains": "f = Neg(e)  g = Exp(e)  h = Add(f, g)  y = Add(x, h)",
    "a long chain": """f = Neg(e)
        a = Abs(f)  b = Exp(a)  d = Neg(b)  k = Exp(d)  l = Neg(k)  y = Add(x, l)""",
}


def run(rewrite, chain, dtype="float16"):
    extra = f", {dtype}[M] w" if "w," in chain else ""
    text = f"""g ({dtype}[N, M] x, {dtype}[M] v{extra}) => ({dtype}[A, B] y)
    {{ s = Shape(x)  e = Expand(v, s)  {chain} }}"""
    weights = {"c": np.asarray(3, "f2" if dtype == "float16" else "f4")} if "c)" in chain else {}
    return rewrite(NarrowExpands(), text, weights)


@pytest.mark.parametrize("case", DROPPED)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_computed_on_the_smaller_tensor(rewrite, case, dtype):
    assert "Expand" not in run(rewrite, DROPPED[case], dtype).ops


@pytest.mark.parametrize("case", KEPT)
def test_an_expand_that_is_needed(rewrite, case):
    assert not run(rewrite, KEPT[case]).entry.changed


def test_in_a_branch(rewrite):
    text = """g (float[N, M] x, float[M] v, bool c) => (float[N, M] o) {
      s = Shape(x)
      o = If (c) <
        then_branch = t () => (float[N, M] y) { e = Expand(v, s)  f = Neg(e)  y = Add(x, f) },
        else_branch = f () => (float[N, M] p) { p = Neg(x) }
      > }"""

    assert "Expand" not in rewrite(NarrowExpands(), text).ops
