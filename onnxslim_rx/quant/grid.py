"""Symmetric integer grids with one scale per channel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Quantized", "dequantize", "quantize_symmetric"]


class Quantized(NamedTuple):
    """Integers and the scales that turn them back.

    `values` has the shape of the weight, int8. `scales` has the same number of axes, with length
    1 in all but the channel axis, float64, in the units of the weight, each above 0.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]


def quantize_symmetric(weight: npt.NDArray[Any], axis: int | None, bits: int = 8) -> Quantized:
    """Round a weight to the nearest point of a symmetric grid.

    Args:
        weight: any shape with at least one entry, finite.
        axis: the channel axis, -ndim to ndim - 1; None: one scale for all.
        bits: 2 to 8; the grid has `2**bits - 1` points, from `-(2**(bits-1) - 1)` to its opposite.

    Returns:
        Integers and scales with `|weight - values * scales| <= scales / 2` everywhere, up to the
        rounding of the scales to float32 (the type that models store). A channel of zeros gets
        the scale 1.

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
    if axis is not None and not -w.ndim <= axis < w.ndim:
        raise ValueError(f"found axis {axis} for shape {w.shape}; expected {-w.ndim}..{w.ndim - 1}")
    channel = None if axis is None else axis % w.ndim
    others = tuple(i for i in range(w.ndim) if i != channel)
    largest = np.abs(w).max(axis=others, keepdims=True)
    limit = 2 ** (bits - 1) - 1
    # a channel of denormals would get the scale 0 in float32: treat it as zeros
    scales = (largest / limit).astype(np.float32).astype(np.float64)
    scales = np.where(scales > 0, scales, 1.0)
    values = np.clip(np.rint(w / scales), -limit, limit).astype(np.int8)
    return Quantized(values, scales)


def dequantize(quantized: Quantized) -> npt.NDArray[np.float64]:
    """The numbers that the integers stand for, float64, in the shape of the weight."""
    return quantized.values.astype(np.float64) * quantized.scales
