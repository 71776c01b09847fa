"""Weights stored as INT8 with one scale per output channel, in two forms of the same numbers.

- "cast-mul": `Mul(Cast(Q), s)`. Runtimes fold it when they load the model, so that the file is a
  quarter of the size and inference costs what it did.
- "dequantize-linear": `DequantizeLinear(Q, s)`. ONNX Runtime 1.26 and newer turns it, in front of a
  MatMul, into a kernel on integers. Up to 1.24 it ran at every inference, ten times slower than
  the plain MatMul (measured).

Source: Jacob et al., CVPR 2018 (symmetric, per channel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Candidate, Factors, Layer, Skip, Stage
from onnxslim_rx.quant import dequantize, quantize_symmetric, relative_error
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._conv_chains import output_axes
from onnxslim_rx_passes._conv_geometry import Convolution
from onnxslim_rx_passes._linear import tensor_of

__all__ = [
    "CAST_MUL",
    "DEQUANTIZE",
    "channel_candidate",
    "emit_channels",
    "opset_of",
    "round_along",
    "round_channels",
]

CAST_MUL, DEQUANTIZE = "cast-mul", "dequantize-linear"

# What two more nodes and two more tensors cost in the file, measured on models with short names.
_OVERHEAD_BYTES = 300
_FIRST_PER_AXIS = 13  # DequantizeLinear with a scale for each slice


def channel_candidate(layer: Layer, name: str, bits: int, form: str) -> Candidate | None:
    """The candidate of one form, where it suits the layer and is smaller than it was.

    Args:
        layer: any kind.
        name: of the pass.
        bits: 2 to 8; fewer than 8 are a coarser grid in the same int8 file.
        form: "cast-mul" or "dequantize-linear".
    """
    tensor, axes = tensor_of(layer.weights[0]), channel_axes(layer)
    shape = tensor.shape.numpy()
    scales = math.prod(shape[axis] for axis in axes)
    size = int(tensor.size + scales * tensor.dtype.itemsize)
    if size + _OVERHEAD_BYTES >= tensor.nbytes:
        return None
    if form == DEQUANTIZE and not _takes_dequantize_linear(layer):
        return None
    weight = tensor.numpy()
    try:
        grid = quantize_symmetric(weight, axes, bits, _scale_type(layer))
    except ValueError:  # NaN or infinity
        return None
    return Candidate(
        (Stage(name, {"bits": bits, "form": form}),),
        error=relative_error(weight, grid),
        bytes=size,
        flops=2 * tensor.size,
        folds=form == CAST_MUL,
        follows=form == CAST_MUL,
    )


def round_channels(layer: Layer, factors: Factors, bits: int, least: int) -> Factors:
    """Each factor rounded to its grid; of several, each per channel of its outputs.

    Args:
        layer: what the factors stand for.
        factors: of one weight.
        bits: 2 to 8.
        least: entries below which a kernel of a chain is left alone.
    """
    if len(factors) == 1:
        return (round_along(layer, factors[0], channel_axes(layer), bits),)
    if layer.kind == "conv":
        axes = output_axes(Convolution.of(layer), factors)
        # depthwise kernels and small ones are left alone
        return tuple(
            f if axis is None or f.size < least else round_along(layer, f, (axis,), bits)
            for f, axis in zip(factors, axes, strict=True)
        )
    return tuple(round_along(layer, f, _factor_axes(f), bits) for f in factors)


def emit_channels(layer: Layer, bits: int, form: str, tape: ir.tape.Tape) -> ir.Value | Skip:
    """Emit the stored integers, the scales and what turns them back into the weight."""
    root, axes = layer.weights[0], channel_axes(layer)
    tensor = tensor_of(root)
    weight = tensor.numpy()
    try:
        grid = quantize_symmetric(weight, axes, bits, _scale_type(layer))
    except ValueError:
        return Skip("the weight has NaN or infinity")
    scales = grid.scales.astype(weight.dtype)
    stored = tape.initializer(ir.tensor(grid.values, name=f"{root.name}.int8"))
    if form == DEQUANTIZE:
        if not _takes_dequantize_linear(layer):
            return Skip("DequantizeLinear needs opset 13 and a MatMul with a constant matrix")
        scale = tape.initializer(ir.tensor(scales.reshape(-1), name=f"{root.name}.scale"))
        return tape.op("DequantizeLinear", [stored, scale], {"axis": axes[0]})
    scale = tape.initializer(ir.tensor(scales, name=f"{root.name}.scale"))
    return tape.op("Mul", [tape.op("Cast", [stored], {"to": tensor.dtype}), scale])


def opset_of(layer: Layer) -> int:
    """Version of the standard operators where the layer lies."""
    graph = layer.node.graph
    return layer.node.version or (graph.opset_imports.get("", 1) if graph is not None else 1)


def _takes_dequantize_linear(layer: Layer) -> bool:
    tensor = tensor_of(layer.weights[0])
    return (
        layer.op == "MatMul"
        and layer.weight_index == 1
        and len(tensor.shape) == 2
        and tensor.dtype == ir.DataType.FLOAT
        and opset_of(layer) >= _FIRST_PER_AXIS
    )


def _factor_axes(factor: Array) -> Sequence[int]:
    return (*range(factor.ndim - 2), factor.ndim - 1)


def round_along(
    layer: Layer, weight: Array, axes: Sequence[int], bits: int
) -> npt.NDArray[np.floating]:
    """A part of a layer rounded with one scale for each index of `axes`.

    In float64, or in float32 where it is given so.
    """
    grid = quantize_symmetric(weight, axes, bits, _scale_type(layer))
    return dequantize(grid, np.float32 if weight.dtype == np.float32 else np.float64)


def _scale_type(layer: Layer) -> type[np.floating]:
    half = tensor_of(layer.weights[0]).dtype == ir.DataType.FLOAT16
    return np.float16 if half else np.float32
