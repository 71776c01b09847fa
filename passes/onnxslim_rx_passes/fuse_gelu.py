"""Recognise GELU, exact and by tanh."""

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
    close,
    closed,
    commuted,
    lacks_kernel,
    number,
    polynomial,
    product,
)

__all__ = ["GELU_OPSET", "FuseGelu", "Gelu", "match_gelu"]

GELU_OPSET = 20
_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@dataclasses.dataclass(frozen=True)
class FuseGelu(Rule):
    """Replace GELU spelt out by `Gelu` (opset 20).

    `x * (1 + erf(x / sqrt(2))) / 2`, or `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`
    (Hendrycks and Gimpel, 2016), factors and terms in any order, as products or powers. Constants
    may be off by 1e-5 of their size, in half precision by 1e-3.

    Refused: intermediate results that are read elsewhere; types other than float and float16.
    """

    name: ClassVar[str] = "fuse-gelu"
    roots: ClassVar[tuple[str, ...]] = ("Mul", "Div")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < GELU_OPSET:
            return False
        found = match_gelu(node, scene)
        if found is None:
            return False
        refused = lacks_kernel(scene, found.x, "Gelu", (FLOAT, FLOAT16))
        if refused is not None:
            return refused
        old = closed(node, found.nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        attributes = {"approximate": "tanh"} if found.tanh else {}
        result = tape.op("Gelu", [found.x], attributes)
        return scene.replace(old, tape, {node.outputs[0]: result})


class Gelu(NamedTuple):
    """A GELU that is spelt out.

    Args:
        x: its input.
        tanh: whether by tanh.
        nodes: that compute it.
    """

    x: ir.Value
    tanh: bool
    nodes: set[ir.Node]


def match_gelu(root: ir.Node, scene: Scene) -> Gelu | None:
    """The GELU whose last node is `root`, a Mul or Div; its nodes may have other readers."""
    whole = product(scene, root.outputs[0])
    if whole is None or len(whole.factors) != 2:
        return None
    first, second = whole.factors
    for x, value in ((first, second), (second, first)):
        add = scene.maker(value, "Add")
        for curve, one in commuted(add):
            node = scene.maker(curve, "Erf", "Tanh")
            if node is None or add is None:
                continue
            dtype = scene.facts.dtype(x)
            inner = polynomial(scene, node.inputs[0], x)
            if inner is None or not close(whole.coefficient, 0.5, dtype):
                continue
            tanh = node.op_type == "Tanh"
            wanted = (0.0, _SCALE, 0.0, _SCALE * _CUBIC) if tanh else (0.0, math.sqrt(0.5))
            found = inner.coefficients
            if (
                close(number(scene, one, x), 1.0, dtype)
                and len(found) == len(wanted)
                and all(a == b or close(a, b, dtype) for a, b in zip(found, wanted, strict=True))
            ):
                return Gelu(x, tanh, {*whole.nodes, *inner.nodes, add, node})
    return None
