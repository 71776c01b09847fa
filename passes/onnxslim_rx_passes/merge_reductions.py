"""Merge reductions with reductions, and with what drops or adds the axes that they reduce."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import FLOATS, equal, reduced, shape_constant

__all__ = ["MergeReductions"]

_EXACT = ("ReduceL1", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum")
_OF_FLOATS = ("ReduceL2", "ReduceLogSumExp", "ReduceMean")
_CHAINS = (*_EXACT, *_OF_FLOATS)
_REDUCTIONS = (*_CHAINS, "ReduceLogSum", "ReduceSumSquare")
_PICKERS = ("ArgMax", "ArgMin")
_SHAPERS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class MergeReductions(Rule):
    """Merge reductions with reductions, and with what drops or adds the axes that they reduce.

    `ReduceSum(ReduceSum(x, [3]), [2])` is `ReduceSum(x, [2, 3])`; likewise `ReduceMax`, `Min`,
    `Prod`, `Mean`, `L1`, `L2` and `LogSumExp`, whose two nodes must agree on `keepdims`. A
    reduction, `ArgMax` or `ArgMin`, then `Squeeze`, `Unsqueeze` or `Reshape` to the shape that it
    has with the other `keepdims`, is one node. The first must have no other reader. Means, norms
    and logarithms of integers are rounded in between, and stay.
    """

    name: ClassVar[str] = "merge-reductions"
    roots: ClassVar[tuple[str, ...]] = (*_CHAINS, *_SHAPERS)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.op_type in _SHAPERS:
            first = scene.sole(node.inputs[0], *_REDUCTIONS, *_PICKERS)
            return first is not None and first.graph is node.graph and _keep(first, node, scene)
        first = scene.sole(node.inputs[0], node.op_type)
        if first is None or first.graph is not node.graph:
            return False
        return _chain(first, node, scene)


def _chain(first: ir.Node, second: ir.Node, scene: Scene) -> bool | Skip:
    early, late = reduced(first, scene), reduced(second, scene)
    if early is None or late is None:
        return Skip("the axes are computed")
    if not early or not late:
        return False  # it does nothing to axes
    if second.op_type in _OF_FLOATS and scene.facts.dtype(first.inputs[0]) not in FLOATS:
        return Skip("results are rounded in between, or the type is not known")
    keeps = first.attributes.get_int("keepdims", 1)
    if keeps != second.attributes.get_int("keepdims", 1):
        return Skip("one keeps the axes, the other does not")
    if not keeps:  # the axes of the second count in what the first left
        free = [axis for axis in range(len(early) + max(late) + 1) if axis not in early]
        late = tuple(free[axis] for axis in late)
    tape = ir.tape.Tape()
    result = _emit(tape, first, tuple(sorted({*early, *late})), keeps, scene)
    return scene.replace([first, second], tape, {second.outputs[0]: result})


def _keep(first: ir.Node, node: ir.Node, scene: Scene) -> bool:
    """Merge a reduction with a change of shape, if that only changes what becomes of the axes."""
    source, keeps = first.inputs[0], first.attributes.get_int("keepdims", 1)
    shape = scene.facts.shape(source)
    if shape is None:
        return False
    if first.op_type in _PICKERS:
        axes: tuple[int, ...] | None = (first.attributes.get_int("axis", 0) % len(shape),)
    else:
        axes = reduced(first, scene)
    if not axes:
        return False
    if keeps:
        wanted = tuple(dim for axis, dim in enumerate(shape) if axis not in axes)
    else:
        wanted = tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    if not equal(wanted, scene.facts.shape(node.outputs[0])):
        return False
    tape = ir.tape.Tape()
    result = _emit(tape, first, axes, 1 - keeps, scene)
    return scene.replace([first, node], tape, {node.outputs[0]: result})


def _emit(
    tape: ir.tape.Tape, like: ir.Node, axes: tuple[int, ...], keeps: int, scene: Scene
) -> ir.Value:
    """The reduction `like` of other axes, in the form that this opset has."""
    attributes = dict(like.attributes)
    attributes["keepdims"] = ir.AttrInt64("keepdims", keeps)
    source = like.inputs[0]
    if like.op_type in _PICKERS:
        return tape.op(like.op_type, [source], attributes)
    attributes.pop("noop_with_empty_axes", None)
    if scene.opset < (13 if like.op_type == "ReduceSum" else 18):
        attributes["axes"] = ir.AttrInt64s("axes", axes)
        return tape.op(like.op_type, [source], attributes)
    named = shape_constant(tape, axes, f"{like.outputs[0].name}.axes")
    return tape.op(like.op_type, [source, named], attributes)
