"""Measured cost: time each layer, as it is and as each choice would make it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.native_form import to_native
from onnxslim_rx.passbase import CompressionPass
from onnxslim_rx.planner.cost.entering import Activations
from onnxslim_rx.planner.cost.isolate import Region, isolate, structure, treat
from onnxslim_rx.planner.cost.neighbours import Neighbours, core
from onnxslim_rx.planner.cost.timing import Stages, time_choices, timed_stages
from onnxslim_rx.planner.measured import Measured, key_for
from onnxslim_rx.planner.options import Unit
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner, default_threads, environment, time_interleaved
from onnxslim_rx.targets import Target

__all__ = ["measure_latencies"]

Array = npt.NDArray[Any]
_Around = tuple[tuple[int, ...], tuple[int, ...]]

# Per group of choices that are timed in turns; layers of equal shape share one measurement.
_MIN_SECONDS, _MAX_SECONDS = 0.05, 0.5
# A layer faster than this (ms) is below what a timer can tell; it is left at its latency.
_LEAST_MS = 0.002
# A saving below this (ms) is none: more nodes take about as much in the network.
_LEAST_SAVING_MS = 0.003
_FORMAT = 2  # of what is kept on disk; count up when it means something else
_ABOUT = ("onnxslim-rx", "onnxruntime", "cpu", "cores", "system")


def measure_latencies(
    units: Sequence[Unit],
    passes: Mapping[str, CompressionPass],
    target: Target,
    *,
    model: ir.Model | None = None,
    sample: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    slower: bool = False,
) -> None:
    """Fill in the latency of every choice that does not fold away at load.

    A choice whose layer could not be timed (its input shape is not known) is dropped, and so is
    one that is slower than the layer as it was: no plan shall pay with time for size unasked.

    Args:
        units: changed in place.
        passes: compression passes by name.
        target: says how far timings may differ by chance.
        model: the model of the units, and
        sample: a complete input of it: layers are timed on what enters them then. Without the two
            on made-up numbers, which only layers of one activation allow.
        cache: a folder where timings are kept for later calls on the same device.
        slower: keep choices that are slower: others may save the time that they take.
    """
    pending = [unit for unit in units if any(not c.folds for c in unit.choices)]
    activations = Activations(model, sample)
    activations.prepare(region for unit in pending if (region := _region(unit)) is not None)
    clock = _Clock(passes, target, cache, activations, Neighbours(units))
    with task("time layers", len(pending)) as advance:
        for unit in pending:
            base, ratios = clock.times(unit)
            _settle(unit, base, ratios, target, slower)
            advance(1)


def _region(unit: Unit) -> Region | None:
    try:
        return Region.of(unit.layer)
    except InputError:
        return None


def _settle(
    unit: Unit, base: float, ratios: Mapping[Stages, float], target: Target, slower: bool
) -> None:
    unit.latency_ms = base
    kept = []
    for choice in unit.choices:
        stages = timed_stages(choice)
        ratio = ratios.get(stages, math.nan) if stages and base > _LEAST_MS else math.nan
        if not stages:
            ratio = 1.0
        elif math.isnan(ratio):
            continue
        if (
            abs(ratio - 1.0) <= target.latency_noise
            or 0.0 < (1.0 - ratio) * base < _LEAST_SAVING_MS
        ):
            ratio = 1.0
        if slower or ratio <= 1.0:
            choice.relative_latency, choice.latency_ms = ratio, ratio * base
            kept.append(choice)
    unit.choices = kept


class _Clock:
    """Times layers, each kind once."""

    def __init__(
        self,
        passes: Mapping[str, CompressionPass],
        target: Target,
        cache: Path | None,
        activations: Activations,
        neighbours: Neighbours,
    ) -> None:
        self._passes, self._activations, self._neighbours = passes, activations, neighbours
        self._target, self._slower = target, 1.0 + target.latency_noise
        self._folder = None if cache is None else cache / "latency"
        self._times: dict[str, tuple[float, dict[Stages, float]]] = {}
        about = environment()
        self._device = [*(about[name] for name in _ABOUT), default_threads(), _FORMAT]
        self._device += [target.level] if target.allows("rx") else []  # other operators run then

    def times(self, unit: Unit) -> tuple[float, dict[Stages, float]]:
        """Milliseconds of the layer, and of its choices relative to that, by stages."""
        region = _region(unit)
        if region is None:
            return math.nan, {}
        try:
            feeds = self._activations.entering(region, unit.stats)
            cut = functools.partial(isolate, self._activations.model, region, feeds)
            alone = cut()
        except InputError:
            return math.nan, {}
        stages = sorted({str(timed_stages(choice)) for choice in unit.choices})
        around = self._around(unit, region)
        key = key_for([structure(alone), stages, sorted(around.items()), self._device])
        if key not in self._times:
            layer = _Layer(unit, alone, cut, feeds, self._passes, around, self._target)
            self._times[key] = self._timed(layer, key)
        return self._times[key]

    def _around(self, unit: Unit, region: Region) -> dict[str, _Around]:
        """By pass that changes more than weights: inputs and outputs that it converts for nothing.

        Their neighbours it can treat as well.
        """
        stages = [choice.stages[0] for choice in unit.choices if choice.stages]
        names = {s.pass_name for s in stages if self._passes[s.pass_name].applied(s)}
        return {
            by: (
                tuple(i for i, v in enumerate(region.inputs) if self._neighbours.gives(v, by)),
                tuple(i for i, v in enumerate(region.outputs) if self._neighbours.takes(v, by)),
            )
            for by in sorted(names)
        }

    def _timed(self, layer: _Layer, key: str) -> tuple[float, dict[Stages, float]]:
        kept = Measured(None if self._folder is None else self._folder / f"{key}.json")
        by_name = {str(stages): stages for stages in map(timed_stages, layer.unit.choices)}
        if "()" in kept:
            return kept["()"], {s: kept[name] for name, s in by_name.items() if s and name in kept}
        ratios = time_choices(layer.unit.choices, layer.measure, self._slower)
        if ratios:
            for stages, number in (((), layer.base), *ratios.items()):
                kept[str(stages)] = number
            kept.save()
        return layer.base, ratios


class _Layer:
    """One isolated layer that is timed, in several rounds.

    Args:
        unit: the layer in the network.
        alone: the layer on its own, with weights of zero.
        cut: makes that again, with the weights themselves if told so.
        feeds: what enters.
        passes: by name.
        around: by pass, numbers of inputs and outputs whose neighbours it can treat as well.
        target: says which operators run.

    Attributes:
        base: milliseconds of the layer as it is, of the first round.
    """

    def __init__(
        self,
        unit: Unit,
        alone: ir.Model,
        cut: Callable[..., ir.Model],
        feeds: Mapping[str, Array],
        passes: Mapping[str, CompressionPass],
        around: Mapping[str, _Around],
        target: Target,
    ) -> None:
        self.unit = unit
        self._target = target
        self.base = math.nan
        self._around = around
        self._alone, self._cut, self._feeds, self._passes = alone, cut, feeds, passes

    def measure(self, stages: Sequence[Stages]) -> dict[Stages, float]:
        """Time relative to the layer as it is; choices that cannot be built or run are left out."""
        runners = {one: run for one in ((), *stages) if (run := self._runner(one)) is not None}
        if () not in runners or len(runners) < 2:
            return {}
        timings = time_interleaved(
            list(runners.values()), min_seconds=_MIN_SECONDS, max_seconds=_MAX_SECONDS
        )
        # the fast tenth: other work on the machine only ever adds time
        times = {one: timing.p10 for one, timing in zip(runners, timings, strict=True)}
        base = times.pop(())
        if math.isnan(self.base):
            self.base = base
        return {one: found / base for one, found in times.items()}

    def _runner(self, stages: Stages) -> Callable[[], object] | None:
        """None where this runtime cannot run the choice, or a pass refuses it."""
        layer, stats = self.unit.layer, self.unit.stats
        try:
            try:
                treated = treat(self._alone, layer, stages, stats, self._passes)
            except (InputError, ValueError, ArithmeticError):  # what is so of zeros alone
                treated = treat(self._cut(zeros=False), layer, stages, stats, self._passes)
            entering = self._feeds
            if stages and stages[0].pass_name in self._around:
                treated, entering = core(treated, self._feeds, *self._around[stages[0].pass_name])
            runner = Runner(to_native(treated, self._target, folded=False))
            feeds = {name: entering[name] for name in runner.inputs}
            runner(feeds)
        except InputError:
            return None
        return functools.partial(runner, feeds)
