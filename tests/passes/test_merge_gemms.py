"""MergeGemms: against two products in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_gemms import MergeGemms

# Two sums of 8 and 10 terms against one of 8: 18 * 2^-24 = 1e-6
TOLERANCE = 3e-6

FIRST = ["MatMul(x, w)", "Gemm(x, w)", "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)"]
SECOND = ["MatMul(p, v)", "Gemm<transB = 1>(p, t)", "Gemm<alpha = 2.0, beta = 0.5>(p, v, c)"]


def weights_of(rng, middle=10):
    shapes = {"w": (8, middle), "v": (middle, 4), "b": (middle,), "c": (1, 4), "t": (4, middle)}
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
def test_pairs(rewrite, rng, first, second):
    text = f"g (float[N, 8] x) => (float[N, 4] y) {{ p = {first}  y = {second} }}"
    done = rewrite(MergeGemms(), text, weights_of(rng), tolerance=TOLERANCE)
    both = first.startswith("MatMul") and second.startswith("MatMul")
    assert done.ops == (["MatMul"] if both else ["Gemm"])


def test_more_axes_and_transposed_activations(rewrite, rng):
    text = "g (float[N, 3, 8] x) => (float[N, 3, 4] y) { p = MatMul(x, w)  y = MatMul(p, v) }"
    assert rewrite(MergeGemms(), text, weights_of(rng), tolerance=TOLERANCE).ops == ["MatMul"]

    text = "g (float[8, N] x) => (float[N, 4] y) { p = Gemm<transA = 1>(x, w)  y = MatMul(p, v) }"
    assert rewrite(MergeGemms(), text, weights_of(rng), tolerance=TOLERANCE).ops == ["Gemm"]


@pytest.mark.parametrize(
    ("axes", "second", "ops"),
    [
        ("N, 3", "MatMul(q, v)", ["MatMul", "Add"]),
        ("N", "MatMul(q, v)", ["MatMul", "Add"]),
        ("N", "Gemm<alpha = 2.0, beta = 0.5>(q, v, c)", ["Gemm"]),
        ("N, 3", "MatMul(q, v)  y = Add(r, d)", ["MatMul", "Add", "Add"]),
    ],
)
def test_an_add_between(rewrite, rng, axes, second, ops):
    made = second if "y =" in second else f"{second}  y = Identity(r)"
    text = f"""g (float[{axes}, 8] x) => (float[{axes}, 4] y) {{
        p = MatMul(x, w)  q = Add(p, b)  r = {made} }}"""
    weights = weights_of(rng) | {"d": rng.standard_normal(4).astype("f")}
    done = rewrite(MergeGemms(), text, weights, tolerance=2 * TOLERANCE)
    assert [op for op in done.ops if op != "Identity"] == ops


def test_an_add_between_of_factors_stays(rewrite, rng):
    text = """g (float[N, 3, 8] x) => (float[N, 3, 4] y) {
        p = MatMul(x, w)  q = Add(p, b)  y = MatMul(q, v) }"""
    done = rewrite(MergeGemms(), text, weights_of(rng, 2), tolerance=TOLERANCE)
    assert done.reasons == ["the merged weight would not be smaller"]


def test_float16_and_bodies(rewrite, rng):
    text = """g (bool k, float16[N, 8] x) => (float16[N, C] y) { y = If(k)
    <then_branch = t () => (float16[N, 4] u) { p = Gemm(x, w, b)  u = MatMul(p, v) },
     else_branch = e () => (float16[N, 8] n) { n = Neg(x) }> }"""
    weights = {name: array.astype("e") for name, array in weights_of(rng).items()}
    assert rewrite(MergeGemms(), text, weights, tolerance=4e-3).ops == ["If", "Gemm", "Neg"]


CHAIN = "p = MatMul(x, w)  y = MatMul(p, v)"
KEPT = {
    "read": (CHAIN, ", float[N, 10] p", "the result of the first is read elsewhere too"),
    "shared": (
        CHAIN + "  z = MatMul(p, v)",
        ", float[N, 4] z",
        "the result of the first is read elsewhere too",
    ),
    "tied": (CHAIN + "  z = Neg(v)", ", float[10, 4] z", "the weight has other readers"),
    "column": ("p = Gemm(x, w)  y = Gemm(p, v, k)", "", "the bias is computed, or no row"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    body, more, why = KEPT[case]
    weights = weights_of(rng) | {"k": np.ones((3, 1), "f")}
    text = f"g (float[N, 8] x) => (float[N, 4] y{more}) {{ {body} }}"
    if case == "column":
        text = text.replace("N,", "3,")
    done = rewrite(MergeGemms(), text, weights, tolerance=TOLERANCE)
    assert not done.entry.changed
    assert why in done.reasons


def test_factors_and_overflow_stay(rewrite, rng):
    text = f"g (float[N, 8] x) => (float[N, 4] y) {{ {CHAIN} }}"
    done = rewrite(MergeGemms(), text, weights_of(rng, 2), tolerance=TOLERANCE)
    assert done.reasons == ["the merged weight would not be smaller"]

    huge = {name: np.full_like(array, 1e25) for name, array in weights_of(rng).items()}
    done = rewrite(MergeGemms(), text, huge, runs=False)
    assert done.reasons == ["the result would not be finite"]
