"""Arithmetic on the contents of small tensors of whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import is_natural, low
from onnxslim_rx.analysis.facts.dims import Dim, Expr
from onnxslim_rx.analysis.facts.division import divide, floor_div, largest, smallest
from onnxslim_rx.analysis.facts.known import LONGEST, Contents, Known

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "Operation",
    "absolute",
    "add",
    "both",
    "cast",
    "choose",
    "combine",
    "divide_exactly",
    "divide_truncating",
    "either",
    "equal",
    "fits",
    "greater",
    "greater_or_equal",
    "greatest",
    "least",
    "less",
    "less_or_equal",
    "modulo",
    "multiply",
    "negate",
    "negate_truth",
    "subtract",
    "unchanged",
]

Operation: TypeAlias = "Callable[..., Dim | None]"
"""From one element of each input to one of the output; None: not known."""

_BIG = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.UINT64, ir.DataType.UINT32}
_WHOLE = {ir.DataType.FLOAT: 2**24, ir.DataType.DOUBLE: 2**53}
"""Up to here, all whole numbers are exact."""

_RANGES = {
    dtype: (-(2 ** (dtype.bitwidth - 1)), 2 ** (dtype.bitwidth - 1) - 1)
    for dtype in (ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64)
} | {
    dtype: (0, 2**dtype.bitwidth - 1)
    for dtype in (ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64)
}
_RANGES[ir.DataType.BOOL] = (0, 1)


def fits(dtype: ir.DataType | None, dim: Dim) -> bool:
    """Whether elements of this type hold the number; sizes are taken to fit into 32 bits."""
    if dtype is None:
        return False
    if isinstance(dim, Expr):
        return dtype in _BIG and (dtype.is_signed() or is_natural(dim))
    if dtype in _WHOLE:
        return abs(dim) <= _WHOLE[dtype]
    least, most = _RANGES.get(dtype, (0, -1))
    return bool(least <= dim <= most)


def combine(
    operate: Operation, dtype: ir.DataType | None, inputs: Sequence[Known]
) -> Contents | None:
    """The operation on each element of inputs whose contents are known, with broadcasting.

    None where an element is not known, or does not fit into `dtype`.
    """
    columns = [known.contents for known in inputs]
    if any(column is None for column in columns):
        return None
    lengths = {len(column) for column in columns if column is not None}
    length = max(lengths) if 0 not in lengths else 0
    if not lengths <= {1, length}:
        return None
    wide = [column if len(column) == length else column * length for column in columns if column]
    result = []
    for elements in zip(*wide, strict=True) if length else ():
        found = operate(*elements)
        if found is None or not fits(dtype, found):
            return None
        result.append(found)
    return tuple(result)


def add(a: Dim, b: Dim) -> Dim:
    """`a + b`."""
    return a + b


def subtract(a: Dim, b: Dim) -> Dim:
    """`a - b`."""
    return a - b


def multiply(a: Dim, b: Dim) -> Dim:
    """`a * b`."""
    return a * b


def divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """`a / b` where it is whole."""
    return divide(a, b)


def divide_truncating(a: Dim, b: Dim) -> Dim | None:
    """`a / b` without its fraction, as ONNX divides integers: it rounds towards 0."""
    if b == 0:
        return None
    exact = divide(a, b)
    if exact is not None:
        return exact
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    return floor_div(a, b) if is_natural(a) and is_natural(b) else None


def modulo(a: Dim, b: Dim) -> Dim | None:
    """What `a` divided by `b` leaves; it has the sign of `b`."""
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return a - b * floor_div(a, b)


def negate(a: Dim) -> Dim:
    """`-a`."""
    return -a


def absolute(a: Dim) -> Dim | None:
    """`a` without its sign."""
    if isinstance(a, int):
        return abs(a)
    return a if is_natural(a) else None


def unchanged(a: Dim) -> Dim:
    """`a`: a whole number is not rounded."""
    return a


def greatest(*dims: Dim) -> Dim:
    """The greatest of all."""
    return largest(dims)


def least(*dims: Dim) -> Dim:
    """The least of all."""
    return smallest(dims)


def _is_below(a: Dim, b: Dim) -> bool:
    """Whether `a` is proven to be less than `b`."""
    return (low(b - a) or 0) > 0


def equal(a: Dim, b: Dim) -> Dim | None:
    """Whether both are the same, as 1 or 0."""
    if a == b:
        return 1
    return 0 if _is_below(a, b) or _is_below(b, a) else None


def less(a: Dim, b: Dim) -> Dim | None:
    """Whether `a` is less than `b`, as 1 or 0."""
    if _is_below(a, b):
        return 1
    return 0 if is_natural(a - b) else None


def less_or_equal(a: Dim, b: Dim) -> Dim | None:
    """Whether `a` is at most `b`, as 1 or 0."""
    return negate_truth(less(b, a))


def greater(a: Dim, b: Dim) -> Dim | None:
    """Whether `a` is more than `b`, as 1 or 0."""
    return less(b, a)


def greater_or_equal(a: Dim, b: Dim) -> Dim | None:
    """Whether `a` is at least `b`, as 1 or 0."""
    return negate_truth(less(a, b))


def negate_truth(a: Dim | None) -> Dim | None:
    """1 of 0, and 0 of 1."""
    return 1 - a if isinstance(a, int) else None


def both(a: Dim, b: Dim) -> Dim | None:
    """Whether both are true, as 1 or 0."""
    return int(bool(a and b)) if isinstance(a, int) and isinstance(b, int) else None


def either(a: Dim, b: Dim) -> Dim | None:
    """Whether one is true, as 1 or 0."""
    return int(bool(a or b)) if isinstance(a, int) and isinstance(b, int) else None


def choose(condition: Known, a: Known, b: Known) -> Contents | None:
    """Elements of `a` or `b`, as Where takes them."""

    def pick(chosen: Dim, x: Dim, y: Dim) -> Dim | None:
        if x == y:
            return x
        return (x if chosen else y) if isinstance(chosen, int) else None

    return combine(pick, a.dtype or b.dtype, [condition, a, b])


def cast(known: Known, dtype: ir.DataType) -> Contents | None:
    """The contents as another type, where that changes no number."""
    if known.contents is None or len(known.contents) > LONGEST:
        return None
    if dtype == ir.DataType.BOOL:
        truths = [equal(dim, 0) for dim in known.contents]
        if not all(isinstance(truth, int) for truth in truths):
            return None
        return tuple(1 - truth for truth in truths if isinstance(truth, int))
    return known.contents if all(fits(dtype, dim) for dim in known.contents) else None
