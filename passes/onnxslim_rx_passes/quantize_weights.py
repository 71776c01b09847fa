"""Store weights as INT8 with one scale per channel; compute in floating point as before.

`W ~= Q * s` with Q int8 and s one number per output channel. Two forms of the same numbers:

- "cast-mul": `Mul(Cast(Q), s)`. Runtimes fold it when they load the model, so that the file is a
  quarter of the size and inference costs what it did.
- "dequantize-linear": `DequantizeLinear(Q, s)`. ONNX Runtime 1.26 and newer turns it, in front of a
  MatMul, into a kernel on integers. Up to 1.24 it ran at every inference, ten times slower than
  the plain MatMul (measured), so it is only emitted where it is asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
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
from onnxslim_rx.quant import dequantize, quantize_symmetric, relative_error
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._conv_chains import output_axes
from onnxslim_rx_passes._conv_geometry import Convolution

__all__ = ["QuantizeWeights"]

_KINDS = {
    "linear": "linear",
    "linear-left": "linear",
    "linear-batched": "linear",
    "conv": "conv",
    "conv-transpose": "conv",
    "embedding": "embedding",
    "recurrent": "recurrent",
}
# What two more nodes and two more tensors cost in the file, measured on models with short names.
_OVERHEAD_BYTES = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeWeights(CompressionPass):
    """Store each weight as `Mul(Cast(Q), s)` or `DequantizeLinear(Q, s)`, Q int8.

    Shapes: Q has the shape of the weight; s has length 1 in all axes but the output channels
    (rows of an embedding, gates and directions of a recurrent weight). Every reader of the weight
    reads the new tensor, so tied weights stay tied.

    Args:
        bits: 2 to 8; fewer bits than 8 give a coarser grid in the same int8 file.
        form: "cast-mul" or "dequantize-linear" (MatMul with a constant matrix on the right, and
            opset 13).
        min_elements: weights with fewer entries are left alone, since two more nodes would eat
            the gain.

    Raises:
        InputError: an option outside its range.

    Source: Jacob et al., CVPR 2018 (symmetric, per channel).
    """

    name: ClassVar[str] = "quantize-weights"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    bits: int = 8
    form: str = "cast-mul"
    min_elements: int = 512

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"quantize-weights has bits = {self.bits}", expected="2 to 8")
        if self.form not in ("cast-mul", "dequantize-linear"):
            raise InputError(
                f"quantize-weights has form = {self.form!r}",
                expected="cast-mul or dequantize-linear",
            )
        if self.min_elements < 1:
            raise InputError(
                f"quantize-weights has min_elements = {self.min_elements}", expected="at least 1"
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Weights of every layer kind, in the main graph and in subgraphs."""
        opset = model.opset_imports.get("", 1)
        for layer in weight_layers(model, _KINDS, min_elements=self.min_elements):
            if isinstance(layer, Layer) and (why := _refusal(layer, opset)):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """One candidate, where the form suits the layer and is smaller than it was."""
        tensor = _tensor(layer)
        shape = tensor.shape.numpy()
        scales = math.prod(shape[axis] for axis in _axes(layer))
        size = int(tensor.size + scales * tensor.dtype.itemsize)
        if size + _OVERHEAD_BYTES >= tensor.nbytes:
            return
        if self.form == "dequantize-linear" and not _takes_dequantize_linear(layer):
            return
        weight = tensor.numpy()
        try:
            grid = quantize_symmetric(weight, _axes(layer), self.bits, _scale_type(layer))
        except ValueError:  # NaN or infinity
            return
        yield Candidate(
            (Stage(self.name, {"bits": self.bits, "form": self.form}),),
            error=relative_error(weight, grid),
            bytes=size,
            flops=2 * tensor.size,
            folds=self.form == "cast-mul",
        )

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """Each factor rounded to its grid; of several, each per channel of its outputs."""
        bits = int(stage.options["bits"])
        if len(factors) == 1:
            return (_rounded(layer, factors[0], _axes(layer), bits),)
        if layer.kind == "conv":
            axes = output_axes(Convolution.of(layer), factors)
            # depthwise kernels and small ones are left alone
            return tuple(
                f
                if axis is None or f.size < self.min_elements
                else _rounded(layer, f, (axis,), bits)
                for f, axis in zip(factors, axes, strict=True)
            )
        return tuple(_rounded(layer, f, _factor_axes(f), bits) for f in factors)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """Emit the stored integers, the scales and what turns them back into the weight."""
        tensor, axes = _tensor(layer), _axes(layer)
        weight = tensor.numpy()
        try:
            grid = quantize_symmetric(weight, axes, int(stage.options["bits"]), _scale_type(layer))
        except ValueError:
            return Skip("the weight has NaN or infinity")
        scales = grid.scales.astype(weight.dtype)
        name = layer.weight.name
        stored = tape.initializer(ir.tensor(grid.values, name=f"{name}.int8"))
        if stage.options["form"] == "dequantize-linear":
            if not _takes_dequantize_linear(layer):
                return Skip("DequantizeLinear needs opset 13 and a MatMul with a constant matrix")
            scale = tape.initializer(ir.tensor(scales.reshape(-1), name=f"{name}.scale"))
            return tape.op("DequantizeLinear", [stored, scale], {"axis": axes[0]})
        scale = tape.initializer(ir.tensor(scales, name=f"{name}.scale"))
        return tape.op("Mul", [tape.op("Cast", [stored], {"to": tensor.dtype}), scale])


def _refusal(layer: Layer, opset: int) -> str | None:
    if opset < 7:
        return f"opset {opset} multiplies without broadcasting; 7 is the first that does"
    if _tensor(layer).dtype == ir.DataType.BFLOAT16:
        return "few runtimes multiply bfloat16"
    return None


def _takes_dequantize_linear(layer: Layer) -> bool:
    version = layer.node.version or (layer.node.graph and layer.node.graph.opset_imports.get("", 1))
    tensor = _tensor(layer)
    return (
        layer.op == "MatMul"
        and layer.weight_index == 1
        and len(tensor.shape) == 2
        and tensor.dtype == ir.DataType.FLOAT
        and (version or 1) >= 13
    )


def _axes(layer: Layer) -> tuple[int, ...]:
    """The axes of the weight that index output channels."""
    rank = len(_tensor(layer).shape)
    if layer.kind == "recurrent":
        return (0, 1)  # (directions, gates * hidden, inputs)
    if layer.kind == "conv":
        return (1,) if layer.op == "ConvTranspose" else (0,)
    if layer.kind == "embedding":
        return (0,)
    batch = tuple(range(rank - 2))
    columns = layer.weight_index == 1
    if layer.op == "Gemm":
        transposed = layer.node.attributes.get_int("transB" if columns else "transA", 0)
        columns = columns != bool(transposed)
    return (*batch, rank - 1 if columns else rank - 2)


def _factor_axes(factor: npt.NDArray[Any]) -> Sequence[int]:
    return (*range(factor.ndim - 2), factor.ndim - 1)


def _rounded(
    layer: Layer, weight: npt.NDArray[Any], axes: Sequence[int], bits: int
) -> npt.NDArray[np.floating[Any]]:
    """In float64, or in float32 where the weight is given so."""
    grid = quantize_symmetric(weight, axes, bits, _scale_type(layer))
    return dequantize(grid, np.float32 if weight.dtype == np.float32 else np.float64)


def _scale_type(layer: Layer) -> type[np.floating[Any]]:
    return np.float16 if _tensor(layer).dtype == ir.DataType.FLOAT16 else np.float32


def _tensor(layer: Layer) -> ir.TensorProtocol:
    tensor = constant(layer.weight)
    assert tensor is not None  # `layers` lists constants only
    return tensor
