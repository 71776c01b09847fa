"""Sums of products of activations, in float64 and in place.

Rows are collected in chunks and multiplied by BLAS in float64. Products in float32, summed up in
float64, took 0.6 to 0.8 times as long in one thread at 384 to 1,536 columns and as long at 8,192,
where adding them up costs as much as multiplying; but their errors, 5e-7 of the largest entries,
hide all directions of the input that are a thousand times weaker than the strongest, which
whitening divides by.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dgemm, dsyrk

__all__ = ["CHUNK", "Channels", "CrossMoment", "GramBand", "GramMatrix", "Moment", "mirror"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

CHUNK = 512  # rows multiplied at once; 2,048 are no faster
_PANEL = 1024  # columns mirrored at once


class Moment(Protocol):
    """A sum of products over rows."""

    def add(self, x: Matrix, z: Matrix) -> None:
        """Take in rows of X and, where there are two tensors, the same rows of Z."""
        ...

    def total(self) -> Matrix:
        """The sum; nothing may be added after it."""
        ...


class GramMatrix:
    """`X^T X`, (K, K), of which only the upper triangle is summed up."""

    def __init__(self, size: int) -> None:
        self._sum = np.zeros((size, size), dtype=np.float64)

    def add(self, x: Matrix, z: Matrix) -> None:
        """Take in rows of X."""
        # BLAS counts along columns: what is upper here is lower there, and X^T needs no copy
        dsyrk(1.0, x.T, beta=1.0, c=self._sum.T, lower=1, overwrite_c=1)

    def total(self) -> Matrix:
        """The matrix, exactly symmetric."""
        mirror(self._sum)
        return self._sum


class GramBand:
    """Rows `first` to `last` of the upper triangle of `X^T X`: (last - first, K - first)."""

    def __init__(self, size: int, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._sum = np.zeros((last - first, size - first), dtype=np.float64)

    def add(self, x: Matrix, z: Matrix) -> None:
        """Take in rows of X."""
        right = x[:, self._first :].T
        left = x[:, self._first : self._last].T
        dgemm(1.0, right, left, beta=1.0, c=self._sum.T, trans_b=1, overwrite_c=1)

    def total(self) -> Matrix:
        """The part of the matrix."""
        return self._sum


class CrossMoment:
    """Rows `first` to `last` of `X^T Z`: (last - first, columns of Z)."""

    def __init__(self, first: int, last: int, columns: int) -> None:
        self._first, self._last = first, last
        self._sum = np.zeros((last - first, columns), dtype=np.float64)

    def add(self, x: Matrix, z: Matrix) -> None:
        """Take in rows of X and the same rows of Z."""
        left = x[:, self._first : self._last].T
        dgemm(1.0, z.T, left, beta=1.0, c=self._sum.T, trans_b=1, overwrite_c=1)

    def total(self) -> Matrix:
        """The part of the matrix."""
        return self._sum


class Channels:
    """Mean, mean absolute value and range of each column of X."""

    def __init__(self, size: int) -> None:
        self._rows = 0
        self._sum = np.zeros(size)
        self._absolute = np.zeros(size)
        self._low = np.full(size, np.inf)
        self._high = np.full(size, -np.inf)

    def add(self, x: Matrix) -> None:
        """Take in rows of X; they are made positive in place."""
        self._rows += len(x)
        self._sum += x.sum(axis=0)
        np.minimum(self._low, x.min(axis=0), out=self._low)
        np.maximum(self._high, x.max(axis=0), out=self._high)
        np.abs(x, out=x)
        self._absolute += x.sum(axis=0)

    def arrays(self) -> dict[str, Array]:
        """What was summed up, by the names of `LayerStatistics`; zeros where nothing was seen."""
        rows = max(self._rows, 1)
        seen = self._rows > 0
        return {
            "mean": self._sum / rows,
            "mean_abs": self._absolute / rows,
            "low": self._low if seen else np.zeros_like(self._low),
            "high": self._high if seen else np.zeros_like(self._high),
        }


def mirror(square: Matrix) -> None:
    """Copy the upper triangle to the lower one."""
    for start in range(0, len(square), _PANEL):
        stop = start + _PANEL
        corner = square[start:stop, start:stop]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        square[stop:, start:stop] = square[start:stop, stop:].T
