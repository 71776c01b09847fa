"""Symmetric integer grids with one scale per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Quantized", "dequantize", "quantize_symmetric"]


class Quantized(NamedTuple):
    """Integers and the scales that turn them back.

    `values` has the shape of the weight, int8. `scales` has the same number of axes, with length
    1 in all but the channel axes, float64, in the units of the weight, each above 0.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]


def quantize_symmetric(
    weight: npt.NDArray[Any],
    axes: Sequence[int],
    bits: int = 8,
    scale_type: type[np.floating[Any]] = np.float32,
) -> Quantized:
    """Round a weight to the nearest point of a symmetric grid.

    Args:
        weight: any shape with at least one entry, finite.
        axes: the channel axes, each -ndim to ndim - 1: one scale for each index into them; none:
            one scale for all.
        bits: 2 to 8; the grid has `2**bits - 1` points, from `-(2**(bits-1) - 1)` to its opposite.
        scale_type: the type that the model stores scales in; they are rounded to it first.

    Returns:
        Integers and scales with `|weight - values * scales| <= scales / 2` everywhere, up to the
        rounding of the scales. A channel of zeros gets the scale 1.

    Raises:
        ValueError: an axis or a number of bits outside its range, an empty weight, or an entry
            that is not finite.

    Source: Jacob et al., CVPR 2018, with the symmetric signed range that integer kernels want.
    """
    w = np.asarray(weight, dtype=np.float64)
    if not 2 <= bits <= 8:
        raise ValueError(f"found {bits} bits; expected 2 to 8")
    if w.size == 0 or not np.isfinite(w).all():
        raise ValueError(f"found an empty or not finite weight of shape {w.shape}")
    if not all(-w.ndim <= axis < w.ndim for axis in axes):
        raise ValueError(f"found axes {tuple(axes)} for shape {w.shape}")
    channels = {axis % w.ndim for axis in axes}
    others = tuple(i for i in range(w.ndim) if i not in channels)
    limit = 2 ** (bits - 1) - 1
    scales = (np.abs(w).max(axis=others, keepdims=True) / limit).astype(scale_type)
    # a channel too small for the type gets the scale 0: treat it as zeros
    scales = np.where(scales > 0, scales, 1).astype(np.float64)
    values = np.clip(np.rint(w / scales), -limit, limit).astype(np.int8)
    return Quantized(values, scales)


def dequantize(quantized: Quantized) -> npt.NDArray[np.float64]:
    """The numbers that the integers stand for, float64, in the shape of the weight."""
    return quantized.values.astype(np.float64) * quantized.scales
