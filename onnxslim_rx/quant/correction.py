"""A product of low rank beside the integers: W ~= Q + B A, what rounding lost where it matters.

The best B A for given integers is the best fit of rank r to W - Q under the Gram matrix of the
inputs (QERA, Zhang et al., ICLR 2025; EoRA, Liu et al., 2024; LQER, Zhang et al., ICML 2024, has
a diagonal in its place). With B A given, W - B A is rounded anew, and so on, as LoftQ (Li et al.,
ICLR 2024) does it without activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from onnxslim_rx.linalg.whiten import whitened_svd
from onnxslim_rx.quant.blocks import Array, BlockFormat, Blocks, Matrix, check_weight, restore
from onnxslim_rx.quant.descent import round_refined
from onnxslim_rx.quant.gram import damped, error
from onnxslim_rx.quant.grid import dequantize, quantize_symmetric

__all__ = ["Corrected", "correct"]

_FACTOR_BITS = 8


class Corrected(NamedTuple):
    """W ~= restore(blocks) + b @ a.

    `a` is (rank, K) and `b` (rows, rank), float64. Their entries are those of INT8 grids with one
    float32 scale per component: `quantize_symmetric(a, [0])` and `quantize_symmetric(b, [1])` give
    them back as they are.
    """

    blocks: Blocks
    a: Matrix
    b: Matrix

    def dense(self) -> Matrix:
        """(rows, K): what stands for the weight."""
        found: Matrix = restore(self.blocks) + self.b @ self.a
        return found


def correct(
    weight: Array,
    block_format: BlockFormat,
    gram: Array,
    rank: int,
    *,
    rows: int | None = None,
    damping: float | None = None,
    rounding: Callable[[Matrix], Blocks] | None = None,
    start: Blocks | None = None,
    rounds: int = 2,
) -> Corrected:
    """Round a weight and fit a product of low rank to what is lost.

    Args:
        weight: (rows of the weight, K), finite.
        block_format: of the integers.
        gram: as `round_gptq`.
        rank: 1 to the lesser side of the weight.
        rows: as `round_gptq`.
        damping: as `round_gptq`.
        rounding: how a matrix (rows, K) is rounded; None: by `round_refined`.
        start: the weight itself rounded so, where it is at hand.
        rounds: how often the weight less the product is rounded anew; it ends where the error of
            the outputs under the damped Gram matrix falls no more.

    Returns:
        Blocks and factors, the best found.

    Raises:
        ValueError: as `round_gptq`, a rank out of range, or less than 0 rounds.
    """
    if rounds < 0:
        raise ValueError(f"found {rounds} rounds; expected at least 0")
    w = check_weight(weight).astype(np.float64)
    g = damped(gram, w.shape[1], rows, damping)

    def rounded(part: Matrix) -> Blocks:
        if rounding is not None:
            return rounding(part)
        return round_refined(part, block_format, gram, rows=rows, damping=damping)

    best = _fitted(w, rounded(w) if start is None else start, g, rank)
    least = error(w, best.dense(), g)
    for _ in range(rounds):
        found = _fitted(w, rounded(w - best.b @ best.a), g, rank)
        wrong = error(w, found.dense(), g)
        if wrong >= least:
            break
        best, least = found, wrong
    return best


def _fitted(weight: Matrix, blocks: Blocks, gram: Matrix, rank: int) -> Corrected:
    """The blocks with the product of the stored form that lowers the error most."""
    lost = weight - restore(blocks)
    basis, _ = whitened_svd(lost.T, gram, rank)
    a = _stored(basis.T, 0)
    # the second factor makes up for the rounding of the first
    weighted = a @ gram
    b = lost @ weighted.T @ np.linalg.pinv(weighted @ a.T, hermitian=True)
    return Corrected(blocks, a, _stored(b, 1))


def _stored(factor: Matrix, axis: int) -> Matrix:
    found = dequantize(quantize_symmetric(factor, [axis], _FACTOR_BITS))
    return found.astype(np.float64, copy=False)
