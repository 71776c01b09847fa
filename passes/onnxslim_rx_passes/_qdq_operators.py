"""Operators that ONNX Runtime computes on integers between DequantizeLinear and QuantizeLinear.

Found out with ONNX Runtime 1.31 on a CPU, 8 bits, one scale for each tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.ir import constant

__all__ = [
    "clamps_output",
    "data_inputs",
    "is_move",
    "is_one_to_one",
    "is_scalar",
    "keeps_range",
    "unit_range",
]

# What comes out went in: both sides have one grid.
_ONE_TO_ONE = {
    *("DepthToSpace", "Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
_SOME = {
    "Gather",
    "GatherElements",
    "MaxPool",
    "ReduceMax",
    "ReduceMin",
    "Resize",
    "Slice",
    "Split",
}
_KEEP_RANGE = {"AveragePool", "GlobalAveragePool", "LeakyRelu"}
_COMPUTE = {**dict.fromkeys((*_KEEP_RANGE, "Sigmoid"), 1), "Add": 2, "Mul": 2}


def data_inputs(node: ir.Node) -> Sequence[int]:
    """Which inputs of a node have to be on grids; none where it does not compute on integers."""
    if node.domain != "":
        return ()
    if is_move(node):
        return (0,)
    if node.op_type == "Concat":
        return range(len(node.inputs))
    if node.op_type == "Where":
        return (1, 2)
    return range(_COMPUTE.get(node.op_type, 0))


def is_move(node: ir.Node) -> bool:
    """Whether what comes out are values that went in, on the same grid."""
    if node.domain != "" or node.op_type not in _ONE_TO_ONE | _SOME:
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest" and not _crops(node)
    return node.op_type == "Split" or len(node.outputs) == 1


def is_one_to_one(node: ir.Node) -> bool:
    """Whether, on top of that, all that went in comes out."""
    return node.domain == "" and node.op_type in _ONE_TO_ONE


def keeps_range(node: ir.Node) -> bool:
    """Whether what comes out lies in the range of what went in."""
    if node.domain != "" or node.op_type not in _KEEP_RANGE:
        return False
    return node.op_type != "LeakyRelu" or 0 <= node.attributes.get_float("alpha", 0.01) <= 1


def unit_range(node: ir.Node) -> bool:
    """Whether what comes out lies between 0 and 1."""
    return node.domain == "" and node.op_type in ("Sigmoid", "HardSigmoid")


def clamps_output(node: ir.Node) -> bool:
    """Whether a Relu or Clip may stand between the operator and the grid of its output."""
    return not is_move(node) and node.op_type != "Where"


def _crops(node: ir.Node) -> bool:
    """Whether values from outside the input come in."""
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    return mode == "tf_crop_and_resize"


def is_scalar(value: ir.Value | None) -> bool:
    """Whether a value is a constant of one element, for which there is a grid without error."""
    tensor = constant(value)
    return tensor is not None and tensor.size == 1 and tensor.dtype == ir.DataType.FLOAT
