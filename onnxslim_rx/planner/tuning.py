"""Stages that only the whole network can judge: tuned with all layers treated.

How much of a tensor's values a range may cut off depends on what lies behind: where a Clip comes
next, far values are worth nothing, on a residual path they are. A layer on its own does not tell:
what is cut off on one branch only is worse than on all. So coordinates are searched one by one,
the layers next to the outputs first, under the roundings of all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis import flops
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Stage
from onnxslim_rx.planner.carry_out import apply_plan
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.progress import task

__all__ = ["tune"]

_GAIN = 5e-4  # of the loss; a smaller one may be luck
_SWEEPS = 3
# How many networks are tried, by the multiply-adds of one run; what was found by then is taken.
# A limit in seconds would give another plan on a machine that is busy.
_MOST, _LEAST, _MULTIPLY_ADDS = 600, 8, 2e11

Loss = Callable[[ir.Model], float]


def tune(
    model: ir.Model,
    units: Sequence[Unit],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
    loss: Callable[[], Loss],
) -> int:
    """Let what is best with all layers treated take the place of candidates, where that matters.

    Args:
        model: the cleaned model; not changed.
        units: layers of `model`; their choices are changed in place.
        passes: compression passes by name.
        stats: by name of the layer.
        loss: makes what says how much a model loses, on samples that may be fitted to.

    Returns:
        How many layers were tuned.
    """
    count = 0
    for one in passes.values():
        offered = {
            unit.layer.name: [c.stages[0] for c in unit.choices if _is_of(c, one)] for unit in units
        }
        offered = {name: stages for name, stages in offered.items() if stages}
        layers = [
            unit.layer
            for unit in units
            if any(one.variants(unit.layer, stage) for stage in offered.get(unit.layer.name, ()))
        ]
        if not layers:
            continue
        best = _Tuner(model, one, stats, loss(), layers).run(offered)
        for unit in units:
            if unit.layer in layers:
                _replace(unit, one, best[unit.layer.name])
        count += len(layers)
    return count


def _is_of(choice: Choice, one: CompressionPass) -> bool:
    return len(choice.stages) == 1 and choice.stages[0].pass_name == one.name


def _replace(unit: Unit, one: CompressionPass, stage: Stage) -> None:
    """One choice of the pass is left."""
    first = next(choice for choice in unit.choices if _is_of(choice, one))
    unit.choices = [c for c in unit.choices if c is first or not _is_of(c, one)]
    first.stages = (stage,)


class _Tuner:
    """Searches the stages of one pass; arguments as of `tune`, `layers` are those with variants."""

    def __init__(
        self,
        model: ir.Model,
        one: CompressionPass,
        stats: Mapping[str, LayerStatistics],
        loss: Loss,
        layers: Sequence[Layer],
    ) -> None:
        self._model, self._one, self._stats, self._loss = model, one, stats, loss
        self._layers = layers
        macs = max(flops(model).macs, 1)
        self._left = round(min(max(_MULTIPLY_ADDS / macs, _LEAST), _MOST))

    def run(self, offered: Mapping[str, Sequence[Stage]]) -> Mapping[str, Stage]:
        """The best stage found for each layer, by name.

        Args:
            offered: candidates of each layer, by name; one that many share is where all begin.
        """
        self._begin(offered)
        todo = list(reversed(self._layers))
        with task("tune ranges", _SWEEPS * len(todo)) as advance:
            for _ in range(_SWEEPS):
                moved = []
                for layer in todo:
                    if self._moved(layer):
                        moved.append(layer)
                    advance(1)
                todo = moved
        return self._stages

    def _begin(self, offered: Mapping[str, Sequence[Stage]]) -> None:
        shared = dict.fromkeys(stage for stages in offered.values() for stage in stages)
        self._best, self._stages = math.inf, {name: stages[0] for name, stages in offered.items()}
        for stage in shared:
            stages = {
                name: stage if stage in known else known[0] for name, known in offered.items()
            }
            loss = self._measured(stages)
            if loss < self._best:
                self._best, self._stages = loss, stages

    def _moved(self, layer: Layer) -> bool:
        """Go in each direction of a layer as far as that gains; two and two are opposite."""
        back = -1
        for place in range(len(self._variants(layer))):
            while place != back and self._step(layer, place):
                back = place ^ 1
        return back >= 0

    def _variants(self, layer: Layer) -> Sequence[Stage]:
        return self._one.variants(layer, self._stages[layer.name])

    def _step(self, layer: Layer, place: int) -> bool:
        stage = self._variants(layer)[place]
        if stage == self._stages[layer.name] or self._left <= 0:
            return False
        stages = {**self._stages, layer.name: stage}
        loss = self._measured(stages)
        if not loss < (1 - _GAIN) * self._best:
            return False
        self._best, self._stages = loss, stages
        return True

    def _measured(self, stages: Mapping[str, Stage]) -> float:
        self._left -= 1
        plans = [LayerPlan(name, (stage,)) for name, stage in stages.items()]
        try:
            return self._loss(
                apply_plan(self._model, plans, {self._one.name: self._one}, self._stats)[0]
            )
        except InputError:  # onnxruntime cannot run it
            return math.inf
