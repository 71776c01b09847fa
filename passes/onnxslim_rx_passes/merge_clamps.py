"""Merge neighbouring Relu, Clip, Min and Max into one."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["MergeClamps"]

_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


class _Clamp(NamedTuple):
    """`min(max(x, low), high)`."""

    x: ir.Value
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class MergeClamps(Rule):
    """Merge two of `Relu`, `Clip`, `Min(x, c)`, `Max(x, c)` in a row into one `Relu` or `Clip`.

    `clamp(clamp(x, l1, h1), l2, h2) = clamp(x, g(min(l1, h1)), g(h1))` with `g` the second clamp.
    Bounds must be constant scalars; floating-point types; opset 11, whose Clip takes bounds as
    inputs.
    """

    name: ClassVar[str] = "merge-clamps"
    roots: ClassVar[tuple[str, ...]] = ("Clip", "Max", "Min", "Relu")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        first = scene.maker(node.inputs[0], *_READERS) if node.inputs else None
        if first is None or scene.opset < 11 or first.graph is not node.graph:
            return False
        if not scene.is_private(first.outputs[0]):
            return Skip(f"the result of {first.op_type} is read elsewhere too")
        inner, outer = (_READERS[one.op_type](one, scene) for one in (first, node))
        if inner is None or outer is None:
            return Skip("the bounds are no constant scalars")
        dtype = scene.facts.dtype(first.outputs[0])
        if dtype not in _TYPES or dtype is None:
            return Skip("the type is not a floating-point one, or not known")
        low = min(max(min(inner.low, inner.high), outer.low), outer.high)
        high = min(max(inner.high, outer.low), outer.high)
        tape = ir.tape.Tape()
        if (low, high) == (0.0, math.inf):
            result = tape.op("Relu", [inner.x], name=node.name)
        else:
            stem = node.outputs[0].name
            bounds = [
                None if math.isinf(bound) else _scalar(tape, bound, dtype, f"{stem}.{kind}")
                for bound, kind in ((low, "min"), (high, "max"))
            ]
            while bounds and bounds[-1] is None:
                bounds.pop()
            result = tape.op("Clip", [inner.x, *bounds], name=node.name)
        return scene.replace([first, node], tape, {node.outputs[0]: result})


def _scalar(tape: ir.tape.Tape, number: float, dtype: ir.DataType, name: str) -> ir.Value:
    return tape.initializer(ir.tensor(np.asarray(number, dtype=dtype.numpy())), name=name)


def _relu(node: ir.Node, scene: Scene) -> _Clamp | None:
    return None if node.inputs[0] is None else _Clamp(node.inputs[0], 0.0, math.inf)


def _clip(node: ir.Node, scene: Scene) -> _Clamp | None:
    bounds = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None:
            number = _number(value, scene)
            if number is None:
                return None
            bounds[index] = number
    return None if node.inputs[0] is None else _Clamp(node.inputs[0], bounds[0], bounds[1])


def _extremum(node: ir.Node, scene: Scene) -> _Clamp | None:
    """Min or Max of a tensor and scalars that do not give it more dimensions."""
    x = node.inputs[0]
    rank = scene.facts.rank(x)
    numbers = [_number(value, scene) for value in node.inputs[1:]]
    known = [number for number in numbers if number is not None]
    ranks = [scene.facts.rank(value) for value in node.inputs[1:]]
    if x is None or not known or len(known) < len(numbers):
        return None
    if any(r is None or (r > 0 and (rank is None or r > rank)) for r in ranks):
        return None
    if node.op_type == "Min":
        return _Clamp(x, -math.inf, min(known))
    return _Clamp(x, max(known), math.inf)


def _number(value: ir.Value | None, scene: Scene) -> float | None:
    if scene.facts.dtype(value) not in _TYPES:
        return None
    number = scene.scalar(value)
    return None if number is None or math.isnan(number) else number


_READERS = {"Clip": _clip, "Max": _extremum, "Min": _extremum, "Relu": _relu}
