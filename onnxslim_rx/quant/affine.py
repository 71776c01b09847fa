"""Grids of integers for the values of a tensor, `x = scale * (q - zero)`, and what they lose."""

from __future__ import annotations

import math

import numpy as np

from onnxslim_rx.quant.histogram import Histogram

__all__ = ["affine", "expected_error", "grid", "grid_error"]

_FLOAT = np.finfo(np.float32)


def affine(
    low: float, high: float, *, bits: int = 8, signed: bool = False, symmetric: bool = False
) -> tuple[float, int]:
    """Scale and zero point of the integers that stand for values from `low` to `high`.

    Zero is always one of the values that integers stand for, so that padding and what an
    activation cuts off are exact: a range that does not hold it is extended, and both ends move by
    up to half a step.

    Args:
        low: lower end of the range; where it is above `high`, the range holds zero alone.
        high: upper end.
        bits: 2 to 16.
        signed: whether the integers start at `-2**(bits-1)`, not at 0.
        symmetric: the middle of the integers stands for zero, and as many values lie on either
            side; one integer at the lower end is left over.

    Returns:
        The scale, a positive normal number in single precision, and the zero point.

    Raises:
        ValueError: NaN or infinite ends, or a number of bits outside its range.

    Source: Jacob et al., CVPR 2018.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"found {bits} bits; expected 2 to 16")
    scale, first = grid(low, high, 2**bits, symmetric=symmetric)
    return scale, _least(bits, signed=signed) - first


def expected_error(
    histogram: Histogram, scale: float, zero: int, *, bits: int = 8, signed: bool = False
) -> float:
    """Mean squared error of values that are rounded to integers and cut off at their ends.

    Args:
        histogram: the values; inside a bin they count as spread evenly.
        scale: the step, above 0.
        zero: which integer stands for zero.
        bits: of the integers.
        signed: whether the integers start at `-2**(bits-1)`, not at 0.
    """
    return grid_error(histogram, scale, _least(bits, signed=signed) - zero, 2**bits)


def grid(low: float, high: float, levels: int, *, symmetric: bool) -> tuple[float, int]:
    """The step of `levels` values from `low` to `high`, and which multiple of it is the first.

    As `affine`, for any number of levels.
    """
    low, high = (min(low, 0.0), max(high, 0.0)) if not low > high else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"found a range from {low} to {high}; expected finite ends")
    if symmetric:
        width, steps = max(-low, high), levels // 2 - 1
    else:
        width, steps = high - low, levels - 1
    # models store scales in single precision; runtimes take subnormal ones for 0
    with np.errstate(over="ignore"):
        scale = float(np.clip(np.float32(width / steps), _FLOAT.tiny, _FLOAT.max))
    scale = scale if width > 0 else 1.0
    first = -(levels // 2) if symmetric else max(round(low / scale), 1 - levels)
    return scale, first


def grid_error(histogram: Histogram, scale: float, first: int, levels: int) -> float:
    """Mean squared error of values that are rounded to `scale * k`, `k` from `first` on.

    From 0 to `u` steps the squared error sums up to `k / 12 + (u - k)**3 / 3`, where `k` is the
    value that `u` is rounded to, also where that is the last one.
    """
    left, right, counts = histogram.pieces()
    total = counts.sum()
    if not total:
        return 0.0
    begin, end = left / scale, right / scale
    from_, to = (np.clip(np.rint(u), first, first + levels - 1) for u in (begin, end))
    a, b = begin - from_, end - to
    error = (a * a + a * b + b * b) / 3  # where all of the bin is rounded to one value
    apart = np.flatnonzero(to > from_)
    a, b = a[apart], b[apart]
    integral = (to[apart] - from_[apart]) / 12 + (b**3 - a**3) / 3
    error[apart] = integral / (end[apart] - begin[apart])
    return float(counts @ error / total) * scale**2


def _least(bits: int, *, signed: bool) -> int:
    return -(2 ** (bits - 1)) if signed else 0
