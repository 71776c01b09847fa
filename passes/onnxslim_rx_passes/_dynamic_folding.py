"""Scales of channels move into what makes the channels, where nobody else reads them.

`quantize-dynamic` multiplies activations by a constant row before they are rounded. What is in
front (a normalisation, a product with a constant, a linear layer) can do that with its constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant, graphs, marked
from onnxslim_rx.rewriter import Editor, remove

__all__ = ["fold_scales"]

Row = npt.NDArray[np.float64]

_MS = "com.microsoft"
# by operator, the inputs that become rows of the output: scales, and biases that are added behind
_NORMS = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    (_MS, "SkipLayerNormalization"): (2, 3),
    (_MS, "SkipSimplifiedLayerNormalization"): (2,),
}
_KEEP_SCALES = ("Relu", "LeakyRelu")  # f(s x) = s f(x) for s above 0


@dataclasses.dataclass(frozen=True)
class _Change:
    """Another constant for one input of a node."""

    node: ir.Node
    index: int
    array: npt.NDArray[np.float64]


def fold_scales(model: ir.Model, by: str) -> None:
    """Fold every scale in front of DynamicQuantizeLinear that can be, in place.

    Args:
        model: where `by` has emitted `Mul(x, row)` with one reader or more, all of which round.
        by: name of the pass.
    """
    editor = Editor(model)
    for graph in graphs(model):
        for node in list(graph):
            if node.op_type != "Mul" or marked(node) != by:
                continue
            value, by_channel = node.inputs
            tensor = None if by_channel is None else constant(by_channel)
            if value is None or tensor is None or len(tensor.shape) != 1 or not _rounds(node):
                continue
            changes = _absorbed(value, tensor.numpy().astype(np.float64), graph)
            if changes is not None and editor.can_forward(node.outputs[0], value):
                _carry_out(editor, graph, changes)
                node.outputs[0].replace_all_uses_with(value)
                remove(node)
                editor.remove_unused([by_channel])


def _rounds(node: ir.Node) -> bool:
    """Whether all that read the node's result round it."""
    readers = [use.node for use in node.outputs[0].uses()]
    return bool(readers) and all(one.op_type == "DynamicQuantizeLinear" for one in readers)


def _carry_out(editor: Editor, graph: ir.Graph, changes: list[_Change]) -> None:
    for change in changes:
        old = change.node.inputs[change.index]
        assert old is not None  # a constant was found there
        tensor = ir.tensor(change.array.astype(np.float32))
        new = editor.constant(graph, tensor, f"{old.name}.smooth")
        change.node.replace_input_with(change.index, new)
        editor.remove_unused([old])


def _absorbed(value: ir.Value, row: Row, graph: ir.Graph) -> list[_Change] | None:
    """What makes `value` times `row` of the node that makes `value`; None where nothing does."""
    node = value.producer()
    if node is None or node.graph is not graph or len(value.uses()) != 1:
        return None
    if value.is_graph_output() or node.outputs[0] is not value:
        return None
    places = _NORMS.get((node.domain, node.op_type))
    if places is not None:
        present = [i for i in places if i < len(node.inputs) and node.inputs[i] is not None]
        return _scaled(node, present, row)
    if node.domain != "":
        return None
    absorb = _BY_OPERATOR.get(node.op_type)
    return None if absorb is None else absorb(node, row, graph)


_Absorb = Callable[[ir.Node, Row, ir.Graph], "list[_Change] | None"]


def _through(node: ir.Node, row: Row, graph: ir.Graph) -> list[_Change] | None:
    source = node.inputs[0]
    return None if source is None else _absorbed(source, row, graph)


def _product(node: ir.Node, row: Row, graph: ir.Graph) -> list[_Change] | None:
    """Of a Mul: its constant, or what makes one of its inputs."""
    for index, value in enumerate(node.inputs):
        if value is not None and constant(value) is not None:
            return _scaled(node, [index], row)
    for value in node.inputs:
        found = None if value is None else _absorbed(value, row, graph)
        if found is not None:
            return found
    return None


def _sum(node: ir.Node, row: Row, graph: ir.Graph) -> list[_Change] | None:
    """Of an Add: its constant, and what makes the other input."""
    for index, value in enumerate(node.inputs):
        other = node.inputs[1 - index]
        if value is not None and other is not None and constant(value) is not None:
            own = _scaled(node, [index], row)
            rest = _absorbed(other, row, graph)
            return None if own is None or rest is None else own + rest
    return None


def _linear(node: ir.Node, row: Row, graph: ir.Graph) -> list[_Change] | None:
    """Of MatMul and Gemm: the columns of a constant weight, and the bias."""
    weight = node.inputs[1]
    tensor = None if weight is None else constant(weight)
    if weight is None or len(weight.uses()) > 1:
        return None
    if tensor is None or len(tensor.shape) != 2 or tensor.dtype != ir.DataType.FLOAT:
        return None
    by_column = node.op_type == "MatMul" or not node.attributes.get_int("transB", 0)
    if tensor.shape.numpy()[1 if by_column else 0] != len(row):
        return None
    array = tensor.numpy().astype(np.float64)
    changes = [_Change(node, 1, array * (row if by_column else row[:, None]))]
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return changes
    bias = _scaled(node, [2], row)
    return None if bias is None else changes + bias


_BY_OPERATOR: dict[str, _Absorb] = {
    **dict.fromkeys(_KEEP_SCALES, _through),
    "Mul": _product,
    "Add": _sum,
    "MatMul": _linear,
    "Gemm": _linear,
}


def _scaled(node: ir.Node, places: list[int], row: Row) -> list[_Change] | None:
    """Constants that lie along the last axis, times `row`."""
    changes = []
    for index in places:
        value = node.inputs[index]
        tensor = None if value is None else constant(value)
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            return None
        if tensor.shape.numpy() not in ((), (1,), (len(row),)):
            return None
        changes.append(_Change(node, index, tensor.numpy().astype(np.float64) * row))
    return changes
