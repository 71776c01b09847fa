"""Real and imaginary parts along the axis that a weight is summed over: scales for each of them.

Networks with complex values multiply pairs `(re, im, re, im, ...)`, or all real parts in front of
all imaginary ones, with one real matrix. Where parts are of different magnitude, so are the rows of
the matrix that they meet, and one scale for both loses the smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._channel_axes import channel_axes

__all__ = ["Layout", "scale_layout"]

_APART = 4.0  # from this ratio of their peaks on one part has lost two bits to the other
_LEAST = 4  # entries of a part, so that the ratio of two peaks says something


class Layout(NamedTuple):
    """How a weight is looked at to find its scales.

    Args:
        shape: of the weight; where parts lie along an axis, it is two, one of them of size 2.
        axes: each index into these axes of `shape` gets a scale of its own.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]


def scale_layout(layer: Layer, weight: Array) -> Layout:
    """One scale for each channel; where their parts differ in magnitude, for each of those.

    Args:
        layer: says which axes index channels, and which one is summed over.
        weight: its constant, or what takes the place of it, finite.
    """
    shape, axes = weight.shape, channel_axes(layer)
    plain = Layout(shape, axes)
    summed = _summed(layer, len(shape), axes)
    if summed is None or shape[summed] % 2 or shape[summed] // 2 < _LEAST or not weight.size:
        return plain
    half = shape[summed] // 2
    ways = []
    for pair, place in (((half, 2), 1), ((2, half), 0)):
        split = (*shape[:summed], *pair, *shape[summed + 1 :])
        moved = tuple(axis if axis < summed else axis + 1 for axis in axes)
        part = summed + place
        ways.append(
            (
                _ratio(weight.reshape(split), moved, part),
                Layout(split, tuple(sorted((*moved, part)))),
            )
        )
    ratio, layout = max(ways, key=lambda way: way[0])
    return layout if ratio >= _APART else plain


def _summed(layer: Layer, rank: int, axes: Sequence[int]) -> int | None:
    """The axis that inputs lie along; of a table, that of its columns."""
    if layer.kind == "conv":
        # (M, C / group, ...) and of ConvTranspose (C, M / group, ...)
        groups = layer.node.attributes.get_int("group", 1)
        return None if groups != 1 else 1 if layer.op == "Conv" else 0
    others = [axis for axis in range(rank) if axis not in axes]
    return others[0] if len(others) == 1 and layer.kind != "parts" else None


def _ratio(view: Array, channels: Sequence[int], part: int) -> float:
    """How many times the peak of one part is that of the other, in the median of all channels."""
    others = tuple(axis for axis in range(view.ndim) if axis not in (*channels, part))
    # without a copy of the weight
    peaks = np.maximum(view.max(axis=others, keepdims=True), -view.min(axis=others, keepdims=True))
    low, high = (one(peaks, axis=part).astype(np.float64) for one in (np.min, np.max))
    seen = low > 0  # zeros lose nothing
    return float(np.median(high[seen] / low[seen])) if seen.any() else 0.0
