"""The search for the grid of each block with the least squared error, many blocks at once.

In float32 and in units of each block's peak: this only chooses, rounding is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import (
    Array,
    BlockFormat,
    Blocks,
    check_weight,
    parts,
    round_to,
)

__all__ = ["GridSearch", "Row", "best_grids", "tidy"]

Floats = npt.NDArray[np.float32]
Row = npt.NDArray[np.float64]
_ENTRIES = 1 << 16  # what the processor's cache holds


class GridSearch:
    """n blocks, and the best grids for them so far.

    Args:
        weight: (rows, K), finite.
        block_format: of the blocks.
        costs: (width, blocks of a row), weights of the squared errors; None: all alike.

    Attributes:
        form: the format.
        low, high: (n,), the ends of the blocks, at most and at least 0.
        units: (n,), peaks of the blocks, 1 for zeros.
        scaled: (width, n), the entries in these units.
        scales, zeros: (n,), the best grids, scales as they are stored.

    Raises:
        ValueError: the type of scales is too narrow for the weight.
    """

    def __init__(self, weight: Array, block_format: BlockFormat, costs: Floats | None) -> None:
        columns = side_by_side(weight, block_format)
        self.form = block_format
        self.low: Row = columns.min(axis=0, initial=0.0).astype(np.float64)
        self.high: Row = columns.max(axis=0, initial=0.0).astype(np.float64)
        self._check_range()
        peaks = np.maximum(self.high, -self.low)
        self.units = np.where(peaks > 0, peaks, 1.0)
        scaled = np.divide(columns, self.units, dtype=np.float64)
        self.scaled: Floats = scaled.astype(np.float32, order="C")
        self._costs = None if costs is None else np.tile(costs, len(weight))
        self._power = 2.0
        self._least = np.full(peaks.shape, np.inf, np.float32)
        self.scales: Row = np.ones(peaks.shape)
        self.zeros: Row = np.full(peaks.shape, float(block_format.middle))

    def offer(self, scales: Row, zeros: Row | None = None) -> None:
        """Take these grids (zero points None: the middle) for the blocks that they suit better."""
        if zeros is None:
            zeros = np.full(scales.shape, float(self.form.middle))
        top = float(np.finfo(self.form.scale_type).max)
        stored = self.form.stored(np.clip(scales, -top, top))
        work = self.steps(stored, zeros)
        work *= (stored / self.units).astype(np.float32)
        work -= self.scaled
        if self._power == 2.0:
            np.square(work, out=work)
        else:
            np.abs(work, out=work)
            work = np.power(work, self._power, dtype=np.float32)
        if self._costs is not None:
            work *= self._costs
        errors = work.sum(axis=0)
        better = errors < self._least
        for mine, new in ((self._least, errors), (self.scales, stored), (self.zeros, zeros)):
            np.copyto(mine, new, where=better)

    def fit(self) -> None:
        """Offer the scales that are best for the integers of the best grids, by least squares."""
        steps = self.steps(self.scales, self.zeros)
        weighted = steps if self._costs is None else steps * self._costs
        norms = np.einsum("kn,kn->n", weighted, steps)
        dots = np.einsum("kn,kn->n", weighted, self.scaled)
        fitted = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        self.offer(np.where(fitted != 0, fitted * self.units, self.scales), self.zeros)

    def measure_by(self, power: float) -> None:
        """From now on the error is the sum of absolute errors to this power; it was 2."""
        self._power = power
        self._least.fill(np.inf)
        self.offer(self.scales, self.zeros)

    def steps(self, scales: Row, zeros: Row) -> Floats:
        """(width, n): the nearest integers on these grids, less the zero points."""
        low: Floats | float = -zeros.astype(np.float32)
        if self.form.symmetric:
            low = -float(self.form.middle)  # faster than one for each block
        work: Floats = np.divide(self.scaled, (scales / self.units).astype(np.float32))
        np.rint(work, out=work)
        np.maximum(work, low, out=work)
        np.minimum(work, low + self.form.largest, out=work)
        return work

    def _check_range(self) -> None:
        """Where no grid reaches the ends, the scales' type is to blame: clipping would hide it."""
        if self.form.symmetric:
            self.form.stored(np.maximum(self.high, -self.low) / self.form.middle)
        else:
            self.form.stored((self.high - self.low) / self.form.largest)


def best_grids(
    weight: Array,
    block_format: BlockFormat,
    search: Callable[[GridSearch], None],
    costs: Floats | None = None,
) -> Blocks:
    """A weight rounded to the grids that `search` finds, some rows at a time.

    Raises:
        ValueError: an empty weight, NaN or infinity, or scales that overflow their type.
    """
    w = check_weight(weight)
    scales = np.empty((len(w), block_format.count(w.shape[1])))
    zeros = np.empty(scales.shape, np.uint8)
    for part in parts(w, _ENTRIES):
        found = GridSearch(w[part], block_format, costs)
        search(found)
        scales[part] = found.scales.reshape(scales[part].shape)
        zeros[part] = found.zeros.reshape(scales[part].shape)
    return tidy(round_to(w, scales, None if block_format.symmetric else zeros, block_format))


def side_by_side(weight: Array, block_format: BlockFormat) -> Array:
    """(width, n): each block a column; a short one is filled up with zeros, which all grids have.

    Arithmetic is fastest along the last axis.
    """
    k = weight.shape[1]
    width = block_format.width(k)
    if rest := -k % width:
        weight = np.pad(weight, ((0, 0), (0, rest)))
    found: Array = weight.reshape(-1, width).T
    return found


def tidy(blocks: Blocks) -> Blocks:
    """The same numbers; the scales of blocks that are all zeros become 1."""
    starts = np.arange(0, blocks.values.shape[1], blocks.format.width(blocks.values.shape[1]))
    low = np.minimum.reduceat(blocks.values, starts, axis=1)
    high = np.maximum.reduceat(blocks.values, starts, axis=1)
    zero = blocks.format.middle if blocks.zeros is None else blocks.zeros
    return blocks._replace(scales=np.where((low == zero) & (high == zero), 1.0, blocks.scales))
