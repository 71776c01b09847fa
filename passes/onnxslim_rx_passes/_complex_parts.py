"""Real and imaginary parts along the axis that a weight is summed over: scales for each of them.

Networks with complex values multiply pairs `(re, im, re, im, ...)`, or all real parts in front of
all imaginary ones, with one real matrix. Where parts are of different magnitude, so are the rows of
the matrix that they meet, and one scale for both loses the smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["Layout", "scale_layout", "why_not_one_scale"]

_APART = 4.0  # from this ratio of their peaks on one part has lost two bits to the other
_PROBED = 64  # of the channels along an axis, so many tell of all
_LEAST = 4  # entries of a part, so that the ratio of two peaks says something


class Layout(NamedTuple):
    """How a weight is looked at to find its scales.

    Args:
        shape: of the weight; where parts lie along an axis, it is two, one of them of size 2.
        axes: each index into these axes of `shape` gets a scale of its own.
        in_turns: whether real and imaginary parts are neighbours, so that scales for a few
            neighbours lose one of them.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    in_turns: bool = False


def scale_layout(layer: Layer, weight: Array) -> Layout:
    """One scale for each channel; where their parts differ in magnitude, for each of those.

    Args:
        layer: says which axes index channels, and which one is summed over.
        weight: its constant, or what takes the place of it, finite.
    """
    plain = Layout(weight.shape, channel_axes(layer))
    summed = _summed(layer, weight.ndim, plain.axes)
    if summed is None or not weight.size:
        return plain
    half, odd = divmod(weight.shape[summed], 2)
    if odd or half < _LEAST:
        return plain
    peaks = _peaks(weight, plain.axes, summed)
    turns = _ratio(peaks.reshape(-1, half, 2).max(axis=1))
    halves = _ratio(peaks.reshape(-1, 2, half).max(axis=2))
    if max(turns, halves) < _APART:
        return plain
    return _split(plain, summed, (half, 2) if turns > halves else (2, half))


def why_not_one_scale(layer: Layer) -> str | None:
    """Why what enters a layer must not be rounded with one scale for all of it, or None.

    Kernels on integers take one scale for each activation; weights that differ by part meet inputs
    that do, too.
    """
    weight = tensor_of(layer.weight).numpy()
    if scale_layout(layer, weight).shape == weight.shape:
        return None
    return "real and imaginary parts of different size enter, and would share one scale"


def _split(plain: Layout, summed: int, sizes: tuple[int, int]) -> Layout:
    """With the axis `summed` as two, the one of size 2 among those that have scales."""
    in_turns = sizes[1] == 2
    shape = (*plain.shape[:summed], *sizes, *plain.shape[summed + 1 :])
    axes = (summed + in_turns, *(axis + (axis > summed) for axis in plain.axes))
    return Layout(shape, tuple(sorted(axes)), in_turns)


def _summed(layer: Layer, rank: int, axes: Sequence[int]) -> int | None:
    """The axis that inputs lie along; of a table, that of its columns."""
    if layer.kind == "conv":
        # (M, C / group, ...) and of ConvTranspose (C, M / group, ...)
        groups = layer.node.attributes.get_int("group", 1)
        return None if groups != 1 else 1 if layer.op == "Conv" else 0
    others = [axis for axis in range(rank) if axis not in axes]
    return others[0] if len(others) == 1 and layer.kind != "parts" else None


def _peaks(weight: Array, channels: Sequence[int], summed: int) -> Array:
    """(channels, entries along the axis `summed`): absolute values, of some channels."""
    for axis in channels:
        step = -(-weight.shape[axis] // _PROBED)
        weight = weight[(slice(None),) * axis + (slice(None, None, step),)]
    front = (*channels, summed)
    moved = np.abs(np.moveaxis(weight, front, range(len(front))))
    taps = math.prod(moved.shape[len(front) :])
    return np.asarray(moved.reshape(-1, weight.shape[summed], taps).max(axis=2))


def _ratio(peaks: Array) -> float:
    """How many times the peak of one part is that of the other, in the median of (channels, 2)."""
    low, high = (one(peaks, axis=1).astype(np.float64) for one in (np.min, np.max))
    seen = low > 0  # zeros lose nothing
    return float(np.median(high[seen] / low[seen])) if seen.any() else 0.0
