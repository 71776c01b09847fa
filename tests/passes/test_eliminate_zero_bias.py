"""EliminateZeroBias: only zeros go."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.eliminate_zero_bias import EliminateZeroBias

CALLS = {
    "Conv<group = 2>(x, w, b)": (4, 2, 3, 3),
    "ConvTranspose(x, w, b)": (4, 4, 3, 3),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_convolutions(rewrite, rng, call, dtype):
    kind = {"float": "f", "float16": "e"}[dtype]
    weights = {"w": rng.standard_normal(CALLS[call]).astype(kind), "b": np.zeros(4, kind)}
    text = f"g ({dtype}[N, 4, 5, 5] x) => ({dtype}[N, 4, H, W] y) {{ y = {call} }}"

    done = rewrite(EliminateZeroBias(), text, weights, tolerance=1e-7 if kind == "f" else 1e-3)

    assert done.entry.rewritten == 1
    assert set(done.after.graph.initializers) == {"w"}
    weights["b"][1] = 1e-7
    assert not rewrite(EliminateZeroBias(), text, weights, tolerance=1e-3).entry.changed


def test_gemm_from_opset_11_on(rewrite, rng):
    weights = {"w": rng.standard_normal((6, 4)).astype("f"), "b": np.zeros(4, "f")}
    text = """g (float[N, 6] x) => (float[N, 4] y) { y = Gemm<alpha = 0.5, beta = 2.0>(x, w, b) }"""
    done = rewrite(EliminateZeroBias(), text, weights)
    assert set(done.after.graph.initializers) == {"w"}

    done = rewrite(EliminateZeroBias(), text, weights, opset=10)
    assert done.reasons == ["Gemm of this version needs a third input"]


def test_bodies_and_biases_that_callers_may_override(rewrite, rng):
    weights = {"w": rng.standard_normal((6, 4)).astype("f"), "b": np.zeros(4, "f")}
    text = """g (bool k, float[N, 6] x) => (float[N, 4] y) { y = If(k)
    <then_branch = t () => (float[N, 4] u) { u = Gemm(x, w, b) },
     else_branch = e () => (float[N, 4] v) { v = Gemm(x, w, b) }> }"""
    assert rewrite(EliminateZeroBias(), text, weights).entry.rewritten == 2

    text = "g (float[N, 6] x, float[4] b) => (float[N, 4] y) { y = Gemm(x, w, b) }"
    assert not rewrite(EliminateZeroBias(), text, weights).entry.changed
