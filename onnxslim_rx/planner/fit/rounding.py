"""Weights that will be stored in fewer bits, fitted before they are rounded.

Rounding follows the statistics of what enters a layer. In the compressed network that is something
else, and its errors are there already: so the weight is first moved to where the original's sums
are closest, then rounded under what now enters, and the walk goes on with what the rounded weight
computes. Errors of the layers before are corrected as far as the grid allows.

Source: Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML
2025, with the closed-form target of a ridge regression.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import ChannelMoments, Moments, Stop
from onnxslim_rx.ir import constant
from onnxslim_rx.linalg import mismatch_energy
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Stage
from onnxslim_rx.planner.fit.fit import Fit
from onnxslim_rx.planner.fit.pair import Pair
from onnxslim_rx.planner.fit.products import main_products
from onnxslim_rx.planner.fit.refitted import Fitted, Refitted

__all__ = ["RoundedFit", "Rounding", "rounded_pairs"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Rounding:
    """How a weight will be stored.

    Args:
        layer: of the compressed model, its weight not rounded yet.
        stage: what will be done.
        by: the pass that does it.
        stats: of the original network, or None.
    """

    layer: Layer
    stage: Stage
    by: CompressionPass
    stats: LayerStatistics | None

    @property
    def weight(self) -> str:
        """Name of the initializer."""
        return str(self.layer.weight.name)

    @property
    def is_fitted(self) -> bool:
        """Whether the weight is fitted first."""
        return self.by.follows_data(self.stage)

    def stored(self) -> Array:
        """The weight as it is."""
        tensor = constant(self.layer.weight)
        assert tensor is not None  # a layer's weight is a constant
        return tensor.numpy()

    def of(self, weight: Array, stats: LayerStatistics | None) -> Array:
        """What will stand for `weight`, in its shape and type."""
        factors = self.by.transform(self.layer, self.stage, (weight,), stats)
        (found,) = self.by.restore(self.layer, factors)
        return np.ascontiguousarray(found.astype(weight.dtype, copy=False))


@dataclasses.dataclass(frozen=True, eq=False)
class RoundedFit:
    """A layer to fit whose weight is then rounded."""

    fit: Fit
    rounding: Rounding

    @property
    def stop(self) -> Stop:
        """Where the networks are compared."""
        return self.fit.stop

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of what is fitted."""
        return self.fit.weights

    def best(self, moments: Moments | ChannelMoments) -> Fitted:
        """The weight to be rounded, fitted or as it is, whichever is closer once it is rounded."""
        assert isinstance(moments, Moments)
        form, rounding, name = self.fit.form, self.rounding, self.rounding.weight
        assert isinstance(form, Pair)
        now = form.now()
        plain = rounding.of(rounding.stored(), rounding.stats)
        before = _energy(form.product({name: plain}) - now, moments)
        stats = _statistics(rounding.stats, moments)
        weight = form.solve(now, moments)[name]
        after, rounded = math.inf, plain
        if np.isfinite(weight).all():
            rounded = rounding.of(weight, stats)
            after = _energy(form.product({name: rounded}) - now, moments)
        better = after < before
        total = moments.wanted

        def share(energy: float) -> float:
            return math.sqrt(energy / total) if total > 0 else 0.0

        report = Refitted(
            self.stop.name,
            share(before),
            share(min(after, before)),
            moments.rows,
            "" if better else "no other weight is closer once it is rounded",
            {rounding.layer.name: stats} if better else {},
        )
        if not better:
            return Fitted({}, {name: plain}, report)
        return Fitted({name: weight}, {name: rounded}, report)


def rounded_pairs(
    compressed: ir.Model, roundings: Mapping[str, Rounding]
) -> Iterator[tuple[str, Pair | str]]:
    """The output of each product whose weight will be rounded, and the product, or why not.

    Args:
        compressed: with layers in their new form, nothing rounded yet.
        roundings: by name of the weight.
    """
    for use, product in main_products(compressed):
        rounding = roundings.get(str(use.weight.name))
        if rounding is not None and rounding.is_fitted:
            output = str(use.node.outputs[0].name)
            # sums alone are fitted: what is added stays
            yield output, product if isinstance(product, str) else Pair(None, product, None, None)


def _energy(change: Matrix, moments: Moments) -> float:
    return mismatch_energy(change, moments.gram, moments.cross, moments.missing)


def _statistics(before: LayerStatistics | None, moments: Moments) -> LayerStatistics:
    """What enters the layer of the compressed network."""
    now = LayerStatistics(moments.gram, None, moments.rows, None, ())
    if before is None:
        return now
    # rows and ranges hardly change, and pairs of neighbours must keep theirs
    return dataclasses.replace(
        now,
        shape=before.shape,
        sample=before.sample,
        low=before.low,
        high=before.high,
        entering=before.entering,
        leaving=before.leaving,
    )
