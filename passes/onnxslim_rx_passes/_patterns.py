"""What rules that tidy up ask of nodes, and the last step that they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = [
    "FLOATS",
    "RETURNED",
    "axes_of",
    "bypass",
    "emit_axes",
    "equal",
    "fill_of",
    "integers",
    "is_read",
    "normal_axis",
    "ones_between",
    "reduced",
    "shape_constant",
    "squeezed",
]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)

RETURNED = "the graph returns it under a name of its own"


def integers(value: ir.Value | None, scene: Scene) -> tuple[int, ...] | None:
    """The elements of an integer tensor of rank 0 or 1 that are all known, or None."""
    array = scene.facts.array(value)
    if array is not None:
        if array.ndim > 1 or array.dtype.kind not in "iu":
            return None
        return tuple(int(number) for number in array.reshape(-1))
    contents = scene.facts.contents(value)
    if contents is None:
        return None
    found = tuple(dim for dim in contents if isinstance(dim, int))
    return found if len(found) == len(contents) else None


def normal_axis(axis: int, rank: int | None) -> int | None:
    """`axis` counted from the front; None where that takes a rank that is not known."""
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def axes_of(node: ir.Node, scene: Scene, rank: int | None) -> tuple[int, ...] | None:
    """The axes that a Squeeze, an Unsqueeze or a reduction names, sorted, from the front.

    They are an attribute in older versions and the second input in newer ones.

    Args:
        node: the node.
        scene: knows contents.
        rank: of the tensor that the axes count in; None: not known, then axes that count from the
            end cannot be read.

    Returns:
        None where none are named, or they are not known.
    """
    if "axes" in node.attributes:
        named: Sequence[int] | None = node.attributes.get_ints("axes", ())
    elif len(node.inputs) > 1:
        named = integers(node.inputs[1], scene)
    else:
        return None
    if named is None:
        return None
    axes = [normal_axis(axis, rank) for axis in named]
    found = sorted({axis for axis in axes if axis is not None})
    return tuple(found) if len(found) == len(axes) else None


def reduced(node: ir.Node, scene: Scene) -> tuple[int, ...] | None:
    """The axes that a reduction reduces, from the front, also where it names none, or None.

    None named means all, or none at all if `noop_with_empty_axes` is set.
    """
    rank = scene.facts.rank(node.inputs[0])
    named = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
    axes = axes_of(node, scene, rank) if named else ()
    if axes or axes is None:
        return axes
    if node.attributes.get_int("noop_with_empty_axes", 0):
        return ()
    return None if rank is None else tuple(range(rank))


def squeezed(node: ir.Node, scene: Scene) -> tuple[int, ...] | None:
    """The axes that a Squeeze drops, also where it names none, or None."""
    shape = scene.facts.shape(node.inputs[0])
    if "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return axes_of(node, scene, None if shape is None else len(shape))
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(axis for axis, dim in enumerate(shape) if dim == 1)


def equal(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether two shapes are proven to be the same."""
    return a is not None and b is not None and tuple(a) == tuple(b)


_MOVERS = {
    "Compress", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape",
    "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_LONGEST_TRACE = 16


def fill_of(value: ir.Value | None, scene: Scene) -> float | None:
    """The number that all elements of a tensor are proven to be, whatever its shape; or None.

    Constants, `ConstantOfShape`, a `Where` whose constant condition chooses such everywhere, and
    what only moves their elements.
    """
    for _ in range(_LONGEST_TRACE):
        array = scene.facts.array(value)
        if array is not None:
            if not array.size or array.dtype.kind not in "fiub":
                return None
            first = array[(0,) * array.ndim]
            return float(first) if bool((array == first).all()) else None
        node = None if value is None else value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type in _MOVERS:
            value = node.inputs[0]
        elif node.op_type == "Where":
            chosen = fill_of(node.inputs[0], scene)
            if chosen is None:
                return None
            value = node.inputs[1 if chosen else 2]
        elif node.op_type == "ConstantOfShape":
            tensor = node.attributes.get_tensor("value", None)
            return 0.0 if tensor is None else float(tensor.numpy().item())
        else:
            return None
    return None


def is_read(value: ir.Value) -> bool:
    """Whether a node reads `value` or a graph returns it."""
    return bool(value.uses()) or value.is_graph_output()


def shape_constant(tape: ir.tape.Tape, numbers: Iterable[int], name: str) -> ir.Value:
    """A constant of integers, as operators take shapes and axes."""
    return tape.initializer(ir.tensor(np.asarray(list(numbers), dtype=np.int64)), name=name)


def emit_axes(
    tape: ir.tape.Tape, op_type: str, value: ir.Value, axes: Sequence[int], scene: Scene
) -> ir.Value:
    """A Squeeze or Unsqueeze of these axes, in the form of this opset."""
    if scene.opset < 13:
        return tape.op(op_type, [value], {"axes": tuple(axes)})
    return tape.op(op_type, [value, shape_constant(tape, axes, f"{value.name}.axes")])


def ones_between(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[str, list[int]] | None:
    """The Unsqueeze or Squeeze that makes the shape `after` of `before`, and its axes; or None."""
    if len(before) > len(after):
        found = ones_between(after, before)
        return None if found is None else ("Squeeze", found[1])
    axes, matched = [], 0
    for axis, dim in enumerate(after):
        if matched < len(before) and before[matched] == dim:
            matched += 1
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return ("Unsqueeze", axes) if matched == len(before) else None


def bypass(
    scene: Scene, old: Sequence[ir.Node], source: ir.Value, *, identity: bool = True
) -> bool | Skip:
    """Let readers of the last of `old` read `source`, which holds the same.

    Args:
        scene: makes the change.
        old: nodes of one graph, in order, the last with one output in use, its first; those that
            others read as well stay.
        source: what `old` starts from.
        identity: whether an `Identity` may take the place of two nodes, where the graph cannot
            return `source` in their place.
    """
    (root, result), tape = (old[-1], old[-1].outputs[0]), ir.tape.Tape()
    if scene.can_forward(result, source):
        return scene.replace(old, tape, {result: source}, keep=True)
    alone = len(old) > 1 and all(scene.is_private(node.outputs[0]) for node in old[:-1])
    if not identity or not alone or root.graph is not old[0].graph:
        return Skip(RETURNED)
    return scene.replace(old, tape, {result: tape.op("Identity", [source])})
