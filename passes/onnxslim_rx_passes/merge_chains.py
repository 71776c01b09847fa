"""Merge neighbours that do the same kind of thing, by rules of onnxscript."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx
import onnx_ir as ir
from onnxscript.optimizer import basic_constant_propagation
from onnxscript.rewriter import MatchingTracer, MatchStatus, RewriteRule
from onnxscript.rewriter.rules import common

from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx_passes._graph import Proofs, has_reference, label, opset

__all__ = ["MergeChains"]


def _rules() -> dict[str, list[RewriteRule]]:
    """The rules by the operator of the last node that they match.

    Left out: SlicesSplit (quadratic), rules that are wrong in corners (neighbouring Clips that
    exclude each other, ScatterND with a reduction, PRelu, whose result is never larger than x).
    """
    found = {
        "Cast": [common.cast_cast_rule],
        "Conv": [common.fuse_pad_into_conv_rule],
        "Reshape": [common.reshape_reshape_rule, common.squeeze_reshape_1d_rule],
        "Transpose": [common.transpose_transpose_rule],
        "Unsqueeze": [common.unsqueeze_unsqueeze_rule],
    }
    for rule in common.expand_before_binary_op_rules:
        found.setdefault(rule.name.rpartition("_")[2], []).append(rule)
    del found["PRelu"]
    return found


_RULES = _rules()
_FROM_OPSET = {"Conv": 11}
"""Rules that read inputs which older versions of the operators do not have (Pad's)."""


@dataclasses.dataclass(frozen=True)
class MergeChains(RewritePass):
    """Merge neighbours into one node, or none.

    Cast-Cast through float32 to a 16-bit type, Pad-Conv, Reshape-Reshape, Squeeze-Reshape,
    Transpose-Transpose, Unsqueeze-Unsqueeze, Expand in front of an operator that broadcasts.
    Functions are left alone.
    """

    name: ClassVar[str] = "merge-chains"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = [
            node for node in model.graph.all_nodes() if node.domain == "" and _follows_some(node)
        ]
        if not found:
            return PassResult(model, modified=False)
        editor, proofs = Editor(model), Proofs(model)
        merged, tracer = 0, _Tracer()
        with proofs.shown(model):
            basic_constant_propagation(model.graph.all_nodes())
            for node in found:
                if node.graph is not None and not has_reference(node):
                    merged += _merge(node, editor, tracer, self.name)
        return PassResult(model, merged > 0, merged, tuple(tracer.skipped))


class _Tracer(MatchingTracer):
    """Collects why rules whose pattern is there refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[Skipped] = []

    def log(
        self, rule: Any, container: Any, node: ir.Node, match_result: Any, status: MatchStatus
    ) -> None:
        """Called by onnxscript at the end of each attempt to match."""
        if status == MatchStatus.CONDITION_FAILED:
            self.skipped.append(Skipped(label(node), str(match_result.reason)))


@dataclasses.dataclass(frozen=True)
class _Delta:
    """What a rule wants in the place of what it matched."""

    nodes: Sequence[ir.Node]
    initializers: Sequence[ir.Value]


def _follows_some(node: ir.Node) -> bool:
    """Whether a rule may match that ends in `node`: all need a node in front of it."""
    return node.op_type in _RULES and any(
        value is not None and value.producer() is not None for value in node.inputs
    )


def _merge(node: ir.Node, editor: Editor, tracer: _Tracer, by: str) -> bool:
    """Apply the first rule that matches at `node`."""
    model, graph = editor.model, node.graph
    assert graph is not None  # the caller looked
    if opset(model) < _FROM_OPSET.get(node.op_type, 1):
        return False
    for rule in _RULES[node.op_type]:
        delta = rule.try_rewrite(model, graph, node, tracer=tracer)
        if delta is None or not all(_is_valid(new, opset(model)) for new in delta.new_nodes):
            continue
        # the last of the matched nodes is the only one whose result others may read
        old = [n for n in delta.match.nodes if n is not node] if rule.remove_nodes else []
        made = {value for new in delta.new_nodes for value in new.outputs}
        results = dict(zip(node.outputs, delta.new_outputs, strict=True))
        if not all(new in made or editor.can_forward(o, new) for o, new in results.items()):
            continue
        if any(n.graph is not graph for n in old):
            continue
        unused = [value for n in (*old, node) for value in n.inputs]
        emitted = _Delta(delta.new_nodes, delta.new_initializers)
        editor.replace([*reversed(old), node], emitted, results, by=by)
        editor.remove_unused(unused)
        return True
    return False


def _is_valid(node: ir.Node, version: int) -> bool:
    """Whether this version of the operator has these inputs and attributes."""
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    known = set(schema.attributes) >= set(node.attributes)
    return known and schema.min_input <= len(node.inputs) <= schema.max_input
