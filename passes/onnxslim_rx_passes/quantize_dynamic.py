"""Multiply in INT8: activations rounded as they come, weights beforehand.

`X W` becomes `s t (Q_X - z) Q_W`: X is rounded to 8 bits over its own range in each run
(DynamicQuantizeLinear), W to 8 bits with one scale t for each column. ONNX Runtime fuses what is
emitted into one or two kernels when it loads the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import scipy.linalg

from onnxslim_rx.errors import InputError
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.passbase import (
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.quant import Quantized, dequantize, quantize_symmetric, relative_error
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._complex_parts import why_not_one_scale
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import as_applied, as_stored, tensor_of, weight_of

__all__ = ["QuantizeDynamic"]

Matrix = npt.NDArray[np.float64]

_LEVELS = 255  # of DynamicQuantizeLinear, between the least and the largest activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(CompressionPass):
    """Replace ``X W`` by ``DynamicQuantizeLinear(X)``, ``MatMulInteger`` and a scaling.

    Shapes: X (..., K), W (K, N), one scale for each of the N columns. MatMul with a constant
    matrix on the right and Gemm whose A is not transposed, float32. Activations that several
    layers read are rounded once.

    Args:
        bits: of weights, 7 or 8. x86 processors without VNNI add two products in 16 bits, which
            overflow where weights have 8 bits: take 7 for those.
        min_elements: weights with fewer entries are left alone.

    Raises:
        InputError: an option outside its range.

    Source: Jacob et al., CVPR 2018; ranges of activations found at run time as in ONNX's
    DynamicQuantizeLinear.
    """

    name: ClassVar[str] = "quantize-dynamic"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    bits: int = 8
    min_elements: int = 4096

    def __post_init__(self) -> None:
        if self.bits not in (7, 8):
            raise InputError(f"{self.name} has bits = {self.bits}", expected="7 or 8")
        if self.min_elements < 1:
            raise InputError(
                f"{self.name} has min_elements = {self.min_elements}", expected="at least 1"
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """MatMul and Gemm with a constant matrix on the right that no other node reads."""
        opset = model.opset_imports.get("", 1)
        for layer in weight_layers(model, {"linear": "linear"}, min_elements=self.min_elements):
            if isinstance(layer, Layer) and (why := _why_not(layer, opset)):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """One candidate; its error counts what rounding a few real activations does."""
        weight = weight_of(layer)
        if not is_finite(weight):
            return
        grid = self._rounded(weight, self.bits)
        error = relative_error(weight, grid)
        x = _sample(weight, stats)
        if len(x):
            wanted = x @ weight
            norm = float(np.linalg.norm(wanted))
            error = float(np.linalg.norm(_seen(x) @ dequantize(grid) - wanted)) / (norm or 1.0)
        size = int(weight.size + weight.shape[1] * 4)
        yield Candidate((Stage(self.name, {"bits": self.bits}),), error, size, 2 * weight.size)

    def follows_data(self, stage: Stage) -> bool:
        """Yes: a weight may make up for what the layers before it lost."""
        return True

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """A weight that is as far off as this layer will be: rounded, with noise of that size.

        Rounding activations is no change of the weight. What stands in for it is noise that adds
        as much error to each output, spread over all directions of the input.
        """
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        stored = factors[0]
        weight = as_applied(layer, stored)
        grid = self._rounded(weight, int(stage.options["bits"]))
        found = dequantize(grid).astype(np.float64, copy=False)
        noisy = as_stored(layer, found + _noise(found, stats))
        return (noisy.astype(stored.dtype, copy=False),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the integer product and its scaling."""
        weight = weight_of(layer)
        if not is_finite(weight):
            return Skip("the weight has NaN or infinity")
        node, name = layer.node, layer.weight.name
        alpha = node.attributes.get_float("alpha", 1.0)
        beta = node.attributes.get_float("beta", 1.0)
        grid = self._rounded(weight, int(stage.options["bits"]))
        scales = (grid.scales.reshape(-1) * alpha).astype(np.float32)
        values = tape.initializer(ir.tensor(np.ascontiguousarray(grid.values), name=f"{name}.int8"))
        by_column = tape.initializer(ir.tensor(scales, name=f"{name}.scale"))
        rounded, scale, zero = _entering(layer, tape)
        product = tape.op("MatMulInteger", [rounded, values, zero])
        single = tape.op("Cast", [product], {"to": ir.DataType.FLOAT})
        result = tape.op("Mul", [single, tape.op("Mul", [scale, by_column])])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None or beta == 0.0:
            return {layer.output: result}
        if beta != 1.0:
            factor = tape.initializer(ir.tensor(np.float32(beta), name=f"{name}.beta"))
            bias = tape.op("Mul", [bias, factor])
        return {layer.output: tape.op("Add", [result, bias])}

    @staticmethod
    def _rounded(weight: npt.NDArray[Any], bits: int) -> Quantized:
        return quantize_symmetric(weight, (1,), bits)


def _why_not(layer: Layer, opset: int) -> str | None:
    tensor = tensor_of(layer.weight)
    if opset < 11:
        return f"opset {opset} has no DynamicQuantizeLinear; 11 is the first that does"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"DynamicQuantizeLinear takes float32, not {tensor.dtype.name.lower()}"
    if len(layer.weight.uses()) > 1:
        return f"{len(layer.weight.uses())} nodes share it"
    if layer.weight_index != 1 or len(tensor.shape) != 2:
        return "integer products want a constant matrix on the right"
    if layer.node.attributes.get_int("transA", 0):
        return "its activation is transposed"
    return why_not_one_scale(layer)


def _entering(layer: Layer, tape: ir.tape.Tape) -> tuple[ir.Value, ...]:
    """The rounded activation, its scale and its zero point: those of another layer, if any."""
    for use in layer.activation.uses():
        if use.node.op_type == "DynamicQuantizeLinear" and _before(use.node, layer.node):
            return tuple(use.node.outputs)
    made = tape.op_multi_out("DynamicQuantizeLinear", [layer.activation], num_outputs=3)
    return tuple(made)


def _before(one: ir.Node, other: ir.Node) -> bool:
    """Whether `one` comes first in the graph of both."""
    if one.graph is not other.graph or one.graph is None:
        return False
    return next(node is one for node in one.graph if node in (one, other))


def _seen(x: Matrix) -> Matrix:
    """Activations as they are after rounding, over the range of all of them."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / _LEVELS
    if step == 0.0:
        return x
    zero = np.rint(-low / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, _LEVELS) - zero) * step)


def _sample(weight: npt.NDArray[Any], stats: LayerStatistics | None) -> Matrix:
    """Rows that entered the layer; none where another treatment cut its weight since."""
    if stats is None or stats.sample is None or stats.sample.shape[1] != len(weight):
        return np.zeros((0, len(weight)))
    return stats.sample.astype(np.float64)


def _noise(weight: Matrix, stats: LayerStatistics | None) -> Matrix:
    """(K, N): what makes as much error in each column as rounding the activations does."""
    x = _sample(weight, stats)
    if stats is None or stats.gram is None or not len(x):
        return np.zeros_like(weight)
    wanted = np.sqrt(np.mean(np.square((_seen(x) - x) @ weight), axis=0) * max(stats.rows, 1))
    # in directions that the sample hardly shows there is no telling how much makes as much error
    gram = stats.gram + np.eye(len(stats.gram)) * ridge(stats.gram, max(stats.rows, 1))
    noise = np.random.default_rng(0).standard_normal(weight.shape)
    noise = scipy.linalg.solve_triangular(triangular_root(gram), noise, check_finite=False)
    made = np.sqrt(np.einsum("kn,kn->n", noise, stats.gram @ noise))
    return np.asarray(noise * (wanted / np.where(made > 0, made, 1.0)))
