"""How much of a weight few singular values hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.analysis.weights import WeightUse

__all__ = ["SPECTRUM_LIMIT", "as_matrix", "energy_ranks"]

SPECTRUM_LIMIT = 1024
"""Matrices whose smaller side is above this take seconds each and are left out unless asked."""

ENERGIES = (0.9, 0.99, 0.999)

_CHUNK = 1 << 22  # elements converted to float64 at a time: 32 MB


def as_matrix(use: WeightUse) -> tuple[int, int]:
    """The shape in which the weight acts as a matrix; a reshape of the stored tensor, no copy.

    (K, N) for linear layers and embeddings, all leading axes in one for batched weights;
    (filters, channels times kernel) for convolutions, all directions in one for recurrent ones.
    """
    shape = tuple(use.tensor.shape.numpy())
    if use.kind in ("conv", "conv-transpose"):
        return shape[0], math.prod(shape[1:])
    return math.prod(shape[:-1]), shape[-1]


def energy_ranks(use: WeightUse, limit: int | None) -> tuple[int, int, int] | None:
    """Least ranks that keep 90, 99 and 99.9% of the weight's energy, its squared Frobenius norm.

    Computed in float64 from the Gram matrix of the smaller side, whose eigenvalues are the
    squared singular values.

    Args:
        use: the weight.
        limit: None is returned where the smaller side is above this; None for no limit.

    Returns:
        Three ranks, at least 1; None also for weights with an entry that is not finite.
    """
    rows, columns = as_matrix(use)
    if limit is not None and min(rows, columns) > limit:
        return None
    gram = _small_gram(use.tensor.numpy().reshape(rows, columns))
    if not np.isfinite(gram).all():
        return None
    energies = np.linalg.eigvalsh(gram)[::-1]
    kept = np.cumsum(energies) / (energies.sum() or 1.0)
    # rounding may leave the last sums below 1: ranks end at the full one
    first, second, third = (
        min(int(np.searchsorted(kept, energy)) + 1, len(kept)) for energy in ENERGIES
    )
    return first, second, third


def _small_gram(matrix: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """X^T X or X X^T, whichever is smaller, float64, over chunks of the longer side."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    rows, columns = matrix.shape
    gram = np.zeros((columns, columns))
    step = max(_CHUNK // columns, 1)
    for start in range(0, rows, step):
        part = matrix[start : start + step].astype(np.float64)
        gram += part.T @ part
    return gram
