"""Remove nodes that return their input as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import equal, fill_of, integers, is_read, reduced
from onnxslim_rx_passes._slices import cuts_of, takes_all

__all__ = ["EliminateNoop"]

_FILLED = ("ConstantOfShape", "Expand", "Where")
"""What makes tensors of one number, and is no constant."""

_Keeper = Callable[[ir.Node, Scene], ir.Value | None]


def _first(node: ir.Node, scene: Scene) -> ir.Value | None:
    return node.inputs[0]


def _only(node: ir.Node, scene: Scene) -> ir.Value | None:
    """Also where all inputs are the same tensor, if `node` takes the extremum."""
    if len(node.outputs) > 1:
        return None
    if len(node.inputs) == 1 or (
        node.op_type in ("Max", "Min") and len(set(map(id, node.inputs))) == 1
    ):
        return node.inputs[0]
    return None


def _split(node: ir.Node, scene: Scene) -> ir.Value | None:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _cast(node: ir.Node, scene: Scene) -> ir.Value | None:
    if node.op_type == "Cast":
        to: int | None = node.attributes.get_int("to", 0)
    else:
        to = scene.facts.dtype(node.inputs[1])
    return node.inputs[0] if to is not None and scene.facts.dtype(node.inputs[0]) == to else None


def _transpose(node: ir.Node, scene: Scene) -> ir.Value | None:
    perm = node.attributes.get_ints("perm", None)
    if perm is None:
        rank = scene.facts.rank(node.inputs[0])
        return node.inputs[0] if rank is not None and rank < 2 else None
    return node.inputs[0] if list(perm) == list(range(len(perm))) else None


def _same_shape(node: ir.Node, scene: Scene) -> ir.Value | None:
    before, after = scene.facts.shape(node.inputs[0]), scene.facts.shape(node.outputs[0])
    return node.inputs[0] if equal(before, after) else None


def _reshape(node: ir.Node, scene: Scene) -> ir.Value | None:
    """Elements are neither lost nor moved, so one size may follow from all others."""
    before, after = scene.facts.shape(node.inputs[0]), scene.facts.shape(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return None
    different = sum(a != b for a, b in zip(before, after, strict=True))
    if not different:
        return node.inputs[0]
    sizes = [a for a, b in zip(before, after, strict=True) if a == b]
    if different == 1 and all(isinstance(size, int) and size > 0 for size in sizes):
        return node.inputs[0]
    return None


def _tile(node: ir.Node, scene: Scene) -> ir.Value | None:
    if len(node.inputs) != 2:  # opset 1 had another Tile
        return None
    repeats = integers(node.inputs[1], scene)
    return node.inputs[0] if repeats is not None and set(repeats) <= {1} else None


def _dropout(node: ir.Node, scene: Scene) -> ir.Value | None:
    """Up to opset 6 the attribute is_test tells, up to 11 it is inference, then training_mode."""
    if "is_test" in node.attributes:
        return node.inputs[0] if node.attributes.get_int("is_test", 0) else None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    off = given and scene.is_filled(node.inputs[2], 0)
    return node.inputs[0] if not given or off else None


def _neutral(number: int, sides: tuple[int, ...]) -> _Keeper:
    """For `op(x, number)`, where the constant is one of the inputs `sides`."""

    def keeper(node: ir.Node, scene: Scene) -> ir.Value | None:
        if len(node.inputs) != 2:
            return None
        for side in sides:
            other = node.inputs[1 - side]
            array = scene.facts.array(node.inputs[side])
            if array is None and scene.maker(node.inputs[side], *_FILLED) is not None:
                filled = fill_of(node.inputs[side], scene) == number
                if filled and _same_as_result(other, node, scene):
                    return other
            if array is None or not array.size or array[(0,) * array.ndim] != number:
                continue
            small = array.size == 1 and array.ndim <= (scene.facts.rank(other) or 0)
            if (small or _same_as_result(other, node, scene)) and (array == number).all():
                return other
        return None

    return keeper


def _logical(number: int) -> _Keeper:
    """For `And(x, True)`, `Or(x, False)`, and both with x twice."""
    neutral = _neutral(number, (0, 1))

    def keeper(node: ir.Node, scene: Scene) -> ir.Value | None:
        if len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
            return node.inputs[0]
        return neutral(node, scene)

    return keeper


def _same_as_result(value: ir.Value | None, node: ir.Node, scene: Scene) -> bool:
    return equal(scene.facts.shape(value), scene.facts.shape(node.outputs[0]))


def _where(node: ir.Node, scene: Scene) -> ir.Value | None:
    """The chosen input, if nothing broadcasts it."""
    condition, yes, no = node.inputs
    chosen = yes if yes is no else None
    array = scene.facts.array(condition)
    if chosen is None and array is not None and array.size:
        chosen = yes if array.all() else no if not array.any() else None
    return chosen if chosen is not None and _same_as_result(chosen, node, scene) else None


def _pad(node: ir.Node, scene: Scene) -> ir.Value | None:
    name = "pads" if "pads" in node.attributes else "paddings"  # as opset 1 called it
    if name in node.attributes:
        pads = tuple(node.attributes.get_ints(name, ()))
    else:
        found = integers(node.inputs[1], scene) if len(node.inputs) > 1 else None
        if found is None:
            return None
        pads = found
    return node.inputs[0] if not any(pads) else None


def _slice(node: ir.Node, scene: Scene) -> ir.Value | None:
    cuts = cuts_of(node, scene)
    return node.inputs[0] if cuts is not None and all(map(takes_all, cuts)) else None


def _reduce(node: ir.Node, scene: Scene) -> ir.Value | None:
    """A reduction over axes of size 1 that keeps them, or over no axes."""
    if not node.attributes.get_int("keepdims", 1):
        return None
    axes, shape = reduced(node, scene), scene.facts.shape(node.inputs[0])
    if axes is None or (axes and shape is None):
        return None
    return node.inputs[0] if all(shape[axis] == 1 for axis in axes if shape) else None


def _scatter(node: ir.Node, scene: Scene) -> ir.Value | None:
    """The updates, if they take the place of all elements, in order."""
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    data, _, updates = node.inputs
    indices, shape = scene.facts.array(node.inputs[1]), scene.facts.shape(data)
    if indices is None or not shape or indices.shape[:-1] != shape[: indices.shape[-1]]:
        return None
    counted = np.moveaxis(np.indices(indices.shape[:-1]), 0, -1)
    return updates if (indices == counted).all() else None


def _gather(node: ir.Node, scene: Scene) -> ir.Value | None:
    """Everything along an axis, in order."""
    indices = integers(node.inputs[1], scene)
    if not indices or indices[0] or scene.facts.rank(node.inputs[1]) != 1:
        return None
    shape = scene.facts.shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    whole = shape is not None and shape[axis] == len(indices)
    return node.inputs[0] if whole and indices == tuple(range(len(indices))) else None


_KEEPERS: Mapping[str, _Keeper] = {
    "Add": _neutral(0, (0, 1)),
    "And": _logical(1),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _only,
    "Div": _neutral(1, (1,)),
    "Dropout": _dropout,
    "Expand": _same_shape,
    "Flatten": _reshape,
    "Gather": _gather,
    "Identity": _first,
    "Max": _only,
    "Mean": _only,
    "Min": _only,
    "Mul": _neutral(1, (0, 1)),
    "Or": _logical(0),
    "Pad": _pad,
    "Pow": _neutral(1, (1,)),
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _same_shape,
    "Sub": _neutral(0, (1,)),
    "Sum": _only,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _same_shape,
    "Where": _where,
    "Xor": _neutral(0, (0, 1)),
}


@dataclasses.dataclass(frozen=True)
class EliminateNoop(Rule):
    """Remove nodes that return their input as it is.

    `Identity`; `Cast` to the same type; `Transpose`, `Reshape`, `Expand`, `Tile` and the like to
    the same shape; `Slice` and `Gather` of everything; `ScatterND` onto everything; `Pad` by
    nothing; `Dropout` at inference; `x + 0`, `x - 0`, `x * 1`, `x / 1`, `x ** 1`, `x and True`,
    `x or False`; `Where` that chooses one input everywhere; reductions over axes of size 1;
    `Concat`, `Split`, `Sum`, `Max`, `Min`, `Mean` of one. In all graphs and functions. Shapes
    count where they follow from the model's inputs and weights, by number or by formula. A graph
    keeps the node where it returns an input, a constant, or the same tensor twice.
    """

    name: ClassVar[str] = "eliminate-noop"
    roots: ClassVar[tuple[str, ...]] = tuple(_KEEPERS)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        kept = _KEEPERS[node.op_type](node, scene)
        if kept is None or any(is_read(value) for value in node.outputs[1:]):
            return False
        return scene.forward(node, node.outputs[0], kept)
