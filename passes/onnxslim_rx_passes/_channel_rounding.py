"""Weights rounded per channel, as they will be stored; computed once and kept.

A stage that names no method rounds to nearest, as all did before there were methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Array, Layer, LayerStatistics, Stage
from onnxslim_rx.quant import (
    Quantized,
    dequantize,
    error,
    quantize_symmetric,
    relative_error,
    round_channels,
)
from onnxslim_rx_passes._linear import tensor_of
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["CLIP", "GPTQ", "METHODS", "NEAREST", "Channels", "method_of", "scale_type"]

Matrix = npt.NDArray[np.float64]

NEAREST, CLIP, GPTQ = "nearest", "clip", "gptq"
METHODS = (NEAREST, CLIP, GPTQ)
"""To the nearest point of a grid over the whole range; on the grid of the least squared error of
the weight; with the least error of the outputs."""

_KEPT = Memo(256 << 20)


def method_of(stage: Stage) -> str:
    """The method of a stage that stores weights per channel.

    Raises:
        InputError: there is no such method.
    """
    method = str(stage.options.get("method", NEAREST))
    if method not in METHODS:
        text = f"a stage per channel has method = {method!r}"
        raise InputError(text, expected=", ".join(METHODS))
    return method


def scale_type(layer: Layer) -> type[np.floating]:
    """The type that scales of a layer's weight are stored in, before they are cast to its own."""
    half = tensor_of(layer.weights[0]).dtype == ir.DataType.FLOAT16
    return np.float16 if half else np.float32


class Channels(NamedTuple):
    """A weight, or a factor of it, that gets a scale for each index of some axes.

    Args:
        layer: what it is the weight of, or a factor of.
        axes: those of output channels.
        gram: of the inputs, (K, K) for K entries of a channel, or None.
        rows: how many were summed up.
        cut: whether the layer has statistics of inputs, and they do not fit.
    """

    layer: Layer
    axes: Sequence[int]
    gram: Matrix | None = None
    rows: int = 1
    cut: bool = False

    @classmethod
    def of(
        cls, layer: Layer, shape: Sequence[int], axes: Sequence[int], stats: LayerStatistics | None
    ) -> Channels:
        """With the Gram matrix of the statistics, where it is that of one channel's inputs."""
        gram = None if stats is None else stats.gram
        if stats is None or gram is None or not _is_plain_product(layer, shape):
            return cls(layer, axes)
        k = math.prod(shape) // math.prod(shape[axis] for axis in axes)
        if len(gram) != k:
            return cls(layer, axes, cut=True)
        return cls(layer, axes, gram, max(stats.rows, 1))

    def settled(self, method: str, *, factor: bool) -> str:
        """The method that can be carried out.

        A factor, or what is left of a weight, of whose inputs nothing is known does without.

        Raises:
            InputError: the method needs statistics that there are not.
        """
        if method != GPTQ or self.gram is not None:
            return method
        if factor or self.cut:
            return CLIP
        raise InputError(
            f"{self.layer.name} is to be rounded by {method}, and there are no statistics of its"
            " inputs",
            advice="give calibration data (a plan: those it was made with), or use method clip",
        )

    def rounded(self, weight: Array, bits: int, method: str) -> Quantized:
        """Round the weight; `method` is one that can be carried out.

        Raises:
            ValueError: NaN or infinity.
        """
        if method == NEAREST:
            return quantize_symmetric(weight, self.axes, bits, scale_type(self.layer))
        gram = self.gram if method == GPTQ else None
        key = self._key(weight, gram), bits, method
        return Quantized(*_KEPT.get(key, lambda: self._made(weight, bits, gram)))

    def error(self, weight: Array, bits: int, method: str) -> float:
        """Relative error of the outputs; of the weight, where the inputs are not known."""
        key = self._key(weight, self.gram), bits, method, "error"
        (found,) = _KEPT.get(key, lambda: [self._error(weight, self.rounded(weight, bits, method))])
        return float(found)

    def restored(self, weight: Array, bits: int, method: str) -> npt.NDArray[np.floating]:
        """What stands for a weight, in float64, or in float32 where it is given so."""
        dtype = np.float32 if weight.dtype == np.float32 else np.float64
        if method != NEAREST:  # so that what is kept is found again
            weight = weight.astype(tensor_of(self.layer.weights[0]).dtype.numpy(), copy=False)
        return dequantize(self.rounded(weight, bits, method), dtype)

    def _key(self, weight: Array, gram: Matrix | None) -> object:
        known = [weight] if gram is None else [weight, gram]
        return digest(known), tuple(self.axes), self.rows, scale_type(self.layer)

    def _made(self, weight: Array, bits: int, gram: Matrix | None) -> Quantized:
        found = round_channels(
            self._as_rows(weight),
            gram,
            bits=bits,
            rows=self.rows,
            scale_type=scale_type(self.layer),
        )
        others = [1 if axis in self.axes else size for axis, size in enumerate(weight.shape)]
        return Quantized(
            self._as_stored(found.values, weight.shape, others),
            self._as_stored(found.scales, weight.shape, [1] * weight.ndim),
        )

    def _error(self, weight: Array, grid: Quantized) -> Array:
        if self.gram is None:
            return np.asarray(relative_error(weight, grid))
        return np.asarray(error(self._as_rows(weight), self._as_rows(dequantize(grid)), self.gram))

    def _as_rows(self, weight: Array) -> Array:
        """(channels, entries of each)."""
        moved = np.moveaxis(weight, self.axes, range(len(self.axes)))
        return moved.reshape(math.prod(moved.shape[: len(self.axes)]), -1)

    def _as_stored(self, rows: Array, shape: Sequence[int], others: Sequence[int]) -> Array:
        """The inverse, with the lengths `others` along axes that index no channels."""
        lengths = [size for axis, size in enumerate(others) if axis not in self.axes]
        moved = rows.reshape(*(shape[axis] for axis in self.axes), *lengths)
        return np.ascontiguousarray(np.moveaxis(moved, range(len(self.axes)), self.axes))


def _is_plain_product(layer: Layer, shape: Sequence[int]) -> bool:
    """Whether every channel is multiplied with the same inputs, all of them."""
    if layer.kind == "conv":
        whole = layer.op == "Conv" or math.prod(shape[2:]) == 1
        return whole and layer.node.attributes.get_int("group", 1) == 1
    return layer.kind == "linear" and len(shape) == 2
