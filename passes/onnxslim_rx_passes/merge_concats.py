"""Merge concatenations along the same axis, and drop what adds nothing to one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import normal_axis

__all__ = ["MergeConcats"]


@dataclasses.dataclass(frozen=True)
class MergeConcats(Rule):
    """Merge concatenations along the same axis, and drop parts that are proven to be empty.

    `Concat(Concat(a, b), c)` is `Concat(a, b, c)`. Inner ones that others read as well stay: they
    would be copied twice. Opsets up to 3, whose axis has a default, are left alone.
    """

    name: ClassVar[str] = "merge-concats"
    roots: ClassVar[tuple[str, ...]] = ("Concat",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        axis = _axis(node, scene)
        parts: list[ir.Value | None] = []
        inner = []
        for value in node.inputs:
            first = scene.sole(value, "Concat")
            if first is not None and first.graph is node.graph and _axis(first, scene) == axis:
                inner.append(first)
                parts.extend(first.inputs)
            else:
                parts.append(value)
        kept = [part for part in parts if not _is_empty(part, axis, scene)] or parts[:1]
        if axis is None or (not inner and len(kept) == len(parts)):
            return False
        tape = ir.tape.Tape()
        result = tape.op("Concat", kept, {"axis": axis})
        return scene.replace([*inner, node], tape, {node.outputs[0]: result})


def _axis(node: ir.Node, scene: Scene) -> int | None:
    """The axis from the front, or as it is where the number of dimensions is not known."""
    if "axis" not in node.attributes:
        return None
    axis = node.attributes.get_int("axis", 0)
    rank = scene.facts.rank(node.outputs[0]) if axis < 0 else None
    normal = normal_axis(axis, rank)
    return axis if normal is None else normal


def _is_empty(value: ir.Value | None, axis: int | None, scene: Scene) -> bool:
    shape = scene.facts.shape(value)
    return shape is not None and axis is not None and shape[axis] == 0
