"""Let a Reshape infer what a graph computes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Dim
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import emit_axes, ones_between, shape_constant

__all__ = ["SimplifyReshape"]

_FLATTENS_ALL_FROM = 13
"""From this opset on, Flatten takes all types."""


@dataclasses.dataclass(frozen=True)
class SimplifyReshape(Rule):
    """Give a `Reshape` a constant shape instead of one that is computed.

    A size that the input has at the same place becomes 0 (copied), and one more may become -1
    (inferred): `Reshape(x, [batch, 12, 64])` of x (batch, 768) becomes
    `Reshape(x, [0, 12, 64])`. Where axes of size 1 are all that is added or dropped, it becomes
    an `Unsqueeze` or a `Squeeze`, and `Reshape(x, [batch, rest])` becomes a `Flatten`. Refused
    where more than one size would have to be inferred, or one beside an axis that may be empty:
    ONNX infers nothing of no elements.
    """

    name: ClassVar[str] = "simplify-reshape"
    roots: ClassVar[tuple[str, ...]] = ("Reshape",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if len(node.inputs) < 2 or scene.facts.array(node.inputs[1]) is not None:
            return False  # before opset 5 the shape is an attribute
        source, result = node.inputs[0], node.outputs[0]
        before, after = scene.facts.shape(source), scene.facts.shape(result)
        if source is None or after is None:
            return Skip("its shape is computed from data")
        tape = ir.tape.Tape()
        target = _constant_target(after, before or ())
        ones = None if target is not None or before is None else ones_between(before, after)
        if target is not None and _is_ambiguous(target, scene.facts.contents(node.inputs[1])):
            if len(target) > 2 or target[0] != 0 or scene.opset < _FLATTENS_ALL_FROM:
                return Skip("where an axis is empty, no size beside it can be inferred")
            flat = tape.op("Flatten", [source], {"axis": 1})
            return scene.replace([node], tape, {result: flat})
        if target is not None:
            shape = shape_constant(tape, target, f"{result.name}.shape")
            return scene.replace([node], tape, {result: tape.op("Reshape", [source, shape])})
        if ones is not None:
            new = emit_axes(tape, ones[0], source, ones[1], scene)
            return scene.replace([node], tape, {result: new})
        return Skip("more than one size would have to be inferred")


def _is_ambiguous(target: Sequence[int], contents: Sequence[Dim] | None) -> bool:
    """Whether a size would be inferred beside one that may be 0, where the graph computed it."""
    if -1 not in target or 0 not in target:
        return False
    place = target.index(-1)
    return contents is None or len(contents) != len(target) or contents[place] != -1


def _constant_target(after: Sequence[Dim], before: Sequence[Dim]) -> list[int] | None:
    """The second input of a Reshape to `after`, with 0 for a copy; None if there is none."""
    target = []
    for place, dim in enumerate(after):
        if isinstance(dim, int) and dim > 0:
            target.append(dim)
        elif place < len(before) and before[place] == dim:
            target.append(0)
        elif dim == 0:
            return None  # 0 would mean a copy, and nothing is inferred of no elements
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None
