"""Tables that rows are sliced from, as the positions of a text are."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.ir import constant, graphs_in
from onnxslim_rx.passbase import Layer

__all__ = ["PICKED", "picked_layers"]

PICKED = "picked"
"""The kind of these layers."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


def picked_layers(model: ir.Model, min_elements: int) -> Iterator[Layer]:
    """Constants of rank 2 and more that Slice reads with computed bounds, and nothing else does.

    With constant bounds a Slice folds away. Each row, along the last axis, is told apart.

    Args:
        model: not changed.
        min_elements: smaller ones are left out.
    """
    outside_functions = set(graphs_in(model.graph))
    seen: set[ir.Value] = set()
    for use in weight_uses(model, min_elements=min_elements):
        weight, node = use.weight, use.node
        if use.through or weight in seen or use.graph not in outside_functions:
            continue
        seen.add(weight)
        shape = use.tensor.shape.numpy()
        if len(shape) < 2 or use.tensor.size < min_elements or use.tensor.dtype not in _FLOATS:
            continue
        if constant(weight) is None or weight.is_graph_output() or weight.is_graph_input():
            continue
        readers = weight.uses()
        if all(reader.op_type == "Slice" and index == 0 for reader, index in readers):
            bounds = [i for i, v in enumerate(node.inputs) if i and v and constant(v) is None]
            if bounds and node.domain == "":
                yield Layer(str(weight.name), node.op_type, PICKED, node, 0, bounds[0])
