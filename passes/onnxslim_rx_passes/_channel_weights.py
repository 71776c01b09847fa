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
import onnx_ir as ir

from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics, Skip, Stage
from onnxslim_rx_passes._channel_rounding import CLIP, GPTQ, NEAREST, Channels
from onnxslim_rx_passes._complex_parts import scale_layout
from onnxslim_rx_passes._linear import is_factor, tensor_of

__all__ = [
    "CAST_MUL",
    "DEQUANTIZE",
    "channel_candidate",
    "emit_channels",
    "opset_of",
]

CAST_MUL, DEQUANTIZE = "cast-mul", "dequantize-linear"

# What two more nodes and two more tensors cost in the file, measured on models with short names.
_OVERHEAD_BYTES = 300
_FIRST_PER_AXIS = 13  # DequantizeLinear with a scale for each slice


def channel_candidate(
    layer: Layer,
    stats: LayerStatistics | None,
    name: str,
    *,
    bits: int,
    form: str,
    method: str | None = None,
    native: bool = False,
) -> Candidate | None:
    """The candidate of one form, where it suits the layer and is smaller than it was.

    Args:
        layer: any kind.
        stats: of the layer.
        name: of the pass.
        bits: 2 to 8; fewer than 8 are a coarser grid in the same int8 file.
        form: "cast-mul" or "dequantize-linear".
        method: how it is rounded; None: the best that the statistics allow.
        native: operators of our own domain take the place of DequantizeLinear and what follows it.
    """
    tensor = tensor_of(layer.weights[0])
    weight = tensor.numpy()
    shape, axes, _ = scale_layout(layer, weight)
    scales = math.prod(shape[axis] for axis in axes)
    size = int(tensor.size + scales * tensor.dtype.itemsize)
    if size + _OVERHEAD_BYTES >= tensor.nbytes:
        return None
    takes = _takes_native if native else _takes_dequantize_linear
    if form == DEQUANTIZE and not takes(layer, shape):
        return None
    channels = Channels.of(layer, shape, axes, stats)
    method = method or (CLIP if channels.gram is None else GPTQ)
    if method == GPTQ and channels.gram is None:
        return None
    try:
        error = channels.error(weight.reshape(shape), bits, method)
    except ValueError:  # NaN or infinity
        return None
    return Candidate(
        (Stage(name, {"bits": bits, "form": form, "method": method}),),
        error=error,
        bytes=size,
        flops=2 * tensor.size,
        folds=form == CAST_MUL,
        follows=form == CAST_MUL,
    )


def emit_channels(
    layer: Layer,
    bits: int,
    form: str,
    tape: ir.tape.Tape,
    *,
    method: str = NEAREST,
    stats: LayerStatistics | None = None,
) -> ir.Value | Skip:
    """Emit the stored integers, the scales and what turns them back into the weight.

    Args:
        layer: any kind.
        bits: 2 to 8.
        form: "cast-mul" or "dequantize-linear".
        tape: what is emitted goes there.
        method: how the weight is rounded.
        stats: of the layer.

    Raises:
        InputError: the method needs statistics that there are not.
    """
    root = layer.weights[0]
    tensor = tensor_of(root)
    weight = tensor.numpy()
    shape, axes, _ = scale_layout(layer, weight)
    parted = shape != weight.shape
    channels = Channels.of(layer, shape, axes, stats)
    own = channels.settled(method, factor=parted or is_factor(layer.node))
    try:
        grid = channels.rounded(weight.reshape(shape), bits, own)
    except ValueError:
        return Skip("the weight has NaN or infinity")
    scales = grid.scales.astype(weight.dtype)
    stored = tape.initializer(ir.tensor(grid.values, name=f"{root.name}.int8"))
    if form == DEQUANTIZE:
        if not (_takes_dequantize_linear(layer, shape) or _takes_native(layer, shape)):
            return Skip("DequantizeLinear needs opset 13, and a weight with one scale a channel")
        scale = tape.initializer(ir.tensor(scales.reshape(-1), name=f"{root.name}.scale"))
        return tape.op("DequantizeLinear", [stored, scale], {"axis": axes[0]})
    scale = tape.initializer(ir.tensor(scales, name=f"{root.name}.scale"))
    made = tape.op("Mul", [tape.op("Cast", [stored], {"to": tensor.dtype}), scale])
    if not parted:
        return made
    own_shape = ir.tensor(np.asarray(weight.shape, np.int64), name=f"{root.name}.shape")
    return tape.op("Reshape", [made, tape.initializer(own_shape)])


def opset_of(layer: Layer) -> int:
    """Version of the standard operators where the layer lies."""
    graph = layer.node.graph
    return layer.node.version or (graph.opset_imports.get("", 1) if graph is not None else 1)


def _takes_dequantize_linear(layer: Layer, shape: Sequence[int]) -> bool:
    """Whether it can stand in front of the layer, whose scales are found in a weight of `shape`."""
    tensor = tensor_of(layer.weights[0])
    return (
        layer.op == "MatMul"
        and layer.weight_index == 1
        and len(tensor.shape) == len(shape) == 2
        and tensor.dtype == ir.DataType.FLOAT
        and opset_of(layer) >= _FIRST_PER_AXIS
    )


def _takes_native(layer: Layer, shape: Sequence[int]) -> bool:
    """Whether `use-native` makes an operator of our own of DequantizeLinear and the layer."""
    tensor = tensor_of(layer.weights[0])
    rank, single = len(tensor.shape), len(layer.weights) == 1
    fits = {"linear": rank == 2, "embedding": rank == 2, "conv": rank in (3, 4)}
    alone = len(layer.weights[0].uses()) == 1 and layer.op in ("MatMul", "Gemm", "Gather", "Conv")
    return (
        single
        and alone
        and fits.get(layer.kind, False)
        and (layer.kind != "linear" or layer.weight_index == 1)
        and len(shape) == rank
        and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        and opset_of(layer) >= _FIRST_PER_AXIS
    )
