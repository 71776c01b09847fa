"""Grids for blocks: from the ends of each block, or with the least squared error.

Rows do not depend on each other and are treated some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import (
    Array,
    BlockFormat,
    Blocks,
    Integers,
    Matrix,
    check_weight,
    parts,
    round_to,
)

__all__ = ["round_clipped", "round_nearest"]

Grid = tuple[Matrix, Matrix]
"""Scales and zero points (rows, blocks)."""

# Ends of the grid as shares of the ends of the block. A little beyond 1 the peak may lie nearer to
# the last point but one; below the last share, clipping costs more than finer steps gain.
_SHARES = {2: np.linspace(1.2, 0.3, 31), 4: np.linspace(1.15, 0.5, 27), 8: np.linspace(1.0, 0.9, 6)}


def round_nearest(weight: Array, block_format: BlockFormat) -> Blocks:
    """Round to the nearest point of a grid that reaches to the ends of each block.

    Of a symmetric format the end with one integer more takes the peak of the block, where that
    has less error than a grid that clips nothing.

    Args:
        weight: (rows, K), finite.
        block_format: bits, groups, symmetry and the type of scales.

    Returns:
        Integers, scales and zero points. A block of zeros gets the scale 1; a block of one value
        (up to the sign, and zeros) comes back exactly where the type of scales holds that value.

    Raises:
        ValueError: an empty weight, NaN or infinity, or scales that overflow their type.
    """
    return _rounded(weight, block_format, None, _plain)


def round_clipped(
    weight: Array, block_format: BlockFormat, importance: Array | None = None
) -> Blocks:
    """Round to the grid, out of a series of ever narrower ones, that has the least squared error.

    Args:
        weight: (rows, K), finite.
        block_format: bits, groups, symmetry and the type of scales.
        importance: (K,), at least 0: weights of the squared errors, such as the mean squares of
            the inputs; None: all alike.

    Returns:
        As `round_nearest`.

    Raises:
        ValueError: as `round_nearest`, or importances that do not fit.

    Source: the search over clipping ranges of OMSE (Choukroun et al., ICCVW 2019).
    """
    return _rounded(weight, block_format, importance, _shrunk)


def _rounded(
    weight: Array,
    block_format: BlockFormat,
    importance: Array | None,
    grids: Callable[[Matrix, BlockFormat], Iterator[Grid]],
) -> Blocks:
    """The weight on the best of some grids, chosen for each block."""
    w = check_weight(weight)
    rows, k = w.shape
    cost = _importance(importance, k, block_format)
    scales = np.empty((rows, block_format.count(k)))
    zeros = np.empty(scales.shape, np.uint8)
    for part in parts(w):
        folded = fold(w[part].astype(np.float64), block_format)
        scales[part], zeros[part] = _best(folded, grids(folded, block_format), block_format, cost)
    return tidy(round_to(w, scales, None if block_format.symmetric else zeros, block_format))


def fold(weight: Matrix, block_format: BlockFormat) -> Matrix:
    """(rows, blocks, width): a short last block is filled up with zeros, which all grids have."""
    rows, k = weight.shape
    count, width = block_format.count(k), block_format.width(k)
    if count * width > k:
        weight = np.pad(weight, ((0, 0), (0, count * width - k)))
    return weight.reshape(rows, count, width)


def tidy(blocks: Blocks) -> Blocks:
    """The same numbers; the scales of blocks that are all zeros become 1."""
    starts = np.arange(0, blocks.values.shape[1], blocks.format.width(blocks.values.shape[1]))
    low = np.minimum.reduceat(blocks.values, starts, axis=1)
    high = np.maximum.reduceat(blocks.values, starts, axis=1)
    zero = blocks.format.middle if blocks.zeros is None else blocks.zeros
    return blocks._replace(scales=np.where((low == zero) & (high == zero), 1.0, blocks.scales))


def _importance(importance: Array | None, k: int, block_format: BlockFormat) -> Matrix | None:
    if importance is None:
        return None
    found = np.asarray(importance, dtype=np.float64)
    if found.shape != (k,) or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"found importances of shape {found.shape}; expected {k} of at least 0")
    mean = float(found.mean())
    # entries that do not matter still choose, where all of a block do not
    found = found / mean + 1e-6 if mean > 0 else np.ones(k)
    return fold(found[None], block_format)


def _best(
    folded: Matrix, grids: Iterator[Grid], block_format: BlockFormat, cost: Matrix | None
) -> tuple[Matrix, Integers]:
    """Of each block the grid with the least error; the first of equals."""
    shape = folded.shape[:2]
    largest = float(np.finfo(block_format.scale_type).max)
    # where no grid reaches the peaks, the type of scales is to blame, and clipping hides it
    low, high = _ends(folded)
    block_format.stored(
        np.maximum(high, -low) / block_format.middle
        if block_format.symmetric
        else (high - low) / block_format.largest
    )
    least = np.full(shape, np.inf)
    best = np.ones(shape), np.full(shape, float(block_format.middle))
    work = np.empty_like(folded)
    for scales, zeros in grids:
        scales = block_format.stored(np.clip(scales, -largest, largest))
        np.divide(folded, scales[..., None], out=work)
        np.rint(work, out=work)
        np.clip(work, -zeros[..., None], (block_format.largest - zeros)[..., None], out=work)
        work *= scales[..., None]
        work -= folded
        np.square(work, out=work)
        if cost is not None:
            work *= cost
        error = work.sum(axis=2)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, scales, best[0]), np.where(better, zeros, best[1])
    return best[0], best[1].astype(np.uint8)


def _plain(folded: Matrix, block_format: BlockFormat) -> Iterator[Grid]:
    """Grids that reach to the ends of the blocks."""
    yield _flat(folded, block_format)
    yield from _reaching(*_ends(folded), block_format)
    if block_format.symmetric:  # the peak at the end with one integer more, others clipped
        low, high = _ends(folded)
        scales = np.maximum(high, -low) / block_format.middle
        signs = np.where(high > -low, -1.0, 1.0) if block_format.signed else 1.0
        yield _symmetric(scales * signs, block_format)


def _shrunk(folded: Matrix, block_format: BlockFormat) -> Iterator[Grid]:
    """Ever narrower grids."""
    yield from _plain(folded, block_format)
    low, high = _ends(folded)
    for share in _SHARES[block_format.bits]:
        yield from _reaching(low * share, high * share, block_format)


def _reaching(low: Matrix, high: Matrix, block_format: BlockFormat) -> Iterator[Grid]:
    """The grids, one or two, that reach from `low`, at most 0, to `high`, at least 0."""
    middle = block_format.middle
    if not block_format.symmetric:
        scales = (high - low) / block_format.largest
        zeros = np.divide(-low, scales, out=np.zeros_like(low), where=scales > 0)
        yield scales, np.clip(np.rint(zeros), 0, block_format.largest)
        return
    yield _symmetric(np.maximum(high / (middle - 1), -low / middle), block_format)
    if block_format.signed:
        yield _symmetric(-np.maximum(high / middle, -low / (middle - 1)), block_format)


def _symmetric(scales: Matrix, block_format: BlockFormat) -> Grid:
    return scales, np.full(scales.shape, float(block_format.middle))


def _flat(folded: Matrix, block_format: BlockFormat) -> Grid:
    """The grid of blocks of one absolute value and zeros, and nothing else, is that value's.

    Its scales are the value over a power of two: the type of scales holds that if it holds the
    value.
    """
    return _symmetric(np.abs(folded).max(axis=2) / (block_format.middle // 2), block_format)


def _ends(folded: Matrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Least and largest entries of the blocks, or 0 where that is beyond."""
    return folded.min(axis=2, initial=0.0), folded.max(axis=2, initial=0.0)
