"""Simplify truth values and what chooses by them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import equal

__all__ = ["SimplifyLogic"]

_OPPOSITES = {
    "Greater": "LessOrEqual",
    "GreaterOrEqual": "Less",
    "Less": "GreaterOrEqual",
    "LessOrEqual": "Greater",
}
_OR_EQUAL_FROM = 12
"""The opset that brought GreaterOrEqual and LessOrEqual."""


@dataclasses.dataclass(frozen=True)
class SimplifyLogic(Rule):
    """Simplify truth values and what chooses by them.

    `x xor True`, `x == False` are `not x`, and `x == True` is x; `not (a < b)` is `a >= b` for
    integers, and so on for the other comparisons (with floats, NaN is neither);
    `Where(not c, a, b) = Where(c, b, a)`. The shape must stay.
    """

    name: ClassVar[str] = "simplify-logic"
    roots: ClassVar[tuple[str, ...]] = ("Equal", "Not", "Where", "Xor")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.op_type == "Not":
            return _not(node, scene)
        if node.op_type == "Where":
            return _where(node, scene)
        if len(node.inputs) != 2:
            return False
        for side in (0, 1):
            array = scene.facts.array(node.inputs[side])
            if array is None or array.dtype != np.bool_ or not array.size:
                continue
            truth = bool(array[(0,) * array.ndim])
            if (array == truth).all():
                return _with_constant(node, node.inputs[1 - side], truth, scene)
        return False


def _with_constant(node: ir.Node, other: ir.Value | None, truth: bool, scene: Scene) -> bool | Skip:
    """The operator on `other` and a constant that is `truth` everywhere."""
    result = node.outputs[0]
    tape = ir.tape.Tape()
    if other is None or not equal(scene.facts.shape(other), scene.facts.shape(result)):
        return Skip("the constant may lengthen the result")
    if truth == (node.op_type == "Xor"):
        return scene.replace([node], tape, {result: tape.op("Not", [other])})
    return scene.forward(node, result, other)


def _not(node: ir.Node, scene: Scene) -> bool | Skip:
    """Turn a comparison round."""
    first = scene.sole(node.inputs[0], *_OPPOSITES)
    if first is None or first.graph is not node.graph or scene.opset < _OR_EQUAL_FROM:
        return False
    dtype = scene.facts.dtype(first.inputs[0]) or scene.facts.dtype(first.inputs[1])
    if dtype is None or not dtype.is_integer():
        return Skip("NaN is neither less nor more")
    tape = ir.tape.Tape()
    result = tape.op(_OPPOSITES[first.op_type], first.inputs)
    return scene.replace([first, node], tape, {node.outputs[0]: result})


def _where(node: ir.Node, scene: Scene) -> bool:
    """Choose the other way round."""
    condition, yes, no = node.inputs
    first = scene.maker(condition, "Not")
    if first is None or first.graph is not node.graph:
        return False
    tape = ir.tape.Tape()
    chosen = tape.op("Where", [first.inputs[0], no, yes])
    return scene.replace([first, node], tape, {node.outputs[0]: chosen}, keep=True)
