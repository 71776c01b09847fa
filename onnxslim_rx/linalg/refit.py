"""Fits to the original outputs under the inputs that the compressed network really produces.

A layer that computed `X W` sees `X'` once layers before it are compressed. From the Gram matrix
`G = X'^T X'` and the cross moments `C = X'^T X`, both summed over the same rows, the best factors
for `min ||X' P Q - X W||_F` follow in closed form. The ridge stands for inputs that the sample did
not show: there the product should stay near the weight, `lambda ||P Q - W||_F^2`, so that it is
added to both moments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.matrix import (
    Matrix,
    balance,
    check_matrix,
    check_rank,
    fix_signs,
    to_unit_scale,
)
from onnxslim_rx.linalg.moments import ridge, triangular_root
from onnxslim_rx.linalg.svd import svd

__all__ = ["mismatch_energy", "reduced_rank_regression", "refit_second"]


def refit_second(
    weight: npt.NDArray[Any],
    p: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    *,
    rows: int | None = None,
) -> Matrix:
    """The second factor that keeps the original outputs best, for a given first one.

    Args:
        weight: (K, N), of the original layer.
        p: (K, R), the first factor.
        gram: (K, K), `X'^T X'`.
        cross: (K, K), `X'^T X`.
        rows: number of rows that the moments sum over; see `whitened_svd`.

    Returns:
        Q (R, N), `argmin_Q ||X' P Q - X W||_F^2 + lambda ||P Q - W||_F^2`; of least norm where the
        columns of P are dependent.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, no rows.
    """
    w, root, target, exponent = _problem(weight, gram, cross, rows)
    left = check_matrix(p)
    if left.shape[0] != len(w):
        raise ValueError(f"found a factor of shape {left.shape} for a weight of shape {w.shape}")
    left, left_exponent = to_unit_scale(left)
    # directions that differ by rounding alone would be given huge coefficients of either sign
    cut = 10.0 * max(left.shape) * float(np.finfo(np.float64).eps)
    q, *_ = scipy.linalg.lstsq(root @ left, target, cond=cut, check_finite=False)
    fitted: Matrix = np.ldexp(q, exponent - left_exponent)
    return fitted


def reduced_rank_regression(
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    rank: int,
    *,
    rows: int | None = None,
    tol: float = 0.0,
) -> tuple[Matrix, Matrix]:
    """Both factors that keep the original outputs best under the inputs as they are now.

    With `G = R^T R` (ridge included) the fitted outputs of all linear maps are `R^-T C W` in the
    coordinates of R; the best of rank R keeps their leading singular vectors.

    Args:
        weight: (K, N), of the original layer.
        gram: (K, K), `X'^T X'`.
        cross: (K, K), `X'^T X`.
        rank: 1 to min(K, N).
        rows: number of rows that the moments sum over; see `whitened_svd`.
        tol: see `svd`.

    Returns:
        P (K, rank) and Q (rank, N), float64, balanced, signs fixed. Where X' = X it is
        `whitened_svd`.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a rank out of range.

    Source: Izenman, Journal of Multivariate Analysis 5(2), 1975.
    """
    w, root, target, exponent = _problem(weight, gram, cross, rows)
    check_rank(rank, w.shape)
    found = svd(target, rank, tol=tol)
    p = scipy.linalg.solve_triangular(root, found.u * found.s, check_finite=False)
    p, q = balance(p, found.vt)
    half = np.exp2(exponent / 2)
    return fix_signs(p * half, q * half)


def mismatch_energy(
    product: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    original: npt.NDArray[Any],
) -> float:
    """`||X' product - X weight||_F^2` from moments.

    Args:
        product: (K, N), what the layer applies now.
        weight: (K, N), what it applied.
        gram: (K, K), `X'^T X'`.
        cross: (K, K), `X'^T X`.
        original: (K, K), `X^T X`.

    Returns:
        A number of at least 0, in the squared units of the output; good to about 1e-15 of
        `||X weight||_F^2`.
    """
    new, old = np.asarray(product, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    terms = (
        np.vdot(new, gram @ new),
        -2.0 * np.vdot(new, cross @ old),
        np.vdot(old, original @ old),
    )
    return max(float(sum(terms)), 0.0)


def _problem(
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    rows: int | None,
) -> tuple[Matrix, Matrix, Matrix, int]:
    """The weight at a harmless scale, R, `R^-T C W` and the exponent of the weight."""
    w, g, c = check_matrix(weight), check_matrix(gram), check_matrix(cross)
    for name, moment in (("Gram matrix", g), ("cross moment", c)):
        if moment.shape != (len(w), len(w)):
            raise ValueError(f"found a {name} of shape {moment.shape} for a weight of {w.shape}")
    w, exponent = to_unit_scale(w)
    # the ridge keeps the weight in directions that were not seen, so it is in both moments
    g, scale = to_unit_scale(g)
    c = np.ldexp(c, -scale)
    extra = np.eye(len(g)) * ridge(g, rows)
    root = triangular_root(g + extra)
    target = scipy.linalg.solve_triangular(root, (c + extra) @ w, trans="T", check_finite=False)
    return w, root, target, exponent
