"""FuseInputScale: against the nodes in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fuse_input_scale import FuseInputScale

# Sums of at most 54 terms of up to 5 times the size of the largest result: 54 * 5 * 2^-24 = 2e-5
TOLERANCE = 2e-5

SCALES = {"Mul(x, c)": 1, "Mul(c, x)": 1, "Div(x, c)": 1}
SHIFTS = {"Add(x, c)": 1, "Add(c, x)": 1, "Sub(x, c)": 1, "Sub(c, x)": 1}
NORM = "BatchNormalization(x, s, o, m, v)"


def constants(rng, shape, weight, channels=6):
    found = {
        "w": rng.standard_normal(weight).astype("f"),
        "b": rng.standard_normal(4).astype("f"),
        "c": np.asarray(rng.uniform(0.5, 2, shape), "f"),
    }
    for name in "som":
        found[name] = rng.standard_normal(channels).astype("f")
    return found | {"v": rng.uniform(0.3, 2, channels).astype("f")}


@pytest.mark.parametrize("operation", [*SCALES, *SHIFTS, NORM])
@pytest.mark.parametrize("call", ["Conv(p, w, b)", "Conv(p, w)", "Conv<group = 2>(p, u, b)"])
def test_convolutions(rewrite, rng, operation, call):
    text = f"g (float[N, 6, 7, 7] x) => (float[N, 4, H, W] y) {{ p = {operation}  y = {call} }}"
    shape = [(6, 1, 1), (1, 6, 1, 1), (), (1, 1, 1, 1)][len(operation + call) % 4]
    weights = constants(rng, shape, (4, 6, 3, 3))
    weights["u"] = rng.standard_normal((4, 3, 3, 3)).astype("f")
    assert rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE).ops == ["Conv"]


def test_the_normalisation_of_images_becomes_one_convolution(rewrite, rng):
    text = """g (float[N, 3, 9, 8] x) => (float[N, 4, A, B] y) {
    p = Div(x, k)  q = Sub(p, m)  r = Div(q, d)  y = Conv<strides = [2, 2]>(r, w) }"""
    weights = {"w": rng.standard_normal((4, 3, 3, 3)).astype("f"), "k": np.float32(255)}
    for name in "md":
        weights[name] = rng.uniform(0.3, 0.6, (1, 3, 1, 1)).astype("f")
    assert rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE).ops == ["Conv"]


@pytest.mark.parametrize("operation", [*SCALES, NORM])
@pytest.mark.parametrize(
    "call", ["Conv<pads = [1, 1, 1, 1]>(p, w)", 'Conv<auto_pad = "SAME_UPPER">(p, w)']
)
def test_padding_forbids_a_shift_that_is_not_zero(rewrite, rng, operation, call):
    text = f"g (float[N, 6, 7, 7] x) => (float[N, 4, 7, 7] y) {{ p = {operation}  y = {call} }}"
    weights = constants(rng, (6, 1, 1), (4, 6, 3, 3))

    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    if operation == NORM:
        assert done.reasons == ["the product pads with zeros behind the shift"]
        weights["o"] = weights["m"] = np.zeros(6, "f")
        done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["Conv"]


@pytest.mark.parametrize("operation", [*SCALES, *SHIFTS])
def test_transposed_convolutions_take_scales_alone(rewrite, rng, operation):
    text = f"""g (float[N, 6, 5, 5] x) => (float[N, 4, H, W] y) {{
    p = {operation}  y = ConvTranspose<group = 2>(p, w, b) }}"""
    done = rewrite(
        FuseInputScale(), text, constants(rng, (6, 1, 1), (6, 2, 3, 3)), tolerance=TOLERANCE
    )
    if operation in SHIFTS:
        assert done.reasons == ["the borders of ConvTranspose see fewer taps"]
    else:
        assert done.ops == ["ConvTranspose"]


@pytest.mark.parametrize("operation", [*SCALES, *SHIFTS, NORM])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (), (1, 1)])
def test_matrices(rewrite, rng, operation, shape):
    weights = constants(rng, shape, (6, 4))
    weights["t"] = weights["w"].T.copy()
    calls = ["Gemm<alpha = 0.5, beta = 2.0>(p, w, b)", "Gemm<transB = 1>(p, t)", "MatMul(p, w)"]
    call = calls[(len(operation) + len(shape)) % 3]
    text = f"g (float[N, 6] x) => (float[N, 4] y) {{ p = {operation}  y = {call} }}"
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    stays = call.startswith("MatMul") and operation in SCALES
    assert done.ops == (["MatMul"] if stays else ["Gemm"])


@pytest.mark.parametrize("operation", [*SCALES, "Add(x, c)"])
def test_matmul_of_more_axes_takes_scales_alone(rewrite, rng, operation):
    weights = constants(rng, (6,), (6, 4))
    text = f"g (float[N, 3, 6] x) => (float[N, 3, 4] y) {{ p = {operation}  y = MatMul(p, w) }}"
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    if operation in SCALES:
        assert done.ops == ["MatMul"]
    else:
        assert done.reasons == ["MatMul has no bias, and Gemm takes matrices only"]

    weights = constants(rng, (6, 1), (4, 6))
    text = f"g (float[N, 6, 3] x) => (float[N, 4, 3] y) {{ p = {operation}  y = MatMul(w, p) }}"
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert done.entry.changed == (operation in SCALES)


@pytest.mark.parametrize("operation", ["Add(x, c)", "Sub(c, x)"])
@pytest.mark.parametrize("bias", ["Add(q, b)", "Add(b, q)"])
def test_a_shift_goes_into_the_bias_behind_a_matmul(rewrite, rng, operation, bias):
    weights = constants(rng, (6,), (6, 4))
    text = f"""g (float[N, 3, 6] x) => (float[N, 3, 4] y) {{
    p = {operation}  q = MatMul(p, w)  y = {bias} }}"""
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Add"]

    text = text.replace(" y)", " y, float[N, 3, 4] q)")
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert not done.entry.changed


def test_float16_takes_scales_alone(rewrite, rng):
    weights = {"w": np.ones((4, 1), np.float16), "c": np.full(4, 2, np.float16)}
    text = "g (float16[N, 4] x) => (float16[N, 1] y) { p = Mul(x, c)  y = Gemm(p, w) }"
    assert rewrite(FuseInputScale(), text, weights, tolerance=2e-3).ops == ["Gemm"]

    done = rewrite(FuseInputScale(), text.replace("Mul", "Add"), weights, tolerance=2e-3)
    assert done.reasons == ["a shift behind the sum would be rounded to 16 bits"]


BODY = "p = Mul(x, c)  y = MatMul(p, w)"
KEPT = {
    "columns": (BODY, (3, 1), "", "it varies along another axis than that of the channels"),
    "read elsewhere": (
        BODY + "  z = Neg(p)",
        (6,),
        ", float[3, 6] z",
        "the result of Mul is read elsewhere too",
    ),
    "shared weight": (
        BODY + "  z = MatMul(x, w)",
        (6,),
        ", float[3, 4] z",
        "the weight has other readers",
    ),
    "norm": (
        "q = Sqrt(i)  r = Div(x, q)  p = Mul(r, c)  y = MatMul(p, w)",
        (6,),
        "",
        "it ends a normalisation, which runtimes fuse",
    ),
    "gelu": (
        "q = Erf(x)  r = Add(q, i)  t = Mul(x, r)  p = Mul(t, c)  y = MatMul(p, w)",
        (),
        "",
        "it ends a GELU, which runtimes fuse",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    body, shape, more, why = KEPT[case]
    weights = constants(rng, shape, (6, 4)) | {"i": np.float32(1)}
    text = f"g (float[3, 6] x) => (float[3, 4] y{more}) {{ {body} }}"

    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert why in done.reasons


def test_constants_that_repeat_the_activations_stay(rewrite, rng):
    weights = constants(rng, (6, 1, 1), (4, 6, 3, 3))
    text = """g (float[N, 1, 7, 7] x) => (float[N, 4, H, W] y) { p = Mul(x, c)  y = Conv(p, w) }"""
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert done.reasons == ["it may make the activations larger"]

    text = "g (float[A] x) => (float[A, 4] y) { p = Mul(x, c)  y = MatMul(p, w) }"
    weights = constants(rng, (6,), (6, 4))
    done = rewrite(FuseInputScale(), text.replace("A, 4", "4"), weights, sizes={"A": 1}, runs=False)
    assert done.reasons == ["it may make the activations larger"]


def test_bodies(rewrite, rng):
    text = """g (bool k, float[N, 6] x) => (float[N, 4] y) { y = If(k)
    <then_branch = t () => (float[N, 4] u) { p = Mul(x, c)  u = MatMul(p, w) },
     else_branch = e () => (float[N, 4] r) { r = MatMul(x, z) }> }"""
    weights = constants(rng, (6,), (6, 4)) | {"z": np.ones((6, 4), "f")}
    done = rewrite(FuseInputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["If", "MatMul", "MatMul"]
