"""Transpose at once what is reshaped, transposed, and reshaped back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import bypass, equal
from onnxslim_rx_passes.merge_transposes import permutation

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["MergeReshapedTransposes", "grouped"]

_SHAPERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class MergeReshapedTransposes(Rule):
    """Replace `Reshape(Transpose(Reshape(x)))` by one `Transpose`.

    Where the first Reshape only puts neighbouring axes together, so that the Transpose moves
    whole groups of them, and the second takes them apart again: x (b, h, s, d) to (b * h, s, d),
    to (b * h, d, s), to (b, h, d, s) is `Transpose<perm=[0, 1, 3, 2]>(x)`. `Flatten`, `Squeeze`
    and `Unsqueeze` count as `Reshape`. The transposed tensor must have no other reader.
    """

    name: ClassVar[str] = "merge-reshaped-transposes"
    roots: ClassVar[tuple[str, ...]] = _SHAPERS

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        transpose = scene.sole(node.inputs[0], "Transpose")
        if transpose is None or transpose.graph is not node.graph:
            return False
        first = scene.maker(transpose.inputs[0], *_SHAPERS)
        if first is None or first.graph is not node.graph:
            return False
        source, perm = first.inputs[0], permutation(transpose, scene)
        before, between, after = (
            scene.facts.shape(value) for value in (source, transpose.inputs[0], node.outputs[0])
        )
        if source is None or perm is None or before is None or between is None or after is None:
            return Skip("the number of dimensions is not known")
        groups = grouped(before, between)
        if groups is None:
            return Skip("the first Reshape does more than to put axes together")
        order = [axis for group in perm for axis in groups[group]]
        if not equal([before[axis] for axis in order], after):
            return Skip("the second Reshape does more than to take axes apart again")
        old = [first, transpose, node]
        if order == sorted(order):
            return bypass(scene, old, source)
        tape = ir.tape.Tape()
        result = tape.op("Transpose", [source], {"perm": order})
        return scene.replace(old, tape, {node.outputs[0]: result}, keep=True)


def grouped(before: Sequence[Dim], after: Sequence[Dim]) -> list[list[int]] | None:
    """The axes of a tensor that each axis of its reshaped form holds, in order.

    Args:
        before: sizes of the tensor.
        after: sizes after a Reshape.

    Returns:
        None where the Reshape takes an axis apart, or is not proven not to.
    """
    groups: list[list[int]] = []
    axis = 0
    for size in after:
        group: list[int] = []
        held: Dim = 1
        while held != size:
            if axis == len(before):
                return None
            held = held * before[axis]
            group.append(axis)
            axis += 1
        groups.append(group)
    rest = list(range(axis, len(before)))
    if rest and not groups:
        return None
    if rest:  # of size 1, or nothing is in the tensor
        groups[-1].extend(rest)
    return groups
