"""Shapes of operators of com.microsoft and of our own, for which ONNX has no inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.known import Known
from onnxslim_rx.analysis.native import DOMAIN, native_shape
from onnxslim_rx.analysis.shapes import Shape

__all__ = ["contrib_shape"]

_LIKE_FIRST = {
    "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization",
    "DequantizeLinear", "QuantizeLinear", "MultiHeadAttention", "GroupQueryAttention",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax",
}  # fmt: skip


def contrib_shape(node: ir.Node, inputs: Sequence[Known]) -> Shape | None:
    """Shape of the first output, or None where the operator or its inputs are not known."""
    if node.domain == DOMAIN:
        return native_shape(node, [one.shape for one in inputs])
    x = inputs[0].shape if inputs else None
    if node.domain not in ("com.microsoft", "") or x is None:
        return None
    second = inputs[1].shape if len(inputs) > 1 else None
    op, attributes = node.op_type, node.attributes
    if op in _LIKE_FIRST:
        return x
    if op == "MatMulNBits":
        return (*x[:-1], attributes.get_int("N", None))
    if op in ("QLinearAdd", "QLinearMul"):
        other = inputs[3].shape if len(inputs) > 3 else None
        return None if other is None else _broadcast(x, other)
    if second is None:
        return None
    if op == "GatherBlockQuantized":
        stored_in_bytes = inputs[0].dtype == ir.DataType.UINT8
        packed = 8 // attributes.get_int("bits", 4) if stored_in_bytes else 1
        return (*second, *(None if d is None else d * packed for d in x[1:]))
    if op == "Attention":
        sizes = attributes.get_ints("qkv_hidden_sizes", [])
        hidden = sizes[2] if sizes else None if second[-1] is None else second[-1] // 3
        return (*x[:-1], hidden)
    if op in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedMatMul"):
        return _matmul(node, x, second)
    return None


def _matmul(node: ir.Node, a: Shape, b: Shape) -> Shape | None:
    if len(a) < 2 or len(b) < 2:
        return None
    rows = a[-1] if node.attributes.get_int("transA", 0) else a[-2]
    columns = b[-2] if node.attributes.get_int("transB", 0) else b[-1]
    batch = _broadcast(a[:-2], b[:-2])
    return None if batch is None else (*batch, rows, columns)


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    if None in a or None in b:
        return a if len(a) >= len(b) and set(b) <= {1} else None
    return np.broadcast_shapes(tuple(d or 0 for d in a), tuple(d or 0 for d in b))
