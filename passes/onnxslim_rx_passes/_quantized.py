"""QuantizeLinear and DequantizeLinear as rules read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.rules import Scene

__all__ = ["Parameters", "parameters"]

_RANGES = {
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767),
}


class Parameters(NamedTuple):
    """Of a QuantizeLinear or DequantizeLinear.

    Args:
        scale: float, one element or one for each slice.
        zero: integers, as many.
        dtype: of the quantized numbers.
        precision: type of the scale.
        axis: along which there are several scales; None for one scale.
        block: elements that share a scale along the axis, or 0.
    """

    scale: npt.NDArray[Any]
    zero: npt.NDArray[np.int64]
    dtype: ir.DataType
    precision: ir.DataType
    axis: int | None
    block: int

    @property
    def lowest(self) -> int:
        """The least quantized number."""
        return _RANGES[self.dtype][0]

    @property
    def highest(self) -> int:
        """The largest quantized number."""
        return _RANGES[self.dtype][1]


def parameters(node: ir.Node, scene: Scene) -> Parameters | None:
    """Scale and zero point where both are constants, and the numbers integers; or None."""
    scale = scene.facts.array(node.inputs[1])
    precision = scene.facts.dtype(node.inputs[1])
    if scale is None or precision is None or scale.dtype.kind != "f":
        return None
    point = node.inputs[2] if len(node.inputs) > 2 else None
    if point is not None:
        zeros, dtype = scene.facts.array(point), scene.facts.dtype(point)
    elif node.op_type == "DequantizeLinear":
        zeros, dtype = np.zeros(scale.shape), scene.facts.dtype(node.inputs[0])
    else:
        stated = node.attributes.get_int("output_dtype", 0)
        zeros = np.zeros(scale.shape)
        dtype = ir.DataType(stated) if stated else ir.DataType.UINT8
    if zeros is None or dtype not in _RANGES or dtype is None:
        return None
    axis: int | None = None
    if scale.ndim:  # a scale of one element may have an axis, whose size then is 1
        axis = node.attributes.get_int("axis", 1)
        rank = scene.facts.rank(node.inputs[0])
        if axis < 0:
            if rank is None:
                return None
            axis += rank
    block = node.attributes.get_int("block_size", 0)
    return Parameters(scale, zeros.astype(np.int64), dtype, precision, axis, block)
