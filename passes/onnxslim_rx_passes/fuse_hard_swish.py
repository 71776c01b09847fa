"""Recognise hard swish."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

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
    polynomial,
    product,
)

__all__ = ["FuseHardSwish"]

_OPSET = 14


@dataclasses.dataclass(frozen=True)
class FuseHardSwish(Rule):
    """Replace hard swish spelt out by `HardSwish` (opset 14).

    `x * clip(x + 3, 0, 6) / 6` (Howard et al., 2019), factors in any order, and
    `x * HardSigmoid(x)` with `alpha = 1/6` and `beta = 1/2`.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-hard-swish"
    roots: ClassVar[tuple[str, ...]] = ("Mul", "Div")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        whole = product(scene, node.outputs[0])
        if whole is None or len(whole.factors) != 2:
            return False
        first, second = whole.factors
        for x, gate in ((first, second), (second, first)):
            nodes = _gate(gate, x, whole.coefficient, scene)
            if nodes is None:
                continue
            refused = lacks_kernel(scene, x, "HardSwish", (FLOAT, FLOAT16))
            if refused is not None:
                return refused
            old = closed(node, {*whole.nodes, *nodes})
            if old is None:
                return Skip(SHARED)
            tape = ir.tape.Tape()
            return scene.replace(old, tape, {node.outputs[0]: tape.op("HardSwish", [x])})
        return False


def _gate(
    gate: ir.Value, x: ir.Value, coefficient: float, scene: Scene
) -> Iterable[ir.Node] | None:
    """The nodes of `gate` if `coefficient * gate` is `clip(x / 6 + 1/2, 0, 1)`."""
    dtype = scene.facts.dtype(x)
    sigmoid = scene.maker(gate, "HardSigmoid")
    if sigmoid is not None:
        alpha = sigmoid.attributes.get_float("alpha", 0.2)
        beta = sigmoid.attributes.get_float("beta", 0.5)
        right = close(alpha, 1 / 6, dtype) and close(beta, 0.5, dtype)
        right = right and close(coefficient, 1.0, dtype)
        return [sigmoid] if right and sigmoid.inputs[0] is x else None
    clamped = clamp(scene, gate)
    if clamped is None or clamped.low != 0 or not close(clamped.high * coefficient, 1.0, dtype):
        return None
    line = polynomial(scene, clamped.x, x)
    if line is None or len(line.coefficients) != 2:
        return None
    beta, alpha = (part * coefficient for part in line.coefficients)
    right = close(alpha, 1 / 6, dtype) and close(beta, 0.5, dtype)
    return [*line.nodes, *clamped.nodes] if right else None
