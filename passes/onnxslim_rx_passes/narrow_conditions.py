"""Drop what only lengthens a condition."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import is_natural
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import fill_of
from onnxslim_rx_passes._positions import positions
from onnxslim_rx_passes._widths import narrow

__all__ = ["NarrowConditions"]

_ORDERS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@dataclasses.dataclass(frozen=True)
class NarrowConditions(Rule):
    """Drop a truth value that is the same everywhere and only lengthens a condition.

    In `c = And(t, m)`, t (1, 1, n, 1) is true everywhere, m is (b, 1, 1, n), and c is
    (b, 1, n, n): if what reads c, or a chain of elementwise operators on it, broadcasts to the
    last shapes anyway, as `Add(scores, Where(c, 0, -inf))` does, it can read m in its place.
    The same for `Or` with false. True everywhere are constants, and comparisons of counters with
    numbers: `Range(0, n, 1) >= 0`.
    """

    name: ClassVar[str] = "narrow-conditions"
    roots: ClassVar[tuple[str, ...]] = ("And", "Or")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        for side in (0, 1):
            if _truth(node.inputs[side], scene) == (node.op_type == "And"):
                kept = node.inputs[1 - side]
                return False if kept is None else narrow(node, kept, scene)
        return False


def _truth(value: ir.Value | None, scene: Scene) -> bool | None:
    """Whether all elements are true, or all false; None where neither is known."""
    if scene.facts.dtype(value) != ir.DataType.BOOL:
        return None
    filled = fill_of(value, scene)
    if filled is not None:
        return bool(filled)
    node = scene.maker(value, *_ORDERS)
    if node is None:
        return None
    a, b = (positions(one, scene) for one in node.inputs)
    if a is None or b is None:
        return None
    if node.op_type in ("Less", "LessOrEqual"):
        a, b = b, a
    if any(step != 0 for step in b.steps) or not all(map(is_natural, a.steps)):
        return None
    least = a.offset - b.offset - (1 if node.op_type in ("Greater", "Less") else 0)
    return True if is_natural(least) else None
