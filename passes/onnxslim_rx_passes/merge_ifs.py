"""Merge branches on the same condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.ir import bodies, graphs_in, nodes_in
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rewriter import remove
from onnxslim_rx.rules import Rule, Scene

__all__ = ["MergeIfs"]

_BRANCHES = ("then_branch", "else_branch")


@dataclasses.dataclass(frozen=True)
class MergeIfs(Rule):
    """Replace two `If` on the same condition by one with the results of both.

    And `If(Not(c))` by `If(c)` with the branches exchanged. Refused where the second reads what was
    computed since the first. This moves the second in front; no node is computed more often.
    """

    name: ClassVar[str] = "merge-ifs"
    roots: ClassVar[tuple[str, ...]] = ("If",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        negation = scene.maker(node.inputs[0], "Not")
        if negation is not None:
            return _exchange(node, negation, scene)
        condition, graph = node.inputs[0], node.graph
        if condition is None or graph is None or len(condition.uses()) < 2:
            return False
        order = {one: position for position, one in enumerate(graph)}
        others = [
            use.node
            for use in condition.uses()
            if use.node.op_type == "If" and order.get(use.node, order[node]) < order[node]
        ]
        if not others:
            return False
        first = max(others, key=order.__getitem__)
        between = list(order)[order[first] : order[node]]
        made = {value for one in between for value in one.outputs}
        if not made.isdisjoint(_captured(node)):
            return Skip("it reads what was computed since the other If")
        _merge(first, node, scene)
        return True


def _exchange(node: ir.Node, negation: ir.Node, scene: Scene) -> bool:
    then, other = (node.attributes[name].as_graph() for name in _BRANCHES)
    for name, graph in zip(_BRANCHES, (other, then), strict=True):
        node.attributes[name] = ir.AttrGraph(name, graph)
    node.replace_input_with(0, negation.inputs[0])
    scene.touched.append(node)
    if not negation.outputs[0].uses() and not negation.outputs[0].is_graph_output():
        remove(negation)
    return True


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the branches of `node` read, also their own."""
    for body in bodies(node):
        for inner in nodes_in(body):
            yield from (value for value in inner.inputs if value is not None)


def _merge(first: ir.Node, second: ir.Node, scene: Scene) -> None:
    """Move the branches of `second` to the ends of those of `first`."""
    for name in _BRANCHES:
        _move(second.attributes[name].as_graph(), first.attributes[name].as_graph(), scene)
    old, count = list(second.outputs), len(first.outputs)
    first.resize_outputs(count + len(old))
    for value, new in zip(old, first.outputs[count:], strict=True):
        new.name = scene.editor.fresh(f"{value.name}")
        new.type, new.shape = value.type, value.shape
        scene.touched.extend(use.node for use in value.uses())
        scene.editor.forward(value, new)
    remove(second)
    scene.touched.append(first)
    scene.facts.forget()  # the first has more outputs than it had


def _move(source: ir.Graph, target: ir.Graph, scene: Scene) -> None:
    results, moved = list(source.outputs), list(source)
    own = [*source.initializers.values()]
    own += [value for inner in nodes_in(source) for value in inner.outputs]
    for graph in list(graphs_in(source))[1:]:
        own += [*graph.inputs, *graph.initializers.values()]
    source.outputs.clear()
    source.remove(moved)
    for value in list(source.initializers.values()):
        del source.initializers[str(value.name)]
        value.name = scene.editor.fresh(str(value.name))
        scene.editor.adopt(target, value)
    for value in dict.fromkeys(own):  # branches of two nodes may use the same names
        if value.name and value.graph is not target:
            value.name = scene.editor.fresh(value.name)
    for inner in moved:
        inner.name = scene.editor.fresh_for_node(inner.name or inner.op_type)
    target.extend(moved)
    target.outputs.extend(results)
