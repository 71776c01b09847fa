"""The range with the least squared error of rounding and cutting off."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.affine import grid, grid_error
from onnxslim_rx.quant.histogram import Histogram

__all__ = ["least_squares_range"]

Range = tuple[float, float]
Vector = npt.NDArray[np.float64]

# Ends that are tried: the extremes, halved every `_PER_OCTAVE`
_PER_OCTAVE = 6
_OCTAVES = 8
_ROUNDS = 4  # the steps around the best are halved so often


def least_squares_range(
    histogram: Histogram, known: Sequence[Range], levels: int, *, symmetric: bool
) -> Range:
    """The range whose grid of `levels` values has the least mean squared error.

    All pairs of ends on a coarse scale are compared with an error of `step**2 / 12` for what lies
    inside; from the best of them and of `known` on, the error in closed form decides.

    Args:
        histogram: the values.
        known: ranges that hold zero; the first holds all values.
        levels: of the grid.
        symmetric: both ends lie equally far from zero.

    Source: the idea of Banner et al., NeurIPS 2019, without their assumption of a distribution.
    """

    def error(one: Range) -> float:
        return grid_error(histogram, *grid(*one, levels, symmetric=symmetric), levels)

    rough = _rough(histogram, known[0], levels, symmetric=symmetric)
    errors = {one: error(one) for one in (*known, rough)}
    for turn in range(1, _ROUNDS + 1):
        best = min(errors, key=errors.__getitem__)
        up = 2 ** (0.5**turn / _PER_OCTAVE)
        for low, high in _around(best, up, symmetric=symmetric):
            one = (max(low, known[0][0]), min(high, known[0][1]))
            if one not in errors:
                errors[one] = error(one)
    return min(errors, key=errors.__getitem__)


def _around(best: Range, up: float, *, symmetric: bool) -> list[Range]:
    """Ranges whose ends are a bit nearer or farther."""
    low, high = best
    if symmetric:
        return [(low * by, high * by) for by in (up, 1 / up)]
    lows = dict.fromkeys((low * up, low, low / up))
    highs = dict.fromkeys((high * up, high, high / up))
    return list(itertools.product(lows, highs))


def _rough(histogram: Histogram, widest: Range, levels: int, *, symmetric: bool) -> Range:
    """The best range on the coarse scale."""
    left, right, counts = histogram.pieces()
    middle = (left + right) / 2
    parts = 2 ** (-np.arange(_PER_OCTAVE * _OCTAVES + 1) / _PER_OCTAVE)
    lows, highs = (end * parts if end else np.zeros(1) for end in widest)
    below, above = _cut_off(-middle[::-1], counts[::-1], -lows), _cut_off(middle, counts, highs)
    # what lies next to zero is rounded to zero, whatever the step
    rounded = counts[(left > histogram.width) | (right < -histogram.width)].sum()
    if symmetric:
        steps = highs / (levels // 2 - 1)
        best = int(np.argmin(below + above + rounded * steps**2 / 12))
        return float(lows[best]), float(highs[best])
    steps = (highs - lows[:, None]) / (levels - 1)
    errors = below[:, None] + above + rounded * steps**2 / 12
    row, column = np.unravel_index(np.argmin(errors), errors.shape)
    return float(lows[row]), float(highs[column])


def _cut_off(values: Vector, counts: Vector, ends: Vector) -> Vector:
    """Sum of the squared distances of what lies above each of `ends`; values are ascending."""
    sums = [np.append(np.cumsum((counts * values**k)[::-1])[::-1], 0.0) for k in range(3)]
    none, first, second = (one[np.searchsorted(values, ends)] for one in sums)
    distances: Vector = np.maximum(second - 2 * ends * first + ends**2 * none, 0.0)
    return distances
