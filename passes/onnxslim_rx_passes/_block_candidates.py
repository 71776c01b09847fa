"""The ways in blocks that are offered for one weight."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from onnxslim_rx.passbase import Candidate, LayerStatistics
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._block_options import DEQUANTIZE, NBITS, BlockOptions, Wanted
from onnxslim_rx_passes._block_statistics import errors_of, known_of
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["block_candidates"]

# What more nodes and tensors cost in the file, measured on models with short names.
_OVERHEAD_BYTES = 500
_FOLLOWS = {"bits": 4, "group": 32, "rank": 0}
"""The one way in which factors of low rank are stored: chains of all ways would be too many."""


def block_candidates(
    weight: BlockWeight,
    stats: LayerStatistics | None,
    target: Target,
    wanted: Wanted,
    *,
    name: str,
    max_row_error: float,
) -> list[Candidate]:
    """Candidates from the mildest on.

    Args:
        weight: the weight.
        stats: of the layer.
        target: says which operators may be emitted.
        wanted: what the options leave open.
        name: of the pass.
        max_row_error: see `QuantizeWeights`.
    """
    stored = tensor_of(weight.root).numpy()
    if stored.size == 0 or not is_finite(stored):
        return []
    known = known_of(weight, stats)
    method = "clip" if weight.is_looked_up or known.gram is None else "gptq"
    form = NBITS if target.allows("ort") else DEQUANTIZE
    rows = weight.rows(stored)
    scales = functools.partial(_scale_type, stored.dtype, float(np.abs(stored).max()))
    found = []
    for options in wanted.offers(method, form, scales):
        if not _suits(weight, options, target, stored.nbytes, known.gram is not None):
            continue
        try:
            made = known.rounded(rows, options)
        except ValueError:  # scales that overflow their type
            continue
        errors = errors_of(rows, made, options, known)
        if errors.row <= max_row_error:
            found.append(_candidate(weight, options, errors.output, name))
    return sorted(found, key=lambda candidate: candidate.error)


def _scale_type(dtype: np.dtype[Any], peak: float, bits: int) -> str:
    """float16 where it holds the largest scale with all its digits, and where nothing else runs."""
    largest, half = peak / 2 ** (bits - 1), np.finfo(np.float16)
    fits = largest == 0 or float(half.tiny) <= largest <= float(half.max)
    return "float16" if fits or dtype == np.float16 else "float32"


def _suits(
    weight: BlockWeight, options: BlockOptions, target: Target, nbytes: int, measured: bool
) -> bool:
    if options.form == NBITS and not target.allows("ort"):
        return False
    if weight.why_not(options) is not None or (options.rank and not measured):
        return False
    return _bytes(weight, options) + _OVERHEAD_BYTES < nbytes


def _bytes(weight: BlockWeight, options: BlockOptions) -> int:
    return options.bytes(*weight.shape, int(weight.dtype.itemsize))


def _candidate(weight: BlockWeight, options: BlockOptions, error: float, name: str) -> Candidate:
    rows, k = weight.shape
    stage = options.stage(name)
    return Candidate(
        (stage,),
        error=error,
        bytes=_bytes(weight, options),
        flops=2 * (rows * k + options.rank * (rows + k)),
        follows=all(stage.options[key] == value for key, value in _FOLLOWS.items()),
    )
