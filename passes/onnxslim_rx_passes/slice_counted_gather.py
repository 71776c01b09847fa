"""Cut rows out of a table that are picked one after the other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import is_natural
from onnxslim_rx.analysis.facts.division import smallest
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import normal_axis, ones_between, shape_constant
from onnxslim_rx_passes._slices import cuts_of
from onnxslim_rx_passes._widths import readers_keep_shape

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["SliceCountedGather"]

_SHAPERS = ("Reshape", "Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class SliceCountedGather(Rule):
    """Cut rows out of a table that are picked one after the other.

    `Gather(table, Range(a, b, 1))`, and `Gather(table, Slice(counter, a, b))` of a constant
    counter 0, 1, ... as long as the table, are `Slice(table, a, b)`: position embeddings. Axes of
    size 1 that the indices have in front go, so everything that reads the rows must broadcast
    them to the same results. Where b is beyond the table, the one fails at once and the other
    where the rows are too few for their reader. The indices must have no other reader.
    """

    name: ClassVar[str] = "slice-counted-gather"
    roots: ClassVar[tuple[str, ...]] = ("Gather",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        table, indices = node.inputs
        chain = _counter(indices, scene)
        if not chain or table is None or scene.opset < 10:  # Slice took attributes
            return False
        source = chain[0]
        if any(one.graph is not node.graph for one in chain):
            return False
        shape, result = scene.facts.shape(table), node.outputs[0]
        if not shape or normal_axis(node.attributes.get_int("axis", 0), len(shape)) != 0:
            return False
        if indices is None or not scene.is_private(indices):
            return Skip("others read the indices too")
        tape = ir.tape.Tape()
        found = (_of_range if source.op_type == "Range" else _of_slice)(source, tape, shape, scene)
        if isinstance(found, Skip):
            return found
        start, end, size = found
        if not readers_keep_shape(result, (size, *shape[1:]), scene):
            return Skip("somebody needs the rows as they are")
        axes = shape_constant(tape, [0], f"{result.name}.axes")
        new = tape.op("Slice", [table, start, end, axes])
        result.shape = None  # what takes its place has fewer axes
        return scene.replace([*chain, node], tape, {result: new}, keep=True)


def _counter(value: ir.Value | None, scene: Scene) -> list[ir.Node]:
    """The Range or Slice that makes the indices, and what adds axes of size 1; or nothing."""
    found: list[ir.Node] = []
    node = scene.maker(value, "Range", "Slice", *_SHAPERS)
    while node is not None:
        found.insert(0, node)
        if node.op_type not in _SHAPERS:
            return found
        before, after = (scene.facts.shape(one) for one in (node.inputs[0], node.outputs[0]))
        if before is None or after is None or ones_between(before, after) is None:
            break
        node = scene.maker(node.inputs[0], "Range", "Slice", *_SHAPERS)
    return []


def _of_range(
    source: ir.Node, tape: ir.tape.Tape, shape: tuple[Dim, ...], scene: Scene
) -> tuple[ir.Value, ir.Value, Dim] | Skip:
    """Start and end of the rows, as vectors, and how many there are at most."""
    start, end, step = (scene.facts.contents(value) for value in source.inputs)
    if scene.facts.dtype(source.outputs[0]) != ir.DataType.INT64 or step != (1,) or not start:
        return Skip("it does not count by 1")
    if not end or not is_natural(start[0]) or not is_natural(end[0]):
        return Skip("it may count from below 0")
    if start[0] != 0:
        return Skip("it does not count from 0")
    limit = source.inputs[1]
    assert limit is not None  # its content is known
    zero = shape_constant(tape, [0], f"{source.outputs[0].name}.start")
    if scene.opset < 13:
        vector = tape.op("Unsqueeze", [limit], {"axes": (0,)})
    else:
        vector = tape.op("Unsqueeze", [limit, zero])
    return zero, vector, smallest([end[0], shape[0]])


def _of_slice(
    source: ir.Node, tape: ir.tape.Tape, shape: tuple[Dim, ...], scene: Scene
) -> tuple[ir.Value, ir.Value, Dim] | Skip:
    array, cuts = scene.facts.array(source.inputs[0]), cuts_of(source, scene)
    if array is None or cuts is None or len(cuts) != 1 or cuts[0].step != 1:
        return Skip("what the indices are cut from is not known")
    (cut,) = cuts
    if array.size != shape[0] or array.shape[cut.axis] != array.size:
        return Skip("it is not as long as the table")
    sizes = scene.facts.shape(source.outputs[0])
    start, end = source.inputs[1], source.inputs[2]
    if start is None or end is None or sizes is None:
        return Skip("where it is cut is not known")
    if not np.array_equal(array.reshape(-1), np.arange(array.size)):
        return Skip("it does not count")
    return start, end, sizes[cut.axis]
