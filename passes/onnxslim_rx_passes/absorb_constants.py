"""Replace what a constant operand decides alone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import RETURNED, fill_of

__all__ = ["AbsorbConstants"]

_MOST_ELEMENTS = 64


@dataclasses.dataclass(frozen=True)
class AbsorbConstants(Rule):
    """Replace what a constant operand decides alone by a constant.

    `x and False`, `x or True`, and for integers `x * 0`, `x - x`, `x mod 1`. Results of a shape
    that is known and of up to 64 elements: what exporters compute from sizes. Floating-point
    numbers may be NaN or infinite, and stay.
    """

    name: ClassVar[str] = "absorb-constants"
    roots: ClassVar[tuple[str, ...]] = ("And", "Mod", "Mul", "Or", "Sub")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if len(node.inputs) != 2:
            return False
        sizes, dtype = scene.facts.sizes(node.outputs[0]), scene.facts.dtype(node.outputs[0])
        if sizes is None or dtype is None or np.prod(sizes, dtype=float) > _MOST_ELEMENTS:
            return False
        number = _decided(node, dtype, scene)
        if number is None:
            return False
        if node.outputs[0].is_graph_output():
            return Skip(RETURNED)
        tensor = ir.tensor(np.full(sizes, number, dtype=dtype.numpy()))
        value = scene.constant(node, tensor, str(node.outputs[0].name))
        return scene.forward(node, node.outputs[0], value)


def _decided(node: ir.Node, dtype: ir.DataType, scene: Scene) -> int | None:
    """The number that all elements of the result are, or None."""
    a, b = node.inputs
    if node.op_type in ("And", "Or"):
        number = 0 if node.op_type == "And" else 1
        return number if any(fill_of(value, scene) == number for value in (a, b)) else None
    if not dtype.is_integer():
        return None
    if node.op_type == "Sub":
        return 0 if a is b else None
    if node.op_type == "Mod":
        return 0 if fill_of(b, scene) == 1 else None
    return 0 if any(fill_of(value, scene) == 0 for value in (a, b)) else None
