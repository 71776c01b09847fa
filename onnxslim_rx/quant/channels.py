"""INT8 with one scale for each channel, better than rounding to nearest over the whole range.

A channel is a row. Where nothing is known of its inputs, the range is what gives the least squared
error: a little more or less than the peak, so that the large entries fall on points of the grid.
Weights that lie on such a grid already, as those of models that were quantized before, come back
exactly. Where the Gram matrix of the inputs is known, integers and scales are found by least
squares of the outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.quant.blocks import Array, BlockFormat, Blocks, check_weight, parts
from onnxslim_rx.quant.descent import refine
from onnxslim_rx.quant.gptq import round_gptq
from onnxslim_rx.quant.grid import Quantized, quantize_symmetric
from onnxslim_rx.quant.nearest import offer_shrunk
from onnxslim_rx.quant.search import GridSearch, best_grids

__all__ = ["round_channels"]

Matrix = npt.NDArray[np.float64]

_SHORT = 128  # up to this length of a row all grids are tried that have the peak as a point
_PROBED = 64  # entries of longer rows that show whether they lie on a grid already
_ON_GRID = 1e-3  # of a step; float32 leaves 1e-5
_ROUNDS = 1  # a second one takes as long, and lowers the error by less than 1% (MiniLM)
_ENTRIES = 1 << 22  # of the rows treated at once


def round_channels(
    weight: Array,
    gram: Array | None = None,
    *,
    bits: int = 8,
    rows: int | None = None,
    scale_type: type[np.floating[Any]] = np.float32,
) -> Quantized:
    """Round a weight to integers with one scale for each row.

    Args:
        weight: (rows of the weight, K), finite.
        gram: (K, K), symmetric positive semi-definite, `X^T X` of what the rows are multiplied
            with; None: the error of the weight itself counts.
        bits: 2 to 8; integers are from `-2**(bits - 1)` to `2**(bits - 1) - 1`.
        rows: number of rows of X, see `damped`.
        scale_type: the type that scales are stored in, float16 or float32.

    Returns:
        Values (rows of the weight, K) and scales (rows of the weight, 1). No row has more error
        (under the Gram matrix, as it is given) than `quantize_symmetric` leaves.

    Raises:
        ValueError: an empty weight, NaN or infinity, bits, a Gram matrix or rows that do not fit.

    Source: GPTQ (Frantar et al., ICLR 2023) and QuantEase (Behdin et al., 2023) with a Gram
    matrix; without, the search over ranges of OMSE (Choukroun et al., ICCVW 2019).
    """
    w = check_weight(weight)
    plain = quantize_symmetric(w, (0,), bits, scale_type)
    if not w.any():
        return plain
    form = BlockFormat(bits, 0, scale_type=scale_type, signed=False)
    short = w.shape[1] <= _SHORT
    best = plain
    for offer in (_offer_all,) if gram is None else (_offer_shrunk, _offer_all)[: 1 + short]:
        blocks = best_grids(w, form, offer)
        if gram is not None:
            blocks = round_gptq(w, form, gram, rows=rows, grid=blocks)
            blocks = refine(blocks, w, gram, rows=rows, rounds=_ROUNDS)
        best = _better(w, _signed(blocks), best, None if gram is None else np.asarray(gram))
    return best


def _offer_all(search: GridSearch) -> None:
    """Offer narrower grids and, of short rows, all whose points include the peak."""
    _offer_shrunk(search)
    if len(search.scaled) > _SHORT:
        return
    for integer in _integers_of_peaks(search):
        search.offer(search.units / integer)
    search.fit()


def _offer_shrunk(search: GridSearch) -> None:
    """Offer narrower grids, and those that rows lie on already."""
    offer_shrunk(search)
    probed = search.scaled[:: -(-len(search.scaled) // _PROBED)]
    least = np.full(search.units.shape, np.inf, np.float32)
    steps = np.full(search.units.shape, float(search.form.middle))
    for integer in _integers_of_peaks(search):
        scaled = probed * np.float32(integer)
        scaled -= np.rint(scaled)
        lost = np.abs(scaled, out=scaled).max(axis=0)
        steps[lost < least] = integer
        np.minimum(least, lost, out=least)
    if (least < _ON_GRID).any():
        search.offer(search.units / steps)


def _integers_of_peaks(search: GridSearch) -> range:
    """What the largest entry of a row may become, at no less than half the range."""
    return range(search.form.middle, search.form.middle // 2 - 1, -1)


def _signed(blocks: Blocks) -> Quantized:
    """The same integers around 0."""
    # in bytes that wrap around, 0 to 255 less 128 is -128 to 127
    values = (blocks.values - np.uint8(blocks.format.middle)).view(np.int8)
    return Quantized(values, blocks.scales)


def _better(weight: Array, found: Quantized, plain: Quantized, gram: Array | None) -> Quantized:
    """`found`, but for the rows that `plain` gives with less error."""
    for part in parts(weight, _ENTRIES):
        worse = _energies(weight, found, gram, part) > _energies(weight, plain, gram, part)
        found.values[part][worse] = plain.values[part][worse]
        found.scales[part][worse] = plain.scales[part][worse]
    return found


def _energies(weight: Array, found: Quantized, gram: Array | None, part: slice) -> Matrix:
    """(rows,): squared error of the outputs of some rows."""
    lost = weight[part] - found.values[part] * found.scales[part]
    weighted = lost if gram is None else lost @ gram
    energies: Matrix = np.einsum("rk,rk->r", lost, weighted)
    return energies
