"""Rewrites that change nothing by themselves, but what a compression pass costs afterwards.

Whether they help depends on the model: so they are tried, and measured with that pass on all of its
layers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.calibration import Dataset, Samples, Split, collect, fed
from onnxslim_rx.ir import clone, digest
from onnxslim_rx.passbase import CompressionPass, Layer, PassContext, RewritePass
from onnxslim_rx.pipeline import OPTIONAL
from onnxslim_rx.planner import Recorded, apply_plan
from onnxslim_rx.plans import Budget, LayerPlan
from onnxslim_rx.runtime import Runner, evaluate
from onnxslim_rx.targets import Target
from onnxslim_rx.verify import compare_runs

__all__ = ["Losses", "helpers", "informed", "loss_of", "rewritten"]

_CLEARLY = 0.9  # what is measured on few samples counts as less below this ratio
_LEAST = 1e-4  # a smaller loss (1 - cosine) needs no help
_CALIBRATE, _SELECT, _TUNE = 32, 16, 48  # samples


def helpers(passes: Mapping[str, CompressionPass]) -> dict[str, CompressionPass]:
    """Optional passes of the clean-up by name, and which of `passes` may lose less behind each."""
    known = registry.all_passes()
    found = {
        name: passes.get(one.helps)
        for name in sorted(OPTIONAL & known.keys())
        if issubclass(one := known[name], RewritePass)
    }
    return {name: helped for name, helped in found.items() if helped is not None}


def informed(name: str, model: ir.Model, data: Dataset, target: Target) -> RewritePass | None:
    """The optional pass `name` with what it makes of the largest values of channels.

    Args:
        name: of the pass.
        model: the cleaned model; not changed.
        data: samples, each of which is run once.
        target: the device profile.

    Returns:
        None where the pass asks for nothing, or has no use for what was found.

    Raises:
        InputError: the data does not fit, or onnxruntime fails.
    """
    one = registry.make(name)
    if not isinstance(one, RewritePass):
        return None
    context = _context(model, target)
    names = one.measures(model, context)
    return one.measured(model, context, _peaks(model, names, data)) if names else None


def rewritten(one: RewritePass, model: ir.Model, target: Target) -> ir.Model:
    """A copy of `model`, treated by a pass that calibration told what to do."""
    copy = clone(model)
    return one(copy, _context(copy, target)).model


def loss_of(reference: Runner, parts: Split, budget: Budget) -> Callable[[ir.Model], float]:
    """What says of a model what it loses, on a few of the samples that may be fitted to."""
    outputs = budget.outputs
    right = Recorded(reference, _few(parts.calibrate, _TUNE))

    def loss(model: ir.Model) -> float:
        comparison = compare_runs(right, Runner(model), right.data, outputs=outputs)
        return math.inf if comparison.failures else 1.0 - comparison.cosine(outputs=outputs)

    return loss


def _context(model: ir.Model, target: Target) -> PassContext:
    return PassContext(functools.partial(evaluate, opset_imports=model.opset_imports), target)


def _peaks(model: ir.Model, names: Sequence[str], data: Dataset) -> dict[str, npt.NDArray[Any]]:
    """The largest value of each channel, by tensor; tensors themselves are never kept."""
    copy, found = clone(model), dict[str, npt.NDArray[Any]]()
    made = {str(value.name): value for node in copy.graph for value in node.outputs}
    pools = {}
    for number, name in enumerate(names):
        pool = ir.node("GlobalMaxPool", [made[name]])
        pool.outputs[0].name = f"rx.peak.{number}"
        pool.outputs[0].type = made[name].type
        copy.graph.append(pool)
        copy.graph.outputs.append(pool.outputs[0])
        pools[str(pool.outputs[0].name)] = name
    runner = Runner(copy, outputs=list(pools))
    for number in range(len(data)):
        for pooled, array in runner(fed(data[number], runner.inputs)).items():
            name, peaks = pools[pooled], np.asarray(array).max(axis=0).reshape(-1)
            found[name] = np.maximum(found[name], peaks) if name in found else peaks
    return found


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
