"""Replace picking all elements in order by a change of shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import axes_of, emit_axes, equal, normal_axis, ones_between
from onnxslim_rx_passes._positions import Positions, positions

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["ReplaceFullGather"]

_SHAPERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_MOST_SHAPERS = 8


@dataclasses.dataclass(frozen=True)
class ReplaceFullGather(Rule):
    """Replace picking all elements in order by a change of shape.

    `GatherND(x, Concat(i, j))` and `Gather(Flatten(x), i * t + j)` of x (b, t), where i counts
    the first axis and j the second, are x, with axes of size 1 in between: that is how exporters
    write `mask[i, j]`, with i and j from `arange`. The indices must be sums and products of
    `Range` and sizes that are proven to count each place once, in order.
    """

    name: ClassVar[str] = "replace-full-gather"
    roots: ClassVar[tuple[str, ...]] = ("Gather", "GatherND")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.inputs[1] is None or node.inputs[1].producer() is None:
            return False
        source = (_axis_by_axis if node.op_type == "GatherND" else _row_by_row)(node, scene)
        result = scene.facts.shape(node.outputs[0])
        if source is None or result is None:
            return False
        for value in _sources(source, scene):
            before = scene.facts.shape(value)
            if before is None:
                break
            if equal(before, result):  # so the counters take all places
                return scene.forward(node, node.outputs[0], value)
            ones = ones_between(before, result)
            if ones is not None:
                tape = ir.tape.Tape()
                new = emit_axes(tape, ones[0], value, ones[1], scene)
                return scene.replace([node], tape, {node.outputs[0]: new})
        return Skip("its shape changes by more than axes of size 1")


def _sources(value: ir.Value, scene: Scene) -> list[ir.Value]:
    """`value`, and what it is reshaped from."""
    found = [value]
    while len(found) <= _MOST_SHAPERS:
        node = scene.maker(found[-1], *_SHAPERS)
        if node is None or node.inputs[0] is None or node.graph is not value.graph:
            break
        found.append(node.inputs[0])
    return found


def _row_by_row(node: ir.Node, scene: Scene) -> ir.Value | None:
    """What a Gather along the first axis picks from, if it picks all of it in order."""
    data, indices = node.inputs
    axis = normal_axis(node.attributes.get_int("axis", 0), scene.facts.rank(data))
    if axis != 0 or scene.maker(indices, "Add", "Range", "Reshape", "Unsqueeze") is None:
        return None
    found, shape = positions(indices, scene), scene.facts.shape(indices)
    if found is None or shape is None or found.offset != 0:
        return None
    count: Dim = 1
    for step, size in zip(reversed(found.steps), reversed(shape), strict=True):
        if size == 1:
            continue
        if step != count:
            return None
        count = count * size
    return data


def _axis_by_axis(node: ir.Node, scene: Scene) -> ir.Value | None:
    """What a GatherND picks from, if it picks all of it in order."""
    data, indices = node.inputs
    concat = scene.maker(indices, "Concat")
    count, rank = scene.facts.rank(data), scene.facts.rank(indices)
    if concat is None or rank is None:
        return None
    if node.attributes.get_int("batch_dims", 0) != 0:
        return None
    if normal_axis(concat.attributes.get_int("axis", 0), rank) != rank - 1:
        return None
    columns = [_column(value, scene) for value in concat.inputs]
    axes = [None if column is None else _counts(column) for column in columns]
    known = [axis for axis in axes if axis is not None]
    if len(known) < len(axes) or len(axes) != count:
        return None
    return data if known == sorted(set(known)) else None


def _column(value: ir.Value | None, scene: Scene) -> Positions | None:
    """Indices along one axis, which an Unsqueeze makes the last column of a table."""
    shape = scene.facts.shape(value)
    if not shape or shape[-1] != 1:
        return None
    node = scene.maker(value, "Unsqueeze")
    if node is not None and axes_of(node, scene, len(shape)) == (len(shape) - 1,):
        found = positions(node.inputs[0], scene)
        return None if found is None else Positions((*found.steps, 0), found.offset)
    return positions(value, scene)


def _counts(column: Positions) -> int | None:
    """The axis along which indices count from 0 by 1, changing along no other; or None."""
    steps: Sequence[Dim] = column.steps
    moving = [axis for axis, step in enumerate(steps) if step != 0]
    if column.offset != 0 or len(moving) != 1 or steps[moving[0]] != 1:
        return None
    return moving[0]
