"""Take the branch that a constant condition chooses."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.ir import constant, nodes
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._graph import has_reference, label

__all__ = ["InlineConstantIf"]


@dataclasses.dataclass(frozen=True)
class InlineConstantIf(RewritePass):
    """Replace `If` by the nodes of the branch that its constant condition chooses.

    The node stays where the graph around returns something that the branch does not compute.
    """

    name: ClassVar[str] = "inline-constant-if"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = [node for node in nodes(model) if node.op_type == "If" and node.domain == ""]
        if not found:
            return PassResult(model, modified=False)
        inlined, skipped = 0, []
        editor = Editor(model)
        for node in found:
            if node.graph is None or has_reference(node):  # in a branch that is gone
                continue
            condition = constant(node.inputs[0])
            if condition is None or condition.size != 1:
                skipped.append(Skipped(label(node), "the condition is computed"))
                continue
            name = "then_branch" if condition.numpy().item() else "else_branch"
            branch = node.attributes[name].as_graph()
            if any(value.is_graph_output() for value in node.outputs) and not _computes(branch):
                skipped.append(Skipped(label(node), "the graph returns what the branch was given"))
                continue
            _inline(node, branch, editor)
            inlined += 1
        return PassResult(model, inlined > 0, inlined, tuple(skipped))


def _computes(branch: ir.Graph) -> bool:
    """Whether all that a branch returns is made by a node in it, and returned once."""
    results = list(branch.outputs)
    return len(set(results)) == len(results) and all(
        value.graph is branch and value.producer() is not None for value in results
    )


def _inline(node: ir.Node, branch: ir.Graph, editor: Editor) -> None:
    """Move the branch in front of `node`, and remove that."""
    graph, condition = node.graph, node.inputs[0]
    assert graph is not None  # the caller asked
    results = list(branch.outputs)
    branch.outputs.clear()
    moved = list(branch)
    branch.remove(moved)
    for inner in moved:
        inner.name = editor.fresh_for_node(f"{label(node)}/{label(inner)}")
        for value in inner.outputs:
            value.name = editor.fresh(value.name) if value.name else value.name
    graph.insert_before(node, moved)
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        value.name = editor.fresh(str(value.name))
        editor.adopt(graph, value)
    for old, new in zip(node.outputs, results, strict=True):
        editor.forward(old, new)
    remove(node)
    editor.remove_unused([condition])
