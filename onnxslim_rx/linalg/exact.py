"""Singular values and vectors to full accuracy: LAPACK, or the eigenvectors of the Gram matrix.

Eigenvectors of `A A^T` alone lose half of the digits: singular values below 1e-8 of the largest
are noise. One step of Rayleigh and Ritz on A itself, from those vectors, gives digits back: what
an eigenvector lacks is multiplied by the ratio of two singular values and made orthogonal anew.
The product's error is then the least one to rounding, unless that is below about 1e-8 of the norm
of A, where it may be twice the least. So LAPACK decides where the error comes near that.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import scipy.linalg

from onnxslim_rx.linalg.matrix import Array, Matrix, energy

__all__ = [
    "FEW",
    "Triple",
    "from_projection",
    "full_svd",
    "gram_svd",
    "leading_eigenvectors",
    "orthonormal",
    "orthonormal_with_triangle",
    "rayleigh_ritz",
]

Triple: TypeAlias = tuple[Matrix, Matrix, Matrix]

# Below this share of all eigenvectors, finding them one by one (MRRR) is faster than divide and
# conquer for all (measured at 384 to 2,048, one thread: equal at a quarter).
FEW = 0.2
# A relative error below this is near the half of the digits that a Gram matrix keeps.
_NEAR = 1e-6


def full_svd(a: Matrix, rank: int) -> Triple:
    """The leading part of LAPACK's decomposition.

    Args:
        a: (K, N).
        rank: 1 to min(K, N).

    Returns:
        u (K, rank), s (rank,) not increasing, vt (rank, N); u and vt orthonormal.
    """
    try:
        u, s, vt = scipy.linalg.svd(a, full_matrices=False, check_finite=False)
    except scipy.linalg.LinAlgError:  # divide and conquer may not converge; QR iteration does
        u, s, vt = scipy.linalg.svd(
            a, full_matrices=False, check_finite=False, lapack_driver="gesvd"
        )
    return u[:, :rank], s[:rank], vt[:rank]


def gram_svd(a: Matrix, rank: int) -> Triple:
    """The leading part through the eigenvectors of the smaller Gram matrix, made exact.

    Args and returns as `full_svd`.
    """
    if a.shape[0] > a.shape[1]:
        u, s, vt = gram_svd(a.T, rank)
        return vt.T, s, u.T
    left = leading_eigenvectors(a @ a.T, rank)
    # the eigenvectors lie on the short side, so the exact basis is found on the long one
    v, s, ut = rayleigh_ritz(a.T, orthonormal(a.T @ left))
    if float(s @ s) > (1.0 - _NEAR**2) * energy(a):
        return full_svd(a, rank)
    return ut.T, s, v.T


def rayleigh_ritz(a: Array, basis: Matrix) -> Triple:
    """The singular value decomposition of `basis basis^T a`.

    Args:
        a: (K, N), float32 or float64.
        basis: (K, R), orthonormal, R <= N.

    Returns:
        u (K, R), s (R,), vt (R, N), float64.
    """
    return from_projection(basis, np.asarray(a.T @ basis, dtype=np.float64))


def from_projection(basis: Matrix, projected: Matrix) -> Triple:
    """As `rayleigh_ritz`, for `projected = a^T basis`, (N, R)."""
    q, r = scipy.linalg.qr(projected, mode="economic", check_finite=False)
    v, s, ut = full_svd(r, r.shape[0])
    return basis @ ut.T, s, (q @ v).T


def orthonormal(a: Array) -> Array:
    """(K, R), K >= R: an orthonormal basis of what the columns span, of the same type.

    Where the columns are dependent, the basis is filled up with directions of no meaning.
    """
    return orthonormal_with_triangle(a)[0]


def orthonormal_with_triangle(a: Array) -> tuple[Array, Array]:
    """As `orthonormal`, and the upper triangle (R, R) with `a = basis triangle`."""
    q, r = scipy.linalg.qr(a, mode="economic", check_finite=False)
    return q, r


def leading_eigenvectors(symmetric: Matrix, rank: int) -> Matrix:
    """Eigenvectors (n, rank), orthonormal, of the largest eigenvalues, largest first.

    Args:
        symmetric: (n, n).
        rank: 1 to n.
    """
    n = len(symmetric)
    if rank <= FEW * n:
        _, vectors = scipy.linalg.eigh(
            symmetric, subset_by_index=[n - rank, n - 1], driver="evr", check_finite=False
        )
    else:
        _, vectors = np.linalg.eigh(symmetric)
    leading: Matrix = vectors[:, : -rank - 1 : -1]
    return leading
