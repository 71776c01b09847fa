"""The rows of X in what enters a linear layer, a sample of them, and many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.moments import CHUNK
from onnxslim_rx.calibration.padding import positions

__all__ = ["Chunks", "RowSample", "as_rows"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


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


class Chunks:
    """Rows in float64, a fixed number at a time.

    Args:
        sizes: columns of each tensor.
    """

    def __init__(self, *sizes: int) -> None:
        self._rows: list[Matrix] = [np.zeros((CHUNK, size)) for size in sizes]
        self._filled = 0

    def add(self, *tensors: Array) -> Iterator[list[Matrix]]:
        """Take in the same rows of each tensor; yields the rows of each that make a chunk.

        They hold until the next is asked for, and may be changed.
        """
        start, count = 0, len(tensors[0])
        while start < count:
            taken = min(CHUNK - self._filled, count - start)
            for kept, rows in zip(self._rows, tensors, strict=True):
                kept[self._filled : self._filled + taken] = rows[start : start + taken]
            self._filled += taken
            start += taken
            if self._filled == CHUNK:
                yield from self.rest()

    def rest(self) -> Iterator[list[Matrix]]:
        """The rows that are left, if any."""
        count, self._filled = self._filled, 0
        if count:
            yield [kept[:count] for kept in self._rows]


class RowSample:
    """Rows drawn without replacement from all that are shown.

    Args:
        size: columns of a row.
        most: rows that are kept.
        seed: the same one draws rows of the same positions from any tensor.
    """

    def __init__(self, size: int, most: int, seed: int) -> None:
        self._kept: Array = np.zeros((0, size), dtype=np.float32)
        self._keys = np.zeros(0, dtype=np.float64)
        self._places = np.zeros(0, dtype=np.int64)
        self._seen = 0
        self._most = most
        self._rng = np.random.default_rng(seed)

    @property
    def rows(self) -> Array:
        """The rows that are kept, in the order in which they came."""
        return self._kept[np.argsort(self._places)]

    def see(self, rows: Array) -> None:
        """Keep the rows with the smallest random keys."""
        keys = self._rng.random(len(rows))
        places = self._seen + np.arange(len(rows))
        self._seen += len(rows)
        room = self._most - len(self._keys)
        if room > 0:
            self._kept = np.concatenate([self._kept, rows[:room]])
            self._keys = np.concatenate([self._keys, keys[:room]])
            self._places = np.concatenate([self._places, places[:room]])
            rows, keys, places = rows[room:], keys[room:], places[room:]
        lucky = np.flatnonzero(keys < self._keys.max(initial=0.0))
        if len(lucky):
            both = np.argsort(np.concatenate([self._keys, keys[lucky]]), kind="stable")
            chosen, out = both[: self._most], both[self._most :]
            new = lucky[chosen[chosen >= self._most] - self._most]
            # those that go make place, so that what stays is not copied
            free = out[out < self._most]
            self._kept[free], self._keys[free], self._places[free] = (
                rows[new], keys[new], places[new],
            )  # fmt: skip
