"""Low rank of a table under the frequencies of its rows, in memory that does not grow with them.

A table E (V, K) becomes `P Q` with `P = E A`, A (K, R). What is wanted is the least
`sum_v c_v ||(e_v - p_v Q) L||^2`, c_v how often row v counts and `L L^T` the second moments of what
the rows are multiplied with. That is `linalg.whitened_svd` of L under the Gram matrix
`C = sum_v c_v e_v^T e_v` (K, K): one pass over the rows, then matrices of K x K for all ranks.

Source: Eckart & Young, Psychometrika 1(3), 1936, on the rows weighed by roots of c_v.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxslim_rx.linalg import whitened_svd
from onnxslim_rx.passbase import Array

__all__ = ["RowMoments", "projections", "row_curve", "row_moments", "times"]

Matrix = npt.NDArray[np.float64]
_CHUNK = 1 << 22  # entries of the table that are in float64 at a time
# Rows that were never seen, and the percentage of them whose error the stated one covers.
_PROBED = 2048
_COVERED = 95.0


@dataclasses.dataclass(frozen=True, eq=False)
class RowMoments:
    """What the choice of a rank needs to know of a table.

    Attributes:
        weighted: (K, K), `sum_v c_v e_v^T e_v`.
        plain: (K, K), `sum_v e_v^T e_v`.
        unseen: (U, K), some of the rows that calibration never read; of all rows, where there are
            no counts.
    """

    weighted: Matrix
    plain: Matrix
    unseen: Matrix


def row_moments(table: Array, counts: Array | None) -> RowMoments:
    """One pass over the rows.

    Args:
        table: (V, K), finite, of any floating-point type.
        counts: (V,), reads of each row, or None.
    """
    rows, columns = table.shape
    plain = np.zeros((columns, columns))
    weighted = plain if counts is None else np.zeros_like(plain)
    for start in range(0, rows, _step(columns)):
        part = table[start : start + _step(columns)].astype(np.float64)
        plain += part.T @ part
        if counts is not None:
            part *= np.sqrt(_weights(counts)[start : start + len(part), None])
            weighted += part.T @ part
    never = np.arange(rows) if counts is None else np.flatnonzero(np.asarray(counts) == 0)
    if len(never) > _PROBED:
        never = never[np.linspace(0, len(never) - 1, _PROBED).astype(int)]
    return RowMoments(weighted, plain, table[never].astype(np.float64))


def projections(moments: RowMoments, gram: Matrix | None, rank: int) -> tuple[Matrix, Matrix]:
    """A (K, R) and Q (R, K) with `E A Q ~= E`; the first r columns and rows are those of rank r.

    Args:
        moments: of the table.
        gram: (K, K), second moments of what a tied projection multiplies the rows with; None: the
            rows are only looked up. Half the weight goes to either use.
        rank: 1 to K.
    """
    columns = len(moments.weighted)
    if gram is None:
        return whitened_svd(np.eye(columns), moments.weighted, rank)
    mean = max(float(np.trace(gram)) / columns, float(np.finfo(np.float64).tiny))
    root = scipy.linalg.cholesky(np.eye(columns) + gram / mean, lower=True)
    a, q = whitened_svd(root, moments.weighted, rank)
    solved: Matrix = scipy.linalg.solve_triangular(root, q.T, lower=True, trans="T").T
    return a, solved


def row_curve(moments: RowMoments, gram: Matrix | None, a: Matrix, q: Matrix) -> Matrix:
    """(R + 1,): the largest error, by rank, of any use of the table, not increasing.

    That is of three, each relative: of the rows that are read, weighed by their reads; of rows
    never read, the error that 95% of them keep, relative to a row's own norm or the mean one,
    whichever is larger; of the projection's outputs, where there is a Gram matrix.

    Args:
        moments: of the table.
        gram: as `projections` has it.
        a: (K, R).
        q: (R, K).
    """
    curves = [_curve(moments.weighted, np.eye(len(a)), a, q)]
    if gram is not None:
        curves.append(_curve(moments.plain, gram, a, q))
    if len(moments.unseen):
        curves.append(_curve_of_most(moments.unseen, a, q))
    # the weighted error falls with the rank, the others need not at every step
    worst: Matrix = np.maximum.accumulate(np.max(curves, axis=0)[::-1])[::-1]
    return worst


def times(table: Array, a: Matrix, dtype: npt.DTypeLike) -> Array:
    """`table a` (V, R), multiplied in float64 a few rows at a time and kept in `dtype`."""
    rows, columns = table.shape
    product = np.empty((rows, a.shape[1]), dtype=dtype)
    for start in range(0, rows, _step(columns)):
        stop = start + _step(columns)
        product[start:stop] = table[start:stop].astype(np.float64) @ a
    return product


def _curve(left: Matrix, right: Matrix, a: Matrix, q: Matrix) -> Matrix:
    """By rank, `||l (I - A Q) r||_F / ||l r||_F` where `left = l^T l` and `right = r r^T`."""
    images = left @ a
    crossed = np.einsum("rk,kr->r", q @ right, images)
    pairs = (a.T @ images) * (q @ right @ q.T)
    total = float(np.vdot(left, right))
    lost = total + np.append(0.0, np.cumsum(np.sum(_leading(pairs), axis=0) - 2.0 * crossed))
    return np.sqrt(np.maximum(lost, 0.0) / total) if total > 0 else np.zeros(len(lost))


def _curve_of_most(rows: Matrix, a: Matrix, q: Matrix) -> Matrix:
    """By rank, the error that most rows keep."""
    y = rows @ a
    norms = np.einsum("vk,vk->v", rows, rows)
    gains = y * (2.0 * rows @ q.T - y @ _leading(q @ q.T))
    lost = norms[:, None] - np.cumsum(np.hstack([np.zeros((len(rows), 1)), gains]), axis=1)
    floor = np.maximum(norms, norms.mean())[:, None]
    shares = np.maximum(lost, 0.0) / floor if floor.all() else np.zeros_like(lost)
    most: Matrix = np.sqrt(np.percentile(shares, _COVERED, axis=0))
    return most


def _leading(symmetric: Matrix) -> Matrix:
    """Column r: what row and column r add to the sum over the leading r x r block."""
    return 2.0 * np.triu(symmetric, 1) + np.diag(np.diagonal(symmetric))


def _weights(counts: Array) -> Matrix:
    """(V,): what each row counts, 1 on average: its reads plus one, so that none is given up."""
    weights = np.asarray(counts, dtype=np.float64) + 1.0
    shares: Matrix = weights / weights.mean()
    return shares


def _step(columns: int) -> int:
    return max(_CHUNK // columns, 1)
