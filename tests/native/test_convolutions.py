"""QuantConv and ConvChain against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.native.operators import Blocks, assert_close, need, run
from tests.native.reference import convolved
from tests.native.test_products import attributes_of, finished

F32, F16 = np.float32, np.float16


def image_of(shape):
    """Two spatial axes of one or two."""
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


def check_conv(rng, x_shape, filters, kernel, *, strides=None, pads=None, dilations=None, group=1,
               bits=4, block=16, zeros=False, dtype=F32, act="", extras=True):  # fmt: skip
    need("cpu")
    axes, channels = len(kernel), x_shape[1]
    depth = channels // group * int(np.prod(kernel))
    weight = Blocks(rng, filters, depth, bits=bits, block=block, zeros=zeros, dtype=dtype)
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    pads = pads or [0] * (2 * axes)
    x = rng.standard_normal(x_shape).astype(dtype)
    wide = weight.values.reshape(filters, channels // group, *([1] * (2 - axes)), *kernel)
    whole = [*[1] * (2 - axes), *strides], [*[1] * (2 - axes), *dilations]
    around = pads if axes == 2 else [0, pads[0], 0, pads[1]]
    x64 = x.astype(np.float64).reshape(image_of(x.shape))
    exact = convolved(x64, wide, whole[0], around, whole[1], group)
    size = convolved(np.abs(x64), np.abs(wide), whole[0], around, whole[1], group)
    shape = exact.shape if axes == 2 else (*exact.shape[:2], exact.shape[3])
    exact, size = exact.reshape(shape), size.reshape(shape)
    inputs = [("X", x), ("W", weight.data), ("scales", weight.scales), ("zeros", weight.zeros)]
    if extras:
        bias = rng.standard_normal(filters).astype(dtype)
        residual = rng.standard_normal(shape).astype(dtype)
        column = bias.reshape(-1, *[1] * axes)
        exact = exact + column + residual
        size = size + np.abs(column) + np.abs(residual)
        inputs += [("bias", bias), ("residual", residual)]
    attributes = {
        "bits": bits, "block_size": block, "channels": channels, "kernel_shape": list(kernel),
        "strides": strides, "pads": pads, "dilations": dilations, "group": group,
        **attributes_of(act),
    }  # fmt: skip
    found = run("QuantConv", inputs, attributes, ("X", "residual"))
    assert found.dtype == dtype
    assert_close(found, finished(exact, act), size, depth + 6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [F32, F16])
def test_quantized_convolution_of_every_format(rng, bits, zeros, dtype):
    check_conv(rng, (2, 5, 9, 7), 6, (3, 3), bits=bits, zeros=zeros, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "options"),
    [
        ((1, 3, 5, 5), 4, (1, 1), {}),
        ((2, 8, 6, 9), 5, (1, 1), {"strides": [2, 3]}),
        ((1, 4, 11, 13), 6, (3, 5), {"pads": [1, 2, 0, 1], "strides": [2, 1]}),
        ((1, 6, 12, 10), 9, (3, 2), {"group": 3, "dilations": [2, 3]}),
        ((2, 7, 8, 8), 7, (3, 3), {"group": 7, "pads": [1, 1, 1, 1]}),
        ((3, 4, 20), 6, (5,), {"pads": [2, 1], "strides": [2], "dilations": [2]}),
        ((1, 1, 1, 1), 1, (1, 1), {}),
        ((0, 4, 5, 5), 3, (3, 3), {}),
    ],
)
def test_quantized_convolution_over_odd_shapes(rng, shape, filters, kernel, options):
    check_conv(rng, shape, filters, kernel, **options)


@pytest.mark.parametrize("act", ["Relu", "Clip", "Gelu", "GeluTanh", "Silu"])
def test_quantized_convolution_activations(rng, act):
    check_conv(rng, (1, 4, 6, 6), 5, (3, 3), act=act)


def check_chain(rng, x_shape, stages, *, dtype=F32, act="", bias=True):
    """`stages`: (filters, kernel, strides, pads, dilations, group) each."""
    need("cpu")
    x = rng.standard_normal(x_shape).astype(dtype)
    y = x.astype(np.float64).reshape(image_of(x.shape))
    size, terms = np.abs(y), 8
    weights = []
    for filters, kernel, strides, pads, dilations, group in stages:
        weights.append(rng.standard_normal((filters, y.shape[1] // group, *kernel)).astype(dtype))
        wide = weights[-1].astype(np.float64)
        y = convolved(y, wide, strides, pads, dilations, group)
        size = convolved(size, np.abs(wide), strides, pads, dilations, group)
        terms += wide[0].size + 2  # errors of stages add up, as those of two products do
    shape = (*y.shape[:2], y.shape[3]) if len(x_shape) == 3 else y.shape
    exact, size = y.reshape(shape), size.reshape(shape)
    b = rng.standard_normal(shape[1]).astype(dtype) if bias else None
    if b is not None:
        column = b.reshape(-1, *[1] * (len(shape) - 2)).astype(np.float64)
        exact, size = exact + column, size + np.abs(column)
    names = ("kernel_shapes", "strides", "pads", "dilations")
    lists = {
        name: [number for stage in stages for number in stage[place]]
        for place, name in enumerate(names, 1)
    }
    attributes = {"stages": len(stages), **lists, "groups": [stage[5] for stage in stages]}
    inputs = [("X", x), ("bias", b), *((f"W{i}", w) for i, w in enumerate(weights))]
    found = run("ConvChain", inputs, attributes | attributes_of(act), ("X",))
    assert found.dtype == dtype
    assert_close(found, finished(exact, act), size, terms)


ONE = ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
CHAINS = {
    "one": [(4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)],
    "pair": [
        (3, (3, 1), (2, 1), (1, 0, 1, 0), (1, 1), 1),
        (6, (1, 3), (1, 2), (0, 1, 0, 1), (1, 1), 1),
    ],
    "tucker": [(3, *ONE, 1), (4, (3, 3), (2, 2), (1, 1, 0, 1), (1, 1), 1), (7, *ONE, 1)],
    "cp": [
        (5, *ONE, 1),
        (5, (3, 1), (1, 1), (2, 0, 2, 0), (2, 1), 5),
        (5, (1, 3), (1, 1), (0, 1, 0, 1), (1, 1), 5),
        (8, *ONE, 1),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", [F32, F16])
def test_chain_of_every_kind(rng, chain, dtype):
    check_chain(rng, (2, 4, 9, 11), CHAINS[chain], dtype=dtype)


@pytest.mark.parametrize("act", ["Relu", "Clip", "Gelu", "GeluTanh", "Silu"])
def test_activation_follows_the_last_stage(rng, act):
    check_chain(rng, (1, 4, 6, 7), CHAINS["tucker"], act=act, bias=False)


def test_chain_over_one_axis(rng):
    stages = [(3, *ONE, 1), (3, (1, 5), (1, 2), (0, 2, 0, 1), (1, 2), 3), (6, *ONE, 1)]
    check_chain(rng, (2, 4, 19), stages)


def test_chain_of_an_empty_batch(rng):
    check_chain(rng, (0, 4, 9, 11), CHAINS["tucker"])
