"""Recognise a piecewise linear sigmoid."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import (
    FLOAT,
    FLOAT16,
    SHARED,
    clamp,
    close,
    closed,
    lacks_kernel,
    number,
    polynomial,
)

__all__ = ["FuseHardSigmoid"]

_OPSET = 7
_LINEAR = 2
_CLAMPS = ("Clip", "Relu", "Min", "Max")


@dataclasses.dataclass(frozen=True)
class FuseHardSigmoid(Rule):
    """Replace `clip(a x + b, 0, c) / c` by `HardSigmoid` with `alpha = a / c`, `beta = b / c`.

    So `relu6(x + 3) / 6` (Howard et al., 2019) and `clip(0.2 x + 0.5, 0, 1)` (Courbariaux et al.,
    2015), the clamp being Clip or of Relu, Min and Max, and the line of sums, differences, products
    and quotients with constants.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-hard-sigmoid"
    roots: ClassVar[tuple[str, ...]] = ("Clip", "Div", "Max", "Min", "Mul")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        found = _sigmoid(node, scene)
        if found is None:
            return False
        refused = lacks_kernel(scene, found.x, "HardSigmoid", (FLOAT, FLOAT16))
        if refused is not None:
            return refused
        old = closed(node, found.nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        result = tape.op("HardSigmoid", [found.x], {"alpha": found.alpha, "beta": found.beta})
        return scene.replace(old, tape, {node.outputs[0]: result})


class _Sigmoid(NamedTuple):
    """`clip(alpha * x + beta, 0, 1)`."""

    x: ir.Value
    alpha: float
    beta: float
    nodes: tuple[ir.Node, ...]


def _sigmoid(node: ir.Node, scene: Scene) -> _Sigmoid | None:
    factor, value, scaling = 1.0, node.outputs[0], list[ir.Node]()
    if node.op_type in ("Mul", "Div"):
        found = _scaled(node, scene)
        if found is None:
            return None
        value, factor, scaling = found[0], found[1], [node]
    clamped = clamp(scene, value)
    if clamped is None or clamped.low != 0 or math.isinf(clamped.high):
        return None
    dtype = scene.facts.dtype(clamped.x)
    if not close(clamped.high * factor, 1.0, dtype):
        return None
    x = _end(clamped.x, scene)
    line = None if x is None else polynomial(scene, clamped.x, x)
    if x is None or line is None or len(line.coefficients) != _LINEAR:
        return None
    beta, alpha = (part / clamped.high for part in line.coefficients)
    return _Sigmoid(x, alpha, beta, (*line.nodes, *clamped.nodes, *scaling))


def _scaled(node: ir.Node, scene: Scene) -> tuple[ir.Value, float] | None:
    """A clamped value and the positive number that it is multiplied by."""
    pairs = [tuple(node.inputs)] if node.op_type == "Div" else [node.inputs, node.inputs[::-1]]
    for value, other in pairs:
        if value is None or scene.maker(value, *_CLAMPS) is None:
            continue
        factor = number(scene, other, value)
        if factor is not None and factor > 0:
            return value, factor if node.op_type == "Mul" else 1 / factor
    return None


def _end(value: ir.Value, scene: Scene) -> ir.Value | None:
    """What a line starts from: up to two nodes with a constant, taken apart; None for none."""
    start = value
    for _ in range(2):
        node = scene.sole(value, "Add", "Sub", "Mul", "Div")
        if node is None or len(node.inputs) != 2:
            break
        first, second = node.inputs
        if number(scene, second, first) is not None and first is not None:
            value = first
        elif node.op_type in ("Add", "Mul") and number(scene, first, second) is not None:
            assert second is not None  # it has two inputs
            value = second
        else:
            break
    return None if value is start else value
