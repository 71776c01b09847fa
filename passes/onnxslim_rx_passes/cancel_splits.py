"""Remove a Split and a Concat that undo one another."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import RETURNED, bypass, is_read, normal_axis

__all__ = ["CancelSplits"]


@dataclasses.dataclass(frozen=True)
class CancelSplits(Rule):
    """Remove a `Split` and a `Concat` along the same axis that undo one another.

    `Concat(Split(x))` of all pieces in order is x; `Split(Concat(a, b))` at the seams is a and b.
    What others read stays.
    """

    name: ClassVar[str] = "cancel-splits"
    roots: ClassVar[tuple[str, ...]] = ("Concat", "Split")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.op_type == "Concat":
            return self._concat(node, scene)
        return self._split(node, scene)

    def _concat(self, node: ir.Node, scene: Scene) -> bool | Skip:
        split = scene.maker(node.inputs[0], "Split")
        if split is None or list(node.inputs) != list(split.outputs):
            return False
        source = split.inputs[0]
        if source is None or split.graph is not node.graph or not _same_axis(split, node, scene):
            return False
        return bypass(scene, [split, node], source, identity=False)

    def _split(self, node: ir.Node, scene: Scene) -> bool | Skip:
        concat = scene.maker(node.inputs[0], "Concat")
        if concat is None or len(concat.inputs) != len(node.outputs):
            return False
        if concat.graph is not node.graph or not _same_axis(node, concat, scene):
            return False
        axis = node.attributes.get_int("axis", 0)
        shapes = [
            [scene.facts.shape(value) for value in values]
            for values in (concat.inputs, node.outputs)
        ]
        for part, piece in zip(*shapes, strict=True):
            if part is None or piece is None or part[axis] != piece[axis]:
                return Skip("it is not proven to split at the seams")
        pairs = list(zip(node.outputs, concat.inputs, strict=True))
        read = {old: new for old, new in pairs if is_read(old) and new is not None}
        if not all(scene.can_forward(old, new) for old, new in read.items()):
            return Skip(RETURNED)
        returned = [new for old, new in read.items() if old.is_graph_output()]
        if len(set(returned)) < len(returned):
            return Skip(RETURNED)
        return scene.replace([concat, node], ir.tape.Tape(), read, keep=True)


def _same_axis(split: ir.Node, concat: ir.Node, scene: Scene) -> bool:
    rank = scene.facts.rank(split.inputs[0]) or scene.facts.rank(concat.outputs[0])
    axes = [node.attributes.get_int("axis", 0) for node in (split, concat)]
    if "axis" not in concat.attributes:
        return False  # its default has changed
    return axes[0] == axes[1] or (
        rank is not None and normal_axis(axes[0], rank) == normal_axis(axes[1], rank)
    )
