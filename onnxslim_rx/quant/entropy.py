"""The range in which rounding changes the distribution of values least."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.histogram import Histogram

__all__ = ["entropy_range"]

Range = tuple[float, float]
Vector = npt.NDArray[np.float64]

_TRIED = 64  # ends on the coarse scale, and around the best
_MOST_CUT = 0.01  # of all values, at either end
_LEAST_COUNT = 1e-4  # values
_TURNS = 2  # each end is found anew so often, given the other


def entropy_range(histogram: Histogram, widest: Range, levels: int, *, symmetric: bool) -> Range:
    """The range with the least divergence between values and rounded values.

    The distribution P is that of the bins inside, where the outermost hold all that is cut off; Q
    has the counts inside alone, in groups of bins, one for each level, spread evenly over those
    bins of a group that are not empty. The divergence is `sum(P log(P / Q))`. It is small, too,
    where nearly all values are cut off to one; so at most 1% of them may be at either end.

    Args:
        histogram: the values.
        widest: the range of all of them, with zero.
        levels: of the grid; from as many as there are bins on, nothing is cut off.
        symmetric: both ends lie equally far from zero.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017; there for symmetric ranges.
    """
    half, width = len(histogram.counts) // 2, histogram.width
    counts = _without_spike(histogram.counts.astype(np.float64), half)
    most = [_bins(-widest[0], width), _bins(widest[1], width)]
    if symmetric:
        folded = counts[half:] + counts[:half][::-1]
        diverges = functools.partial(_divergence, folded, levels // 2, 0, 0)
        least = max(levels // 2, _kept(folded, counts.sum()))
        ends = [_search(diverges, least, max(most))] * 2
        most = [max(most)] * 2
    else:
        ends, views = most.copy(), (counts[::-1], counts)
        for side in (1, 0) * _TURNS:
            if ends[side]:
                other = ends[1 - side]
                diverges = functools.partial(_divergence, views[side], levels, half - other, half)
                least = max(levels - other, _kept(views[side][half:], counts.sum()))
                ends[side] = _search(diverges, least, most[side])
    low = -ends[0] * width if ends[0] < most[0] else widest[0]
    return low, ends[1] * width if ends[1] < most[1] else widest[1]


def _bins(distance: float, width: float) -> int:
    """How many bins it takes from zero to a value at `distance`."""
    return int(distance // width) + 1 if distance else 0


def _kept(counts: Vector, total: float) -> int:
    """How many bins from zero on must stay, at least one: the others hold few of all values."""
    sums = np.cumsum(counts)
    return int(np.searchsorted(sums, sums[-1] - _MOST_CUT * total)) + 1


def _without_spike(counts: Vector, half: int) -> Vector:
    """Zeros are exact on any grid: those that ReLU made must not decide."""
    counts[half] = min(counts[half], max(counts[half - 1], counts[half + 1]))
    return counts


def _search(divergence: Callable[[int], float], least: int, most: int) -> int:
    """The number of bins with the least divergence, by a coarse and a fine search."""
    if least >= most:
        return most
    tried = {int(n) for n in np.linspace(least, most, _TRIED)}
    found = {n: divergence(n) for n in tried}
    best = min(found, key=lambda n: (found[n], -n))
    reach = (most - least) // _TRIED + 1
    near = {
        int(n) for n in np.linspace(max(best - reach, least), min(best + reach, most), _TRIED // 2)
    }
    found |= {n: divergence(n) for n in near - tried}
    return min(found, key=lambda n: (found[n], -n))


def _divergence(counts: Vector, levels: int, first: int, middle: int, above: int) -> float:
    """Of rounding the bins from `first` to `middle + above - 1` to `levels` values, in nats."""
    last = middle + above
    inside = counts[first:last]
    reference = inside.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    filled = reference > 0
    # each level stands for equally many bins, up to one
    starts = -(-np.arange(levels) * len(inside) // levels)
    sizes = np.diff(starts, append=len(inside))
    kept = np.add.reduceat(filled.astype(np.float64), starts)
    each = np.add.reduceat(inside, starts) / np.maximum(kept, 1)
    # where all that a level stands for was cut off, the logarithm must have a value
    rounded = np.maximum(np.repeat(each, sizes)[filled], _LEAST_COUNT)
    reference = reference[filled]
    ratio = reference / rounded * (rounded.sum() / reference.sum())
    return float(reference @ np.log(ratio) / reference.sum())
