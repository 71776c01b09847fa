"""How far a product is from a matrix, from a few random vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from onnxslim_rx.linalg.matrix import Array, check_matrix, to_unit_scale

__all__ = ["ErrorEstimate", "estimate_error"]


class ErrorEstimate(NamedTuple):
    """Of `E = A - P Q`.

    Attributes:
        frobenius: estimates `||E||_F`; its square has no bias and a relative standard deviation of
            at most `sqrt(2 / vectors)`.
        spectral_bound: `||E||_2` is not above it, but with probability `10^-vectors`.
    """

    frobenius: float
    spectral_bound: float


def estimate_error(
    a: Array, p: Array, q: Array, *, vectors: int = 10, seed: int = 0
) -> ErrorEstimate:
    """The error of a product without the product: `vectors` multiplications by a vector.

    Args:
        a: (K, N), finite.
        p: (K, R), finite.
        q: (R, N), finite.
        vectors: number of random vectors, at least 1.
        seed: of the vectors; it must not be the one that the product was found with, or the
            probability does not hold.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, no vectors.

    Source: Halko, Martinsson & Tropp, SIAM Review 53(2), 2011, lemma 4.1 with alpha = 10.
    """
    matrix, left, right = check_matrix(a), check_matrix(p), check_matrix(q)
    if matrix.shape != (left.shape[0], right.shape[1]) or left.shape[1] != right.shape[0]:
        raise ValueError(
            f"found factors of shapes {left.shape} and {right.shape} for shape {matrix.shape}"
        )
    if vectors < 1:
        raise ValueError(f"found {vectors} vectors; expected at least 1")
    matrix, exponent = to_unit_scale(matrix)
    left = np.ldexp(left, -exponent)
    test = np.random.default_rng(seed).standard_normal((matrix.shape[1], vectors))
    lengths = np.linalg.norm(matrix @ test - left @ (right @ test), axis=0)
    mean = math.sqrt(float(np.mean(lengths**2)))
    bound = 10.0 * math.sqrt(2.0 / math.pi) * float(lengths.max())
    return ErrorEstimate(float(np.ldexp(mean, exponent)), float(np.ldexp(bound, exponent)))
