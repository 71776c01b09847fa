"""Move a scalar factor back through reshapes and products into a weight."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import affine
from onnxslim_rx_passes._refold import LINES, Line, line
from onnxslim_rx_passes._weights import Wide

__all__ = ["MoveScalar"]

_MOVERS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_ON_THE_WAY = (*_MOVERS, "MatMul", "Split")
_FARTHEST = 12


@dataclasses.dataclass(frozen=True)
class MoveScalar(Rule):
    """Drop `y = s x`, s a constant scalar, and scale the weight that x comes from.

    On the way from the weight lie nodes that only rearrange (Reshape, Transpose, Squeeze,
    Unsqueeze, Flatten, a Split of the channels) and products of two activations,
    `s (A B) = (s A) B`: so the scale of attention scores moves into the weight of the queries. Each
    value on the way is read once, so nobody sees it scaled.

    Refused: s zero or not finite; weights with other readers; results of the graph on the way.
    """

    name: ClassVar[str] = "move-scalar"
    roots: ClassVar[tuple[str, ...]] = ("Div", "Mul")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if not any(scene.maker(value, *_ON_THE_WAY) for value in node.inputs):
            return False
        found = affine(node, scene)
        if found is None or found.scale is None or found.scale.size != 1:
            return False
        way = scene.maker(found.x, *_ON_THE_WAY)
        if way is None or scene.sole(found.x, *_ON_THE_WAY) is None:
            return False
        number = found.scale.reshape(())
        rank = scene.facts.rank(found.x)
        if found.scale.ndim > (0 if rank is None else rank):
            return Skip("the number of axes is not known")
        if not np.isfinite(number) or number == 0:
            return Skip("the result would not be finite")
        if not scene.can_forward(node.outputs[0], found.x):
            return Skip("the graph returns it under a name of its own")
        answer = _scale(found.x, number, scene, _FARTHEST)
        if answer is not True:
            return answer
        return scene.forward(node, node.outputs[0], found.x)


def _scale(value: ir.Value, number: Wide, scene: Scene, far: int) -> bool | Skip:
    """Scale the weight that `value` comes from; False where there is none."""
    made = scene.sole(value, *_ON_THE_WAY, *LINES)
    if made is None or far == 0:
        return False
    if made.op_type in _MOVERS:
        source = made.inputs[0]
        return False if source is None else _scale(source, number, scene, far - 1)
    if made.op_type == "Split":
        return _scale_part(made, value, number, scene)
    before = line(value, scene)
    if isinstance(before, Skip):
        return before
    if before is not None:
        return _refold(before, value, number, scene)
    if made.op_type != "MatMul":
        return False
    answer: bool | Skip = False
    for source in made.inputs:
        answer = False if source is None else _scale(source, number, scene, far - 1)
        if answer is True:
            return True
    return answer


def _scale_part(split: ir.Node, value: ir.Value, number: Wide, scene: Scene) -> bool | Skip:
    """Scale the channels of a product that one output of a Split has."""
    source = split.inputs[0]
    if source is None or scene.sole(source, *LINES) is None:
        return False
    before = line(source, scene)
    if before is None or isinstance(before, Skip):
        return False if before is None else before
    target = before.target
    rank = scene.facts.rank(source)
    shapes = [scene.facts.shape(output) for output in split.outputs]
    if rank is None or any(shape is None for shape in shapes):
        return Skip("the parts of Split are not known")
    axis = split.attributes.get_int("axis", 0) % rank
    if axis != rank - 1 - target.trailing:
        return False
    sizes = [shape[axis] for shape in shapes if shape is not None]
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) != len(sizes) or sum(numbers) != target.channels:
        return Skip("the parts of Split are not known")
    factor, start = np.ones(target.channels), sum(numbers[: value.index() or 0])
    factor[start : start + numbers[value.index() or 0]] = number
    return _refold(before, source, factor, scene)


def _refold(before: Line, value: ir.Value, factor: Wide, scene: Scene) -> bool | Skip:
    """Scale the product that makes `value`."""
    tape = ir.tape.Tape()
    result = before.again(factor, None, scene, tape)
    if isinstance(result, Skip):
        return result
    return scene.replace(before.nodes, tape, {value: result})
