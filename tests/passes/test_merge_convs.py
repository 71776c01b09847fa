"""MergeConvs: against two convolutions in ONNX Runtime."""

from __future__ import annotations

from typing import Any

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
    "depthwise factors": (
        ("Conv(x, w)", (8, 3, 1, 1), "Conv<group = 8>(p, v)", (8, 1, 3, 3)),
        "the merged weight would not be smaller",
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
    if case == "depthwise factors":
        text = text.replace("N, 4", "N, 8")
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


# nodes, shapes of the weights, shape of x, attributes of what they become
ROWS: dict[str, tuple[Any, ...]] = {
    "grouped second": (
        "p = Conv(x, w, b)  y = Conv<group = 2>(p, v, c)",
        {"w": (8, 3, 1, 1), "b": (8,), "v": (4, 4, 1, 1), "c": (4,)},
        (2, 3, 5, 5),
        {},
    ),
    "groups of groups": (
        "p = Conv<group = 2>(x, w, b)  y = Conv<group = 4>(p, v, c)",
        {"w": (24, 2, 3), "b": (24,), "v": (4, 6, 1), "c": (4,)},
        (2, 4, 8),
        {"group": 2},
    ),
    "along one axis each": (
        "p = Conv<pads = [1, 0, 0, 0], strides = [2, 1]>(x, w)"
        "  y = Conv<pads = [0, 1, 0, 2], dilations = [1, 2]>(p, v, c)",
        {"w": (30, 3, 3, 1), "v": (4, 30, 1, 3), "c": (4,)},
        (2, 3, 9, 9),
        {"pads": (1, 1, 0, 2), "strides": (2, 1), "dilations": (1, 2)},
    ),
    "along one axis each, same padding": (
        'p = Conv<auto_pad = "SAME_LOWER">(x, w)'
        '  y = Conv<auto_pad = "SAME_LOWER", strides = [1, 2]>(p, v)',
        {"w": (30, 3, 2, 1), "v": (4, 30, 1, 2)},
        (2, 3, 9, 9),
        {"auto_pad": "SAME_LOWER", "strides": (1, 2)},
    ),
    "depthwise inside": (
        "p = Conv(x, w, b)  q = Conv<group = 24, strides = [2, 2]>(p, u, d)  y = Conv(q, v, c)",
        {"w": (24, 3, 1, 1), "b": (24,), "u": (24, 1, 3, 3), "d": (24,), "v": (4, 24, 1, 1)}
        | {"c": (4,)},
        (2, 3, 9, 9),
        {"strides": (2, 2)},
    ),
    "depthwise inside, padded": (
        "p = Conv(x, w)  q = Conv<group = 24, pads = [1, 1, 1, 1]>(p, u, d)  y = Conv(q, v)",
        {"w": (24, 3, 1, 1), "u": (24, 1, 3, 3), "d": (24,), "v": (4, 24, 1, 1)},
        (2, 3, 9, 9),
        {"pads": (1, 1, 1, 1)},
    ),
    "depthwise along each axis": (
        "p = Conv(x, w)  q = Conv<group = 40, pads = [1, 0, 0, 1, 0, 0]>(p, a)"
        "  r = Conv<group = 40, pads = [0, 1, 0, 0, 1, 0]>(q, u)"
        "  s = Conv<group = 40, pads = [0, 0, 1, 0, 0, 1]>(r, e)  y = Conv(s, v)",
        {"w": (40, 2, 1, 1, 1), "a": (40, 1, 3, 1, 1), "u": (40, 1, 1, 3, 1)}
        | {"e": (40, 1, 1, 1, 3), "v": (3, 40, 1, 1, 1)},
        (1, 2, 4, 5, 6),
        {"pads": (1, 1, 1, 1, 1, 1)},
    ),
    "three": (
        "p = Conv(x, w, b)  q = Conv<dilations = [2, 1]>(p, u, d)  y = Conv(q, v, c)",
        {"w": (9, 8, 1, 1), "b": (9,), "u": (9, 9, 3, 3), "d": (9,), "v": (8, 9, 1, 1)}
        | {"c": (8,)},
        (2, 8, 9, 9),
        {"dilations": (2, 1)},
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(case, rewrite, rng):
    nodes, shapes, x, expected = ROWS[case]
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    unknown = ", ".join(["?"] * len(x))
    text = f"g (float{list(x)} x) => (float[{unknown}] y) {{ {nodes} }}"
    # three sums of at most 90 terms against one: 270 * 2^-24 = 1.6e-5
    done = rewrite(MergeConvs(), text, weights, tolerance=1.6e-5)
    assert done.ops == ["Conv"]
    found = {name: a.value for name, a in done.after.graph[0].attributes.items()}
    assert {n: a for n, a in found.items() if n != "kernel_shape"} == expected


ROWS_KEPT: dict[str, tuple[Any, ...]] = {
    "two windows along one axis": (
        "p = Conv(x, w)  y = Conv(p, v)",
        {"w": (30, 3, 3, 1), "v": (4, 30, 3, 1)},
        [],
    ),
    "a stride in the way": (
        "p = Conv<strides = [1, 2]>(x, w)  y = Conv(p, v)",
        {"w": (30, 3, 3, 1), "v": (4, 30, 1, 3)},
        [],
    ),
    "paddings of two kinds": (
        'p = Conv<auto_pad = "SAME_UPPER">(x, w)  y = Conv(p, v)',
        {"w": (30, 3, 3, 1), "v": (4, 30, 1, 3)},
        [],
    ),
    "a bias in front of padding": (
        "p = Conv(x, w, b)  q = Conv<group = 24, pads = [1, 1, 1, 1]>(p, u)  y = Conv(q, v)",
        {"w": (24, 3, 1, 1), "b": (24,), "u": (24, 1, 3, 3), "v": (4, 24, 1, 1)},
        [
            "the second pads with zeros behind the bias of the first",
            "the merged weight would not be smaller",
        ],
    ),
    "a factor": (
        "p = Conv(x, w)  q = Conv<group = 4>(p, u)  y = Conv(q, v)",
        {"w": (4, 3, 1, 1), "u": (4, 1, 3, 3), "v": (4, 4, 1, 1)},
        ["the merged weight would not be smaller", "the merged weight would not be smaller"],
    ),
}


@pytest.mark.parametrize("case", ROWS_KEPT)
def test_rows_that_stay(case, rewrite, rng):
    nodes, shapes, reasons = ROWS_KEPT[case]
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    text = f"g (float[2, 3, 9, 9] x) => (float[?, ?, ?, ?] y) {{ {nodes} }}"
    done = rewrite(MergeConvs(), text, weights)
    assert not done.entry.changed
    assert done.reasons == reasons
