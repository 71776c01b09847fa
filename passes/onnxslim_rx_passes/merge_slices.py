"""Merge a Slice of a Slice."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import shape_constant
from onnxslim_rx_passes._slices import END, Cut, cuts_of

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["MergeSlices"]

_FAR = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class MergeSlices(Rule):
    """Merge a `Slice` of a `Slice` into one.

    Different axes: both cuts. The same axis, steps of 1, starts from the front:
    `x[a:b][c:d]` is `x[a + c : min(b, a + d)]`, and so on for ends that count from the end.
    Bounds must be numbers. Before opset 10 they are attributes, and such nodes are left alone.
    """

    name: ClassVar[str] = "merge-slices"
    roots: ClassVar[tuple[str, ...]] = ("Slice",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        first = scene.sole(node.inputs[0], "Slice")
        if first is None or first.graph is not node.graph or scene.opset < 10:
            return False
        early, late = cuts_of(first, scene), cuts_of(node, scene)
        if early is None or late is None:
            return Skip("the bounds are computed")
        merged = {cut.axis: cut for cut in early}
        for cut in late:
            before = merged.get(cut.axis)
            both = cut if before is None else _composed(before, cut)
            if both is None:
                return Skip("what is left of an axis depends on its size")
            merged[cut.axis] = both
        cuts = sorted(merged.values())
        starts, ends = (
            _numbers(bounds) for bounds in ([c.start for c in cuts], [c.end for c in cuts])
        )
        if starts is None or ends is None:
            return Skip("the bounds are computed")
        tape, name = ir.tape.Tape(), node.outputs[0].name
        bounds = [
            shape_constant(tape, numbers, f"{name}.{kind}")
            for kind, numbers in {
                "starts": starts,
                "ends": ends,
                "axes": [cut.axis for cut in cuts],
                "steps": [cut.step for cut in cuts],
            }.items()
            if kind != "steps" or any(cut.step != 1 for cut in cuts)
        ]
        result = tape.op("Slice", [first.inputs[0], *bounds])
        return scene.replace([first, node], tape, {node.outputs[0]: result})


def _numbers(bounds: list[Dim]) -> list[int] | None:
    found = [bound for bound in bounds if isinstance(bound, int)]
    return found if len(found) == len(bounds) else None


def _composed(first: Cut, second: Cut) -> Cut | None:
    """The cut that stands for `first`, then `second`, of one axis; None where there may be none."""
    a, b, c, d = first.start, first.end, second.start, second.end
    if not (isinstance(a, int) and isinstance(b, int)):
        return None
    if not (isinstance(c, int) and isinstance(d, int)):
        return None
    if first.step != 1 or second.step != 1 or a < 0 or c < 0:
        return None
    b, d = (min(bound, _FAR) if bound < END else _FAR for bound in (b, d))
    if b < 0 and isinstance(first.size, int):
        b = max(b + first.size, 0)
    if d == _FAR:
        end = b
    elif d >= 0:
        if b < 0:
            return None
        end = min(b, a + d)
    elif b == _FAR:
        end = d
    elif b < 0:
        end = b + d
    elif isinstance(first.size, int):
        end = max(min(b, first.size) + d, 0)
    else:
        return None
    return first._replace(start=a + c, end=end)
