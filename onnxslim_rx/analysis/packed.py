"""How many numbers weights hold of which a stored byte holds several."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxslim_rx.analysis.native import DOMAIN, WEIGHTS
from onnxslim_rx.analysis.weights import constant_root
from onnxslim_rx.ir import constant, nodes

__all__ = ["packed_elements"]

_BLOCKS = {
    **{("com.microsoft", name): i for name, i in (("MatMulNBits", 1), ("GatherBlockQuantized", 0))},
    **{(DOMAIN, name): index for name, index in WEIGHTS.items()},
}
"""Operators on weights in blocks, and which input holds the integers."""


def packed_elements(model: ir.Model) -> dict[int, int]:
    """Elements of the weights in blocks, by the `id` of the tensor that is stored."""
    found: dict[int, int] = {}
    for node in nodes(model):
        index = _BLOCKS.get((node.domain, node.op_type))
        if index is None:
            continue
        root, _ = constant_root(node.inputs[index])
        tensor = None if root is None else root.const_value or constant(root)
        if tensor is not None:
            found[id(tensor)] = _elements(node, tensor)
    return found


def _elements(node: ir.Node, tensor: ir.TensorProtocol) -> int:
    """Elements of a weight in blocks."""
    attributes, rows = node.attributes, tensor.shape.numpy()[0] if len(tensor.shape) else 0
    if node.op_type in ("MatMulNBits", "QuantMatMul"):
        return attributes.get_int("N", 0) * attributes.get_int("K", 0)
    if node.op_type == "QuantGather":
        return int(rows * attributes.get_int("columns", 0))
    if node.op_type == "QuantConv":
        channels = attributes.get_int("channels", 0) // attributes.get_int("group", 1)
        return int(rows * channels * math.prod(attributes.get_ints("kernel_shape", ())))
    each = 8 // node.attributes.get_int("bits", 4) if tensor.dtype == ir.DataType.UINT8 else 1
    return tensor.size * each
