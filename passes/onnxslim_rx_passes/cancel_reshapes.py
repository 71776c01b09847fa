"""Remove changes of shape around elementwise operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import equal
from onnxslim_rx_passes._regions import (
    BROADCASTING,
    MOST_NODES,
    UNARY,
    in_order,
    is_pointwise,
    is_read_by,
    operands,
)

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["CancelReshapes"]

_SHAPERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_TYPES = UNARY | BROADCASTING


@dataclasses.dataclass(frozen=True)
class CancelReshapes(Rule):
    """Compute elementwise operators on what was not reshaped yet.

    `Reshape(f(Reshape(x), c))` is `f(x, c)` where the result is proven to have the shape of x. f
    is a region of elementwise operators on tensors of one shape, whose results nobody else
    reads, and on constants of one element, or of one for each place of the last axis, if both
    shapes end with that. `Flatten`, `Squeeze` and `Unsqueeze` count as `Reshape`.
    """

    name: ClassVar[str] = "cancel-reshapes"
    roots: ClassVar[tuple[str, ...]] = _SHAPERS

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        last = scene.maker(node.inputs[0], *_TYPES)
        if last is None or last.graph is not node.graph or not is_read_by(last, [node]):
            return False
        shapes = [scene.facts.shape(one.outputs[0]) for one in (last, node)]
        inner, outer = shapes
        if inner is None or outer is None:
            return False
        leaves: dict[ir.Value, ir.Node] = {}
        found, todo = {last: None}, [last]
        while todo:
            one = todo.pop()
            if not is_pointwise(one, scene):
                return False
            for value in operands(one):
                if value is None or _fits(value, inner, outer, scene):
                    continue
                maker = scene.maker(value, *_SHAPERS, *_TYPES)
                if maker is None or maker.graph is not node.graph:
                    return False
                if maker.op_type in _SHAPERS:
                    leaves[value] = maker
                elif maker not in found:
                    if len(found) >= MOST_NODES:
                        return False
                    found[maker] = None
                    todo.append(maker)
        # each tensor has as many elements as the result: none of them broadcasts
        if not leaves or not all(is_read_by(one, found) for one in found if one is not last):
            return False
        if not all(equal(scene.facts.shape(leaf.inputs[0]), outer) for leaf in leaves.values()):
            return Skip("the shapes before and after are not proven to be the same")
        return _rebuild(leaves, in_order(last, found), node, scene)


def _fits(value: ir.Value, inner: Sequence[Dim], outer: Sequence[Dim], scene: Scene) -> bool:
    """Whether `value` is a constant that broadcasts to both shapes in the same way."""
    array = scene.facts.array(value)
    if array is None or array.ndim > min(len(inner), len(outer)):
        return False
    if array.size == 1:
        return True
    return array.size == array.shape[-1] and array.size == inner[-1] == outer[-1]


def _rebuild(
    leaves: dict[ir.Value, ir.Node], region: Sequence[ir.Node], root: ir.Node, scene: Scene
) -> bool:
    tape = ir.tape.Tape()
    made = {value: leaf.inputs[0] for value, leaf in leaves.items()}
    for node in region:
        inputs = [value and made.get(value, value) for value in node.inputs]
        made[node.outputs[0]] = tape.op(node.op_type, inputs, node.attributes)
    result = made[region[-1].outputs[0]]
    assert result is not None  # an output of a node on the tape
    old = [*dict.fromkeys(leaves.values()), *region, root]
    return scene.replace(old, tape, {root.outputs[0]: result}, keep=True)
