"""Low rank under the activations: the product that keeps `X W`, not `W`.

With the Gram matrix `G = X^T X` the error of the layer's output is
`||X (W - W')||_F^2 = tr((W - W')^T G (W - W'))`. It is least when W' projects the outputs `X W` on
their leading right singular vectors: `W' = W V V^T`, V the leading eigenvectors of `W^T G W`. No
inverse of G is needed, so a singular G (fewer rows than channels, dead channels) is no special
case. Where N > K the same vectors come from the K x K side.

`scaled_svd` weighs channels one by one instead, from their sizes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.exact import leading_eigenvectors
from onnxslim_rx.linalg.matrix import (
    Matrix,
    balance,
    check_matrix,
    check_rank,
    fix_signs,
    floating,
    tail,
    to_unit_scale,
)
from onnxslim_rx.linalg.moments import gram_root, ridge
from onnxslim_rx.linalg.svd import svd

__all__ = ["output_energy", "scaled_svd", "whitened_error_curve", "whitened_svd"]

# Least size of a channel, as a share of the mean: the square root of the least ridge.
_LEAST_SIZE = 1e-2


def whitened_svd(
    weight: npt.NDArray[Any],
    gram: npt.NDArray[Any],
    rank: int,
    *,
    rows: int | None = None,
    tol: float = 0.0,
) -> tuple[Matrix, Matrix]:
    """The product of rank `rank` that changes the layer's outputs least.

    Args:
        weight: (K, N), finite.
        gram: (K, K), symmetric positive semi-definite, `X^T X` of the activations.
        rank: 1 to min(K, N).
        rows: number of rows of X that `gram` sums over, at least 1; the fewer, the less it is
            trusted. None: so many that it is trusted fully.
        tol: as `svd` has it: above 0, a randomized method may be used where it is faster.

    Returns:
        P (K, rank) and Q (rank, N), float64, balanced, signs fixed.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, or a rank out of range.

    Source: SVD-LLM (Wang et al., ICLR 2025) whitens by a Cholesky factor of the Gram matrix; the
    projection of the outputs used here is the same optimum (Eckart & Young 1936 on `X W`).
    """
    narrow = floating(weight)
    k, n = narrow.shape
    check_rank(rank, (k, n))
    if not narrow.any():  # whatever the activations are
        return np.zeros((k, rank)), np.zeros((rank, n))
    w, ridged, exponent = _check(narrow, gram, rows)
    if tol > 0.0:
        vectors = svd(gram_root(ridged) @ w, rank, tol=tol).vt.T
    else:
        vectors = _right_vectors(w, ridged, rank)
    p, q = balance(w @ vectors, vectors.T)
    half = np.exp2(exponent / 2)
    return fix_signs(p * half, q * half)


def whitened_error_curve(
    weight: npt.NDArray[Any], gram: npt.NDArray[Any], *, rows: int | None = None
) -> Matrix:
    """Relative error of the layer's outputs for the best product, by rank.

    Args:
        weight: (K, N), finite.
        gram: (K, K), symmetric positive semi-definite.
        rows: see `whitened_svd`.

    Returns:
        (min(K, N) + 1,), entry r is `min ||X (W - W_r)||_F / ||X W||_F`, in [0, 1], not
        increasing.

    Raises:
        ValueError: as `whitened_svd`.
    """
    w, ridged, _ = _check(weight, gram, rows)
    return tail(_energies(w, ridged))


def scaled_svd(
    weight: npt.NDArray[Any], sizes: npt.NDArray[Any], rank: int, *, power: float = 0.5
) -> tuple[Matrix, Matrix]:
    """The product of rank `rank` that is nearest with rows weighed by the size of their inputs.

    Args:
        weight: (K, N), finite.
        sizes: (K,), at least 0: mean absolute values (or roots of mean squares) of the channels.
        rank: 1 to min(K, N).
        power: of the sizes; 0 is plain SVD.

    Returns:
        P (K, rank) and Q (rank, N), float64, balanced, signs fixed.

    Raises:
        ValueError: shapes that do not fit, sizes below 0 or not finite, a rank out of range.

    Source: ASVD (Yuan et al., 2023), `diag(sizes)^power`; for where only sizes are known:
    `whitened_svd` has the smaller error.
    """
    w, exponent = to_unit_scale(check_matrix(weight))
    s = np.asarray(sizes, dtype=np.float64)
    if s.shape != (len(w),) or not np.isfinite(s).all() or (s < 0).any():
        raise ValueError(f"found sizes of shape {s.shape}; expected {len(w)} numbers of at least 0")
    mean = float(s.mean())
    # a channel that was never seen keeps a small weight, as the ridge has it for Gram matrices
    scale = np.maximum(s / mean, _LEAST_SIZE) ** power if mean > 0 else np.ones(len(w))
    found = svd(w * scale[:, None], rank, tol=0.0)
    p, q = balance(found.u * found.s / scale[:, None], found.vt)
    half = np.exp2(exponent / 2)
    return fix_signs(p * half, q * half)


def output_energy(delta: npt.NDArray[Any], gram: npt.NDArray[Any]) -> float:
    """`||X delta||_F^2` from the Gram matrix: `tr(delta^T G delta)`.

    Args:
        delta: (K, N).
        gram: (K, K), `X^T X`.

    Returns:
        A number of at least 0, in the squared units of the output.
    """
    d = np.asarray(delta, dtype=np.float64)
    return max(float(np.einsum("kn,kn->", d, gram @ d, optimize=True)), 0.0)


def _check(
    weight: npt.NDArray[Any], gram: npt.NDArray[Any], rows: int | None
) -> tuple[Matrix, Matrix, int]:
    """The weight and the ridged Gram matrix, at harmless scales, and the exponent of the first."""
    w, g = check_matrix(weight), check_matrix(gram)
    if g.shape != (w.shape[0], w.shape[0]):
        raise ValueError(f"found a Gram matrix of shape {g.shape} for a weight of shape {w.shape}")
    w, exponent = to_unit_scale(w)
    g, _ = to_unit_scale(g)
    return w, g + np.eye(len(g)) * ridge(g, rows), exponent


def _energies(w: Matrix, gram: Matrix) -> Matrix:
    """Squared singular values of `X W`, largest first, from the smaller side."""
    y = gram_root(gram) @ w if w.shape[0] < w.shape[1] else None
    small = w.T @ gram @ w if y is None else y @ y.T
    energies: Matrix = scipy.linalg.eigvalsh(small, check_finite=False)[::-1]
    return np.maximum(energies, 0.0)


def _right_vectors(w: Matrix, gram: Matrix, rank: int) -> Matrix:
    """(N, rank), orthonormal: the leading right singular vectors of `X W`."""
    if w.shape[0] >= w.shape[1]:
        return leading_eigenvectors(w.T @ gram @ w, rank)
    y = gram_root(gram) @ w
    # Q R orthonormalises: dividing by tiny singular values would not
    vectors, _ = np.linalg.qr(y.T @ leading_eigenvectors(y @ y.T, rank))
    return vectors
