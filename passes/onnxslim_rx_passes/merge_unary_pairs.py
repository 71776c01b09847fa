"""Merge two elementwise operators in a row that undo or repeat one another."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import bypass

__all__ = ["MergeUnaryPairs"]

_INVERSES = {"BitwiseNot", "Neg", "Not"}
_SECOND_ALONE = {("Abs", "Neg"), ("Sign", "Sign")}
_ROUNDED = {"Ceil", "Floor", "Round"}
_FIRST_ALONE = {
    ("Abs", "Abs"), ("Abs", "Relu"), ("Relu", "Relu"), ("Relu", "Abs"),
    ("Sigmoid", "Abs"), ("Sigmoid", "Relu"), ("Sqrt", "Abs"), ("Sqrt", "Relu"), ("Exp", "Abs"),
    ("Exp", "Relu"), ("Softplus", "Abs"), ("Softplus", "Relu"), ("HardSigmoid", "Relu"),
    ("HardSigmoid", "Abs"), ("Softmax", "Relu"), ("Softmax", "Abs"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MergeUnaryPairs(Rule):
    """Merge two elementwise operators in a row that undo or repeat one another.

    `-(-x) = x`, `not not x = x`, `abs(-x) = abs(x)`; the second of `Ceil`, `Floor`, `Round` in a
    row, of two `Relu`, `Abs` or `Sign`, and `Relu` or `Abs` of what is never negative do nothing.
    All hold for every number, NaN and infinities included. `1 / (1 / x)` stays: it rounds, and
    is not x where `1 / x` underflows.
    """

    name: ClassVar[str] = "merge-unary-pairs"
    roots: ClassVar[tuple[str, ...]] = (
        "Abs", "BitwiseNot", "Ceil", "Floor", "Neg", "Not", "Relu", "Round", "Sign",
    )  # fmt: skip

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        value = node.inputs[0]
        first = None if value is None else value.producer()
        if value is None or first is None or first.domain != "" or first.graph is not node.graph:
            return False
        source = first.inputs[0] if first.inputs else None
        pair = (first.op_type, node.op_type)
        if pair[0] in _INVERSES and pair[0] == pair[1] and source is not None:
            return bypass(scene, [first, node], source)
        if pair in _FIRST_ALONE or pair == ("Sign", "Sign") or set(pair) <= _ROUNDED:
            return scene.forward(node, node.outputs[0], value)
        if pair == ("Neg", "Abs"):
            tape = ir.tape.Tape()
            result = tape.op("Abs", [source])
            return scene.replace([first, node], tape, {node.outputs[0]: result}, keep=True)
        return False
