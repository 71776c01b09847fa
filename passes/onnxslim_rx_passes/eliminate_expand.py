"""Remove an Expand in front of an operator that broadcasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["EliminateExpand"]


@dataclasses.dataclass(frozen=True)
class EliminateExpand(Rule):
    """Let an operator that broadcasts read what an `Expand` in front of it reads.

    Where the result keeps its shape: each axis that the Expand makes longer must be proven to be
    as long in another input, or to be 1 there and in the result. An `Expand` of an `Expand` to a
    shape that includes the first likewise. `PRelu` broadcasts its slope alone.
    """

    name: ClassVar[str] = "eliminate-expand"
    roots: ClassVar[tuple[str, ...]] = (
        "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal",
        "Expand", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
    )  # fmt: skip

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        found = False
        for index, value in enumerate(node.inputs):
            expand = scene.maker(value, "Expand")
            if expand is None or expand.graph is not node.graph:
                continue
            if index == 0 and node.op_type == "PRelu":
                continue
            found = True
            source = expand.inputs[0]
            if source is None or not _is_superfluous(node, index, source, scene):
                continue
            tape = ir.tape.Tape()
            inputs = [*node.inputs[:index], source, *node.inputs[index + 1 :]]
            result = tape.op(node.op_type, inputs, node.attributes)
            return scene.replace([expand, node], tape, {node.outputs[0]: result}, keep=True)
        return Skip("the Expand may lengthen the result") if found else False


def _is_superfluous(node: ir.Node, index: int, source: ir.Value, scene: Scene) -> bool:
    """Whether the result of `node` has the same shape if it reads `source`."""
    before, after = scene.facts.shape(source), scene.facts.shape(node.inputs[index])
    if before is None or after is None:
        return False
    if node.op_type == "Expand":
        told = scene.facts.contents(node.inputs[1])
        others: list[Sequence[Dim] | None] = [told]
    else:
        others = [scene.facts.shape(v) for i, v in enumerate(node.inputs) if i != index]
    for back in range(1, len(after) + 1):
        old = before[-back] if back <= len(before) else None
        new = after[-back]
        if old == new:
            continue
        present = [shape[-back] for shape in others if shape is not None and back <= len(shape)]
        if new not in present and not (old is None and new == 1 and present):
            return False
    return True
