"""MergeConvs: against two convolutions in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.merge_convs import MergeConvs

# Two sums of at most 36 and 8 terms against one: 44 * 2^-24 = 3e-6
TOLERANCE = 5e-6

# first call, shape of w, second call, shape of v
PAIRS = {
    "pointwise": ("Conv(x, w)", (8, 3, 1, 1), "Conv(p, v)", (4, 8, 1, 1)),
    "with biases": ("Conv(x, w, b)", (8, 3, 1, 1), "Conv(p, v, c)", (4, 8, 1, 1)),
    "first bias": ("Conv(x, w, b)", (8, 3, 1, 1), "Conv(p, v)", (4, 8, 1, 1)),
    "second bias": ("Conv(x, w)", (8, 3, 1, 1), "Conv(p, v, c)", (4, 8, 1, 1)),
    "window first": (
        "Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)",
        (8, 3, 3, 3),
        "Conv(p, v, c)",
        (4, 8, 1, 1),
    ),
    "window second": (
        "Conv(x, w, b)",
        (8, 3, 1, 1),
        "Conv<strides = [2, 1], dilations = [2, 1]>(p, v, c)",
        (4, 8, 3, 2),
    ),
    "window second, padded": (
        "Conv(x, w)",
        (8, 3, 1, 1),
        "Conv<pads = [1, 1, 1, 1]>(p, v, c)",
        (4, 8, 3, 3),
    ),
}


def weights_of(rng, w, v):
    shapes = {"w": w, "v": v, "b": w[:1], "c": v[:1]}
    return {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}


def text_of(first, second, more=""):
    return f"""g (float[N, 3, 8, 8] x) => (float[N, 4, H, W] y{more}) {{
    p = {first}  y = {second} }}"""


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(rewrite, rng, case):
    first, w, second, v = PAIRS[case]
    done = rewrite(MergeConvs(), text_of(first, second), weights_of(rng, w, v), tolerance=TOLERANCE)
    assert done.ops == ["Conv"]


def test_float16_and_bodies(rewrite, rng):
    text = """g (bool k, float16[N, 3, 4, 4] x) => (float16[N, C, 4, 4] y) { y = If(k)
    <then_branch = t () => (float16[N, 4, 4, 4] u) { p = Conv(x, w)  u = Conv(p, v) },
     else_branch = e () => (float16[N, 3, 4, 4] n) { n = Neg(x) }> }"""
    weights = weights_of(rng, (8, 3, 1, 1), (4, 8, 1, 1))
    weights = {name: array.astype("e") for name, array in weights.items()}
    done = rewrite(MergeConvs(), text, weights, tolerance=4e-3)
    assert done.ops == ["If", "Conv", "Neg"]


KEPT = {
    "factors": (
        ("Conv(x, w)", (1, 3, 1, 1), "Conv(p, v)", (4, 1, 1, 1)),
        "the merged weight would not be smaller",
    ),
    "groups": (
        ("Conv(x, w)", (8, 3, 1, 1), "Conv<group = 2>(p, v)", (4, 4, 1, 1)),
        "it has groups",
    ),
    "padded bias": (
        ("Conv(x, w, b)", (8, 3, 1, 1), "Conv<pads = [1, 1, 1, 1]>(p, v)", (4, 8, 3, 3)),
        "the second pads with zeros behind the bias of the first",
    ),
    "same padding": (
        ("Conv(x, w, b)", (8, 3, 1, 1), 'Conv<auto_pad = "SAME_LOWER">(p, v)', (4, 8, 3, 3)),
        "the second pads with zeros behind the bias of the first",
    ),
    "shared": (
        ("Conv(x, w)", (3, 3, 1, 1), "Conv(p, w)", (4, 3, 1, 1)),
        "the weight has other readers",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, rng, case):
    (first, w, second, v), why = KEPT[case]
    text = text_of(first, second)
    if case == "shared":
        text = text.replace("N, 4", "N, 3")
    done = rewrite(MergeConvs(), text, weights_of(rng, w, v), tolerance=TOLERANCE)
    assert not done.entry.changed
    assert done.reasons == [why]


@pytest.mark.parametrize(
    "second", ["Conv<strides = [2, 2]>(p, v)", "Conv<pads = [1, 0, 0, 0]>(p, v)"]
)
def test_two_windows_stay(rewrite, rng, second):
    first = "Conv<pads = [1, 1, 1, 1]>(x, w)"
    weights = weights_of(rng, (8, 3, 3, 3), (4, 8, 1, 1))
    done = rewrite(MergeConvs(), text_of(first, second), weights, tolerance=TOLERANCE)
    assert not done.entry.changed


def test_results_that_are_read_or_not_finite_stay(rewrite, rng):
    weights = weights_of(rng, (8, 3, 1, 1), (4, 8, 1, 1))
    text = text_of("Conv(x, w)", "Conv(p, v)", ", float[N, 8, 8, 8] p")
    done = rewrite(MergeConvs(), text, weights, tolerance=TOLERANCE)
    assert done.reasons == ["the result of the first is read elsewhere too"]

    huge = {name: np.full_like(array, 1e25) for name, array in weights.items()}
    done = rewrite(MergeConvs(), text_of("Conv(x, w)", "Conv(p, v)"), huge, runs=False)
    assert done.reasons == ["the result would not be finite"]
