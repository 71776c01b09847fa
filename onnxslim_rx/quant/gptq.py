"""GPTQ: rounding column by column, each column making up for the error of those before it.

With e the error of a row and G the Gram matrix of the inputs, the error of the outputs is
`e^T G e = |R e|^2`, R a triangular root of G whose last column is the one that is rounded first.
Rounding each column so that its own entry of `R e` is least is what Frantar et al. do with the
inverse of G, without the inverse (Chen et al. 2025: GPTQ is Babai's nearest plane algorithm).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim_rx.linalg.moments import triangular_root
from onnxslim_rx.quant.blocks import (
    Array,
    BlockFormat,
    Blocks,
    Integers,
    Matrix,
    check_weight,
    parts,
)
from onnxslim_rx.quant.gram import damped
from onnxslim_rx.quant.nearest import round_clipped

__all__ = ["round_gptq"]

Floats = npt.NDArray[np.float32]

_PANEL = 128  # columns between two updates of all that follow
_ENTRIES = 1 << 22  # of the rows treated at once


def round_gptq(
    weight: Array,
    block_format: BlockFormat,
    gram: Array,
    *,
    rows: int | None = None,
    damping: float | None = None,
    activation_order: bool = True,
    grid: Blocks | None = None,
) -> Blocks:
    """Round a weight so that the outputs of the layer change little.

    The grid is fixed beforehand, so that the order in which columns are rounded does not show in
    the result's layout.

    Args:
        weight: (rows of the weight, K), finite.
        block_format: bits, groups, symmetry and the type of scales.
        gram: (K, K), symmetric positive semi-definite, `X^T X` of the layer's inputs.
        rows: number of rows of X; the fewer, the more is added to the diagonal (see `damped`).
        damping: that share of the mean diagonal entry instead, at least 0. The source has 0.01.
        activation_order: round the channels with the most energy first.
        grid: of the same format, its scales and zero points are those of the result; None: that of
            `round_clipped` weighted by the energies of the channels.

    Returns:
        Integers, scales and zero points. Channels that were never active are rounded to nearest.

    Raises:
        ValueError: as `round_nearest`; a Gram matrix, rows or damping that do not fit.

    Source: Frantar et al., "GPTQ", ICLR 2023, with static groups.
    """
    w = check_weight(weight)
    k = w.shape[1]
    g = damped(gram, k, rows, damping)
    energies = np.diagonal(g)
    start = round_clipped(w, block_format, energies) if grid is None else grid
    blocks = start._replace(values=start.values.copy())
    order = np.argsort(-energies, kind="stable") if activation_order else np.arange(k)
    shifts = _shifts(g[np.ix_(order[::-1], order[::-1])])
    for part in parts(w, _ENTRIES):
        blocks.values[part] = _rounded(w[part], blocks, part, order, shifts)
    return blocks


def _shifts(gram: Matrix) -> Floats:
    """(K, K), row j: how the errors of the columns before the j-th shift what it should be.

    `gram` has the columns in reverse order.
    """
    root = triangular_root(gram)
    root /= np.diagonal(root)[:, None].copy()
    found: Floats = root[::-1, ::-1].astype(np.float32, order="C")
    return found


def _rounded(weight: Array, blocks: Blocks, part: slice, order: Array, shifts: Floats) -> Integers:
    """The integers of some rows of the weight."""
    form = blocks.format
    k = len(order)
    wanted = weight.T[order].astype(np.float32)
    targets = wanted.copy()
    errors = np.empty_like(wanted)
    block_of = order // form.width(k)
    scales = blocks.scales[part].T.astype(np.float32)
    zeros = None if blocks.zeros is None else blocks.zeros[part].T.astype(np.float32)
    values = np.empty(wanted.shape, np.uint8)
    for start in range(0, k, _PANEL):
        stop = min(start + _PANEL, k)
        for j in range(start, stop):
            target, scale = targets[j], scales[block_of[j]]
            zero = form.middle if zeros is None else zeros[block_of[j]]
            target += shifts[j, start:j] @ errors[start:j]
            target /= scale
            target += zero
            np.rint(target, out=target)
            np.maximum(target, 0, out=target)
            np.minimum(target, form.largest, out=target)
            values[order[j]] = target
            target -= zero
            target *= scale
            np.subtract(wanted[j], target, out=errors[j])
        targets[stop:] += shifts[stop:, start:stop] @ errors[start:stop]
    return np.ascontiguousarray(values.T)
