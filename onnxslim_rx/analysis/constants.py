"""Constants behind nodes that only give them another type or shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant

__all__ = ["numbers", "root_of"]

Array = npt.NDArray[Any]

_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def root_of(value: ir.Value | None) -> ir.Value | None:
    """The constant whose elements `value` has in the same order, in whatever shape; or None."""
    while value is not None and constant(value) is None:
        node = value.producer()
        if node is None or node.domain != "" or node.op_type not in _VIEWS:
            return None
        value = node.inputs[0]
    return value


def numbers(value: ir.Value | None) -> Array | None:
    """The content of a constant, also of one that is cast or given another shape; or None."""
    tensor = constant(value)
    if tensor is not None:
        return tensor.numpy()
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Cast", "Identity", "Reshape"):
        return None
    inner = numbers(node.inputs[0])
    if inner is None or node.op_type == "Identity":
        return inner
    if node.op_type == "Cast":
        dtype = ir.DataType(node.attributes.get_int("to", ir.DataType.FLOAT))
        return inner.astype(dtype.numpy())
    shape = numbers(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None or 0 in shape or inner.size == 0:
        return None
    reshaped: Array = inner.reshape(np.asarray(shape).tolist())
    return reshaped
