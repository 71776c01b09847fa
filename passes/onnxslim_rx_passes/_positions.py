"""Tensors of integers that follow from where an element lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._patterns import axes_of, ones_between
from onnxslim_rx_passes.merge_transposes import permutation

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["Positions", "positions"]

_DEEPEST = 12


@dataclasses.dataclass(frozen=True)
class Positions:
    """`x[i, j, ...] = offset + steps[0] * i + steps[1] * j + ...`.

    Args:
        steps: by axis; 0 along axes of size 1 and where the elements do not change.
        offset: the first element.
    """

    steps: tuple[Dim, ...]
    offset: Dim

    def stretched(
        self, before: Sequence[Dim] | None, after: Sequence[Dim] | None
    ) -> tuple[Dim, ...] | None:
        """The steps after broadcasting; None where an axis that changes might get longer."""
        if before is None or after is None or len(before) > len(after):
            return None
        new = len(after) - len(before)
        moving = ((axis, step) for axis, step in enumerate(self.steps) if step != 0)
        if any(before[axis] != after[axis + new] for axis, _ in moving):
            return None
        return (0,) * new + self.steps


def positions(value: ir.Value | None, scene: Scene, depth: int = _DEEPEST) -> Positions | None:
    """How the elements of an integer tensor follow from their places; None where unknown.

    Looks through `Range`, sums and products with sizes, and changes of shape that move no element
    but add or drop axes, or repeat them.
    """
    shape = scene.facts.shape(value)
    dtype = scene.facts.dtype(value)
    if value is None or shape is None or dtype is None or not dtype.is_integer():
        return None
    contents = scene.facts.contents(value)
    if contents is not None and len(contents) == 1:
        return Positions((0,) * len(shape), contents[0])
    array = scene.facts.array(value)
    if array is not None and array.size == 1:
        return Positions((0,) * len(shape), int(array.item()))
    node = value.producer()
    rule = None if node is None or node.domain != "" else _RULES.get(node.op_type)
    if rule is None or node is None or depth == 0:
        return None
    return rule(node, scene, depth - 1)


def _range(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    start, step = (scene.facts.contents(node.inputs[index]) for index in (0, 2))
    if not start or not step:
        return None
    return Positions((step[0],), start[0])


def _same(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    return positions(node.inputs[0], scene, depth)


def _widened(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    """Axes that an Expand adds or lengthens do not change the elements."""
    found = positions(node.inputs[0], scene, depth)
    before, after = (scene.facts.shape(one) for one in (node.inputs[0], node.outputs[0]))
    steps = None if found is None else found.stretched(before, after)
    return None if found is None or steps is None else Positions(steps, found.offset)


def _ones(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    """Axes of size 1 come and go."""
    before, after = (scene.facts.shape(one) for one in (node.inputs[0], node.outputs[0]))
    if before is None or after is None:
        return None
    if node.op_type == "Unsqueeze":
        axes = axes_of(node, scene, len(after))
        between = None if axes is None else ("Unsqueeze", list(axes))
    else:
        between = ones_between(before, after)
    found = None if between is None else positions(node.inputs[0], scene, depth)
    if between is None or found is None:
        return None
    kind, changed = between
    if kind == "Squeeze":
        kept = [step for axis, step in enumerate(found.steps) if axis not in changed]
        return Positions(tuple(kept), found.offset)
    left = iter(found.steps)
    steps = tuple(0 if axis in changed else next(left) for axis in range(len(after)))
    return Positions(steps, found.offset)


def _transposed(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    found, perm = positions(node.inputs[0], scene, depth), permutation(node, scene)
    if found is None or perm is None:
        return None
    return Positions(tuple(found.steps[axis] for axis in perm), found.offset)


def _combined(node: ir.Node, scene: Scene, depth: int) -> Positions | None:
    result = scene.facts.shape(node.outputs[0])
    sides = []
    for value in node.inputs:
        found = positions(value, scene, depth)
        steps = None if found is None else found.stretched(scene.facts.shape(value), result)
        if found is None or steps is None:
            return None
        sides.append(Positions(steps, found.offset))
    a, b = sides
    pairs = list(zip(a.steps, b.steps, strict=True))
    if node.op_type == "Add":
        return Positions(tuple(x + y for x, y in pairs), a.offset + b.offset)
    if node.op_type == "Sub":
        return Positions(tuple(x - y for x, y in pairs), a.offset - b.offset)
    if any(step != 0 for step in a.steps):
        a, b = b, a
    if any(step != 0 for step in a.steps):
        return None
    return Positions(tuple(a.offset * step for step in b.steps), a.offset * b.offset)


_RULES: Mapping[str, Callable[[ir.Node, Scene, int], Positions | None]] = {
    "Add": _combined,
    "Expand": _widened,
    "Identity": _same,
    "Mul": _combined,
    "Range": _range,
    "Reshape": _ones,
    "Squeeze": _ones,
    "Sub": _combined,
    "Transpose": _transposed,
    "Unsqueeze": _ones,
}
