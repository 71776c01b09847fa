"""Whether readers of a tensor need it in its full shape, or broadcast it anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxslim_rx.analysis.facts.rules.elementwise import broadcast_shapes
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._patterns import equal
from onnxslim_rx_passes._regions import BROADCASTING, UNARY, is_pointwise

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["narrowed", "readers_keep_shape"]

_BROADCASTS_FROM = 8
"""The opset from which all elementwise operators broadcast like NumPy."""


def narrowed(
    node: ir.Node, shapes: Mapping[ir.Value, Sequence[Dim]], scene: Scene
) -> tuple[Dim, ...] | None:
    """The shape of the result of an elementwise operator if some inputs had other shapes.

    Args:
        node: reads some of `shapes`.
        shapes: of inputs.
        scene: knows all other shapes.

    Returns:
        None where `node` is no such operator, or its shape is not known.
    """
    if node.domain != "" or scene.opset < _BROADCASTS_FROM or not is_pointwise(node, scene):
        return None
    if node.op_type in UNARY:
        first = node.inputs[0]
        return tuple(shapes[first]) if first is not None and first in shapes else None
    if node.op_type not in BROADCASTING or node.op_type == "PRelu":
        return None
    result: tuple[Dim, ...] | None = ()
    for value in node.inputs:
        shape = None if value is None else shapes.get(value) or scene.facts.shape(value)
        if shape is None or result is None:
            return None
        try:
            result = broadcast_shapes(result, tuple(shape))
        except ValueError:  # they do not fit
            return None
    return result


def readers_keep_shape(value: ir.Value, shape: Sequence[Dim], scene: Scene) -> bool:
    """Whether the results of all readers of `value` keep their shapes if it has only `shape`."""
    if equal(shape, scene.facts.shape(value)):
        return True
    if value.is_graph_output():
        return False
    return all(
        use.node.graph is not None
        and equal(narrowed(use.node, {value: shape}, scene), scene.facts.shape(use.node.outputs[0]))
        for use in value.uses()
    )
