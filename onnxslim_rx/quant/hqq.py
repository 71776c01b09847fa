"""HQQ: grids for which few entries are far off, without data."""

from __future__ import annotations

import functools

import numpy as np

from onnxslim_rx.quant.blocks import Array, BlockFormat, Blocks
from onnxslim_rx.quant.nearest import offer_shrunk
from onnxslim_rx.quant.search import Floats, GridSearch, best_grids

__all__ = ["round_hqq"]

# The source's; entries are in units of the peak of their block here.
_PENALTY, _GROWTH = 10.0, 1.01
_LEAST = np.float32(1e-12)  # of what is taken to a power below 0


def round_hqq(
    weight: Array, block_format: BlockFormat, *, power: float = 0.7, rounds: int = 20
) -> Blocks:
    """Round to the grids with the least sum of absolute errors to a power below 1.

    Half-quadratic splitting: outliers among the errors are set aside by a shrinkage operator, and
    the grid is fitted to the rest. It starts from the grids of `round_clipped`.

    Args:
        weight: (rows, K), finite.
        block_format: bits, groups, symmetry and the type of scales. Zero points are integers, so
            that every operator on blocks takes them; the source has real ones.
        power: above 0, at most 1.
        rounds: how often the grids are fitted, at least 0.

    Returns:
        As `round_nearest`.

    Raises:
        ValueError: as `round_nearest`, or a power or rounds out of range.

    Source: Badri & Shaji, "Half-Quadratic Quantization", 2023; scales are fitted as well.
    """
    if not 0 < power <= 1 or rounds < 0:
        raise ValueError(
            f"found power {power} and {rounds} rounds; expected above 0 and at most 1, at least 0"
        )
    return best_grids(weight, block_format, functools.partial(_split, power=power, rounds=rounds))


def _split(search: GridSearch, *, power: float, rounds: int) -> None:
    """Offer the grids of each round of half-quadratic splitting."""
    offer_shrunk(search)
    search.measure_by(power)
    scales, zeros = search.scales.copy(), search.zeros.copy()
    for number in range(rounds):
        units = (scales / search.units).astype(np.float32)
        steps = search.steps(scales, zeros)
        wrong = search.scaled - steps * units
        wanted = search.scaled - _shrunk(wrong, power, _PENALTY * _GROWTH**number)
        if not search.form.symmetric:
            shift = zeros + np.mean(steps - wanted / units, axis=0, dtype=np.float64)
            steps += zeros.astype(np.float32)
            zeros = np.clip(np.rint(shift), 0, search.form.largest)
            steps -= zeros.astype(np.float32)
        norms = np.einsum("kn,kn->n", steps, steps)
        fitted = np.einsum("kn,kn->n", steps, wanted)
        usable = (norms > 0) & (fitted != 0) if search.form.signed else fitted > 0
        fitted = np.divide(fitted, norms, out=units.copy(), where=usable)
        scales = search.form.stored(fitted * search.units)
        search.offer(scales, zeros)


def _shrunk(wrong: Floats, power: float, penalty: float) -> Floats:
    """What of the errors is set aside: the generalized soft threshold of the power."""
    sizes = np.abs(wrong)
    threshold = np.power(np.maximum(sizes, _LEAST), np.float32(power - 1)) / np.float32(penalty)
    found: Floats = np.sign(wrong) * np.maximum(sizes - threshold, 0)
    return found
