"""Recognise softmax and its logarithm."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import DOUBLE, FLOAT, FLOAT16, SHARED, closed, lacks_kernel
from onnxslim_rx_passes._patterns import reduced

__all__ = ["FuseSoftmax"]

_SINGLE_AXIS = 13
"""Before this version, the operators flatten all axes from the given one on."""


@dataclasses.dataclass(frozen=True)
class FuseSoftmax(Rule):
    """Replace softmax and its logarithm spelt out by `Softmax` and `LogSoftmax`.

    `exp(d) / sum(exp(d))` and `d - log(sum(exp(d)))` along the last axis, `d` being `x` or
    `x - max(x)`; `x - ReduceLogSumExp(x)` too. Without the maximum, the operators are finite where
    `exp` overflows; else they give the same.

    Refused: other axes, along which ONNX Runtime's `Softmax` is slower than what it replaces (1.3
    times); intermediate results that are read elsewhere; bfloat16.
    """

    name: ClassVar[str] = "fuse-softmax"
    roots: ClassVar[tuple[str, ...]] = ("Div", "Sub")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        found = _softmax(node, scene) if node.op_type == "Div" else _logarithm(node, scene)
        if found is None:
            return False
        op_type = "Softmax" if node.op_type == "Div" else "LogSoftmax"
        refused = lacks_kernel(scene, found.x, op_type, (FLOAT, FLOAT16, DOUBLE))
        if refused is not None:
            return refused
        rank = scene.facts.rank(found.x)
        if rank is None or found.axes != (rank - 1,):
            return Skip(f"ONNX Runtime's {op_type} is slower along axes other than the last")
        shift = _shifted(found.x, found.axes, scene)
        x, nodes = found.x, {*found.nodes}
        if shift is not None:
            x, nodes = shift.x, {*nodes, *shift.nodes}
        old = closed(node, nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        result = tape.op(op_type, [x], {"axis": -1 if scene.opset >= _SINGLE_AXIS else rank - 1})
        return scene.replace(old, tape, {node.outputs[0]: result})


class _Found(NamedTuple):
    x: ir.Value
    axes: tuple[int, ...]
    nodes: tuple[ir.Node, ...]


def _reduction(value: ir.Value | None, op_type: str, scene: Scene) -> _Found | None:
    """`value` as a reduction that keeps the number of axes."""
    node = scene.maker(value, op_type)
    if node is None or node.inputs[0] is None or not node.attributes.get_int("keepdims", 1):
        return None
    axes = reduced(node, scene)
    return None if axes is None else _Found(node.inputs[0], axes, (node,))


def _softmax(node: ir.Node, scene: Scene) -> _Found | None:
    powers = scene.maker(node.inputs[0], "Exp")
    if powers is None or powers.inputs[0] is None:
        return None
    total = _reduction(node.inputs[1], "ReduceSum", scene)
    if total is None or total.x is not powers.outputs[0]:
        return None
    return _Found(powers.inputs[0], total.axes, (powers, *total.nodes))


def _logarithm(node: ir.Node, scene: Scene) -> _Found | None:
    x, value = node.inputs
    found = _reduction(value, "ReduceLogSumExp", scene)
    if found is not None:
        return found if found.x is x else None
    log = scene.maker(value, "Log")
    total = None if log is None else _reduction(log.inputs[0], "ReduceSum", scene)
    powers = None if total is None else scene.maker(total.x, "Exp")
    if log is None or total is None or powers is None or powers.inputs[0] is not x or x is None:
        return None
    return _Found(x, total.axes, (log, *total.nodes, powers))


def _shifted(value: ir.Value, axes: tuple[int, ...], scene: Scene) -> _Found | None:
    """`value` as the difference of a tensor from its maximum."""
    sub = scene.maker(value, "Sub")
    found = None if sub is None else _reduction(sub.inputs[1], "ReduceMax", scene)
    if sub is None or found is None or found.x is not sub.inputs[0] or found.axes != axes:
        return None
    return _Found(found.x, axes, (sub, *found.nodes))
