"""Casts that `compute-half` put around nodes: those that cancel each other, or do the same, go."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx.ir import graphs_in, marked
from onnxslim_rx.rewriter import Editor, remove

__all__ = ["is_cast", "source", "tidy_casts"]

_FLOAT = ir.DataType.FLOAT


def is_cast(node: ir.Node | None, by: str) -> bool:
    """Whether the pass called `by` made the node, a Cast."""
    return node is not None and node.op_type == "Cast" and marked(node) == by


def source(value: ir.Value, by: str) -> ir.Value:
    """What a value was before the Casts of that pass."""
    node = value.producer()
    while node is not None and is_cast(node, by):
        (before,) = node.inputs
        assert before is not None  # a Cast has an input
        value, node = before, before.producer()
    return value


def tidy_casts(editor: Editor, by: str) -> None:
    """Drop needless Casts of the pass called `by`, in place; the numbers stay the same.

    `Cast<half>(Cast<float>(h))` is h. Of equal Casts of one value in one graph, the first stays.
    """
    for graph in graphs_in(editor.model.graph):
        first: dict[tuple[ir.Value, int], ir.Value] = {}
        for node in list(graph):
            if not is_cast(node, by):
                continue
            (value,) = node.inputs
            assert value is not None  # a Cast has an input
            output, to = node.outputs[0], node.attributes.get_int("to", 0)
            maker = value.producer()
            before = maker.inputs[0] if maker is not None and is_cast(maker, by) else None
            inner = before if before is not None and before.dtype == to != _FLOAT else None
            same = inner or first.setdefault((value, to), output)
            if same is not output and editor.can_forward(output, same):
                editor.forward(output, same)
        for node in reversed(list(graph)):
            if is_cast(node, by) and not _is_needed(node.outputs[0]):
                remove(node)


def _is_needed(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
