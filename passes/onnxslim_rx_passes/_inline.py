"""Moving what a subgraph computes into the graph around it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Scene

__all__ = ["inline"]


def inline(
    node: ir.Node, body: ir.Graph, results: Sequence[ir.Value], tape: ir.tape.Tape, scene: Scene
) -> bool:
    """Move the nodes of `body`, a subgraph of `node`, in front of that, and remove it.

    Args:
        node: its outputs are replaced by `results`.
        body: none of its inputs is read any more; empty afterwards.
        results: one for each output of `node`.
        tape: nodes to put behind those of the body.
        scene: makes the change.

    Returns:
        True.
    """
    graph, editor = node.graph, scene.editor
    assert graph is not None  # a rule sees nodes of graphs
    body.outputs.clear()
    moved = list(body)
    body.remove(moved)
    for inner in moved:
        inner.name = editor.fresh_for_node(f"{_label(node)}/{_label(inner)}")
        for value in inner.outputs:
            value.name = editor.fresh(value.name) if value.name else value.name
    graph.insert_before(node, moved)
    for value in list(body.initializers.values()):
        del body.initializers[str(value.name)]
        value.name = editor.fresh(str(value.name))
        editor.adopt(graph, value)
    scene.insert(tape, node)
    scene.touched.extend(moved)
    for value in node.outputs:
        scene.touched.extend(use.node for use in value.uses())
    for old, new in zip(node.outputs, results, strict=True):
        editor.forward(old, new)
    unused = list(node.inputs)
    remove(node)
    editor.remove_unused(unused)
    scene.facts.forget()  # what was an input of the body is known now
    return True


def _label(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)
