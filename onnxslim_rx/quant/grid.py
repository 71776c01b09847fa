"""Symmetric integer grids with one scale per channel.

All is computed in float64, some rows at a time: a copy of a large embedding in float64 would take
twice its memory, and each step of the arithmetic as much again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Quantized", "dequantize", "quantize_symmetric", "relative_error"]

Array = npt.NDArray[Any]

_BLOCK = 1 << 20  # entries that are treated at once


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
    w = np.asarray(weight)
    if not 2 <= bits <= 8:
        raise ValueError(f"found {bits} bits; expected 2 to 8")
    if w.size == 0:
        raise ValueError(f"found an empty or not finite weight of shape {w.shape}")
    if not all(-w.ndim <= axis < w.ndim for axis in axes):
        raise ValueError(f"found axes {tuple(axes)} for shape {w.shape}")
    channels = {axis % w.ndim for axis in axes}
    limit = 2 ** (bits - 1) - 1
    scales = (_peaks(w, channels) / limit).astype(scale_type)
    # a channel too small for the type gets the scale 0: treat it as zeros
    scales = np.where(scales > 0, scales, 1).astype(np.float64)
    values = np.empty(w.shape, np.int8)
    for block in _blocks(w):
        scaled = w[block].astype(np.float64)
        scaled /= _of(scales, block)
        values[block] = np.clip(np.rint(scaled, out=scaled), -limit, limit, out=scaled)
    return Quantized(values, scales)


def dequantize(
    quantized: Quantized, dtype: type[np.floating[Any]] = np.float64
) -> npt.NDArray[np.floating[Any]]:
    """The numbers that the integers stand for, in the shape of the weight.

    Args:
        quantized: integers and scales.
        dtype: type of the result; products are rounded to it once.
    """
    values, scales = quantized
    found = np.empty(values.shape, dtype)
    for block in _blocks(values):
        found[block] = values[block] * _of(scales, block)
    return found


def relative_error(weight: Array, quantized: Quantized) -> float:
    """`||W' - W||_F / ||W||_F` of a weight and its rounded form, no unit; 0 where W is 0."""
    values, scales = quantized
    error = norm = 0.0
    for block in _blocks(values):
        w = np.asarray(weight)[block].astype(np.float64)
        norm += float(np.sum(np.square(w)))
        w -= values[block] * _of(scales, block)
        error += float(np.sum(np.square(w, out=w)))
    return float(np.sqrt(error / norm)) if norm > 0 else 0.0


def _peaks(weight: Array, channels: set[int]) -> npt.NDArray[np.float64]:
    """The largest absolute value of each channel, other axes with length 1."""
    others = tuple(axis for axis in range(weight.ndim) if axis not in channels)
    found = []
    for block in _blocks(weight):
        peaks = np.abs(weight[block].astype(np.float64)).max(axis=others, keepdims=True)
        if not np.isfinite(peaks).all():
            raise ValueError(f"found an empty or not finite weight of shape {weight.shape}")
        found.append(peaks)
    if 0 in channels:
        return np.concatenate(found)
    return np.asarray(np.maximum.reduce(found))


def _blocks(array: Array) -> Iterator[Any]:
    """Indices of parts of `array`, whole rows each, in order."""
    if array.size <= _BLOCK:
        yield ...
        return
    rows = max(1, _BLOCK * len(array) // array.size)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _of(scales: npt.NDArray[np.float64], block: Any) -> npt.NDArray[np.float64]:
    """The scales of a block of the weight."""
    return scales if scales.ndim == 0 or len(scales) == 1 else scales[block]
