"""What a Slice cuts, read from any version of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from onnxslim_rx.rules import Scene

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["END", "Cut", "cuts_of", "takes_all"]

END = 2**31 - 1
"""A Slice that ends here or later ends with the tensor."""


class Cut(NamedTuple):
    """What a Slice does to one axis.

    Args:
        axis: counted from the front.
        start: as the node says; negative: from the end.
        end: as the node says.
        step: never 0.
        size: of the axis; None: not known, not even by a symbol.
    """

    axis: int
    start: Dim
    end: Dim
    step: int
    size: Dim | None


def cuts_of(node: ir.Node, scene: Scene) -> list[Cut] | None:
    """What a Slice does to each axis that it names; None where that is not known.

    Starts and ends may be formulas over symbols; axes and steps are numbers.
    """
    named = _named(node, scene)
    if named is None:
        return None
    starts, ends, axes, steps = named
    shape = scene.facts.shape(node.inputs[0])
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not isinstance(axis, int) or not isinstance(step, int):
            return None
        if axis < 0:
            if shape is None:
                return None
            axis += len(shape)
        found.append(Cut(axis, start, end, step, None if shape is None else shape[axis]))
    return found if len({cut.axis for cut in found}) == len(found) else None


def takes_all(cut: Cut) -> bool:
    """Whether the whole axis is taken."""
    if cut.start != 0 or cut.step != 1:
        return False
    if isinstance(cut.end, int):
        return cut.end >= END or (isinstance(cut.size, int) and cut.end >= cut.size)
    return cut.end == cut.size


def _named(
    node: ir.Node, scene: Scene
) -> tuple[Sequence[Dim], Sequence[Dim], Sequence[Dim], Sequence[Dim]] | None:
    """Starts, ends, axes, steps: attributes up to opset 9, then inputs."""
    if "starts" in node.attributes:
        starts = node.attributes.get_ints("starts", ())
        ends = node.attributes.get_ints("ends", ())
        axes = node.attributes.get_ints("axes", tuple(range(len(starts))))
        if not len(starts) == len(ends) == len(axes):
            return None
        return starts, ends, axes, (1,) * len(starts)
    given = list(node.inputs[1:]) + [None] * (5 - len(node.inputs))
    if len(node.inputs) < 3 or given[0] is None or given[1] is None:
        return None
    known = [None if value is None else scene.facts.contents(value) for value in given]
    first, last = known[0], known[1]
    if first is None or last is None:
        return None
    count = len(first)
    axes_, steps = tuple(range(count)), (1,) * count
    parts: list[Sequence[Dim]] = [first, last]
    for value, found, default in zip(given[2:], known[2:], (axes_, steps), strict=True):
        if value is not None and found is None:
            return None
        parts.append(default if found is None else found)
    if any(len(part) != count for part in parts):
        return None
    return parts[0], parts[1], parts[2], parts[3]
