"""Factors of a layer rounded per channel, as the layers that are made of them will be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array, Factors, Layer, LayerStatistics
from onnxslim_rx_passes._block_statistics import Known
from onnxslim_rx_passes._channel_rounding import NEAREST, Channels
from onnxslim_rx_passes._complex_parts import scale_layout
from onnxslim_rx_passes._conv_chains import output_axes
from onnxslim_rx_passes._conv_geometry import Convolution
from onnxslim_rx_passes._tables import table_statistics

__all__ = ["round_along", "round_factors"]


def round_factors(
    layer: Layer,
    factors: Factors,
    bits: int,
    least: int,
    *,
    method: str = NEAREST,
    stats: LayerStatistics | None = None,
) -> Factors:
    """Each factor rounded to its grid; of several, each per channel of its outputs.

    Args:
        layer: what the factors stand for.
        factors: of one weight.
        bits: 2 to 8.
        least: entries below which a kernel of a chain is left alone.
        method: how they are rounded; of factors, those that statistics allow it of.
        stats: of the layer.

    Raises:
        InputError: the method needs statistics that there are not.
    """
    if len(factors) == 1:
        (weight,) = factors
        shape, axes, _ = scale_layout(layer, weight)
        channels = Channels.of(layer, shape, axes, stats)
        own = channels.settled(method, factor=shape != weight.shape)
        return (channels.restored(weight.reshape(shape), bits, own).reshape(weight.shape),)
    if layer.kind == "conv":
        return _kernels(layer, factors, bits, least, method, stats)
    known = _entering(layer, factors, stats)
    found = []
    for number, factor in enumerate(factors):
        table = number == 0 and known.table
        axes = (0,) if table else (*range(factor.ndim - 2), factor.ndim - 1)
        gram = None if table or not known.fits(factor) else known.gram
        channels = Channels(layer, axes, gram, known.samples)
        found.append(channels.restored(factor, bits, channels.settled(method, factor=True)))
        known = known.behind(factor, table=table)
    return tuple(found)


def round_along(
    layer: Layer, weight: Array, axes: Sequence[int], bits: int
) -> npt.NDArray[np.floating]:
    """A part of a layer rounded to nearest, with one scale for each index of `axes`.

    In float64, or in float32 where it is given so.
    """
    return Channels(layer, axes).restored(weight, bits, NEAREST)


def _kernels(
    layer: Layer,
    factors: Factors,
    bits: int,
    least: int,
    method: str,
    stats: LayerStatistics | None,
) -> Factors:
    """Of a chain of convolutions; depthwise kernels and small ones are left alone."""
    found = []
    axes = output_axes(Convolution.of(layer), factors)
    for number, (factor, axis) in enumerate(zip(factors, axes, strict=True)):
        if axis is None or factor.size < least:
            found.append(factor)
            continue
        channels = Channels.of(layer, factor.shape, (axis,), None if number else stats)
        found.append(channels.restored(factor, bits, channels.settled(method, factor=True)))
    return tuple(found)


def _entering(layer: Layer, factors: Factors, stats: LayerStatistics | None) -> Known:
    """What is known of the inputs of the first factor."""
    table = layer.kind == "embedding"
    if stats is None:
        return Known(table=table)
    if table:
        counts, _ = table_statistics(layer.name, (len(factors[0]), factors[-1].shape[-1]), stats)
        return Known(counts=counts, table=True)
    return Known(stats.gram if layer.kind == "linear" else None, None, max(stats.rows, 1))
