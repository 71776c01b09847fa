"""EliminateMatmulReshapes: only where rows stay rows."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.eliminate_matmul_reshapes import EliminateMatmulReshapes

TOLERANCE = 2e-6  # the runtime may sum the 8 products in another order

SHAPES = {
    "fixed": ("float[2, 3, 8]", "float[2, 3, 4]", [6, 8], [2, 3, 4]),
    "inferred": ("float[2, 3, 8]", "float[2, 3, 4]", [-1, 8], [2, -1, 4]),
    "symbolic": ("float[N, 3, 8]", "float[N, 3, 4]", [-1, 8], [-1, 3, 4]),
    "more axes": ("float[2, N, 3, 8]", "float[2, N, 3, 4]", [-1, 8], [2, -1, 3, 4]),
}


def weights_of(rng, flat, back):
    return {
        "w": rng.standard_normal((8, 4)).astype("f"),
        "t": rng.standard_normal((4, 8)).astype("f"),
        "b": rng.standard_normal(4).astype("f"),
        "f": np.array(flat),
        "r": np.array(back),
    }


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize(
    ("call", "ops"),
    [
        ("MatMul(p, w)", ["MatMul"]),
        ("Gemm(p, w)", ["MatMul"]),
        ("Gemm<transB = 1>(p, t, b)", ["MatMul", "Add"]),
    ],
)
def test_reshapes_that_flatten(rewrite, rng, case, call, ops):
    taken, made, flat, back = SHAPES[case]
    text = f"g ({taken} x) => ({made} y) {{ p = Reshape(x, f)  q = {call}  y = Reshape(q, r) }}"
    done = rewrite(
        EliminateMatmulReshapes(), text, weights_of(rng, flat, back), tolerance=TOLERANCE
    )
    assert done.ops == ops


def test_a_shape_that_is_computed(rewrite, rng):
    text = """g (float[N, M, 8] x) => (float[N, M, 4] y) {
    s = Shape<end = 2>(x)  o = Concat<axis = 0>(s, l)
    p = Flatten<axis = 2>(x)  q = MatMul(p, w)  y = Reshape(q, o) }"""
    weights = weights_of(rng, [0], [0]) | {"l": np.array([4])}
    done = rewrite(EliminateMatmulReshapes(), text, weights, tolerance=TOLERANCE)
    assert "Flatten" not in done.ops
    assert "Reshape" not in done.ops


def test_a_flattened_value_that_others_read(rewrite, rng):
    text = """g (float[2, 3, 8] x) => (float[2, 3, 4] y, float[6, 8] p) {
    p = Reshape(x, f)  q = MatMul(p, w)  y = Reshape(q, r) }"""
    weights = weights_of(rng, [6, 8], [2, 3, 4])
    done = rewrite(EliminateMatmulReshapes(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["Reshape", "MatMul"]

    done = rewrite(
        EliminateMatmulReshapes(),
        text.replace("MatMul(p, w)", "Gemm(p, w, b)"),
        weights,
        tolerance=TOLERANCE,
    )
    assert done.reasons == ["others read the flattened matrix: there would be as many nodes"]


def test_float16_and_bodies(rewrite, rng):
    text = """g (bool k, float16[2, 3, 8] x) => (float16[2, 3, C] y) { y = If(k)
    <then_branch = g () => (float16[2, 3, 4] u)
       { p = Reshape(x, f)  q = MatMul(p, h)  u = Reshape(q, r) },
     else_branch = e () => (float16[2, 3, 8] n) { n = Neg(x) }> }"""
    weights = weights_of(rng, [6, 8], [2, 3, 4])
    weights["h"] = weights["w"].astype("e")
    done = rewrite(EliminateMatmulReshapes(), text, weights, tolerance=2e-3)
    assert done.ops == ["If", "MatMul", "Neg"]


ROWS = "the leading axes are not proven to be the same"
GEMM = "q = Gemm(p, w, b)"
KEPT = {
    "other rows": ([4, 12], [2, 3, 6], "q = MatMul(p, k)", ROWS),
    "other axes": ([6, 8], [3, 2, 4], "q = MatMul(p, w)", ROWS),
    "split": ([6, 8], [2, 3, 2, 2], "q = MatMul(p, w)", ROWS),
    "alpha": (
        [6, 8],
        [2, 3, 4],
        "q = Gemm<alpha = 0.5>(p, w, b)",
        "alpha, beta or transA is not the default",
    ),
    "rows of bias": ([6, 8], [2, 3, 4], GEMM.replace("b)", "c)"), "the bias is no row"),
    "shared": (
        [6, 8],
        [2, 3, 4],
        "q = Gemm<transB = 1>(p, t, b)  z = Neg(t)",
        "the transposed weight is computed, or has other readers",
    ),
    "product read": ([6, 8], [2, 3, 4], GEMM + "  z = Neg(q)", "the product is read elsewhere too"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_stay(rewrite, rng, case):
    flat, back, body, why = KEPT[case]
    weights = weights_of(rng, flat, back) | {
        "c": rng.standard_normal((6, 1)).astype("f"),
        "k": rng.standard_normal((12, 9)).astype("f"),
    }
    more = ", float[A, B] z" if "z =" in body else ""
    made = "float[2, 3, 2, 2]" if case == "split" else "float[I, J, K]"
    body = f"p = Reshape(x, f)  {body}  y = Reshape(q, r)"
    text = f"g (float[2, 3, 8] x) => ({made} y{more}) {{ {body} }}"

    done = rewrite(EliminateMatmulReshapes(), text, weights, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert done.reasons == [why]
