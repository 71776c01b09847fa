"""A layer and what its stage makes of it: grids, weight, bias, and the error to expect."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from onnxslim_rx.passbase import Layer, LayerStatistics, Skip, Stage
from onnxslim_rx.quant import Histogram
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import weight_of
from onnxslim_rx_passes._qdq_grids import ACTIVATIONS, Grid, grid_of
from onnxslim_rx_passes._qdq_weights import (
    IntegerWeight,
    Matrix,
    Vector,
    bias_of,
    by_group,
    least_scales,
    weight_rows,
)

__all__ = ["Unit"]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One layer, rounded.

    Args:
        layer: Conv, Gemm or MatMul.
        stats: with a histogram of what enters, and of a Conv of what leaves.
        entering: grid of the input.
        leaving: grid of the output of a Conv; others leave it to those who read it.
        rows: (N, K), the weight.
        bias: (N,), or None.
        weight: the weight, rounded.
    """

    layer: Layer
    stats: LayerStatistics
    entering: Grid
    leaving: Grid | None
    rows: Matrix
    bias: Vector | None
    weight: IntegerWeight

    @classmethod
    def of(cls, layer: Layer, stage: Stage, stats: LayerStatistics | None) -> Unit | Skip:
        """What `stage` makes of `layer`, or why that cannot be said."""
        if stats is None or stats.entering is None:
            return Skip("no ranges of what enters are known")
        if layer.op == "Conv" and stats.leaving is None:
            return Skip("no ranges of what leaves are known")
        if not is_finite(weight_of(layer)):
            return Skip("the weight has NaN or infinity")
        dtype = ACTIVATIONS[str(stage.options["activations"])]
        method = str(stage.options["method"])
        entering = grid_of(stats.entering, str(stage.options.get("entering", method)), dtype)
        leaving = None
        if layer.op == "Conv" and stats.leaving is not None:
            leaving = grid_of(stats.leaving, method, dtype)
        rows = weight_rows(layer)
        bias = bias_of(layer, len(rows))
        if bias is not None and not is_finite(bias):
            return Skip("the bias has NaN or infinity")
        least = least_scales(bias, entering.scale)
        weight = IntegerWeight.of(layer, rows, stats, int(stage.options["bits"]), least)
        return cls(layer, stats, entering, leaving, rows, bias, weight)

    def corrected_bias(self) -> Vector | None:
        """The bias without what rounding the weight adds to the mean of each output."""
        own = by_group(self.layer, self.rows.shape[1])
        mean = self.stats.mean
        nowhere = self.bias is None and self.layer.op == "MatMul"
        if nowhere or mean is None or len(mean) != own[-1].stop:
            return self.bias
        parts = zip(own, np.split(self.weight.lost, len(own)), strict=True)
        shift = np.concatenate([lost @ mean[one] for one, lost in parts])
        return -shift if self.bias is None else self.bias - shift

    @property
    def bytes(self) -> int:
        """Weight, its scales and those of the bias."""
        return int(self.weight.values.size + 2 * self.weight.scales.nbytes)

    def error(self) -> float:
        """Relative error of the output, or NaN: that of input, weight and output together."""
        stats, entering = self.stats, self.stats.entering
        assert entering is not None  # see `of`
        signal, lost = self._energies()
        if not signal > 0:
            return math.nan
        noise = self.entering.error(entering) * float(np.sum(np.square(self.rows)))
        total = (noise + lost) / signal
        if self.leaving is not None and stats.leaving is not None:
            total += self.leaving.error(stats.leaving) / (_mean_square(stats.leaving) or 1.0)
        return math.sqrt(total)

    def _energies(self) -> tuple[float, float]:
        """Of all outputs at a position, the mean sum of squares: as they are, as rounding adds.

        Without a Gram matrix inputs count as independent and of mean 0.
        """
        stats, own = self.stats, by_group(self.layer, self.rows.shape[1])
        entering = stats.entering
        assert entering is not None
        if stats.gram is None or len(stats.gram) != own[-1].stop:
            square = _mean_square(entering)
            lost = float(np.sum(np.square(self.weight.lost)))
            return square * float(np.sum(np.square(self.rows))), square * lost
        gram = stats.gram / max(stats.rows, 1)
        found = [
            sum(
                float(np.einsum("nk,nk->", part @ gram[one, one], part))
                for one, part in zip(own, np.split(matrix, len(own)), strict=True)
            )
            for matrix in (self.rows, self.weight.lost)
        ]
        return found[0], found[1]


def _mean_square(histogram: Histogram) -> float:
    left, right, counts = histogram.pieces()
    return float(counts @ np.square((left + right) / 2)) / max(float(counts.sum()), 1.0)
