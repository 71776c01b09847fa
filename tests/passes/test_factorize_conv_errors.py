"""FactorizeConv: predicted errors and costs, against outputs measured and operations counted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.analysis import flops
from onnxslim_rx.calibration import collect
from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._conv_structures import METHODS
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from tests.passes.conftest import build

Array = npt.NDArray[Any]
TARGET = dataclasses.replace(load_target("ort-cpu"), rank_multiple=2, min_rank=2)
SIDE = 7


def model_of(op: str, kernel: Array, channels: int, attributes: str) -> ir.Model:
    shape = [1, channels, *[SIDE] * (kernel.ndim - 2)]
    unknown = ", ".join(["?"] * kernel.ndim)
    node = f"{op}<{attributes}>(x, w)"
    return build(f"g (float{shape} x) => (float[{unknown}] y) {{ y = {node} }}", {"w": kernel})


def kernel_of(rng: np.random.Generator, dims: Sequence[int]) -> Array:
    """Components of falling size and noise, as kernels of trained networks have."""
    terms = 30
    vectors = [rng.standard_normal((side, terms)) for side in dims]
    vectors[0] *= np.linspace(1.0, 0.02, terms) ** 2
    letters = "abcde"[: len(dims)]
    product = np.einsum(",".join(f"{one}r" for one in letters) + f"->{letters}", *vectors)
    noise = 0.1 * np.std(product) * rng.standard_normal(dims)
    kernel: Array = (product + noise).astype(np.float32)
    return kernel


def images(
    rng: np.random.Generator, count: int, channels: int, axes: int, smooth: bool
) -> list[dict[str, Array]]:
    """Correlated channels; if `smooth`, neighbouring positions are alike, too."""
    mix = rng.standard_normal((channels, channels)) * np.logspace(0, -1, channels)
    found = []
    for _ in range(count):
        x = np.tensordot(mix, rng.standard_normal((channels, *[SIDE] * axes)), 1)
        for axis in range(1, 1 + axes) if smooth else ():
            x = x + np.roll(x, 1, axis) + 0.5 * np.roll(x, 2, axis)
        found.append({"x": x[None].astype(np.float32)})
    return found


def layer_of(one: FactorizeConv, model: ir.Model) -> Layer:
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer), layer
    return layer


def measured(model: ir.Model, other: ir.Model, data: Sequence[dict[str, Array]]) -> float:
    """Relative error of the outputs."""
    first, second = Runner(model), Runner(other)
    pairs = [(first(sample)["y"], second(sample)["y"]) for sample in data]
    lost = sum(float(np.sum(np.square(a - b, dtype=np.float64))) for a, b in pairs)
    return math.sqrt(lost / sum(float(np.sum(np.square(a, dtype=np.float64))) for a, _ in pairs))


def ladder(one: FactorizeConv, layer: Layer, stats: LayerStatistics | None) -> list[Candidate]:
    found = list(one.candidates(layer, stats, TARGET))
    assert len(found) >= 2
    shares = [candidate.flops for candidate in found]
    assert shares == sorted(shares, reverse=True)
    errors = [candidate.error for candidate in found]
    assert errors == sorted(errors)
    return found


CASES = [
    ("Conv", (14, 12, 3, 3), 12, "pads = [1, 1, 1, 1]"),
    ("Conv", (14, 12, 3, 3), 12, "strides = [2, 1], pads = [0, 1, 2, 0]"),
    ("Conv", (16, 10, 3, 2), 20, "group = 2, dilations = [2, 1]"),
    ("Conv", (14, 12, 5), 12, 'auto_pad = "SAME_UPPER"'),
]


@pytest.mark.parametrize(("op", "dims", "channels", "attributes"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_errors_by_patches_are_those_of_the_outputs(method, op, dims, channels, attributes, rng):
    if method in ("spatial", "cp-separable") and len(dims) == 3:
        return
    kernel = kernel_of(rng, dims)
    model = model_of(op, kernel, channels, attributes)
    data = images(rng, 60, channels, len(dims) - 2, smooth=True)
    one = FactorizeConv(method=method, min_elements=1)
    layer = layer_of(one, model)
    stats = collect(model, [layer], data)[layer.name]
    found = ladder(one, layer, stats)
    # the ridge adds to errors by closed forms; what lies between fits is a guess
    for candidate, tolerance in ((found[0], 6e-2), (found[-1], 6e-2), (found[1], 0.5)):
        (stage,) = candidate.stages
        assert stage.options["weighting"] == "patches"
        (dense,) = one.restore(layer, one.transform(layer, stage, (kernel,), stats))
        other = model_of(op, dense.astype(np.float32), channels, attributes)
        assert candidate.error == pytest.approx(measured(model, other, data), rel=tolerance)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_errors_by_channels_are_those_of_outputs_whose_positions_are_independent(op, method, rng):
    dims = (14, 12, 3, 3) if op == "Conv" else (12, 14, 3, 3)
    kernel = kernel_of(rng, dims)
    attributes = "strides = [3, 3]" if op == "ConvTranspose" else ""
    model = model_of(op, kernel, 12, attributes or "group = 1")
    data = images(rng, 60, 12, 2, smooth=False)
    one = FactorizeConv(method=method, weighting="channels", min_elements=1)
    layer = layer_of(one, model)
    stats = collect(model, [layer], data)[layer.name]
    found = ladder(one, layer, stats)
    for candidate in (found[0], found[-1]):
        (dense,) = one.restore(layer, one.transform(layer, candidate.stages[0], (kernel,), stats))
        other = model_of(op, dense.astype(np.float32), 12, attributes or "group = 1")
        true = measured(model, other, data)
        # Tucker's is that of the truncated HOSVD
        assert 0.95 * true < candidate.error < (1.15 if method in ("tucker", "tt") else 1.05) * true


@pytest.mark.parametrize("method", METHODS)
def test_without_data_errors_are_those_of_the_kernel(method, rng):
    kernel = kernel_of(rng, (14, 12, 3, 3))
    model = model_of("Conv", kernel, 12, "group = 1")
    one = FactorizeConv(method=method, min_elements=1)
    layer = layer_of(one, model)
    found = ladder(one, layer, None)
    for candidate in (found[0], found[-1]):
        (stage,) = candidate.stages
        assert stage.options["weighting"] == "none"
        (dense,) = one.restore(layer, one.transform(layer, stage, (kernel,), None))
        true = float(np.linalg.norm(dense - kernel) / np.linalg.norm(kernel))
        assert 0.999 * true < candidate.error < 1.1 * true


def test_more_statistics_lower_the_errors_of_the_outputs(rng):
    kernel = kernel_of(rng, (14, 12, 3, 3))
    model = model_of("Conv", kernel, 12, "pads = [1, 1, 1, 1]")
    data = images(rng, 60, 12, 2, smooth=True)
    for method in METHODS:
        errors = []
        for weighting in ("none", "channels", "patches"):
            one = FactorizeConv(method=method, weighting=weighting, ratio=0.4, min_elements=1)
            layer = layer_of(one, model)
            stats = collect(model, [layer], data)[layer.name]
            (candidate,) = one.candidates(layer, stats, TARGET)
            (dense,) = one.restore(
                layer, one.transform(layer, candidate.stages[0], (kernel,), stats)
            )
            other = model_of("Conv", dense.astype(np.float32), 12, "pads = [1, 1, 1, 1]")
            errors.append(measured(model, other, data))
        assert errors[2] < 0.98 * min(errors[:2]), method
        assert errors[1] < 1.05 * errors[0], method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("op", "dims", "channels", "attributes"),
    [
        ("Conv", (14, 12, 3, 3), 12, "pads = [1, 1, 1, 1]"),
        ("Conv", (16, 10, 3, 1, 3), 20, "group = 2, strides = [1, 1, 2], pads = [1,0,0,1,0,0]"),
        ("Conv", (14, 12, 3, 3), 12, "strides = [2, 3], pads = [2, 0, 0, 1]"),
        ("ConvTranspose", (12, 14, 2, 2), 12, "strides = [2, 2]"),
        ("ConvTranspose", (20, 10, 3, 2), 20, "strides = [3, 1], group = 2, pads = [0, 0, 0, 1]"),
    ],
)
def test_costs_are_what_is_stored_and_computed(method, op, dims, channels, attributes, rng):
    model = model_of(op, kernel_of(rng, dims), channels, attributes)
    before = flops(model)
    one = FactorizeConv(method=method, min_elements=1, weighting="none", ratio=0.5)
    layer = layer_of(one, model)
    (candidate,) = one.candidates(layer, None, TARGET)
    positions = before.macs / int(np.prod(dims))
    assert apply_treatments(model, [(layer, candidate.stages, None)], {one.name: one}) == []
    kernels = [v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value]
    assert sum(kernels) == candidate.bytes <= 0.5 * 4 * np.prod(dims)
    after = flops(model).macs / positions
    # borders: what is padded, and what a stride leaves over
    assert candidate.flops / 2 == pytest.approx(after, rel=0.35)
    assert candidate.flops / 2 <= 0.5 * np.prod(dims)
