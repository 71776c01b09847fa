"""Truncated singular value decomposition with balanced factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = [
    "balance",
    "check_matrix",
    "check_rank",
    "error_curve",
    "fix_signs",
    "tail",
    "truncated_svd",
]

Matrix = npt.NDArray[np.float64]


def truncated_svd(weight: npt.NDArray[Any], rank: int) -> tuple[Matrix, Matrix]:
    """The best approximation of a matrix by a product of rank `rank`.

    Args:
        weight: (K, N), finite.
        rank: 1 to min(K, N).

    Returns:
        P (K, rank) and Q (rank, N), float64, with `||weight - P Q||_F` least; column i of P and
        row i of Q have the same norm, so that neither overflows a narrow type first.

    Raises:
        ValueError: not a finite matrix, or a rank outside its range.

    Source: Eckart & Young, Psychometrika 1(3), 1936.
    """
    w = check_matrix(weight)
    check_rank(rank, w.shape)
    u, s, vt = scipy.linalg.svd(w, full_matrices=False, check_finite=False)
    root = np.sqrt(s[:rank])
    return fix_signs(u[:, :rank] * root, vt[:rank] * root[:, None])


def error_curve(weight: npt.NDArray[Any]) -> Matrix:
    """Relative error of the best approximation, by rank.

    Args:
        weight: (K, N), finite.

    Returns:
        (min(K, N) + 1,), entry r is `min ||weight - W_r||_F / ||weight||_F` over all W_r of rank
        r, in [0, 1], not increasing; all 0 for the zero matrix.

    Raises:
        ValueError: not a finite matrix.
    """
    w = check_matrix(weight)
    return tail(scipy.linalg.svdvals(w, check_finite=False) ** 2)


def tail(energies: Matrix) -> Matrix:
    """sqrt(sum of energies from entry r on / sum of all), for r = 0 to their number."""
    tails = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return np.sqrt(tails / tails[0]) if tails[0] > 0 else np.zeros_like(tails)


def fix_signs(p: Matrix, q: Matrix) -> tuple[Matrix, Matrix]:
    """Flip column i of p and row i of q so that the entry of p of largest size is positive."""
    largest = np.argmax(np.abs(p), axis=0)
    signs = np.where(p[largest, np.arange(p.shape[1])] < 0, -1.0, 1.0)
    return p * signs, q * signs[:, None]


def balance(p: Matrix, q: Matrix) -> tuple[Matrix, Matrix]:
    """Scale column i of p and row i of q to equal norms; their product stays the same."""
    norm_p, norm_q = np.linalg.norm(p, axis=0), np.linalg.norm(q, axis=1)
    live = (norm_p > 0) & (norm_q > 0)
    scale = np.ones_like(norm_p)
    scale[live] = np.sqrt(norm_q[live] / norm_p[live])
    return p * scale, q / scale[:, None]


def check_matrix(weight: npt.NDArray[Any]) -> Matrix:
    """The matrix in float64.

    Raises:
        ValueError: not two axes, an empty one, or an entry that is not finite.
    """
    w = np.asarray(weight, dtype=np.float64)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"found an array of shape {w.shape}; expected a matrix that is not empty")
    if not np.isfinite(w).all():
        raise ValueError("found NaN or infinity in the matrix; expected finite numbers")
    return w


def check_rank(rank: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless 1 <= rank <= min(shape)."""
    if not 1 <= rank <= min(shape):
        raise ValueError(f"found rank {rank}; expected 1 to {min(shape)} for shape {shape}")
