"""Singular value decomposition, truncated: one door to every method."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.cost import fastest
from onnxslim_rx.linalg.exact import Triple, full_svd, gram_svd
from onnxslim_rx.linalg.matrix import (
    Array,
    Matrix,
    balance,
    check_matrix,
    check_rank,
    energy,
    fix_signs,
    floating,
    tail,
    to_unit_scale,
)
from onnxslim_rx.linalg.randomized import randomized_svd
from onnxslim_rx.linalg.sketch import GaussianSketch, HadamardSketch

__all__ = [
    "Svd",
    "balance",
    "check_matrix",
    "check_rank",
    "error_curve",
    "fix_signs",
    "svd",
    "tail",
    "truncated_svd",
]

_SKETCHES: dict[str, type[GaussianSketch] | type[HadamardSketch]] = {
    "randomized": GaussianSketch,
    "srht": HadamardSketch,
}
METHODS = ("auto", "full", "gram", *_SKETCHES)
# Below this share of the norm, squares of singular values do not tell the error.
_LEAST_FROM_ENERGY = 1e-5
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Svd:
    """A product `u diag(s) vt` of some rank R that stands for a matrix (K, N).

    Attributes:
        u: (K, R), orthonormal; the entry of largest size in each column is positive.
        s: (R,), at least 0, not increasing.
        vt: (R, N), orthonormal rows.
        error: `||A - u diag(s) vt||_F / ||A||_F`, in [0, 1]; 0 for the zero matrix.
        method: the one that was used: "full", "gram", "randomized" or "srht".
    """

    u: Matrix
    s: Matrix
    vt: Matrix
    error: float
    method: str

    def factors(self) -> tuple[Matrix, Matrix]:
        """P (K, R) and Q (R, N), whose product it is; column i of P as long as row i of Q."""
        root = np.sqrt(self.s)
        return self.u * root, self.vt * root[:, None]


def svd(
    a: npt.NDArray[Any], rank: int, *, method: str = "auto", seed: int = 0, tol: float = 1e-4
) -> Svd:
    """The best approximation of a matrix by one of rank `rank`, or nearly.

    Args:
        a: (K, N), finite, of any number type.
        rank: 1 to min(K, N).
        method: "full": LAPACK. "gram": eigenvectors of the smaller Gram matrix, made exact.
            "randomized": block Krylov from a Gaussian test matrix; "srht": from a subsampled
            Hadamard transform. "auto": the fastest for the shape, by a model of measured speeds.
        seed: of the test matrix; equal input, seed and thread count give equal bytes.
        tol: how much larger than the least the error may be, as a share of it, estimated, not
            guaranteed (see `randomized_svd` for errors near rounding); 0 lets "auto" choose among
            the exact methods only.

    Returns:
        See `Svd`. The exact methods reach the least error up to rounding.

    Raises:
        ValueError: not a finite matrix, a rank out of range, an unknown method, tol below 0, or
            tol = 0 for a randomized method.

    Source: Eckart & Young, Psychometrika 1(3), 1936; Halko, Martinsson & Tropp, SIAM Review 53(2),
    2011; see `randomized`.
    """
    if method not in METHODS:
        raise ValueError(f"found method {method!r}; expected one of {', '.join(METHODS)}")
    if not tol >= 0.0 or (tol == 0.0 and method in _SKETCHES):
        raise ValueError(f"found tol {tol} for method {method}; expected more than 0")
    matrix = floating(a)
    check_rank(rank, matrix.shape)
    if method == "auto":
        method = fastest(matrix.shape, rank, tol)
    matrix, exponent = to_unit_scale(matrix)
    if not matrix.any():
        k, n = matrix.shape
        return Svd(np.eye(k, rank), np.zeros(rank), np.eye(rank, n), 0.0, method)
    u, s, vt = _triple(matrix, rank, method, seed, tol)
    error = _relative_error(matrix, u, s, vt)
    u, vt = fix_signs(u, vt)
    return Svd(u, np.ldexp(s, exponent), vt, error, method)


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
    p, q = svd(weight, rank, tol=0.0).factors()
    return fix_signs(p, q)


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
    w, _ = to_unit_scale(check_matrix(weight))
    return tail(scipy.linalg.svdvals(w, check_finite=False) ** 2)


def _triple(a: Array, rank: int, method: str, seed: int, tol: float) -> Triple:
    if method in _SKETCHES:
        return randomized_svd(a, rank, _SKETCHES[method], np.random.default_rng(seed), tol)
    exact = full_svd if method == "full" else gram_svd
    return exact(a.astype(np.float64, copy=False), rank)


def _relative_error(a: Array, u: Matrix, s: Matrix, vt: Matrix) -> float:
    total = energy(a)
    left = max(total - float(s @ s), 0.0) / total
    if left > _LEAST_FROM_ENERGY**2:
        return float(np.sqrt(left))
    rows = max(_CHUNK // a.shape[1], 1)
    left = sum(
        energy(a[start : start + rows] - (u[start : start + rows] * s) @ vt)
        for start in range(0, a.shape[0], rows)
    )
    return float(np.sqrt(left / total))
