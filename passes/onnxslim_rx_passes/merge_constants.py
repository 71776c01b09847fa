"""Merge additions, or multiplications, of constants in a row."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["MergeConstants"]

Array = npt.NDArray[Any]

_SUM = ("Add", "Sub")
_PRODUCT = ("Mul", "Div")
_SIGNIFICAND_BITS = {
    ir.DataType.BFLOAT16: 8,
    ir.DataType.FLOAT16: 11,
    ir.DataType.FLOAT: 24,
    ir.DataType.DOUBLE: 53,
}
"""The hidden one included: normal numbers round by at most a factor of 1 + 2 ** -bits."""
_SMALL = 4096
"""Elements of a merged constant that may be stored beside those that it was made of."""


class _Step(NamedTuple):
    """`op(x, c)`, or `op(c, x)` if the constant leads."""

    op_type: str
    x: ir.Value
    constant: ir.Value
    array: Array
    leads: bool


@dataclasses.dataclass(frozen=True)
class MergeConstants(Rule):
    """Merge additions, or multiplications, of constants in a row.

    `(x + a) + b = x + (a + b)`, `a - (b - x) = x + (a - b)`, `(x * a) * b = x * (a * b)`,
    `(x * a) / b = x * (a / b)`, `(a / x) * b = (a * b) / x`, and so on; the merged constant is
    computed in float64. Integers: sums and products alone, which wrap in either order.

    Refused where the merged constant is not finite, too small for the type, or larger than both
    were; where a divisor is 0; and where constants that are added cancel: adding and subtracting
    a large number is a way to round. The first node must have no other reader.
    """

    name: ClassVar[str] = "merge-constants"
    roots: ClassVar[tuple[str, ...]] = (*_SUM, *_PRODUCT)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        family = _SUM if node.op_type in _SUM else _PRODUCT
        if len(node.inputs) != 2 or scene.opset < 7:  # operands were aligned by attributes
            return False
        first = scene.sole(node.inputs[0], *family) or scene.sole(node.inputs[1], *family)
        if first is None or first.graph is not node.graph:
            return False
        early, late = _step(first, scene), _step(node, scene)
        if early is None or late is None or late.x is not first.outputs[0]:
            return False
        dtype = scene.facts.dtype(late.constant)
        if dtype is None or dtype.is_string():
            return False
        if dtype not in _SIGNIFICAND_BITS and "Div" in (early.op_type, late.op_type):
            return Skip("divisions of integers round")
        with np.errstate(all="ignore"):
            merged = (_sum if family is _SUM else _product)(early, late)
            if isinstance(merged, Skip):
                return merged
            op_type, wide, leads = merged
            array = _narrow(wide, dtype)
            if isinstance(array, Skip):
                return array
        if array.size > max(early.array.size, late.array.size):
            return Skip("the merged constant would be larger")
        if array.size > _SMALL and not all(
            scene.is_private(step.constant) for step in (early, late)
        ):
            return Skip("a large constant is read elsewhere too")
        tape = ir.tape.Tape()
        constant = tape.initializer(ir.tensor(array, dtype=dtype), name=late.constant.name)
        result = tape.op(op_type, [constant, early.x] if leads else [early.x, constant])
        return scene.replace([first, node], tape, {node.outputs[0]: result})


def _step(node: ir.Node, scene: Scene) -> _Step | None:
    for side in (1, 0):
        x, constant = node.inputs[1 - side], node.inputs[side]
        array = scene.facts.array(constant)
        if x is None or constant is None or array is None or not array.size:
            continue
        if scene.facts.array(x) is None:
            return _Step(node.op_type, x, constant, array, side == 0)
    return None


def _wide(array: Array) -> Array:
    """Floats as float64; integers as they are, which wrap."""
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def _narrow(wide: Array, dtype: ir.DataType) -> Array | Skip:
    """As this type; or why that does not hold the numbers."""
    array = np.asarray(wide).astype(dtype.numpy())
    if dtype not in _SIGNIFICAND_BITS:
        return array
    back = array.astype(np.float64)
    if not np.isfinite(back).all():
        return Skip("the merged constant is not finite")
    if (np.abs(back - wide) > np.abs(wide) * 2.0 ** -_SIGNIFICAND_BITS[dtype]).any():
        return Skip("the merged constant is too small for its type")
    return array


def _sum(first: _Step, second: _Step) -> tuple[str, Array, bool] | Skip:
    """Both as `sign * x + offset`."""
    signs, offsets = [], []
    for step in (first, second):
        offset = _wide(step.array)
        subtracts = step.op_type == "Sub"
        signs.append(-1 if subtracts and step.leads else 1)
        offsets.append(-offset if subtracts and not step.leads else offset)
    a, b = offsets if signs[1] > 0 else (-offsets[0], offsets[1])
    total = a + b
    if total.dtype.kind == "f" and (np.abs(total) < np.maximum(np.abs(a), np.abs(b)) / 2).any():
        return Skip("the constants cancel, which may be meant to round")
    return ("Add", total, False) if signs[0] == signs[1] else ("Sub", total, True)


def _product(first: _Step, second: _Step) -> tuple[str, Array, bool] | Skip:
    """Both as `factor * x ** power`, where power is 1 or -1."""
    a, b = _wide(first.array), _wide(second.array)
    divides = [step.op_type == "Div" for step in (first, second)]
    inverts = [div and step.leads for div, step in zip(divides, (first, second), strict=True)]
    divisors = [array for array, div in zip((a, b), divides, strict=True) if div]
    if any((array == 0).any() for array in (*divisors, *([a] if inverts[1] else []))):
        return Skip("a division by 0, or of 0")
    if divides == [True, True] and not any(inverts):  # (x / a) / b: no quotient is rounded
        op_type, factor = "Div", a * b
    else:
        early = 1 / a if divides[0] and not inverts[0] else a
        late = 1 / b if divides[1] and not inverts[1] else b
        op_type = "Mul" if inverts[0] == inverts[1] else "Div"
        factor = (1 / early if inverts[1] else early) * late
    if factor.dtype.kind == "f" and ((factor == 0) & (a != 0) & (b != 0)).any():
        return Skip("the merged constant is too small for its type")
    return op_type, factor, inverts[0] != inverts[1]
