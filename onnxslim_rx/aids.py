"""Rewrites that change nothing by themselves, but what a compression pass costs afterwards.

Whether they help depends on the model: so they are tried, and measured with that pass on all of its
layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.calibration import Dataset, Samples, Split, collect
from onnxslim_rx.ir import digest
from onnxslim_rx.passbase import CompressionPass, Layer, RewritePass
from onnxslim_rx.pipeline import OPTIONAL
from onnxslim_rx.planner import apply_plan
from onnxslim_rx.plans import Budget, LayerPlan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import Target
from onnxslim_rx.verify import compare_runs

__all__ = ["Losses", "helpers"]

_CLEARLY = 0.9  # what is measured on few samples counts as less below this ratio
_LEAST = 1e-4  # a smaller loss (1 - cosine) needs no help
_CALIBRATE, _SELECT = 32, 16  # samples


def helpers(passes: Mapping[str, CompressionPass]) -> dict[str, CompressionPass]:
    """Optional passes of the clean-up by name, and which of `passes` may lose less behind each."""
    known = registry.all_passes()
    found = {
        name: passes.get(one.helps)
        for name in sorted(OPTIONAL & known.keys())
        if issubclass(one := known[name], RewritePass)
    }
    return {name: helped for name, helped in found.items() if helped is not None}


@dataclasses.dataclass(frozen=True)
class Losses:
    """What models lose with every layer treated by one pass, on a few samples.

    Args:
        one: the pass; of its candidates for a layer the first is taken.
        reference: what is right.
        parts: the user's samples.
        budget: says which outputs and which statistic count.
        target: the device profile.
    """

    one: CompressionPass
    reference: Runner
    parts: Split
    budget: Budget
    target: Target

    def less(self, before: ir.Model, after: ir.Model) -> str:
        """What to tell of it where `after` loses clearly less than `before`; else "".

        Raises:
            InputError: the data does not fit, or onnxruntime fails.
        """
        if digest(before) == digest(after):
            return ""
        old = self._loss(before)
        if old is None or old < _LEAST:
            return ""
        new = self._loss(after)
        if new is None or not new < _CLEARLY * old:
            return ""
        return (
            f"with all layers in {self.one.name} the loss is {new:.2g} (1 - cosine), and {old:.2g}"
            " without it"
        )

    def _loss(self, model: ir.Model) -> float | None:
        """`1 - cosine`; None where the pass has nothing to do."""
        one = self.one
        layers = [layer for layer in one.layers(model) if isinstance(layer, Layer)]
        if not layers:
            return None
        few = _few(self.parts.calibrate, _CALIBRATE)
        stats = collect(model, layers, few, ranges=one.reads_ranges)
        plans = [
            LayerPlan(layer.name, candidate.stages)
            for layer in layers
            for candidate in list(one.candidates(layer, stats.get(layer.name), self.target))[:1]
        ]
        if not plans:
            return None
        built, _ = apply_plan(model, plans, {one.name: one}, stats)
        outputs, data = self.budget.outputs, _few(self.parts.select, _SELECT)
        comparison = compare_runs(self.reference, Runner(built), data, outputs=outputs)
        return max(1.0 - comparison.cosine(self.budget.cosine_stat, outputs), 0.0)


def _few(data: Dataset, most: int) -> Dataset:
    numbers = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).astype(int))
    return Samples(data.__getitem__, [int(number) for number in numbers])
