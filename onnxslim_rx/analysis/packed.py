"""How many numbers weights hold of which a stored byte holds several."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx.analysis.weights import constant_root
from onnxslim_rx.ir import constant, nodes

__all__ = ["packed_elements"]

_DOMAIN = "com.microsoft"
_BLOCKS = {"MatMulNBits": 1, "GatherBlockQuantized": 0}
"""Operators on weights in blocks, and which input holds the integers."""


def packed_elements(model: ir.Model) -> dict[int, int]:
    """Elements of the weights in blocks, by the `id` of the tensor that is stored."""
    found: dict[int, int] = {}
    for node in nodes(model):
        if node.domain != _DOMAIN or node.op_type not in _BLOCKS:
            continue
        root, _ = constant_root(node.inputs[_BLOCKS[node.op_type]])
        tensor = None if root is None else root.const_value or constant(root)
        if tensor is not None:
            found[id(tensor)] = _elements(node, tensor)
    return found


def _elements(node: ir.Node, tensor: ir.TensorProtocol) -> int:
    """Elements of the weight of MatMulNBits or GatherBlockQuantized."""
    if node.op_type == "MatMulNBits":
        return node.attributes.get_int("N", 0) * node.attributes.get_int("K", 0)
    each = 8 // node.attributes.get_int("bits", 4) if tensor.dtype == ir.DataType.UINT8 else 1
    return tensor.size * each
