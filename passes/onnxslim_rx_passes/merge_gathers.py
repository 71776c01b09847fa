"""Merge picks of single places with what follows them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import axes_of, integers, normal_axis

__all__ = ["MergeGathers"]


@dataclasses.dataclass(frozen=True)
class MergeGathers(Rule):
    """Merge `Gather` at constant places with `Unsqueeze`, `Squeeze`, `Concat` or another one.

    `Unsqueeze(Gather(x, i))` along the same axis is `Gather(x, [i])`, and `Squeeze(Gather(x,
    [i]))` is `Gather(x, i)`; `Concat(Gather(x, [i]), Gather(x, [j]))` along their axis is
    `Gather(x, [i, j])`; `Gather(Gather(x, i), j)` along the first axes is `GatherND(x, [i, j])`
    from opset 11 on. The first `Gather` must have no other reader; in the last case others may
    be such `Gather` nodes.
    """

    name: ClassVar[str] = "merge-gathers"
    roots: ClassVar[tuple[str, ...]] = ("Concat", "Gather", "Squeeze", "Unsqueeze")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.op_type == "Concat":
            return _concat(node, scene)
        first = scene.maker(node.inputs[0], "Gather")
        if first is None or first.graph is not node.graph:
            return False
        if node.op_type == "Gather":
            return _chain(first, node, scene)
        return scene.is_private(first.outputs[0]) and _shape(first, node, scene)


def _axis(node: ir.Node, scene: Scene) -> int | None:
    """The axis of a Gather from the front, if it picks constant places, or None."""
    if scene.facts.array(node.inputs[1]) is None:
        return None
    axis = node.attributes.get_int("axis", 0)
    return normal_axis(axis, scene.facts.rank(node.inputs[0]) if axis < 0 else None)


def _shape(first: ir.Node, node: ir.Node, scene: Scene) -> bool:
    """Pick with or without keeping the axis."""
    axis, places = _axis(first, scene), scene.facts.array(first.inputs[1])
    rank = scene.facts.rank(first.inputs[0])
    wanted = 0 if node.op_type == "Unsqueeze" else 1
    if axis is None or places is None or places.size != 1 or places.ndim != wanted:
        return False
    if axes_of(node, scene, rank) != (axis,):
        return False
    tape = ir.tape.Tape()
    turned = places.reshape((1,) if wanted == 0 else ())
    index = tape.initializer(ir.tensor(turned), name=f"{node.outputs[0].name}.index")
    result = tape.op("Gather", [first.inputs[0], index], {"axis": axis})
    return scene.replace([first, node], tape, {node.outputs[0]: result})


def _chain(first: ir.Node, node: ir.Node, scene: Scene) -> bool | Skip:
    """Pick along the two first axes at once."""
    numbers: list[int] = []
    for one in (first, node):
        found = integers(one.inputs[1], scene)
        if _axis(one, scene) != 0 or not found or scene.facts.rank(one.inputs[1]) != 0:
            return False
        numbers.extend(found)
    value = first.outputs[0]
    if scene.opset < 11 or value.is_graph_output():
        return False
    for use in value.uses():
        other = use.node
        if other.op_type != "Gather" or other.graph is not node.graph or use.idx != 0:
            return Skip("the result of the first Gather is read elsewhere too")
        if _axis(other, scene) != 0 or scene.facts.rank(other.inputs[1]) != 0:
            return Skip("the result of the first Gather is read elsewhere too")
    tape = ir.tape.Tape()
    indices = ir.tensor(np.asarray(numbers, dtype=np.int64))
    index = tape.initializer(indices, name=f"{node.outputs[0].name}.index")
    result = tape.op("GatherND", [first.inputs[0], index])
    return scene.replace([first, node], tape, {node.outputs[0]: result}, keep=True)


def _concat(node: ir.Node, scene: Scene) -> bool:
    """Pick at once what is picked from one tensor and put together again."""
    axis = node.attributes.get_int("axis", 0)
    makers = [scene.sole(value, "Gather") for value in node.inputs]
    if "axis" not in node.attributes or not any(
        a is not None and b is not None and a.inputs[0] is b.inputs[0]
        for a, b in itertools.pairwise(makers)
    ):
        return False
    tape = ir.tape.Tape()
    old: list[ir.Node] = []
    inputs: list[ir.Value | None] = []
    places = zip(node.inputs, makers, strict=True)
    for source, run in itertools.groupby(places, lambda pair: _source(pair[1], axis, node, scene)):
        parts = list(run)
        gathers = [maker for _, maker in parts if maker is not None]
        if len(parts) < 2 or source == 0:
            inputs.extend(value for value, _ in parts)
            continue
        arrays = [scene.facts.array(gather.inputs[1]) for gather in gathers]
        joined = np.concatenate([array for array in arrays if array is not None])
        name = f"{gathers[0].outputs[0].name}.indices"
        index = tape.initializer(ir.tensor(joined.astype(np.int64)), name=name)
        inputs.append(tape.op("Gather", [gathers[0].inputs[0], index], {"axis": axis}))
        old.extend(gathers)
    if not old:
        return False
    result = inputs[0]
    if len(inputs) > 1 or result is None:
        result = tape.op("Concat", inputs, {"axis": axis})
    return scene.replace([*old, node], tape, {node.outputs[0]: result})


def _source(gather: ir.Node | None, axis: int, concat: ir.Node, scene: Scene) -> int:
    """A number for the tensor that a Gather picks from along `axis`; 0 where it is no such one."""
    if gather is None or gather.graph is not concat.graph or gather.inputs[0] is None:
        return 0
    array = scene.facts.array(gather.inputs[1])
    if array is None or array.ndim != 1:
        return 0
    rank = scene.facts.rank(concat.outputs[0])
    same = _axis(gather, scene) == normal_axis(axis, rank)
    return id(gather.inputs[0]) if same and _axis(gather, scene) is not None else 0
