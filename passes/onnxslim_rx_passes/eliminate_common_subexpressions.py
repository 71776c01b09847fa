"""Compute once what is computed several times."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.ir import bodies
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor, remove
from onnxslim_rx_passes._graph import has_reference, is_random, label

__all__ = ["EliminateCommonSubexpressions"]

# Of two inputs; Min and Max are not here: which NaN they return depends on the order.
_COMMUTATIVE = {"Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Mul", "Or", "Xor"}
_KNOWN_DOMAINS = {"", "ai.onnx.ml"}  # operators of others may have a state
_SMALL = 1024  # tensors of more bytes, as attributes, are compared by identity


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(RewritePass):
    """Merge nodes of the same operator, inputs and attributes.

    Also a node in a subgraph with one that was computed around it before, and `a + b` with
    `b + a`. Random operators, custom operators and calls of functions are left alone.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        work = _Work(Editor(model), model.functions)
        work.graph(model.graph, {})
        for function in model.functions.values():
            work.graph(function.graph, {})
        return PassResult(model, work.merged > 0, work.merged, tuple(work.skipped))


class _Work:
    def __init__(self, editor: Editor, functions: Mapping[ir.OperatorIdentifier, object]) -> None:
        self.editor = editor
        self.functions = functions
        self.merged = 0
        self.skipped: list[Skipped] = []

    def graph(self, graph: ir.Graph, outer: Mapping[Hashable, ir.Node]) -> None:
        """Merge in one graph, given what was computed around it before."""
        seen = dict(outer)
        for node in list(graph):
            key = _key(node)
            if key is None or node.op_identifier() in self.functions:
                for body in bodies(node):
                    self.graph(body, seen)
                continue
            twin = seen.setdefault(key, node)
            if twin is not node:
                self.merge(node, twin)

    def merge(self, node: ir.Node, twin: ir.Node) -> None:
        """Let readers of `node` read `twin`, and remove it."""
        if is_random(node):
            self.skipped.append(Skipped(label(node), "draws numbers of its own"))
            return
        used = [
            (old, new)
            for old, new in zip(node.outputs, twin.outputs, strict=True)
            if old.uses() or old.is_graph_output()
        ]
        if not all(new.name and self.editor.can_forward(old, new) for old, new in used):
            self.skipped.append(Skipped(label(node), "the graph returns it under its own name"))
            return
        for old, new in used:
            self.editor.forward(old, new)
        remove(node)
        self.merged += 1


def _key(node: ir.Node) -> Hashable | None:
    """Equal for nodes that compute the same; None for those that are left alone."""
    if node.domain not in _KNOWN_DOMAINS or list(bodies(node)) or has_reference(node):
        return None
    inputs = [id(value) for value in node.inputs]
    if len(inputs) == 2 and node.op_type in _COMMUTATIVE:
        inputs.sort()
    attributes = sorted((name, _attribute(a)) for name, a in node.attributes.items())
    return node.op_identifier(), tuple(inputs), tuple(attributes), len(node.outputs)


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type != ir.AttributeType.TENSOR:
        return repr(attribute.value)  # tells 0.0 from -0.0
    tensor = attribute.as_tensor()
    if tensor.nbytes > _SMALL or tensor.dtype == ir.DataType.STRING:
        return f"tensor {id(tensor)}"
    return f"{tensor.dtype} {tensor.shape.numpy()} {tensor.tobytes().hex()}"
