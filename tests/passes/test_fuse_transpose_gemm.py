"""FuseTransposeGemm: against Transpose and the product in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fuse_transpose_gemm import FuseTransposeGemm

TOLERANCE = 2e-6  # the runtime may sum the 6 products in another order

INPUTS = "float[6, N] x, float[M, 6] z, float[N, 6] s, float[6, M] t"
CALLS = {
    "Gemm(a, t)": 1,
    "Gemm(s, b)": 1,
    "Gemm<alpha = 0.5>(a, b)": 2,
    "Gemm<transA = 1>(c, t)": 1,
    "MatMul(a, t)": 1,
    "MatMul(s, b)": 1,
    "MatMul(a, b)": 2,
}
BODY = "a = Transpose<perm = [1, 0]>(x)  b = Transpose(z)  c = Transpose(s)"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_products(rewrite, call, dtype):
    makers = [line for line in BODY.split("  ") if f"{line[0]}," in call or f"{line[0]})" in call]
    text = f"g ({INPUTS}) => (float[N, M] y) {{ {'  '.join(makers)}  y = {call} }}"
    text = text.replace("float", dtype)

    done = rewrite(FuseTransposeGemm(), text, tolerance=TOLERANCE if dtype == "float" else 2e-3)

    assert len(makers) == CALLS[call]
    assert done.ops == ["Gemm"]


def test_a_tied_weight_stays_tied(rewrite, rng):
    text = """g (float[N, 6] x, int64[N] i) => (float[N, 5] y, float[N, 6] z) {
    r = Transpose(w)  y = MatMul(x, r)  z = Gather(w, i) }"""
    weights = {"w": rng.standard_normal((5, 6)).astype("f")}
    done = rewrite(FuseTransposeGemm(), text, weights, tolerance=TOLERANCE, sizes={"N": 1})
    assert done.ops == ["Gemm", "Gather"]
    assert list(done.after.graph.initializers) == ["w"]


def test_bodies(rewrite):
    text = """g (bool k, float[6, N] x, float[6, M] t) => (float[N, M] y) { y = If(k)
    <then_branch = p () => (float[N, M] u) { a = Transpose(x)  u = MatMul(a, t) },
     else_branch = q () => (float[N, M] v) { b = Transpose(x)  v = Gemm(b, t) }> }"""
    assert rewrite(FuseTransposeGemm(), text, tolerance=TOLERANCE).ops == ["If", "Gemm", "Gemm"]


def test_what_must_not_be_merged(rewrite):
    text = """g (float[6, N] x, float[6, M] t) => (float[N, M] y, float[N, 6] a) {
    a = Transpose(x)  y = MatMul(a, t) }"""
    done = rewrite(FuseTransposeGemm(), text, tolerance=TOLERANCE)
    assert done.reasons == ["the transposed matrix is read elsewhere too"]

    text = """g (int32[6, N] x, int32[6, M] t) => (int32[N, M] y) {
    a = Transpose(x)  y = MatMul(a, t) }"""
    done = rewrite(FuseTransposeGemm(), text)
    assert done.reasons == ["Gemm takes floating-point numbers"]

    text = text.replace("int32", "float")
    assert not rewrite(FuseTransposeGemm(), text, opset=10, tolerance=TOLERANCE).entry.changed

    text = """g (float[2, 6, N] x, float[2, 6, M] t) => (float[2, N, M] y) {
    a = Transpose<perm = [0, 2, 1]>(x)  y = MatMul(a, t) }"""
    assert not rewrite(FuseTransposeGemm(), text, tolerance=TOLERANCE).entry.changed

    text = """g (float[6, 6] x, float[6, M] t) => (float[6, M] y) {
    a = Transpose<perm = [0, 1]>(x)  y = MatMul(a, t) }"""
    assert not rewrite(FuseTransposeGemm(), text, tolerance=TOLERANCE).entry.changed


def test_an_unknown_number_of_axes(rewrite):
    text = """g (float[N, 6] x, int64[R] q) => (float[A, B] y) {
    a = Transpose(x)  r = Reshape(x, q)  y = MatMul(a, r) }"""
    done = rewrite(FuseTransposeGemm(), text, runs=False)
    assert done.reasons == ["the number of axes is not known"]
    assert np.size(done.ops) == 3
