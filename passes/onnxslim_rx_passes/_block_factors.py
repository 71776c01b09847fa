"""Factors of a layer rounded to blocks, as the layers that are made of them will be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array, Factors, LayerStatistics
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._block_statistics import Known, known_of, settled
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._channel_factors import round_along, round_factors

__all__ = ["round_blocks"]

_BYTE = 8


def round_blocks(
    weight: BlockWeight,
    factors: Factors,
    options: BlockOptions,
    stats: LayerStatistics | None,
    least: int,
) -> Factors:
    """Each factor as it will be stored.

    The inputs of a second factor are what the first makes of the layer's: `P^T G P` of them is
    known where `G` is.

    Args:
        weight: what the factors stand for.
        factors: the weight as it is stored, or factors (K, R), (R, N) of a product, (V, R), (R, K)
            of a table.
        options: how weights are stored.
        stats: of the layer.
        least: factors with fewer entries are left alone.
    """
    known = known_of(weight, stats)
    if len(factors) == 1:
        rows = _rounded(weight.rows(factors[0]), options, known, weight, factor=False)
        return (weight.rows(rows),)
    if any(factor.ndim != 2 for factor in factors):
        return round_factors(weight.layer, factors, _BYTE, least)
    found = []
    for number, factor in enumerate(factors):
        table = number == 0 and weight.is_looked_up
        own = factor if table else factor.T
        if table and weight.why_not(options, factor.shape[1]) is not None:
            own = round_along(weight.layer, own, (0,), _BYTE)
        elif factor.size >= least:
            own = _rounded(own, options, known, weight, factor=True)
        found.append(own if table else own.T)
        known = known.behind(factor, table=table)
    return tuple(found)


def _rounded(
    rows: Array, options: BlockOptions, known: Known, weight: BlockWeight, *, factor: bool
) -> npt.NDArray[np.floating]:
    """In float64, or in float32 where the weight is given so."""
    own = settled(options, known, weight.layer.name, factor=factor)
    made = known.rounded(rows.astype(weight.dtype.numpy(), copy=False), own)
    dtype = np.float32 if rows.dtype == np.float32 else np.float64
    return made.dense(rows.shape[1], own, dtype)
