"""The rows of X in what enters a linear layer, and a sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.padding import positions

__all__ = ["RowSample", "as_rows", "positions_as_rows"]

Array = npt.NDArray[Any]


def positions_as_rows(found: Array, strides: Sequence[int]) -> Array:
    """The positions that a pointwise convolution reads, (N, ..., C), of (N, C, ...)."""
    places = (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))
    return np.moveaxis(found[places], 1, -1)


def as_rows(found: Array, size: int, *, transposed: bool, masks: Sequence[Array]) -> Array:
    """The rows that count, (R, `size`), in float32, or float64 where `found` is.

    Args:
        found: the tensor.
        size: columns of X.
        transposed: the rows lie along the last axis of `found`, not the one before.
        masks: (batch, sequence), True where there is no padding; see `masks_of`.
    """
    if transposed and found.ndim > 1:
        found = np.swapaxes(found, -1, -2)
    keep = positions(found.shape[:-1], masks)
    if keep is not None:
        found = found[keep]
    dtype = np.float64 if found.dtype == np.float64 else np.float32
    return found.reshape(-1, size).astype(dtype, copy=False)


class RowSample:
    """Rows drawn without replacement from all that are shown.

    Args:
        size: columns of a row.
        most: rows that are kept.
        seed: the same one draws rows of the same positions from any tensor.
    """

    def __init__(self, size: int, most: int, seed: int) -> None:
        self.rows: Array = np.zeros((0, size), dtype=np.float32)
        self._keys = np.zeros(0, dtype=np.float64)
        self._most = most
        self._rng = np.random.default_rng(seed)

    def see(self, rows: Array) -> None:
        """Keep the rows with the smallest random keys."""
        keys = self._rng.random(len(rows))
        if len(self._keys) == self._most:
            lucky = keys < self._keys.max()
            keys, rows = keys[lucky], rows[lucky]
        if len(keys):
            keys = np.concatenate([self._keys, keys])
            chosen = np.sort(np.argsort(keys, kind="stable")[: self._most])
            self.rows = np.concatenate([self.rows, rows])[chosen]
            self._keys = keys[chosen]
