"""Drop an Expand in front of a chain that is broadcast later anyway."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._widths import is_elementwise, narrow

__all__ = ["NarrowExpands"]


@dataclasses.dataclass(frozen=True)
class NarrowExpands(Rule):
    """Drop an `Expand` in front of a chain that is broadcast later anyway.

    `Add(y, Sub(Expand(x, shape), c))` is `Add(y, Sub(x, c))` where y has that shape: the chain of
    elementwise operators is computed on the smaller tensor. Each must have no other reader. Where
    the operator that reads the Expand broadcasts it itself, see eliminate-expand.
    """

    name: ClassVar[str] = "narrow-expands"
    roots: ClassVar[tuple[str, ...]] = ("Expand",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        source = node.inputs[0]
        reader = next((use.node for use in node.outputs[0].uses()), None)
        if source is None or reader is None or not is_elementwise(reader):
            return False
        return narrow(node, source, scene)
