"""Which range of a tensor's values integers should stand for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.clipping import least_squares_range
from onnxslim_rx.quant.entropy import entropy_range
from onnxslim_rx.quant.histogram import Histogram

__all__ = ["RangeMethod", "find_range", "percentile_range"]

Vector = npt.NDArray[np.float64]
Range = tuple[float, float]
RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
"""How a range is found; see `find_range`."""


def find_range(
    histogram: Histogram,
    method: RangeMethod = "minmax",
    *,
    levels: int = 256,
    symmetric: bool = False,
    percentile: float = 99.99,
) -> Range:
    """The range of values that integers should stand for; those outside are cut off.

    - "minmax": all values.
    - "percentile": `percentile` percent of them; as many are cut off at either end.
    - "entropy": the range in which the distribution of the rounded values diverges least from that
      of the values (Migacz, GTC 2017), found for both ends.
    - "mse": the least mean squared error of rounding and cutting off together; never worse than
      the first two.

    Args:
        histogram: the values.
        method: one of the above.
        levels: of the integers: 256 for 8 bits.
        symmetric: both ends lie equally far from zero.
        percentile: above 0 and at most 100.

    Returns:
        Low and high, the former at most 0, the latter at least 0: integers stand for zero in any
        case. Both are 0 where nothing but zeros, or nothing, was seen.

    Raises:
        ValueError: another method, or a percentile outside its range.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"found the percentile {percentile}; expected above 0, at most 100")
    if method not in ("minmax", "percentile", "entropy", "mse"):
        raise ValueError(f"found the method {method!r}; expected minmax, percentile, entropy, mse")
    if not histogram.counts.any():
        return 0.0, 0.0
    widest = _around_zero(histogram.low, histogram.high, symmetric=symmetric)
    if method == "minmax":
        return widest
    if method == "entropy":
        return entropy_range(histogram, widest, levels, symmetric=symmetric)
    inner = percentile_range(histogram, percentile, symmetric=symmetric)
    if method == "percentile":
        return inner
    return least_squares_range(histogram, (widest, inner), levels, symmetric=symmetric)


def percentile_range(histogram: Histogram, percentile: float, *, symmetric: bool) -> Range:
    """See `find_range`; a quantile inside a bin is found as if its values were spread evenly."""
    left, right, counts = histogram.pieces()
    cut = 1 - percentile / 100
    if not symmetric:
        low = _quantile(left, right, counts, cut / 2)
        high = -_quantile(-right[::-1], -left[::-1], counts[::-1], cut / 2)
        return _around_zero(low, high, symmetric=False)
    # the quantile of absolute values, from above
    far, near = np.maximum(-left, right), np.minimum(np.abs(left), np.abs(right))
    order = np.argsort(-far, kind="stable")
    high = -_quantile(-far[order], -near[order], counts[order], cut)
    return _around_zero(-high, high, symmetric=True)


def _quantile(left: Vector, right: Vector, counts: Vector, part: float) -> float:
    """Where `part` of all values lie below, bins in order."""
    sums = np.cumsum(counts)
    wanted = part * sums[-1]
    at = min(int(np.searchsorted(sums, wanted, side="right")), len(sums) - 1)
    inside = (wanted - sums[at] + counts[at]) / counts[at]
    return float(left[at] + min(max(inside, 0.0), 1.0) * (right[at] - left[at]))


def _around_zero(low: float, high: float, *, symmetric: bool) -> Range:
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    return low + 0.0, high + 0.0  # no negative zeros
