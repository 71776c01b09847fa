"""Fits to wanted outputs under the inputs that there really are.

A layer that computed `X W` sees X' once layers before it are compressed. From the Gram matrix
`G = X'^T X'` and the cross moment `C = X'^T Y` with the outputs Y that are wanted, both summed over
the same rows, what comes closest to them follows in closed form. The ridge stands for inputs that
the sample did not show: there the product should stay near a weight W that is known to be good, so
`lambda ||V - W||_F^2` is added to the squared error.
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

# A fit to errors needs more of a ridge than whitening, which only weighs. For MiniLM at 60% of its
# parameters 0.5 K / rows gave the embeddings of other sentences closest to the original's: better
# than 0.02 and 0.1 with 256, 512 and 1,024 sentences, and than 0.1 and 2 with 128 (1,600 rows).
FIT_RIDGE_PER_ROW = 0.5

__all__ = ["mismatch_energy", "reduced_rank_regression", "ridge_regression"]


def ridge_regression(
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    near: npt.NDArray[Any],
    *,
    rows: int | None = None,
) -> Matrix:
    """The weight that comes closest to wanted outputs.

    With `X' P` for X' it is the second factor for a given first one, P.

    Args:
        gram: (K, K), `X'^T X'`.
        cross: (K, N), `X'^T Y`.
        near: (K, N), the weight to stay near.
        rows: number of rows that the moments sum over: the fewer, the larger lambda; None: so many
            that they are trusted fully.

    Returns:
        V (K, N), float64, `argmin_V ||X' V - Y||_F^2 + lambda ||V - near||_F^2`.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, no rows.

    Source: Hoerl & Kennard, Technometrics 12(1), 1970.
    """
    root, target, exponent = _problem(gram, cross, near, rows)
    v = scipy.linalg.solve_triangular(root, target, check_finite=False)
    fitted: Matrix = np.ldexp(v, exponent)
    return fitted


def reduced_rank_regression(
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    near: npt.NDArray[Any],
    rank: int,
    *,
    rows: int | None = None,
    tol: float = 0.0,
) -> tuple[Matrix, Matrix]:
    """The product of two factors that comes closest to wanted outputs.

    With `G = R^T R` (ridge included) the outputs of the best weight of full rank are `R^-T C` in
    the coordinates of R; the best of some rank keeps their leading singular vectors.

    Args:
        gram: (K, K), `X'^T X'`.
        cross: (K, N), `X'^T Y`.
        near: (K, N), the weight to stay near.
        rank: 1 to min(K, N).
        rows: number of rows that the moments sum over: the fewer, the larger lambda; None: so many
            that they are trusted fully.
        tol: see `svd`.

    Returns:
        P (K, rank) and Q (rank, N), float64, balanced, signs fixed, with
        `||X' P Q - Y||_F^2 + lambda ||P Q - near||_F^2` least. Where Y = X' near and
        `rows` is None it is `whitened_svd`.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a rank out of range.

    Source: Izenman, Journal of Multivariate Analysis 5(2), 1975.
    """
    root, target, exponent = _problem(gram, cross, near, rows)
    check_rank(rank, target.shape)
    found = svd(target, rank, tol=tol)
    p = scipy.linalg.solve_triangular(root, found.u * found.s, check_finite=False)
    p, q = balance(p, found.vt)
    half = np.exp2(exponent / 2)
    return fix_signs(p * half, q * half)


def mismatch_energy(
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    wanted: float,
) -> float:
    """`||X' weight - Y||_F^2` from moments.

    Args:
        weight: (K, N).
        gram: (K, K), `X'^T X'`.
        cross: (K, N), `X'^T Y`.
        wanted: `||Y||_F^2`.

    Returns:
        A number of at least 0, in the squared units of the output; good to about 1e-15 of
        `wanted`.
    """
    v = np.asarray(weight, dtype=np.float64)
    return max(float(np.vdot(v, gram @ v) - 2.0 * np.vdot(v, cross)) + wanted, 0.0)


def _problem(
    gram: npt.NDArray[Any],
    cross: npt.NDArray[Any],
    near: npt.NDArray[Any],
    rows: int | None,
) -> tuple[Matrix, Matrix, int]:
    """R, and `R^-T C` at a harmless scale with its exponent; the ridge is in both."""
    g, c, w = check_matrix(gram), check_matrix(cross), check_matrix(near)
    if g.shape != (len(w), len(w)):
        raise ValueError(f"found a Gram matrix of shape {g.shape} for a weight of {w.shape}")
    if c.shape != w.shape:
        raise ValueError(f"found a cross moment of shape {c.shape} for a weight of {w.shape}")
    g, scale = to_unit_scale(g)
    extra = ridge(g, rows, FIT_RIDGE_PER_ROW)
    g = g.copy()
    g.flat[:: len(g) + 1] += extra
    root = triangular_root(g)
    # in two steps, as in `to_unit_scale`
    c = np.ldexp(np.ldexp(c, -scale // 2), -scale - (-scale // 2))
    c += extra * w
    c, exponent = to_unit_scale(c)
    target = scipy.linalg.solve_triangular(root, c, trans="T", check_finite=False, overwrite_b=True)
    return root, target, exponent
