"""Recognise leaky ReLU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, FLOAT16, SHARED, closed, commuted, lacks_kernel, number

__all__ = ["FuseLeakyRelu"]

_OPSET = 9


@dataclasses.dataclass(frozen=True)
class FuseLeakyRelu(Rule):
    """Replace leaky ReLU spelt out by `LeakyRelu`.

    `max(x, alpha x)` with `0 < alpha < 1` (Maas, Hannun and Ng, 2013), and `where(x > 0, x,
    alpha x)` with any finite alpha, also with `>=`, or the comparison and the branches turned.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-leaky-relu"
    roots: ClassVar[tuple[str, ...]] = ("Max", "Where")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        found = _maximum(node, scene) if node.op_type == "Max" else _choice(node, scene)
        if found is None:
            return False
        refused = lacks_kernel(scene, found.x, "LeakyRelu", (FLOAT, FLOAT16))
        if refused is not None:
            return refused
        old = closed(node, found.nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        result = tape.op("LeakyRelu", [found.x], {"alpha": found.alpha})
        return scene.replace(old, tape, {node.outputs[0]: result})


class _Leaky(NamedTuple):
    x: ir.Value
    alpha: float
    nodes: tuple[ir.Node, ...]


def _slopes(value: ir.Value | None, scene: Scene) -> Iterator[tuple[ir.Value, float, ir.Node]]:
    """Readings of `value` as the product of a tensor and a number."""
    node = scene.maker(value, "Mul")
    for x, other in commuted(node):
        alpha = number(scene, other, x)
        if node is not None and alpha is not None:
            yield x, alpha, node


def _maximum(node: ir.Node, scene: Scene) -> _Leaky | None:
    for x, other in commuted(node):
        for inner, alpha, mul in _slopes(other, scene):
            if inner is x and 0 < alpha < 1:
                return _Leaky(x, alpha, (mul,))
    return None


_POSITIVE = ("Greater", "GreaterOrEqual")


def _choice(node: ir.Node, scene: Scene) -> _Leaky | None:
    condition, chosen, other = node.inputs
    test = scene.maker(condition, *_POSITIVE, "Less", "LessOrEqual")
    if test is None or None in test.inputs:
        return None
    x, zero = test.inputs
    positive = test.op_type in _POSITIVE
    if number(scene, zero, x) != 0:
        x, zero, positive = zero, x, not positive
        if number(scene, zero, x) != 0:
            return None
    if not positive:
        chosen, other = other, chosen
    for inner, alpha, mul in _slopes(other, scene):
        if chosen is x and inner is x and math.isfinite(alpha) and x is not None:
            return _Leaky(x, alpha, (mul, test))
    return None
