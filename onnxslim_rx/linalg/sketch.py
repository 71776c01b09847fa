"""Random test matrices: what a random combination of a matrix's columns shows of its range.

`GaussianSketch` keeps its matrix. `HadamardSketch` is the subsampled randomized Hadamard transform
`sqrt(m / l) D H S`: random signs D, the orthonormal Walsh-Hadamard matrix H of order m, the next
power of two, and l of its columns S drawn without replacement. It keeps one sign a row and one
index a column.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.matrix import Array

__all__ = ["GaussianSketch", "HadamardSketch", "Sketch"]

_TABLE_SHARE = 48  # the columns of H_c, made at every use, take at most this part of a dense matrix
_CHUNK = 1 << 21  # bytes of a transformed chunk: what a core's cache holds


class Sketch(Protocol):
    """A random matrix of (rows, columns)."""

    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that stand for the matrix."""
        ...

    def apply(self, a: Array) -> Array:
        """`a` times the random matrix: (K, rows) to (K, columns), of the type of `a`."""
        ...


class GaussianSketch:
    """Independent standard normal entries.

    Source: Halko, Martinsson & Tropp, SIAM Review 53(2), 2011.
    """

    def __init__(self, rows: int, columns: int, rng: np.random.Generator) -> None:
        self.rows, self.columns = rows, columns
        self._matrix = rng.standard_normal((rows, columns))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix in float64."""
        return self._matrix.nbytes

    def apply(self, a: Array) -> Array:
        """See `Sketch`."""
        product: Array = a @ self._matrix.astype(a.dtype, copy=False)
        return product


class HadamardSketch:
    """Subsampled randomized Hadamard transform, for any number of rows.

    With m = b c, index (i, j) of b slices of c, `H_m = H_b (x) H_c`. A transform of the slices
    (only those that `rows` reaches: the padding is never made) is followed, for each of the b
    results, by the few columns of `H_c` that were drawn. A row costs `2 rows b + 2 c l`
    operations in two matrix products, where a dense matrix takes `2 rows l`.

    Source: Woolfe, Liberty, Rokhlin & Tygert, Applied and Computational Harmonic Analysis 25(3),
    2008; bounds: Tropp, Advances in Adaptive Data Analysis 3, 2011.
    """

    def __init__(self, rows: int, columns: int, rng: np.random.Generator) -> None:
        """Refuses nothing: columns beyond the order of H are not drawn."""
        order = 1 << max(rows - 1, 0).bit_length()
        self.rows, self.columns = rows, min(columns, order)
        self._signs = (2 * rng.integers(0, 2, rows) - 1).astype(np.int8)
        chosen = np.sort(rng.choice(order, self.columns, replace=False))
        self._width = 1 << max(rows // _TABLE_SHARE, 1).bit_length() - 1
        slices = order // self._width
        self._scale = 1.0 / np.sqrt(self.columns)
        high, low = np.divmod(chosen, self._width)
        used, first = np.unique(high, return_index=True)
        filled = -(-rows // self._width)
        self._outer = scipy.linalg.hadamard(slices, dtype=np.int8)[used, :filled]
        self._groups = np.append(first, self.columns)
        self._low = low.astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of the signs, the indices and the part of `H_b` that is kept."""
        parts = (self._signs, self._outer, self._groups, self._low)
        return sum(part.nbytes for part in parts)

    def apply(self, a: Array) -> Array:
        """See `Sketch`; a few rows at a time."""
        out = np.empty((a.shape[0], self.columns), dtype=a.dtype)
        outer, inner = self._outer.astype(a.dtype), self._inner(a.dtype)
        step = max(_CHUNK // (len(outer) * self._width * a.itemsize), 1)
        for start in range(0, a.shape[0], step):
            rows = a[start : start + step] * self._signs
            mixed = self._mix(rows, outer)
            for group in range(len(outer)):
                columns = slice(self._groups[group], self._groups[group + 1])
                out[start : start + step, columns] = mixed[:, group] @ inner[:, columns]
        return out

    def _mix(self, rows: Array, outer: Array) -> Array:
        """(n, rows) to (n, slices used, width): `H_b` across the slices."""
        whole, rest = divmod(self.rows, self._width)
        slices = rows[:, : whole * self._width].reshape(len(rows), whole, self._width)
        mixed: Array = np.matmul(outer[:, :whole], slices)
        if rest:
            mixed[:, :, :rest] += outer[:, whole, None] * rows[:, None, whole * self._width :]
        return mixed

    def _inner(self, dtype: npt.DTypeLike) -> Array:
        """(width, columns): the columns of `H_c` that were drawn, scaled."""
        signs = scipy.linalg.hadamard(self._width, dtype=np.int8)[:, self._low]
        columns: Array = signs * np.asarray(self._scale, dtype=dtype)
        return columns
