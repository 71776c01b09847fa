"""What every decomposition needs of a matrix: checks, safe scaling, signs, balance, tails."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "Matrix",
    "balance",
    "check_matrix",
    "check_rank",
    "energy",
    "fix_signs",
    "floating",
    "tail",
    "to_unit_scale",
]

Matrix = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

# Largest entries between 2^-30 and 2^30 are left as they are: their squares, and sums of 2^30 of
# them, stay far inside the range of float32, and what underflows beside them is no digit.
_SAFE_EXPONENT = 30
_CHUNK = 1 << 20  # entries that are converted at a time


def check_matrix(weight: Array) -> Matrix:
    """The matrix in float64.

    Raises:
        ValueError: not two axes, an empty one, or an entry that is not finite.
    """
    return floating(weight).astype(np.float64, copy=False)


def floating(weight: Array) -> Array:
    """The matrix in float32 if it was float32 or narrower floating point, else in float64.

    Raises:
        ValueError: as `check_matrix`.
    """
    w = np.asarray(weight)
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"found an array of shape {w.shape}; expected a matrix that is not empty")
    narrow = w.dtype in (np.float32, np.float16)
    w = w.astype(np.float32 if narrow else np.float64, copy=False)
    if not np.isfinite(w).all():
        raise ValueError("found NaN or infinity in the matrix; expected finite numbers")
    return w


def check_rank(rank: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless 1 <= rank <= min(shape)."""
    if not 1 <= rank <= min(shape):
        raise ValueError(f"found rank {rank}; expected 1 to {min(shape)} for shape {shape}")


def to_unit_scale(a: Array) -> tuple[Array, int]:
    """The matrix divided by a power of two, so that squares neither overflow nor vanish.

    Args:
        a: (K, N), float32 or float64, finite.

    Returns:
        The scaled matrix (`a` itself where its scale is harmless) and the exponent e:
        `a == scaled * 2^e`, exactly but for entries 2^100 times smaller than the largest.
    """
    largest = max(float(a.max()), -float(a.min()))
    if largest == 0.0:
        return a, 0
    exponent = int(np.frexp(largest)[1])
    if abs(exponent) <= _SAFE_EXPONENT:
        return a, 0
    # in two steps: 2^-exponent itself is out of range for the smallest numbers
    half = -exponent // 2
    return np.ldexp(np.ldexp(a, half), -exponent - half), exponent


def energy(a: Array) -> float:
    """`||a||_F^2`, summed in float64 without a copy of the whole."""
    rows = max(_CHUNK // a.shape[1], 1)
    total = 0.0
    for start in range(0, a.shape[0], rows):
        part = a[start : start + rows].astype(np.float64, copy=False)
        total += float(np.einsum("ij,ij->", part, part))
    return total


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
