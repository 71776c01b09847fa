"""Merge transpositions in a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import bypass

__all__ = ["MergeTransposes", "composed", "permutation"]


def permutation(node: ir.Node, scene: Scene) -> tuple[int, ...] | None:
    """What a Transpose does: axis `i` of its result is axis `perm[i]` of its input; or None."""
    perm = node.attributes.get_ints("perm", None)
    if perm is not None:
        return tuple(perm)
    rank = scene.facts.rank(node.inputs[0])
    return None if rank is None else tuple(range(rank))[::-1]


def composed(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The permutation that stands for `first`, then `second`."""
    return tuple(first[axis] for axis in second)


@dataclasses.dataclass(frozen=True)
class MergeTransposes(Rule):
    """Merge transpositions in a row into one, or none.

    `Transpose<q>(Transpose<p>(x))` is `Transpose<r>(x)` with `r[i] = p[q[i]]`.
    """

    name: ClassVar[str] = "merge-transposes"
    roots: ClassVar[tuple[str, ...]] = ("Transpose",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        first = scene.maker(node.inputs[0], "Transpose")
        if first is None or first.graph is not node.graph:
            return False
        (source,) = first.inputs
        before, after = permutation(first, scene), permutation(node, scene)
        if source is None or (before is None and after is None):
            return Skip("the number of dimensions is not known")
        if before is None or after is None:  # one names it, the other turns all axes round
            count = len(before or after or ())
            before, after = (one or tuple(range(count))[::-1] for one in (before, after))
        perm = composed(before, after)
        if perm == tuple(range(len(perm))):
            return bypass(scene, [first, node], source)
        tape = ir.tape.Tape()
        result = tape.op("Transpose", [source], {"perm": perm})
        return scene.replace([first, node], tape, {node.outputs[0]: result}, keep=True)
