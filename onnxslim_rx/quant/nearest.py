"""Grids for blocks: from the ends of each block, or with the least squared error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import Array, BlockFormat, Blocks
from onnxslim_rx.quant.search import GridSearch, Row, best_grids, side_by_side

__all__ = ["offer_shrunk", "round_clipped", "round_nearest"]

# Ends of the grid as shares of the ends of the block. A little beyond 1 the peak may lie nearer to
# the last point but one; below the last share, clipping costs more than finer steps gain.
_SHARES = {
    2: np.linspace(1.2, 0.3, 10),
    3: np.linspace(1.1, 0.4, 10),
    4: np.linspace(1.1, 0.5, 9),
    5: np.linspace(1.05, 0.6, 8),
    6: np.linspace(1.0, 0.7, 6),
    7: np.linspace(1.0, 0.8, 4),
    8: np.linspace(1.0, 0.9, 3),
}
_FITS = 2  # more change the error by less than 0.1%


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
    return best_grids(weight, block_format, _offer_plain)


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

    Source: the search over clipping ranges of OMSE (Choukroun et al., ICCVW 2019), its best scale
    then fitted by least squares.
    """
    costs = None
    if importance is not None and np.ndim(weight) == 2:
        costs = _costs(importance, np.shape(weight)[1], block_format)
    return best_grids(weight, block_format, offer_shrunk, costs)


def offer_shrunk(search: GridSearch) -> None:
    """Offer ever narrower grids, then fits of the best."""
    _offer_plain(search)
    for share in _SHARES[search.form.bits]:
        _offer_between(search, search.low * share, search.high * share)
    for _ in range(_FITS):
        search.fit()


def _offer_plain(search: GridSearch) -> None:
    """Offer grids that reach to the ends of the blocks."""
    low, high, middle = search.low, search.high, search.form.middle
    # blocks of one absolute value and zeros: their scale is that value over a power of two, which
    # the type of scales holds if it holds the value
    peaks = np.maximum(high, -low)
    search.offer(peaks / (middle // 2))
    _offer_between(search, low, high)
    if search.form.symmetric:  # the peak at the end with one integer more, others clipped
        signs = np.where(high > -low, -1.0, 1.0) if search.form.signed else 1.0
        search.offer(peaks / middle * signs)


def _offer_between(search: GridSearch, low: Row, high: Row) -> None:
    """Offer the grids, one or two, that reach from `low`, at most 0, to `high`, at least 0."""
    form = search.form
    if not form.symmetric:
        scales = (high - low) / form.largest
        zeros = np.divide(-low, scales, out=np.zeros_like(low), where=scales > 0)
        search.offer(scales, np.clip(np.rint(zeros), 0, form.largest))
        return
    search.offer(np.maximum(high / (form.middle - 1), -low / form.middle))
    if form.signed:
        search.offer(-np.maximum(high / form.middle, -low / (form.middle - 1)))


def _costs(importance: Array, k: int, block_format: BlockFormat) -> npt.NDArray[np.float32]:
    """(width, blocks of a row), of mean 1."""
    found = np.asarray(importance, dtype=np.float64)
    if found.shape != (k,) or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"found importances of shape {found.shape}; expected {k} of at least 0")
    mean = float(found.mean())
    # entries that do not matter still choose, where all of a block do not
    found = found / mean + 1e-6 if mean > 0 else np.ones(k)
    return np.asarray(side_by_side(found[None], block_format), np.float32)
