"""FactorizeConv: chains of sufficient rank compute what the convolution did, at borders too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, Stage, weight_layers
from onnxslim_rx.rewriter import Editor
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes._conv_chains import compose, emit, names, stored
from onnxslim_rx_passes._conv_geometry import Convolution
from onnxslim_rx_passes._conv_structures import METHODS, Structure, structures
from onnxslim_rx_passes._linear import store
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from tests.passes.conftest import build

Array = npt.NDArray[Any]
ONE = FactorizeConv()


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
    """The only one, whether it pays to cut it or not."""
    kinds = {"conv": "conv", "conv-transpose": "conv"}
    (layer,) = weight_layers(model, kinds, min_elements=1)
    assert isinstance(layer, Layer), layer
    return layer


def chains_of(model: ir.Model) -> tuple[Convolution, list[Structure]]:
    """Every chain that can stand for the only layer."""
    conv = Convolution.of(layer_of(model))
    found = [structures(conv, method) for method in METHODS]
    return conv, [one for some in found if not isinstance(some, str) for one in some]


def put(model: ir.Model, chain: Structure, kernels: Sequence[Array]) -> None:
    """A chain of kernels in the place of the only layer."""
    layer, tape = layer_of(model), ir.tape.Tape()
    values = store(tape, kernels, names("w", len(kernels)), ir.DataType.FLOAT)
    made = emit(layer, chain, values, tape)
    Editor(model).replace([layer.node], tape, {layer.output: made}, by="test")


def assert_exact(
    op: str,
    dims: Sequence[int],
    shape: Sequence[int],
    attributes: str,
    *,
    seed: int = 0,
    given_parts: bool = False,
) -> set[str]:
    """Kernels of the rank of each chain come out as they were; the methods that were tried.

    With `given_parts` nothing is decomposed: what was multiplied out is put in their place.
    """
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
        if given_parts:
            put(model, chain, stored(conv, chain, parts))
        else:
            treatments = [(layer_of(model), (stage,), None)]
            assert apply_treatments(model, treatments, {ONE.name: ONE}) == []
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


SIZES = st.integers(1, 4)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[str, list[int], list[int], str]:
    """Operator, shape of the kernel, shape of the input and attributes, all sorts of them."""
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    axes = draw(st.sampled_from([1, 2, 2, 2, 3]))
    each = st.lists(SIZES, min_size=axes, max_size=axes)
    groups, first, second = draw(st.tuples(st.integers(1, 3), SIZES, SIZES))
    assume(groups == 1 or second > 1)
    kernel, dilations, strides = draw(each), draw(each), draw(each)
    automatic = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    found = {"group": groups, "strides": strides}
    if automatic.startswith("SAME"):  # this runtime wants no dilations there
        dilations = [1] * axes
    if op == "ConvTranspose" and automatic != "VALID":
        found["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    if automatic == "NOTSET":
        pads = draw(st.lists(st.integers(0, 2), min_size=2 * axes, max_size=2 * axes))
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        found["pads"] = [min(p, reach[i % axes]) for i, p in enumerate(pads)]
    found["dilations"] = dilations
    attributes = [f"{key} = {value}" for key, value in found.items()]
    attributes += [f'auto_pad = "{automatic}"'] if automatic != "NOTSET" else []
    extra = draw(each)
    sides = [(k - 1) * d + e for k, d, e in zip(kernel, dilations, extra, strict=True)]
    own = groups * (second if op == "Conv" else first)
    return op, [groups * first, second, *kernel], [1, own, *sides], ", ".join(attributes)


@given(geometries(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_any_geometry(geometry, seed):
    op, dims, shape, attributes = geometry
    try:  # not every geometry has an output
        model = model_of(op, np.ones(dims, np.float32), shape, attributes)
        size = Runner(model)({"x": np.ones(shape, np.float32)})["y"].size
    except InputError:
        size = 0
    assume(size > 0)
    assert_exact(op, dims, shape, attributes, seed=seed, given_parts=True)
