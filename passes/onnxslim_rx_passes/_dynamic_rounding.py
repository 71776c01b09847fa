"""Weights as products in INT8 have them, and what rounding them and the activations costs."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Array, Layer, LayerStatistics, Stage
from onnxslim_rx.quant import Quantized, dequantize
from onnxslim_rx_passes._channel_rounding import METHODS, NEAREST, Channels
from onnxslim_rx_passes._dynamic_smoothing import as_seen, inverse_scales, knows_sizes
from onnxslim_rx_passes._linear import is_factor

__all__ = ["DynamicOptions", "Product"]

Matrix = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class DynamicOptions:
    """The options of a stage.

    Args:
        bits: of weights, 7 or 8.
        method: how weights are rounded: "nearest", "clip" or "gptq".
        smooth: the exponent of the scales that channels are divided by, 0 to 1; 0: no scales.
        correct: whether the bias makes up for the mean error.

    Raises:
        InputError: an option outside its range.
    """

    bits: int
    method: str = NEAREST
    smooth: float = 0.0
    correct: bool = False

    def __post_init__(self) -> None:
        for option, fine, expected in (
            ("bits", self.bits in (7, 8), "7 or 8"),
            ("method", self.method in METHODS, ", ".join(METHODS)),
            ("smooth", 0.0 <= self.smooth <= 1.0, "0 to 1"),
        ):
            if not fine:
                text = f"a stage of quantize-dynamic has {option} = {getattr(self, option)!r}"
                raise InputError(text, expected=expected)

    @classmethod
    def of(cls, stage: Stage) -> DynamicOptions:
        """Of a stage; one without a method is from before there were methods."""
        given = stage.options
        return cls(
            int(given["bits"]),
            str(given.get("method", NEAREST)),
            float(given.get("smooth", 0.0)),
            bool(given.get("correct", False)),
        )

    def stage(self, name: str) -> Stage:
        """The stage of the pass `name`."""
        return Stage(name, dataclasses.asdict(self))


class Product(NamedTuple):
    """A product `(X i) Q` whose operands are rounded.

    Args:
        grid: Q, (K, N) integers with a scale for each column.
        inverse: i, (K,), or None where activations are rounded as they come.
    """

    grid: Quantized
    inverse: Floats | None

    @classmethod
    def of(
        cls, layer: Layer, weight: Array, options: DynamicOptions, stats: LayerStatistics | None
    ) -> Product:
        """Round a weight.

        Args:
            layer: that has it.
            weight: (K, N) as applied.
            options: how. A factor, or what is left of a weight, of whose inputs nothing is known
                does with less.
            stats: of the inputs.

        Raises:
            ValueError: NaN or infinity.
            InputError: the options need statistics that there are not.
        """
        gram = None if stats is None else stats.gram
        cut = gram is not None and len(gram) != len(weight)
        gram = None if cut else gram
        rows = 1 if stats is None else max(stats.rows, 1)
        factor = cut or is_factor(layer.node)
        method = Channels(layer, (1,), gram, rows).settled(options.method, factor=factor)
        inverse = None
        if options.smooth > 0 and stats is not None and knows_sizes(stats, len(weight)):
            inverse = inverse_scales(stats, options.smooth)
            weight = weight / inverse[:, None].astype(np.float64)
            gram = None if gram is None else gram * np.outer(inverse, inverse)
        elif options.smooth > 0 and not factor:
            raise InputError(
                f"{layer.name} is to be smoothed, and there are no statistics of its inputs",
                advice="give calibration data (a plan: those it was made with), or set smooth = 0",
            )
        grid = Channels(layer, (1,), gram, rows).rounded(weight, options.bits, method)
        return cls(grid, inverse)

    def dense(self) -> Matrix:
        """(K, N): what activations are multiplied with, but for their own rounding."""
        found = dequantize(self.grid).astype(np.float64, copy=False)
        return found if self.inverse is None else found * self.inverse[:, None]

    def lost(self, weight: Array, x: Array) -> Matrix:
        """(rows, N): errors of the outputs of some rows x, rounded a few rows at a time."""
        x = x.astype(np.float64)
        scaled = x if self.inverse is None else x * self.inverse
        found: Matrix = as_seen(scaled) @ dequantize(self.grid) - x @ weight
        return found
