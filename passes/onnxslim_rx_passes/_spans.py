"""Between which numbers a tensor lies, as far as the nodes before it tell."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._match import clamp
from onnxslim_rx_passes._quantized import parameters

__all__ = ["MOVES", "span"]

Span = tuple[float, float]

MOVES = frozenset(
    {
        "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "ReduceMax",
        "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose results are elements of their first input, chosen by order and place alone."""

_MEANS = {"AveragePool", "GlobalAveragePool", "ReduceMean"}
_WITHIN: Mapping[str, Span] = {
    "Erf": (-1.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Relu": (0.0, math.inf),
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
_ALL: Span = (-math.inf, math.inf)
_DEPTH = 16


def span(scene: Scene, value: ir.Value | None, depth: int = _DEPTH) -> Span:
    """The least and the largest number that `value` can hold, infinite where nothing is known.

    Zeros that pad are left out: they are in the range of all integers with a zero point.
    """
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or not node.inputs or depth == 0:
        return _ALL
    if node.op_type in MOVES or node.op_type in _MEANS:
        return span(scene, node.inputs[0], depth - 1)
    if node.op_type == "Concat":
        spans = [span(scene, one, depth - 1) for one in node.inputs]
        return min(low for low, _ in spans), max(high for _, high in spans)
    if node.op_type == "DequantizeLinear":
        known = parameters(node, scene)
        if known is None or known.scale.size != 1 or not known.scale.item() > 0:
            return _ALL
        zero, step = known.zero.item(), float(known.scale.item())
        return (known.lowest - zero) * step, (known.highest - zero) * step
    found = clamp(scene, value)
    if found is not None:
        return found.low, found.high
    return _WITHIN.get(node.op_type, _ALL)
