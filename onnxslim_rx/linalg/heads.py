"""Attention heads made narrower, in closed form, under the second moments of their inputs.

Scores of a head are `x A B^T y^T` with A and B (K, d): only the product of the two weights counts,
and its rank may be lower than d. Contexts `c` (d wide) go through an output weight: only `c W`
counts. Both are low-rank problems of the size of a head, whatever K: with `R^T R = A^T G A` the
scores are `Q_a R_a R_b^T Q_b^T` with orthonormal Q_a, Q_b, so that the decomposition of the (d, d)
matrix `R_a R_b^T` tells all.

The optimum is that of Eckart & Young (Psychometrika 1(3), 1936) on the scores, and on the outputs,
themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg.matrix import Matrix, balance, check_matrix, check_rank, fix_signs, tail
from onnxslim_rx.linalg.moments import gram_root, ridge, triangular_root

__all__ = [
    "augmented_gram",
    "head_roots",
    "score_bases",
    "score_error_curve",
    "value_error_curve",
    "value_factors",
]

Array = npt.NDArray[Any]

# Singular values below this share of the largest are rounding: nothing is divided by them.
_SMALLEST = 1e-9


def augmented_gram(gram: Array, mean: Array, rows: float) -> Matrix:
    """The Gram matrix of `[X 1]`, for weights that have the bias as their last row.

    Args:
        gram: (K, K), `X^T X`; a ridge, where one is wanted, is added before.
        mean: (K,), of the rows of X.
        rows: number of rows of X, above 0.

    Returns:
        (K + 1, K + 1).

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, no rows.
    """
    g, m = check_matrix(gram), check_matrix(np.atleast_2d(mean))
    if g.shape[0] != g.shape[1] or m.shape != (1, len(g)):
        raise ValueError(f"found a mean of shape {np.shape(mean)} for a Gram matrix of {g.shape}")
    if not rows > 0:
        raise ValueError(f"found {rows} rows; expected more than 0")
    return np.block([[g, rows * m.T], [rows * m, np.full((1, 1), float(rows))]])


def head_roots(weight: Array, gram: Array, heads: int) -> Matrix:
    """(H, d, d): for each head R with `R^T R = A^T G A`, the moments of `X A`.

    Args:
        weight: (K, H d), the heads side by side.
        gram: (K, K), symmetric positive semi-definite.
        heads: H.

    Raises:
        ValueError: shapes that do not fit, or entries that are not finite.
    """
    w, g = check_matrix(weight), check_matrix(gram)
    if g.shape != (len(w), len(w)) or heads < 1 or w.shape[1] % heads:
        raise ValueError(
            f"found a Gram matrix of {g.shape} and {heads} heads for a weight of {w.shape}"
        )
    weighed = _by_head(g @ w, heads)
    return np.stack([_root(a.T @ b) for a, b in zip(_by_head(w, heads), weighed, strict=True)])


def score_bases(query: Matrix, key: Matrix, width: int) -> tuple[Matrix, Matrix]:
    """What makes heads narrower so that their scores change least.

    Args:
        query: (H, d, d), roots of the moments of the queries, see `head_roots`.
        key: (H, d, d), of the keys.
        width: r, 1 to d.

    Returns:
        S and T (H, d, r): `(A S) (B T)^T` is the best product of rank r in the place of `A B^T`,
        for each head. Both sides have equal norms, signs are fixed.

    Raises:
        ValueError: a width out of range.
    """
    check_rank(width, query.shape[1:])
    left, values, right = np.linalg.svd(query @ key.transpose(0, 2, 1))
    least = _SMALLEST * values[:, :1]
    kept = values[:, :width]
    scale = np.where(kept > least, 1.0 / np.sqrt(np.where(kept > least, kept, 1.0)), 0.0)
    # R_b^T v / s is R_a^-1 u without an inverse: a root may be singular
    s = key.transpose(0, 2, 1) @ right.transpose(0, 2, 1)[..., :width] * scale[:, None]
    t = query.transpose(0, 2, 1) @ left[..., :width] * scale[:, None]
    pairs = [fix_signs(a, b.T) for a, b in zip(s, t, strict=True)]
    return np.stack([a for a, _ in pairs]), np.stack([b.T for _, b in pairs])


def score_error_curve(query: Matrix, key: Matrix) -> Matrix:
    """(d + 1,): relative error of the scores of all heads together, by width; not increasing.

    Args:
        query: see `score_bases`.
        key: see `score_bases`.
    """
    values = np.linalg.svd(query @ key.transpose(0, 2, 1), compute_uv=False)
    return tail(np.square(values).sum(axis=0))


def value_factors(
    weight: Array, gram: Array, heads: int, width: int, *, rows: int | None = None
) -> tuple[Matrix, Matrix]:
    """What makes heads narrower so that the output changes little.

    Each head keeps the directions of its context that count most in what it adds to the output;
    then the new output weight is the best one for all heads together, which are correlated.

    Args:
        weight: (H d, N), of the output projection.
        gram: (H d, H d), `C^T C` of the contexts that enter it.
        heads: H.
        width: r, 1 to min(d, N).
        rows: number of rows that `gram` sums over, see `whitened_svd`.

    Returns:
        P (H, d, r), which goes into what makes the values, and Q (H, r, N), the new output weight.
        Columns of P and rows of Q have equal norms, signs are fixed.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, or a width out of range.
    """
    w, g = _check_outputs(weight, gram, heads)
    check_rank(width, (len(w) // heads, w.shape[1]))
    g = g + np.eye(len(g)) * ridge(g, rows)
    bases = _value_bases(w, g, heads)[..., :width]
    triangle, fitted = _fit(w, g, bases)
    q = scipy.linalg.solve_triangular(triangle, fitted, trans="T", lower=True, check_finite=False)
    rest = q.reshape(width, heads, -1).transpose(1, 0, 2)
    pairs = [fix_signs(*balance(p, part)) for p, part in zip(bases, rest, strict=True)]
    return np.stack([p for p, _ in pairs]), np.stack([part for _, part in pairs])


def value_error_curve(weight: Array, gram: Array, heads: int, *, rows: int | None = None) -> Matrix:
    """(min(d, N) + 1,): relative error of the output, by width; not increasing.

    Args and raises as `value_factors`.
    """
    w, g = _check_outputs(weight, gram, heads)
    g = g + np.eye(len(g)) * ridge(g, rows)
    _, fitted = _fit(w, g, _value_bases(w, g, heads))
    # what each further column of all heads adds is orthogonal to what there is
    return tail(np.square(fitted).reshape(-1, heads * w.shape[1]).sum(axis=1))


def _check_outputs(weight: Array, gram: Array, heads: int) -> tuple[Matrix, Matrix]:
    w, g = check_matrix(weight), check_matrix(gram)
    if g.shape != (len(w), len(w)) or heads < 1 or len(w) % heads:
        raise ValueError(
            f"found a Gram matrix of {g.shape} and {heads} heads for a weight of {w.shape}"
        )
    return w, g


def _value_bases(w: Matrix, g: Matrix, heads: int) -> Matrix:
    """(H, d, min(d, N)): for each head directions of the context, those first that count most.

    Those of a head are orthonormal under its moments, also where the weight is of lower rank.
    """
    d = len(w) // heads
    bases = []
    for start in range(0, len(w), d):
        part = slice(start, start + d)
        root = triangular_root(g[part, part])
        left = np.linalg.svd(root @ w[part], full_matrices=False)[0]
        bases.append(scipy.linalg.solve_triangular(root, left, check_finite=False))
    return np.stack(bases)


def _fit(w: Matrix, g: Matrix, bases: Matrix) -> tuple[Matrix, Matrix]:
    """The best output weight for contexts cut to `bases` (H, d, r), before the last solve.

    Columns are ordered by their number in the head, so that narrower heads are leading blocks.

    Returns:
        L (r H, r H), lower triangle of the moments of the cut contexts; `L^-1 B^T G W`, (r H, N).
    """
    heads, d, width = bases.shape
    wide = np.concatenate([g, g @ w], axis=1)
    parts = [p.T @ wide[h * d : (h + 1) * d] for h, p in enumerate(bases)]
    rows = np.stack(parts, axis=1).reshape(width * heads, -1)
    left, target = rows[:, : len(g)], rows[:, len(g) :]
    columns = [left[:, h * d : (h + 1) * d] @ p for h, p in enumerate(bases)]
    moments = np.stack(columns, axis=2).reshape(width * heads, -1)
    triangle = triangular_root((moments + moments.T) / 2).T
    fitted = scipy.linalg.solve_triangular(triangle, target, lower=True, check_finite=False)
    return triangle, fitted


def _by_head(weight: Matrix, heads: int) -> Matrix:
    """(K, H d) as (H, K, d)."""
    blocks: Matrix = weight.reshape(len(weight), heads, -1).transpose(1, 0, 2)
    return blocks


def _root(moments: Matrix) -> Matrix:
    return gram_root((moments + moments.T) / 2)
