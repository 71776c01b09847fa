"""FuseOutputScale: against the two nodes in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes import _weights
from onnxslim_rx_passes.fuse_output_scale import FuseOutputScale

# Two roundings more or less in sums of at most 54 terms: 54 * 2^-24 = 3e-6, with room for
# divisors down to a half.
TOLERANCE = 1e-5

OPERATIONS = [
    "Mul(p, c)",
    "Mul(c, p)",
    "Div(p, c)",
    "Add(p, c)",
    "Add(c, p)",
    "Sub(p, c)",
    "Sub(c, p)",
]
PRODUCTS = {
    "conv": ("Conv(x, w, b)", (4, 6, 3, 3), "float[N, 6, 7, 7]", "N, 4, H, W"),
    "conv without bias": ("Conv(x, w)", (4, 6, 3, 3), "float[N, 6, 7, 7]", "N, 4, H, W"),
    "grouped": ("Conv<group = 2>(x, w, b)", (4, 3, 3, 3), "float[N, 6, 7, 7]", "N, 4, H, W"),
    "1-D": ("Conv(x, w)", (4, 6, 3), "float[N, 6, 7]", "N, 4, L"),
    "3-D": ("Conv(x, w)", (4, 2, 1, 2, 2), "float[N, 2, 3, 3, 3]", "N, 4, D, H, W"),
    "transposed": (
        "ConvTranspose<group = 2>(x, w, b)",
        (6, 2, 3, 3),
        "float[N, 6, 5, 5]",
        "N, 4, H, W",
    ),
}


def channel_shapes(rank):
    """Every shape that broadcasts along axis 1 of so many."""
    behind = (1,) * (rank - 2)
    return [(4, *behind), (1, 4, *behind), (), (1,), (1,) * rank]


def constants(rng, shape, weight):
    return {
        "w": rng.standard_normal(weight).astype("f"),
        "b": rng.standard_normal(4).astype("f"),
        "c": np.asarray(rng.uniform(0.5, 2, shape), "f"),
    }


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("case", PRODUCTS)
def test_convolutions(rewrite, rng, case, operation):
    call, weight, taken, made = PRODUCTS[case]
    shapes = channel_shapes(len(weight))
    shape = shapes[(len(case) + OPERATIONS.index(operation)) % len(shapes)]
    text = f"g ({taken} x) => (float[{made}] y) {{ p = {call}  y = {operation} }}"
    weights = constants(rng, shape, weight)
    if "b)" not in call:
        del weights["b"]
    done = rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == [call.partition("(")[0].partition("<")[0]]
    assert len(done.after.graph.initializers) <= 2


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("bias", "shape"), [((4,), (1, 4)), ((1, 4), ()), ((), (4,))])
def test_gemm(rewrite, rng, operation, bias, shape):
    weights = constants(rng, shape, (4, 6))
    weights["b"] = np.asarray(rng.standard_normal(bias), "f")
    call = "Gemm<alpha = 0.5, beta = 3.0, transB = 1>(x, w, b)"
    text = f"g (float[N, 6] x) => (float[N, 4] y) {{ p = {call}  y = {operation} }}"

    assert rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE).ops == ["Gemm"]


@pytest.mark.parametrize("operation", ["Mul(p, c)", "Mul(c, p)", "Div(p, c)"])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4), ()])
def test_matmul_with_and_without_a_bias(rewrite, rng, operation, shape):
    weights = constants(rng, shape, (6, 4))
    text = f"g (float[N, 3, 6] x) => (float[N, 3, 4] y) {{ p = MatMul(x, w)  y = {operation} }}"
    assert rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE).ops == ["MatMul"]

    text = text.replace("p = MatMul(x, w)", "q = MatMul(x, w)  p = Add(b, q)")
    done = rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["MatMul", "Add"]


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1), ()])
def test_a_weight_on_the_left(rewrite, rng, shape):
    text = "g (float[N, 6, 3] x) => (float[N, 4, 3] y) { p = MatMul(w, x)  y = Mul(p, c) }"
    weights = constants(rng, shape, (4, 6))
    assert rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE).ops == ["MatMul"]


def test_float16_bodies_and_weights_in_constant_nodes(rewrite, rng):
    text = """g (float16[N, 1, 4, 4] x) => (float16[N, 1, H, W] y) {
    w = Constant<value = float16[1, 1, 1, 1] {16384}>()  # the bits of 2
    p = Conv(x, w)  y = Mul(p, c) }"""
    assert rewrite(FuseOutputScale(), text, {"c": np.float16(4)}).ops == ["Conv"]

    text = """g (bool k, float[N, 6] x) => (float[N, 4] y) { y = If(k)
    <then_branch = t () => (float[N, 4] u) { p = MatMul(x, w)  u = Mul(p, c) },
     else_branch = e () => (float[N, 4] v) { v = MatMul(x, z) }> }"""
    weights = constants(rng, (4,), (6, 4)) | {"z": np.ones((6, 4), "f")}
    done = rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE)
    assert done.ops == ["If", "MatMul", "MatMul"]


CONV = "p = Conv(x, w)  y = Mul(p, c)"
ELSEWHERE = "the result of Conv is read elsewhere too"
AXIS = "it varies along another axis than that of the channels"
KEPT = {
    "along the width": (CONV, (5,), "", AXIS),
    "every element": (CONV, (1, 4, 5, 5), "", AXIS),
    "more axes": (CONV, (1, 1, 4, 1, 1), "", AXIS),
    "read elsewhere": (CONV + "  z = Neg(p)", (4, 1, 1), ", float[2, 4, 5, 5] z", ELSEWHERE),
    "returned": (CONV, (4, 1, 1), ", float[2, 4, 5, 5] p", ELSEWHERE),
    "shared weight": (
        CONV + "  z = Conv(x, w)",
        (4, 1, 1),
        ", float[2, 4, 5, 5] z",
        "the weight has other readers",
    ),
    "quantized weight": (
        CONV.replace("p", "d = DequantizeLinear(q, s)  p", 1).replace("(x, w)", "(x, d)"),
        (4, 1, 1),
        "",
        "weights or statistics are computed, or may be overridden",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    body, shape, more, why = KEPT[case]
    made = "1, 2, 4, 5, 5" if case == "more axes" else "2, 4, 5, 5"
    weights = constants(rng, shape, (4, 6, 3, 3)) | {"s": np.float32(0.1)}
    weights["q"] = rng.integers(-9, 9, (4, 6, 3, 3)).astype("i1")
    text = f"g (float[2, 6, 7, 7] x) => (float[{made}] y{more}) {{ {body} }}"

    done = rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE)

    assert not done.entry.changed
    assert done.reasons == [why]


@pytest.mark.parametrize(
    ("body", "shape", "made"),
    [
        ("p = MatMul(x, w)  y = Mul(p, c)", (3, 1), "3, 4"),  # rows
        ("p = MatMul(x, w)  y = Mul(p, c)", (2, 1, 4), "2, 3, 4"),  # a new axis
        ("p = MatMul(x, v)  y = Mul(p, c)", (4,), "3, 4"),  # one channel, which c repeats
        ("p = MatMul(w, o)  y = Mul(p, d)", (6, 1), "6, 6"),  # a vector on the right, likewise
    ],
)
def test_constants_that_repeat_the_result_stay(rewrite, rng, body, shape, made):
    weights = constants(rng, shape, (6, 4)) | {"v": rng.standard_normal((6, 1)).astype("f")}
    weights["d"] = rng.standard_normal((6, 1)).astype("f")
    text = f"g (float[3, 6] x, float[4] o) => (float[{made}] y) {{ {body} }}"
    assert not rewrite(FuseOutputScale(), text, weights, tolerance=TOLERANCE).entry.changed


def test_results_out_of_range_stay(rewrite):
    text = "g (float16[N, 1, 4, 4] x) => (float16[N, 1, H, W] y) { p = Conv(x, w)  y = Mul(p, c) }"
    big = {"w": np.full((1, 1, 1, 1), 6e4, np.float16), "c": np.float16(2)}
    done = rewrite(FuseOutputScale(), text, big, runs=False)
    assert done.reasons == ["the result would not be finite"]

    small = {"w": np.full((1, 1, 1, 1), 1e-3, np.float16), "c": np.float16(1e-3)}
    done = rewrite(FuseOutputScale(), text, small, runs=False)
    assert done.reasons == ["the result would be too small for 16 bits"]

    text = text.replace("Mul", "Div")
    done = rewrite(FuseOutputScale(), text, small | {"c": np.float16(0)}, runs=False)
    assert done.reasons == ["the result would not be finite"]


def test_fills_stay_fills(rewrite):
    text = """g (float[N, 2, 5, 5] x) => (float[N, 3, H, W] y) {
    w = ConstantOfShape<value = float[1] {0.5}>(s)
    p = Conv(x, w)  y = Mul(p, c)  }"""
    shape = {"s": np.array([3, 2, 3, 3])}
    done = rewrite(FuseOutputScale(), text, shape | {"c": np.full((3, 1, 1), 3, "f")})
    assert [op for op in done.ops if op != "ConstantOfShape"] == ["Conv"]

    different = shape | {"c": np.arange(3, dtype="f").reshape(3, 1, 1)}
    done = rewrite(FuseOutputScale(), text, different)
    assert done.reasons == ["the weight is filled with one number, and the file would grow"]


def test_weights_are_scaled_a_few_rows_at_a_time(rewrite, rng, monkeypatch):
    monkeypatch.setattr(_weights, "_BLOCK", 7)
    text = "g (float[N, 6] x) => (float[N, 4] y) { p = Gemm(x, w, b)  y = Mul(p, c) }"
    done = rewrite(FuseOutputScale(), text, constants(rng, (4,), (6, 4)), tolerance=TOLERANCE)
    assert done.ops == ["Gemm"]


def test_an_unknown_number_of_axes(rewrite, rng):
    text = """g (float[6, 3] x, int64[R] q) => (float[A, B] y) {
    r = Reshape(x, q)  p = MatMul(w, r)  y = Mul(p, c) }"""
    done = rewrite(FuseOutputScale(), text, constants(rng, (4, 1), (4, 6)), runs=False)
    assert done.reasons == [AXIS]
