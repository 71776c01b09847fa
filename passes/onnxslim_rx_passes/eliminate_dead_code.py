"""Remove what contributes to no output."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass

from onnxslim_rx.ir import bodies, graphs, is_overridable
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass
from onnxslim_rx.rewriter import drop_initializer, remove

__all__ = ["EliminateDeadCode"]


@dataclasses.dataclass(frozen=True)
class EliminateDeadCode(RewritePass):
    """Remove nodes, initializers, functions and opset imports that nothing uses.

    Inputs of the model stay, also those that nothing reads.
    """

    name: ClassVar[str] = "eliminate-dead-code"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        removed = _sweep(model.graph)
        removed += sum(_sweep(function.graph) for function in model.functions.values())
        functions = RemoveUnusedFunctionsPass()(model).modified  # type: ignore[no-untyped-call]
        for graph in graphs(model):
            for value in list(graph.initializers.values()):
                if not (value.uses() or is_overridable(value) or value.is_graph_output()):
                    drop_initializer(value)
                    removed += 1
        imports = RemoveUnusedOpsetsPass()(model).modified
        return PassResult(model, removed > 0 or functions or imports, removed)


def _sweep(graph: ir.Graph) -> int:
    """Remove dead nodes, the last first, so that what fed only them dies too; count them."""
    removed = 0
    for node in reversed(list(graph)):
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            removed += sum(_sweep(body) for body in bodies(node))
        else:
            remove(node)
            removed += 1
    return removed
