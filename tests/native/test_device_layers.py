"""LowRankMatMul, QuantConv and ConvChain on an OpenCL device against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.native.operators import Blocks, assert_close, need, run
from tests.native.reference import convolved

DEVICE = "opencl:0:0"


@pytest.mark.parametrize(
    ("rows", "k", "r", "n"),
    [
        ((2, 19), 37, 5, 23),
        ((70,), 64, 32, 68),
        ((5,), 24, 300, 9),
        ((3,), 8, 0, 7),
        ((0,), 4, 2, 3),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_low_rank_products(rng, rows, k, r, n, dtype):
    need(DEVICE)
    a = rng.standard_normal((*rows, k)).astype(dtype)
    p = (rng.standard_normal((k, r)) / k**0.5).astype(dtype)
    q = (rng.standard_normal((r, n)) / max(r, 1) ** 0.5).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    found = run(
        "LowRankMatMul", [("A", a), ("P", p), ("Q", q), ("bias", bias)],
        {"activation": "Relu"}, ("A",), DEVICE,
    )  # fmt: skip
    wide = [one.astype(np.float64) for one in (a, p, q)]
    middle = np.abs(wide[0]) @ np.abs(wide[1])
    size = middle @ np.abs(wide[2]) + np.abs(bias)
    if r > 256 and dtype == np.float16:
        # two products: the middle is stored as half, 2^-11 of it, in units of a float's roundoff
        size = size + middle @ np.abs(wide[2]) * (2.0**13 / (k + r + 6))
    exact = np.maximum(wide[0] @ wide[1] @ wide[2] + bias, 0)
    assert_close(found, exact, size, k + r + 6)


@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "pads", "group"),
    [
        ((2, 6, 9, 7), 8, (3, 3), (1, 1, 1, 1), 2),
        ((1, 32, 4, 6), 12, (1, 1), (0, 0, 0, 0), 1),
        ((1, 64, 7, 7), 32, (3, 3), (1, 0, 1, 2), 1),
        ((0, 6, 5, 5), 4, (3, 3), (0, 0, 0, 0), 1),
    ],
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_convolutions(rng, shape, filters, kernel, pads, group, bits):
    need(DEVICE)
    channels = shape[1] // group
    depth = channels * kernel[0] * kernel[1]
    weight = Blocks(rng, filters, depth, bits=bits, block=16, zeros=bits == 4, dtype=np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    filters_4d = weight.values.reshape(filters, channels, *kernel)
    given = ([1, 1], list(pads), [1, 1], group)
    exact = convolved(x.astype(np.float64), filters_4d, *given)
    size = convolved(np.abs(x.astype(np.float64)), np.abs(filters_4d), *given)
    residual = rng.standard_normal(exact.shape).astype(np.float32)
    inputs = [("X", x), ("W", weight.data), ("scales", weight.scales), ("zeros", weight.zeros),
              ("bias", None), ("residual", residual)]  # fmt: skip
    attributes = {"bits": bits, "block_size": 16, "channels": shape[1], "group": group,
                  "kernel_shape": list(kernel), "pads": list(pads)}  # fmt: skip
    found = run("QuantConv", inputs, attributes, ("X", "residual"), DEVICE)
    assert_close(found, exact + residual, size + np.abs(residual), depth + 12)


@pytest.mark.parametrize("width", [9, 40])
def test_chains_stay_on_the_device(rng, width):
    """A pair, a depthwise stage and a stage with a stride, as the CP format has them."""
    need(DEVICE)
    x = rng.standard_normal((2, 8, 10, width)).astype(np.float32)
    weights = [rng.standard_normal(shape).astype(np.float32) / 3
               for shape in ((5, 8, 1, 1), (5, 1, 3, 1), (5, 1, 1, 3), (7, 5, 1, 1))]  # fmt: skip
    bias = rng.standard_normal(7).astype(np.float32)
    pads = [[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    strides, groups = [[1, 1], [2, 1], [1, 2], [1, 1]], [1, 5, 5, 1]
    exact, size = x.astype(np.float64), np.abs(x.astype(np.float64))
    for weight, stride, pad, group in zip(weights, strides, pads, groups, strict=True):
        wide = weight.astype(np.float64)
        exact = convolved(exact, wide, stride, pad, [1, 1], group)
        size = convolved(size, np.abs(wide), stride, pad, [1, 1], group)
    column = bias.astype(np.float64)[:, None, None]
    attributes = {
        "stages": 4, "kernel_shapes": [1, 1, 3, 1, 1, 3, 1, 1], "dilations": [1] * 8,
        "strides": [one for stage in strides for one in stage],
        "pads": [one for stage in pads for one in stage], "groups": groups,
    }  # fmt: skip
    inputs = [("X", x), ("bias", bias), *((f"W{i}", one) for i, one in enumerate(weights))]
    found = run("ConvChain", inputs, attributes, ("X",), DEVICE)
    assert_close(found, exact + column, size + np.abs(column), 8 + 3 + 3 + 5 + 24)
