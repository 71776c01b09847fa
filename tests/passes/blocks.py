"""Models whose weights are stored in blocks, and what they must compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Candidate, CompressionPass, Layer, LayerStatistics, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.conftest import build

Array = npt.NDArray[Any]
Stats = Mapping[str, LayerStatistics]
TARGETS = {"nbits": load_target("ort-cpu"), "dequantize-linear": load_target("portable")}

# graph; shape of the weight "w"
PRODUCTS: dict[str, tuple[str, tuple[int, int]]] = {
    "matmul": ("g (float[2, 5, 70] x) => (float[2, 5, 33] y) { y = MatMul(x, w) }", (70, 33)),
    "vector": ("g (float[64] x) => (float[40] y) { y = MatMul(x, w) }", (64, 40)),
    "one column": ("g (float[5, 128] x) => (float[5, 1] y) { y = MatMul(x, w) }", (128, 1)),
    "short": ("g (float[5, 20] x) => (float[5, 60] y) { y = MatMul(x, w) }", (20, 60)),
    "gemm": ("g (float[5, 70] x) => (float[5, 33] y) { y = Gemm(x, w) }", (70, 33)),
    "gemm, all options": (
        "g (float[70, 5] x) => (float[5, 33] y)"
        " { y = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(x, w, c) }",
        (33, 70),
    ),
    "twice": (
        "g (float[5, 64] x) => (float[5, 64] y, float[5, 64] z)"
        " { y = MatMul(x, w)  s = Sigmoid(x)  z = MatMul(s, w) }",
        (64, 64),
    ),
}
LOOK_UP = ("g (int64[7] x) => (float[7, 96] y) { y = Gather(w, x) }", (100, 96))
TIED = (
    "g (int64[7] x) => (float[7, 96] y, float[7, 100] z)"
    " { y = Gather(w, x)  t = Transpose<perm = [1, 0]>(w)  z = MatMul(y, t) }",
    (100, 96),
)


def modelled(text: str, w: Array, *, form: str = "nbits", **weights: Array) -> ir.Model:
    """The model, of a version that has the operators of `form`."""
    versions = {"opset": 21, "ir_version": 10} if form == "dequantize-linear" else {}
    used = {"w": w, **{name: array for name, array in weights.items() if f"{name})" in text}}
    return build(text, used, **versions)


def layers_of(model: ir.Model, one: CompressionPass) -> list[Layer]:
    return [layer for layer in one.layers(model) if isinstance(layer, Layer)]


def offers(
    model: ir.Model, target: str = "nbits", stats: Stats | None = None, **options: Any
) -> list[Candidate]:
    """What is offered for the first layer."""
    one = quantizer(**options)
    layer = layers_of(model, one)[0]
    return list(one.candidates(layer, (stats or {}).get(layer.name), TARGETS[target]))


def quantizer(**options: Any) -> QuantizeWeights:
    return QuantizeWeights(**{"min_elements": 1, "max_row_error": 10.0, **options})


def quantize(
    model: ir.Model, target: str = "nbits", stats: Stats | None = None, **options: Any
) -> dict[str, tuple[Stage, Array]]:
    """Store every weight by the first candidate; by layer, the stage and the weight it gives."""
    one, found, treatments = quantizer(**options), {}, []
    for layer in layers_of(model, one):
        known = (stats or {}).get(layer.name)
        candidate = next(iter(one.candidates(layer, known, TARGETS[target])), None)
        if candidate is None:
            continue
        tensor = layer.weights[0].const_value
        assert tensor is not None  # it is an initializer
        factors = (tensor.numpy().astype(np.float64),)
        (dense,) = one.transform(layer, candidate.stages[0], factors, known)
        found[layer.name] = candidate.stages[0], dense
        treatments.append((layer, candidate.stages, known))
    assert apply_treatments(model, treatments, {one.name: one}) == []
    return found


def of_weight(model: ir.Model) -> BlockWeight | str:
    """The first weight as blocks see it."""
    return BlockWeight.of(layers_of(model, quantizer())[0])


def feeds_for(model: ir.Model, rng: np.random.Generator) -> dict[str, Array]:
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None  # noqa: PT018
        shape = value.shape.numpy()
        if value.dtype == ir.DataType.INT64:
            feeds[str(value.name)] = rng.integers(0, 100, shape)
        else:
            feeds[str(value.name)] = rng.standard_normal(shape).astype(value.dtype.numpy())
    return feeds


def run(model: ir.Model, feeds: Mapping[str, Array], *, optimize: bool = True) -> dict[str, Array]:
    return dict(Runner(model, optimize=optimize)(feeds))


def most_off(x: Array, rows: Array, group: int) -> Array:
    """How far MatMulNBits may be off, as it rounds activations to 8 bits by blocks.

    An entry is off by half a step at most, a step being the block's peak over 127; float32 sums
    add some 1e-6 of the sizes that they are made of.

    Args:
        x: (..., K), the activations.
        rows: (N, K), the weight.
        group: entries of a block.
    """
    k = x.shape[-1]
    starts = np.arange(0, k, group)
    peaks = np.maximum.reduceat(np.abs(x.astype(np.float64)), starts, axis=-1)
    sizes = np.add.reduceat(np.abs(rows.astype(np.float64)), starts, axis=-1)
    total: Array = peaks @ sizes.T * (0.51 / 127 + 1e-5)
    return total


def stage_of(options: BlockOptions) -> Stage:
    return options.stage("quantize-weights")
