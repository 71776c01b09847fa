"""FuseMatmulAdd: only where Gemm computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fuse_matmul_add import FuseMatmulAdd

# ONNX Runtime adds the bias before or after the sum of 8 products: 9 * 2^-24 = 5e-7 relative
TOLERANCE = 2e-6


@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), (1, 1)])
@pytest.mark.parametrize("order", ["Add(p, b)", "Add(b, p)"])
def test_a_row_is_merged(rewrite, rng, bias, order):
    weights = {"w": rng.standard_normal((8, 5)).astype("f")}
    weights["b"] = np.float32(rng.standard_normal(bias))
    text = f"g (float[N, 8] x) => (float[N, 5] y) {{ p = MatMul(x, w)  y = {order} }}"

    done = rewrite(FuseMatmulAdd(), text, weights, tolerance=TOLERANCE)

    assert done.ops == ["Gemm"]


KEPT = {
    "rank 3": ("float[N, 2, 8]", "float[N, 2, 5]", (5,), "p = MatMul(x, w)"),
    "rank unknown": ("float[N, 2, 8]", "float[A, B]", (5,), "r = Reshape(x, q)  p = MatMul(r, w)"),
    "column": ("float[2, 8]", "float[2, 5]", (2, 1), "p = MatMul(x, w)"),
    "more rows": ("float[1, 8]", "float[3, 5]", (3, 5), "p = MatMul(x, w)"),
    "more dimensions": ("float[N, 8]", "float[1, N, 5]", (1, 1, 5), "p = MatMul(x, w)"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_gemm_cannot_do_stays(rewrite, rng, case):
    inputs, outputs, bias, body = KEPT[case]
    weights = {"w": rng.standard_normal((8, 5)).astype("f"), "b": np.ones(bias, "f")}
    names = f"{inputs} x" + (", int64[R] q" if "q" in body else "")
    text = f"g ({names}) => ({outputs} y) {{ {body}  y = Add(p, b) }}"

    done = rewrite(FuseMatmulAdd(), text, weights, runs="q" not in body, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert len(done.reasons) == 1


def test_integers_old_opsets_and_products_read_twice_stay(rewrite, rng):
    text = "g (int32[N, 8] x) => (int32[N, 5] y) { p = MatMul(x, w)  y = Add(p, b) }"
    weights = {"w": np.ones((8, 5), "i4"), "b": np.ones(5, "i4")}
    done = rewrite(FuseMatmulAdd(), text, weights)
    assert done.reasons == ["Gemm takes floating-point numbers"]

    text = "g (float[N, 8] x) => (float[N, 5] y) { p = MatMul(x, w)  y = Add(p, b) }"
    weights = {name: array.astype("f") for name, array in weights.items()}
    assert not rewrite(FuseMatmulAdd(), text, weights, opset=6, runs=False).entry.changed

    twice = text.replace(" y)", " y, float[N, 5] p)")
    done = rewrite(FuseMatmulAdd(), twice, weights, tolerance=TOLERANCE)
    assert done.reasons == ["the product is read elsewhere too"]
