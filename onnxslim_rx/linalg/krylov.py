"""A basis of the block Krylov space of `A A^T`, orthogonal to rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.exact import orthonormal_with_triangle
from onnxslim_rx.linalg.matrix import Array, Matrix

__all__ = ["KrylovBasis"]

# A direction is rounding where so many units of rounding are all that lies outside the basis.
_ROUNDING = 30.0
_GROWTH = 1.5


class KrylovBasis:
    """Orthonormal directions Q (K, d) of the range of A (K, N), their images A^T Q (N, d).

    Attributes:
        gram: (d, d), float64, `Q^T A A^T Q`: its eigenvalues are squares of approximate singular
            values, none above the true ones.
        closed: nothing was outside the space when it was extended last, or it is all there is.
    """

    def __init__(self, a: Array, norm: float) -> None:
        """`norm` is at least the spectral norm of `a`, and of its order."""
        self._a, self._norm = a, norm
        self._directions = _Columns(a.shape[0], a.dtype)
        self._images = _Columns(a.shape[1], a.dtype)
        self._last: Array = self._images.array
        self.gram: Matrix = np.empty((0, 0))
        self.closed = False

    @property
    def width(self) -> int:
        """Number of directions, d."""
        return self._directions.count

    @property
    def length(self) -> int:
        """N."""
        return int(self._a.shape[1])

    @property
    def directions(self) -> Array:
        """Q (K, d)."""
        return self._directions.array

    @property
    def images(self) -> Array:
        """A^T Q (N, d)."""
        return self._images.array

    def step(self, fresh: Array) -> None:
        """Add the power of A A^T that follows the last, and A times `fresh` (N, p).

        Powers of the first block alone can never find more directions of one singular value than
        that block had columns.
        """
        before = np.hstack([self._last, fresh.astype(self._a.dtype)])
        self.extend(self._a @ before, self._norm * np.linalg.norm(before, axis=0))

    def extend(self, block: Array, lengths: Array | float) -> None:
        """Add what `block` (K, b) has outside the space.

        `lengths` are those that columns of the block could have: the rounding of a product is
        measured by them.
        """
        # to unit size, so that one bound tells rounding in all columns
        lengths = np.maximum(lengths, float(np.finfo(self._a.dtype).tiny))
        outside = self._outside((block / lengths).astype(self._a.dtype))
        least = _ROUNDING * float(np.finfo(self._a.dtype).eps)
        q, r = orthonormal_with_triangle(outside)
        if np.abs(np.diagonal(r)).min(initial=np.inf) <= least:
            # pivots put rounding last: earlier, it would take up directions of later columns
            q, r, _ = scipy.linalg.qr(outside, mode="economic", pivoting=True, check_finite=False)
            q = q[:, : np.count_nonzero(np.abs(np.diagonal(r)) > least)]
        q = q[:, : self._a.shape[0] - self.width]
        if q.shape[1] and self.width:
            q = orthonormal_with_triangle(self._outside(q))[0]
        self._append(q)
        self.closed = q.shape[1] == 0 or self.width == self._a.shape[0]

    def fill(self, width: int, rng: np.random.Generator) -> None:
        """Add random directions outside a closed space until there are `width`, more than now."""
        noise = rng.standard_normal((self._a.shape[0], width - self.width))
        q = orthonormal_with_triangle(self._outside(noise.astype(self._a.dtype)))[0]
        self._append(orthonormal_with_triangle(self._outside(q))[0])

    def leading_energy(self, rank: int) -> float:
        """Sum of the `rank` largest eigenvalues of `gram`: what the best product in it holds."""
        return float(np.linalg.eigvalsh(self.gram)[-rank:].sum())

    def _outside(self, block: Array) -> Array:
        """The part of the columns that is orthogonal to the space."""
        q = self.directions
        part: Array = block - q @ (q.T @ block)
        return part

    def _append(self, q: Array) -> None:
        image = self._a.T @ q
        cross = self.images.T @ image
        self.gram = np.block([[self.gram, cross], [cross.T, image.T @ image]]).astype(np.float64)
        self._directions.append(q)
        self._images.append(image)
        self._last = image


class _Columns:
    """A matrix that grows by columns."""

    def __init__(self, rows: int, dtype: npt.DTypeLike) -> None:
        self.count = 0
        self._room = np.empty((rows, 0), dtype=dtype, order="F")

    @property
    def array(self) -> Array:
        """(rows, count)."""
        return self._room[:, : self.count]

    def append(self, block: Array) -> None:
        """Add the columns of `block` on the right."""
        needed = self.count + block.shape[1]
        if needed > self._room.shape[1]:
            room = np.empty(
                (len(self._room), max(needed, int(_GROWTH * self._room.shape[1]))),
                dtype=self._room.dtype,
                order="F",
            )
            room[:, : self.count] = self.array
            self._room = room
        self._room[:, self.count : needed] = block
        self.count = needed
