"""Take the branch that a constant condition chooses."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._inline import inline

__all__ = ["InlineConstantIf"]


@dataclasses.dataclass(frozen=True)
class InlineConstantIf(Rule):
    """Replace `If` by the nodes of the branch that its constant condition chooses.

    The node stays where the graph around returns something that the branch does not compute.
    """

    name: ClassVar[str] = "inline-constant-if"
    roots: ClassVar[tuple[str, ...]] = ("If",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        condition = scene.facts.array(node.inputs[0])
        if condition is None or condition.size != 1:
            return Skip("the condition is computed")
        branch = node.attributes["then_branch" if condition.item() else "else_branch"].as_graph()
        if any(value.is_graph_output() for value in node.outputs) and not _computes(branch):
            return Skip("the graph returns what the branch was given")
        return inline(node, branch, list(branch.outputs), ir.tape.Tape(), scene)


def _computes(branch: ir.Graph) -> bool:
    """Whether all that a branch returns is made by a node in it, and returned once."""
    results = list(branch.outputs)
    return len(set(results)) == len(results) and all(
        value.graph is branch and value.producer() is not None for value in results
    )
