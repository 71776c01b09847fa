"""Which decomposition will be the fastest: a model of measured times.

The choice depends on shapes alone, not on clocks, so that equal input gives equal bytes. The
constants are least squares over 110 shapes and ranks, 64 to 2,048 on the shorter side, one thread
of a server core with AVX-512; what counts is how methods compare. Near a crossing, where the model
may be wrong, times are nearly equal: of those the choice was at most 9% slower than the better
one, but once (16%, 2 ms).
"""

from __future__ import annotations

import math

from onnxslim_rx.linalg.exact import FEW
from onnxslim_rx.linalg.randomized import block_width

__all__ = ["fastest", "predict_seconds"]

# Seconds of a call, and for each entry, multiply-add or cube that the name in the code says.
_FULL_CALL, _FULL_SQUARE, _FULL_LONG, _FULL_CUBE = 1.5e-4, 3e-8, 2.9e-10, 4.3e-10
_GRAM_CALL, _GRAM_ENTRY, _GRAM_PRODUCT, _GRAM_APPLY = 2.3e-4, 5.9e-9, 1.25e-11, 1.8e-11
_EIGEN_SQUARE, _EIGEN_ALL, _EIGEN_FORM, _EIGEN_VECTOR = 4e-8, 1.3e-10, 5e-11, 2.8e-10
_GRAM_BASES = 7.2e-11
_KRYLOV_CALL, _KRYLOV_STEP, _KRYLOV_ENTRY, _KRYLOV_PRODUCT = 1.3e-3, 6.2e-5, 9.1e-9, 8.4e-12
_KRYLOV_CHECK, _KRYLOV_BASIS, _KRYLOV_LAST, _KRYLOV_CUBE = 3.8e-8, 4.3e-8, 9.8e-11, 1.7e-9
# Width of a block at which products are half as fast as of wide ones.
_HALF_WIDTH = 16.0
# How much faster the model must find a randomized method: a flat spectrum takes it 1.4 times as
# long as the decaying ones that the constants were measured with.
_DOUBT = 1.05
# From here on the Hadamard test matrix is the faster one.
_HADAMARD_WIDTH, _HADAMARD_LENGTH = 64, 4096


def fastest(shape: tuple[int, ...], rank: int, tol: float) -> str:
    """The method to take: "full", "gram", "randomized" or "srht" (these two only if tol > 0)."""
    names = ["full", "gram"]
    if tol > 0.0:
        wide = block_width(rank) >= _HADAMARD_WIDTH and max(shape) >= _HADAMARD_LENGTH
        names.append("srht" if wide else "randomized")

    def cost(name: str) -> float:
        doubt = _DOUBT if name in ("srht", "randomized") else 1.0
        return doubt * predict_seconds(name, shape, rank, tol)

    return min(names, key=cost)


def predict_seconds(method: str, shape: tuple[int, ...], rank: int, tol: float) -> float:
    """Seconds of a method at a shape and rank, on the machine of the constants above.

    Args:
        method: "full", "gram", "randomized" or "srht".
        shape: (K, N).
        rank: 1 to min(K, N).
        tol: share of the least error that may be lost; for the last two methods, above 0.
    """
    m, n = min(shape), max(shape)
    if method == "full":
        return _FULL_CALL + m * m * (_FULL_SQUARE + _FULL_LONG * (n - m) + _FULL_CUBE * m)
    if method == "gram":
        return _gram(m, n, rank)
    return _randomized(m, n, rank, tol)


def _gram(m: int, n: int, rank: int) -> float:
    few = _EIGEN_FORM * m + _EIGEN_VECTOR * rank
    eigen = m * m * (_EIGEN_SQUARE + (few if rank <= FEW * m else _EIGEN_ALL * m))
    products = _GRAM_PRODUCT * m * m * n + _GRAM_APPLY * 4 * m * n * rank
    bases = _GRAM_BASES * 4 * (m + n) * rank * rank
    return _GRAM_CALL + _GRAM_ENTRY * m * n + products + eigen + bases


def _randomized(m: int, n: int, rank: int, tol: float) -> float:
    # a basis of twice the rank is usual at 1e-2, half the rank more for every further digit
    block = block_width(rank)
    width = min(float(m), rank * (2.0 + 0.5 * max(-2.0 - math.log10(tol), 0.0)) + block)
    checks = max((width - rank) / (2 * block), 0.0) + 1
    products = 4 * m * n * width + 6 * m * width**2 + 2 * n * width**2
    return (
        _KRYLOV_CALL
        + _KRYLOV_STEP * width / block
        + _KRYLOV_ENTRY * m * n
        + _KRYLOV_BASIS * m * width
        + _KRYLOV_PRODUCT * products * (1.0 + _HALF_WIDTH / block)
        + _KRYLOV_CHECK * checks * ((width + rank) / 2) ** 2
        + _KRYLOV_LAST * 4 * n * rank * rank
        + _KRYLOV_CUBE * rank**3
    )
