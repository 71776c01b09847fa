"""FusePad: against Pad and the operator in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fuse_pad import FusePad

INF = float("inf")
PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])
# op: call, what Pad adds
CALLS = {
    "conv": ("Conv<pads = [0, 1, 1, 0]>(p, w)", None),
    "conv zero": ('Conv<auto_pad = "VALID">(p, w)', 0.0),
    "max": ("MaxPool<kernel_shape = [3, 3], strides = [2, 1]>(p)", -INF),
    "max padded": ("MaxPool<kernel_shape = [4, 4], pads = [1, 1, 1, 1]>(p)", -INF),
    "average": ("AveragePool<kernel_shape = [3, 3]>(p)", None),
    "average counted": (
        "AveragePool<kernel_shape = [4, 4], pads = [1, 0, 1, 0], count_include_pad = 1>(p)",
        0.0,
    ),
}


def weights_of(rng, pads=PADS, number=None):
    found = {"w": rng.standard_normal((4, 3, 3, 3)).astype("f"), "q": np.asarray(pads)}
    return found if number is None else found | {"c": np.float32(number)}


@pytest.mark.parametrize("case", CALLS)
def test_pads_are_added(rewrite, rng, case):
    call, number = CALLS[case]
    pad = "Pad(x, q)" if number is None else "Pad(x, q, c)"
    text = f"g (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{ p = {pad}  y = {call} }}"

    done = rewrite(FusePad(), text, weights_of(rng, number=number), tolerance=1e-6)

    assert done.ops == [call.partition("<")[0]]


def test_a_maximum_of_what_is_not_negative_takes_zeros(rewrite, rng):
    text = """g (float[N, 3, 8, 8] x) => (float[N, 3, H, W] y) {
    r = Relu(x)  p = Pad(r, q)  y = MaxPool<kernel_shape = [3, 3]>(p) }"""
    assert rewrite(FusePad(), text, weights_of(rng)).ops == ["Relu", "MaxPool"]

    done = rewrite(FusePad(), text.replace("Relu", "Abs"), weights_of(rng))
    assert done.reasons == ["Pad adds what may be larger than the input"]


def test_old_and_new_forms_of_pad(rewrite, rng):
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, H, W] y) {
    p = Pad<pads = [0, 0, 1, 0, 0, 0, 2, 1]>(x)  y = Conv(p, w) }"""
    weights = {"w": weights_of(rng)["w"]}
    assert rewrite(FusePad(), text, weights, opset=10, tolerance=1e-6).ops == ["Conv"]

    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, H, W] y) {
    p = Pad(x, q, , a)  y = Conv(p, w) }"""
    weights = weights_of(rng, [1, 0, 2, 1]) | {"a": np.array([-2, 3])}
    assert rewrite(FusePad(), text, weights, opset=18, tolerance=1e-6).ops == ["Conv"]


def test_float16_and_bodies(rewrite, rng):
    text = """g (bool k, float16[N, 3, 8, 8] x) => (float16[N, 3, H, W] y) { y = If(k)
    <then_branch = t () => (float16[N, 3, H, W] u)
       { p = Pad(x, q, c)  u = MaxPool<kernel_shape = [4, 4]>(p) },
     else_branch = e () => (float16[N, 3, 8, 8] v) { v = Neg(x) }> }"""
    weights = {"q": PADS, "c": np.float16(-INF)}
    assert rewrite(FusePad(), text, weights).ops == ["If", "MaxPool", "Neg"]


WINDOW = "kernel_shape = [4, 4]"
COMPUTED = "the padding is computed, negative, or not of spatial axes alone"
KEPT = {
    "edge": ('Pad<mode = "edge">(x, q)', "Conv(p, w)", None, "Pad repeats its input"),
    "ones": ("Pad(x, q, c)", "Conv(p, w)", 1, "Pad does not add zeros"),
    "batch": ("Pad(x, b)", "Conv(p, w)", None, COMPUTED),
    "channels": ("Pad(x, d)", f"MaxPool<{WINDOW}>(p)", -INF, COMPUTED),
    "negative": ("Pad(x, n)", "Conv(p, w)", None, COMPUTED),
    "same": (
        "Pad(x, q)",
        'Conv<auto_pad = "SAME_UPPER">(p, w)',
        None,
        "the operator pads by the size of its input",
    ),
    "not counted": (
        "Pad(x, q)",
        f"AveragePool<{WINDOW}, pads = [1, 1, 1, 1]>(p)",
        None,
        "the average leaves out what the pool pads itself",
    ),
    "ceiling": (
        "Pad(x, q, c)",
        f"MaxPool<{WINDOW}, ceil_mode = 1, strides = [2, 2]>(p)",
        -INF,
        "the last windows of the pool may lie in the padding",
    ),
    "gaps": (
        "Pad(x, q, c)",
        "MaxPool<kernel_shape = [3, 3], dilations = [2, 2]>(p)",
        -INF,
        "windows with gaps may lie in the padding",
    ),
    "wide": (
        "Pad(x, q)",
        "AveragePool<kernel_shape = [2, 2]>(p)",
        None,
        "windows may lie in the padding",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    pad, call, number, why = KEPT[case]
    if case == "channels":
        pad = "Pad(x, d, c)"
    weights = weights_of(rng, number=number) | {
        "b": np.array([1, 0, 1, 1, 0, 0, 1, 1]),
        "d": np.array([0, 1, 1, 1, 0, 0, 1, 1]),
        "n": np.array([0, 0, -1, 1, 0, 0, 1, 1]),
    }
    text = f"g (float[N, 3, 8, 8] x) => (float[B, C, H, W] y) {{ p = {pad}  y = {call} }}"

    runs = case != "wide"  # which ONNX Runtime merges itself, and then does not load
    done = rewrite(FusePad(), text, weights, tolerance=1e-6, runs=runs)

    assert not done.entry.changed
    assert done.reasons == [why]


def test_what_others_read_stays(rewrite, rng):
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, H, W] y, float[N, 3, 11, 9] p) {
    p = Pad(x, q)  y = Conv(p, w) }"""
    done = rewrite(FusePad(), text, weights_of(rng), tolerance=1e-6)
    assert done.reasons == ["the result of Pad is read elsewhere too"]

    text = """g (float[N, 3, 8, 8] x) => (float[N, 3, H, W] y, int64[N, 3, H, W] i) {
    p = Pad(x, q, c)  y, i = MaxPool<kernel_shape = [4, 4]>(p) }"""
    done = rewrite(FusePad(), text, weights_of(rng, number=-INF))
    assert done.reasons == ["indices of the maxima are read"]
