"""Put the bodies of functions in the place of their calls."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import PreconditionError
from onnx_ir.passes.common import InlinePass

from onnxslim_rx.ir import bodies, nodes
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor

__all__ = ["InlineFunctions"]

_KERNELS = {"com.microsoft", "ai.onnxslim.rx"}
"""Domains whose operators runtimes have kernels for; a function is the fallback."""

_GRAPHS = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}


@dataclasses.dataclass(frozen=True)
class InlineFunctions(RewritePass):
    """Replace calls of model-local functions by the nodes of their bodies.

    Only then do other rewrites see across the call. A function stays where runtimes may have a
    kernel of that name, where it was written for another opset, takes graphs as attributes, or
    returns what it was given.
    """

    name: ClassVar[str] = "inline-functions"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        if not model.functions:
            return PassResult(model, modified=False)
        calls = [node for node in nodes(model) if node.op_identifier() in model.functions]
        if not calls:
            return PassResult(model, modified=False)
        refused: dict[ir.OperatorIdentifier, str] = {}
        for node in calls:
            key = node.op_identifier()
            why_not = _why_not(model.functions[key], node, model)
            if why_not is not None:
                refused.setdefault(key, why_not)
        skipped = tuple(Skipped(f"{key[0]}::{key[1]}", why) for key, why in refused.items())
        inline = InlinePass(criteria=lambda function: function.identifier() not in refused)
        before = sum(1 for node in calls if node.op_identifier() not in refused)
        try:
            inline.requires(model)
        except PreconditionError:
            return PassResult(
                model, modified=False, skipped=(Skipped("the model", "functions call one another"),)
            )
        modified = bool(before) and inline(model).modified
        if modified:
            _unshadow(model)
        return PassResult(model, modified, before if modified else 0, skipped)


def _why_not(function: ir.Function, call: ir.Node, model: ir.Model) -> str | None:
    if function.domain in _KERNELS:
        return "runtimes have a kernel of this name"
    for domain, version in function.opset_imports.items():
        if model.opset_imports.get(domain, version) != version:
            return f"it was written for version {version} of {domain or 'the standard operators'}"
    attributes = (*function.attributes.values(), *call.attributes.values())
    if any(attribute.type in _GRAPHS for attribute in attributes):
        return "it takes graphs as attributes"
    results = list(function.outputs)
    if len(set(results)) < len(results) or any(one.producer() is None for one in results):
        return "it returns what it was given, or one value twice"
    if len(call.inputs) > len(function.inputs) or len(call.outputs) != len(results):
        return "a call has more inputs, or another number of outputs"
    return None


def _unshadow(model: ir.Model) -> None:
    """Rename values of subgraphs that have the name of a value around them."""
    editor = Editor(model)
    scopes: list[tuple[ir.Graph, frozenset[str]]] = [(model.graph, frozenset())]
    scopes += [(function.graph, frozenset()) for function in model.functions.values()]
    while scopes:
        graph, outer = scopes.pop()
        own = [*graph.inputs, *graph.initializers.values()]
        own += [value for node in graph for value in node.outputs]
        for value in dict.fromkeys(own):
            if value.name in outer:
                value.name = editor.fresh(str(value.name))
        names = outer | {str(value.name) for value in own if value.name}
        scopes += [(body, names) for node in graph for body in bodies(node)]
