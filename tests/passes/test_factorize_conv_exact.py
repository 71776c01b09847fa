"""FactorizeConv: chains of sufficient rank compute what the convolution did, at borders too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.passbase import Layer, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes._conv_chains import compose, stored
from onnxslim_rx_passes._conv_geometry import Convolution
from onnxslim_rx_passes._conv_structures import METHODS, Structure, structures
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from tests.passes.conftest import build

Array = npt.NDArray[Any]
ONE = FactorizeConv(min_elements=1, method=",".join(METHODS), min_saving=0.0)


def model_of(
    op: str, kernel: Array, shape: Sequence[int], attributes: str, *, bias: Array | None = None
) -> ir.Model:
    """x -> op -> y."""
    weights = {"w": kernel} | ({} if bias is None else {"b": bias})
    reads = "x, w" if bias is None else "x, w, b"
    unknown = ", ".join(["?"] * len(shape))
    node = f"{op}<{attributes or 'group = 1'}>({reads})"
    text = f"g (float{list(shape)} x) => (float[{unknown}] y) {{ y = {node} }}"
    return build(text, weights)


def layer_of(model: ir.Model) -> Layer:
    (layer,) = ONE.layers(model)
    assert isinstance(layer, Layer), layer
    return layer


def chains_of(model: ir.Model) -> tuple[Convolution, list[Structure]]:
    """Every chain that can stand for the only layer."""
    conv = Convolution.of(layer_of(model))
    found = [structures(conv, method) for method in METHODS]
    return conv, [one for some in found if not isinstance(some, str) for one in some]


def assert_exact(
    op: str, dims: Sequence[int], shape: Sequence[int], attributes: str, seed: int = 0
) -> set[str]:
    """Kernels of the rank of each chain come out as they were; the methods that were tried."""
    rng = np.random.default_rng(seed)
    conv, chains = chains_of(model_of(op, np.ones(dims, np.float32), shape, attributes))
    filters = conv.groups * conv.filters
    bias = rng.standard_normal(filters).astype(np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    for chain in chains:
        ranks = [min(2, most) for most in chain.largest(conv)]
        parts = [rng.standard_normal((conv.groups, *s)) for s in chain.shapes(conv, ranks)]
        kernel = compose(conv, stored(conv, chain, parts)).astype(np.float32)
        assert kernel.shape == tuple(dims)
        model = model_of(op, kernel, shape, attributes, bias=bias)
        before = Runner(model)({"x": x})["y"]
        stage = Stage(ONE.name, chain.options("none", ranks))
        assert apply_treatments(model, [(layer_of(model), (stage,), None)], {ONE.name: ONE}) == []
        after = Runner(model)({"x": x})["y"]
        assert after.shape == before.shape
        np.testing.assert_allclose(
            after, before, atol=1e-4 * np.abs(before).max(), rtol=0, err_msg=str(stage)
        )
        assert len(model.graph) == len(chain.parts)
        assert [len(node.inputs) for node in model.graph] == [2] * (len(chain.parts) - 1) + [3]
    return {chain.method for chain in chains}


CONVS = [
    ((6, 5, 3), (2, 5, 9), ""),
    ((6, 5, 4), (1, 5, 11), "strides = [3], pads = [2, 1], dilations = [2]"),
    ((6, 5, 4), (1, 5, 11), 'auto_pad = "SAME_LOWER", strides = [2]'),
    ((6, 5, 3, 3), (2, 5, 7, 6), "pads = [1, 1, 1, 1]"),
    ((6, 5, 3, 2), (1, 5, 8, 9), "strides = [2, 1], dilations = [1, 3], pads = [0, 2, 1, 3]"),
    ((6, 5, 5, 3), (1, 5, 11, 10), 'auto_pad = "SAME_UPPER", strides = [2, 3]'),
    ((6, 5, 3, 4), (1, 5, 9, 8), 'auto_pad = "SAME_LOWER", strides = [1, 2]'),
    ((6, 5, 3, 3), (1, 5, 9, 8), 'auto_pad = "VALID", strides = [2, 2]'),
    ((6, 5, 1, 5), (1, 5, 4, 9), "pads = [1, 2, 0, 1], strides = [2, 2]"),
    ((6, 3, 3, 3), (1, 6, 7, 7), "group = 2, pads = [1, 0, 1, 0], strides = [1, 2]"),
    ((9, 4, 3, 3), (2, 12, 5, 5), "group = 3"),
    ((3, 1, 3, 3), (1, 1, 5, 5), ""),
    ((1, 4, 3, 3), (1, 4, 5, 5), ""),
    ((4, 5, 2, 3, 2), (1, 5, 5, 6, 4), "strides = [1, 2, 1], pads = [1, 0, 1, 0, 1, 0]"),
    ((4, 5, 3, 1, 2), (1, 5, 5, 4, 4), "strides = [2, 3, 1], pads = [1, 0, 1, 0, 2, 0]"),
    ((6, 5, 1, 1), (1, 5, 7, 6), "strides = [2, 1], pads = [1, 0, 0, 2]"),
]
TRANSPOSED = [
    ((5, 6, 3), (2, 5, 7), "strides = [2], pads = [1, 0], output_padding = [1]"),
    ((5, 6, 4, 3), (1, 5, 4, 5), "strides = [2, 3], pads = [1, 1, 0, 1]"),
    ((5, 6, 3, 2), (1, 5, 4, 5), "strides = [3, 2], output_padding = [2, 1], dilations = [2, 1]"),
    ((5, 6, 2, 2), (1, 5, 4, 5), "strides = [4, 3]"),
    ((5, 6, 3, 3), (1, 5, 4, 4), 'auto_pad = "SAME_UPPER", strides = [2, 2]'),
    ((5, 6, 3, 3), (1, 5, 4, 4), 'auto_pad = "VALID"'),
    ((5, 6, 3, 3), (1, 5, 4, 4), "strides = [2, 2], output_shape = [9, 8]"),
    ((6, 4, 3, 3), (1, 6, 4, 4), "group = 2, strides = [2, 1], pads = [0, 1, 1, 0]"),
    ((4, 1, 3, 3), (1, 4, 4, 4), "strides = [2, 2]"),
    ((1, 4, 3, 3), (1, 1, 4, 4), ""),
    ((4, 5, 2, 3, 2), (1, 4, 3, 4, 3), "strides = [2, 1, 2], output_padding = [1, 0, 0]"),
    ((5, 6, 1, 1), (1, 5, 4, 4), "strides = [2, 2], output_padding = [1, 1]"),
]


@pytest.mark.parametrize(("dims", "shape", "attributes"), CONVS)
def test_convolutions(dims, shape, attributes):
    tried = assert_exact("Conv", dims, shape, attributes)
    long = [size for size in dims[2:] if size > 1]
    expected = {0: {"channel-output"}, 1: set(METHODS) - {"spatial", "cp-separable"}}
    assert tried == expected.get(len(long), set(METHODS))


@pytest.mark.parametrize(("dims", "shape", "attributes"), TRANSPOSED)
def test_transposed_convolutions(dims, shape, attributes):
    tried = assert_exact("ConvTranspose", dims, shape, attributes)
    long = [size for size in dims[2:] if size > 1]
    along_axes = {"spatial", "cp-separable"}
    expected = {0: {"channel-input"}, 1: set(METHODS) - along_axes}
    fixed = "output_shape" in attributes
    assert tried == expected.get(1 if fixed else len(long), set(METHODS))
