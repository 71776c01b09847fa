"""Factors that several weights share: one left factor, or one basis for many experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.linalg.exact import leading_eigenvectors
from onnxslim_rx.linalg.matrix import Matrix, check_matrix, check_rank, fix_signs
from onnxslim_rx.linalg.svd import truncated_svd
from onnxslim_rx.linalg.whiten import whitened_svd

__all__ = ["batched_svd", "joint_left_svd", "shared_output_basis"]


def joint_left_svd(
    weights: Sequence[npt.NDArray[Any]],
    rank: int,
    *,
    gram: npt.NDArray[Any] | None = None,
    rows: int | None = None,
    importance: Sequence[float] | None = None,
    tol: float = 0.0,
) -> tuple[Matrix, list[Matrix]]:
    """One first factor for weights that read the same input: `W_i ~= P Q_i`.

    Args:
        weights: (K, N_i) each, at least one.
        rank: 1 to min(K, sum of N_i).
        gram: (K, K), of the input; None: the weights themselves are kept, not their outputs.
        rows: number of rows that `gram` sums over; see `whitened_svd`.
        importance: a number above 0 for each weight: its squared error counts so much; None: all
            alike.
        tol: see `svd`.

    Returns:
        P (K, rank) and a Q_i (rank, N_i) for each weight, float64.

    Raises:
        ValueError: no weights, shapes that do not fit, entries that are not finite, a rank out of
            range, importance that is not above 0.
    """
    matrices = [check_matrix(weight) for weight in weights]
    if len({len(w) for w in matrices}) != 1:
        shapes = [w.shape for w in matrices]
        raise ValueError(f"found weights of shapes {shapes}; expected some with the same rows")
    scale = _scales(importance, len(matrices))
    joined = np.hstack([w * root for w, root in zip(matrices, scale, strict=True)])
    if gram is None:
        p, q = truncated_svd(joined, rank)
    else:
        p, q = whitened_svd(joined, gram, rank, rows=rows, tol=tol)
    ends = np.cumsum([w.shape[1] for w in matrices])[:-1]
    parts = np.split(q, ends, axis=1)
    return p, [part / root for part, root in zip(parts, scale, strict=True)]


def shared_output_basis(
    experts: npt.NDArray[Any],
    rank: int,
    *,
    grams: npt.NDArray[Any] | None = None,
    counts: Sequence[float] | npt.NDArray[Any] | None = None,
) -> tuple[Matrix, Matrix]:
    """One second factor for many experts: `W_e ~= P_e Q`, the best for all their outputs together.

    `Q` holds the leading eigenvectors of the sum of `c_e W_e^T G_e W_e`, and `P_e = W_e Q^T`. (For
    a shared first factor take `joint_left_svd`: the experts read the same input.)

    Args:
        experts: (E, K, N).
        rank: 1 to N, and to E K.
        grams: (E, K, K), each summed over the rows that its expert saw; None: identities.
        counts: (E,), at least 0: rows that were routed to each expert, where the Gram matrices do
            not say so already; one is added to each, so that none is given up. None: all alike.

    Returns:
        P (E, K, rank) and Q (rank, N) with orthonormal rows, float64.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, a rank out of range.
    """
    stack = np.asarray(experts, dtype=np.float64)
    if stack.ndim != 3:
        raise ValueError(f"found experts of shape {stack.shape}; expected three axes")
    flat = check_matrix(stack.reshape(-1, stack.shape[-1]))
    check_rank(rank, flat.shape)
    number, k, _ = stack.shape
    if grams is not None and np.shape(grams) != (number, k, k):
        raise ValueError(f"found Gram matrices of shape {np.shape(grams)} for {stack.shape}")
    weigh = np.ones(number) if counts is None else np.asarray(counts, dtype=np.float64) + 1.0
    if weigh.shape != (number,) or not (weigh >= 1.0).all():
        raise ValueError(f"found counts of shape {weigh.shape}; expected {number} of at least 0")
    total = np.zeros((stack.shape[-1],) * 2)
    for index, w in enumerate(stack):
        image = w if grams is None else check_matrix(grams[index]) @ w
        total += weigh[index] / weigh.sum() * (w.T @ image)
    basis = leading_eigenvectors((total + total.T) / 2.0, rank)
    p, q = fix_signs(flat @ basis, basis.T)
    return p.reshape(number, k, rank), q


def batched_svd(
    weights: npt.NDArray[Any],
    rank: int,
    *,
    gram: npt.NDArray[Any] | None = None,
    rows: int | None = None,
) -> tuple[Matrix, Matrix]:
    """`truncated_svd`, or `whitened_svd` where there is a Gram matrix, of each matrix of a batch.

    Args:
        weights: (..., K, N).
        rank: 1 to min(K, N).
        gram: (K, K), shared, or (..., K, K).
        rows: see `whitened_svd`.

    Returns:
        P (..., K, rank) and Q (..., rank, N), float64.

    Raises:
        ValueError: fewer than two axes, an empty batch, or as the functions named.
    """
    stack = np.asarray(weights)
    if stack.ndim < 2 or 0 in stack.shape:
        raise ValueError(f"found an array of shape {stack.shape}; expected matrices")
    batch = stack.shape[:-2]
    k = stack.shape[-2]
    grams = None if gram is None else np.broadcast_to(gram, (*batch, k, k)).reshape(-1, k, k)
    pairs = [
        truncated_svd(w, rank) if grams is None else whitened_svd(w, grams[i], rank, rows=rows)
        for i, w in enumerate(stack.reshape(-1, *stack.shape[-2:]))
    ]
    ps, qs = (np.stack(side).reshape(*batch, *side[0].shape) for side in zip(*pairs, strict=True))
    return ps, qs


def _scales(importance: Sequence[float] | None, number: int) -> Matrix:
    """Square roots of the importance, their mean square 1."""
    weigh = np.ones(number) if importance is None else np.asarray(importance, dtype=np.float64)
    if weigh.shape != (number,) or not (np.isfinite(weigh).all() and (weigh > 0).all()):
        raise ValueError(f"found importance {importance}; expected {number} numbers above 0")
    roots: Matrix = np.sqrt(weigh / weigh.mean())
    return roots
