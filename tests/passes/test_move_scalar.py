"""MoveScalar: against the nodes in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.move_scalar import MoveScalar

# One rounding more or less in each of two sums of 8 products
TOLERANCE = 5e-6

HEAD = "g (float[N, 3, 8] x) => (float[N, {}] y)"
SCORES = """q = MatMul(x, w)  {}  r = Reshape(a, h)  s = Transpose<perm = [0, 2, 1, 3]>(r)
    k = MatMul(x, v)  l = Reshape(k, h)  m = Transpose<perm = [0, 2, 3, 1]>(l)
    p = MatMul(s, m)  y = {}"""


def weights_of(rng, scale=0.25):
    return {
        "w": rng.standard_normal((8, 8)).astype("f"),
        "v": rng.standard_normal((8, 8)).astype("f"),
        "b": rng.standard_normal(8).astype("f"),
        "h": np.array([0, 0, 2, 4]),
        "c": np.asarray(scale, "f"),
    }


@pytest.mark.parametrize("bias", ["a = Identity(q)", "a = Add(q, b)", "a = Add(b, q)"])
@pytest.mark.parametrize("scale", ["Mul(p, c)", "Mul(c, p)", "Div(p, c)"])
def test_the_scale_of_attention_scores_moves_into_the_queries(rewrite, rng, bias, scale):
    text = f"{HEAD.format('2, 3, 3')} {{ {SCORES.format(bias, scale)} }}"
    done = rewrite(MoveScalar(), text, weights_of(rng), tolerance=TOLERANCE)
    assert not {"Mul", "Div"} & set(done.ops)
    assert set(done.after.graph.initializers) >= {"v", "w.fused"}


@pytest.mark.parametrize("part", "def")
def test_a_part_of_a_product(rewrite, rng, part):
    text = f"""g (float[2, 3, 8] x) => (float[2, 3, 8] y, float[2, 1, 3, A] u) {{
    q = MatMul(x, w)  d, e, f = Split<axis = -1>(q, z)
    r = Unsqueeze({part}, o)  s = Mul(r, c)  u = Relu(s)
    y = Concat<axis = -1>(d, e, f) }}"""
    others = ", ".join(name for name in "def" if name != part)
    text = text.replace("(d, e, f)", f"({others})").replace("float[2, 3, 8] y", "float[2, 3, B] y")
    weights = weights_of(rng) | {"z": np.array([3, 1, 4]), "o": np.array([1])}

    done = rewrite(MoveScalar(), text, weights, tolerance=TOLERANCE)

    assert "Mul" not in done.ops


def test_float16_bodies_and_convolutions(rewrite, rng):
    text = """g (bool k, float16[N, 3, 4, 4] x) => (float16[N, C, A] y) { y = If(k)
    <then_branch = t () => (float16[N, 4, 16] u)
       { p = Conv(x, w)  q = Reshape(p, s)  u = Mul(q, c) },
     else_branch = e () => (float16[N, 3, 16] n) { n = Reshape(x, s) }> }"""
    weights = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype("e"),
        "s": np.array([0, 0, 16]),
        "c": np.float16(0.5),
    }
    assert rewrite(MoveScalar(), text, weights).ops == ["If", "Conv", "Reshape", "Reshape"]


TAIL = "q = MatMul(x, w)  p = Transpose<perm = [0, 2, 1]>(q)  y = Mul(p, c)"
KEPT = {
    "on the way": (TAIL + "  z = Neg(p)", 0.5, "8, 3", ", float[N, 8, 3] z"),
    "before": (TAIL + "  z = Neg(q)", 0.5, "8, 3", ", float[N, 3, 8] z"),
    "no product": ("p = Transpose<perm = [0, 2, 1]>(x)  y = Mul(p, c)", 0.5, "8, 3", ""),
    "vector": (TAIL, [1, 2, 3], "8, 3", ""),
    "function": (
        "q = MatMul(x, w)  r = Relu(q)  p = Transpose<perm = [0, 2, 1]>(r)  y = Mul(p, c)",
        0.5,
        "8, 3",
        "",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_stay(rewrite, rng, case):
    body, scale, made, more = KEPT[case]
    text = HEAD.format(made).replace(" y)", f" y{more})") + f" {{ {body} }}"
    assert not rewrite(
        MoveScalar(), text, weights_of(rng, scale), tolerance=TOLERANCE
    ).entry.changed


def test_reasons(rewrite, rng):
    text = f"{HEAD.format('8, 3')} {{ {TAIL} }}"
    done = rewrite(MoveScalar(), text, weights_of(rng, 0), tolerance=TOLERANCE)
    assert done.reasons == ["the result would not be finite"]

    twice = text.replace("y)", "y, float[8, 8] z)", 1).replace("q =", "z = Neg(w)  q =", 1)
    done = rewrite(MoveScalar(), twice, weights_of(rng), tolerance=TOLERANCE)
    assert done.reasons == ["the weight has other readers"]

    text = "g (float[N, 3, 8] x) => (float[1, N, 8, 3] y) { " + TAIL + " }"
    text = text.replace("[1, N, 8, 3]", "[A, N, 8, 3]")
    done = rewrite(MoveScalar(), text, weights_of(rng, [[[[2]]]]), tolerance=TOLERANCE)
    assert done.reasons == ["the number of axes is not known"]
