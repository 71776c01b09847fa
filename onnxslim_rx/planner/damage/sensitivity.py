"""What a choice costs end to end: run the network with one layer's weights replaced.

A probe feeds other weights to a session in which they are inputs with defaults, and runs only
what lies behind the layer (see `prefixes`). Where a choice changes more than weights, it is carried
out in that part of the network. A few choices of each method are probed; their
predicted errors tell the rest (see `curves`).
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Dataset, fed
from onnxslim_rx.calibration.identity import key_of
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import CompressionPass, LayerStatistics, Stage
from onnxslim_rx.planner.cost.isolate import treat
from onnxslim_rx.planner.curves import probed, settle
from onnxslim_rx.planner.damage.prefixes import Network
from onnxslim_rx.planner.measured import Measured, key_for
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner, environment
from onnxslim_rx.verify import compare_runs

__all__ = ["measure_damages"]

Array = npt.NDArray[Any]
_SAMPLES, _LEAST_SAMPLES = 32, 8
# Fewer samples are run where all probes would take longer than this, or the outputs to compare
# with more memory.
_SECONDS = 120.0
_OUTPUT_BYTES = 256 << 20
_LARGE = 1 << 25  # entries of a weight of which a copy in float64 takes too much memory
_TIMED = 3  # samples that tell how long a run takes
_FORMAT = 2  # of what is kept on disk; count up when it means something else
_COUNT, _JOINT = "samples", "joint"
# Where all probes would take longer than this, the methods of a pass share theirs: a probe of any
# tells of the others what their error does.
_PATIENCE = 30.0


def measure_damages(
    model: ir.Model,
    units: Sequence[Unit],
    passes: Mapping[str, CompressionPass],
    data: Dataset,
    outputs: Sequence[str] | None,
    *,
    cache: Path | None = None,
) -> None:
    """Fill in the damage of every choice.

    Args:
        model: the cleaned model; not changed.
        units: layers of `model`; their choices are changed in place.
        passes: compression passes by name.
        data: samples to run: at most 32, evenly spread, are taken, and fewer where a run is slow,
            but eight if there are as many.
        outputs: names of the outputs that count; None: all.
        cache: a folder where what was measured is kept for later calls.
    """
    _Prober(model, units, passes, data, outputs, cache).run()


class _Prober:
    def __init__(
        self,
        model: ir.Model,
        units: Sequence[Unit],
        passes: Mapping[str, CompressionPass],
        data: Dataset,
        outputs: Sequence[str] | None,
        cache: Path | None,
    ) -> None:
        self._model, self._units, self._passes = model, units, passes
        self._data, self._outputs = data, outputs
        self._traces = {id(unit): _trace(unit.stats) for unit in units}
        path = None if cache is None else cache / "sensitivity" / f"{self._key()}.json"
        self._known = Measured(path)

    def run(self) -> None:
        self._joint = self._is_slow()
        todo = [list(self._unknown(unit)) for unit in self._units]
        if any(todo):
            self._measure(todo)
        for unit in self._units:
            settle(unit, functools.partial(self._found, unit), joint=self._joint)

    def _found(self, unit: Unit, choice: Choice) -> float:
        return self._known[self._name(unit, choice)]

    def _unknown(self, unit: Unit) -> Iterator[Choice]:
        """The choices that must be measured and never were."""
        for choices in probed(unit, joint=self._joint).values():
            yield from (c for c in choices if self._name(unit, c) not in self._known)

    def _measure(self, todo: Sequence[Sequence[Choice]]) -> None:
        runs = sum(map(len, todo))
        samples = self._samples(runs)
        # the inputs are there for their masks, which say what is padding
        numbered = [{**sample, "rx.index": np.intp(i)} for i, sample in enumerate(samples)]
        layers = [unit.layer for unit in self._units]
        network = Network(self._model, layers, [len(one) for one in todo], samples, self._outputs)
        with task("measure sensitivities", len(self._units)) as advance:
            for number in network.order:
                for choice in todo[number]:
                    name = self._name(self._units[number], choice)
                    self._known[name] = self._probe(network, number, choice, numbered)
                if todo[number]:
                    self._known.save()
                advance(1)

    def _probe(
        self,
        network: Network,
        number: int,
        choice: Choice,
        numbered: Sequence[Mapping[str, Any]],
    ) -> float:
        """The damage of a choice of one stage; infinite where it cannot be measured or run."""
        unit, (stage,) = self._units[number], choice.stages
        weights: Mapping[ir.Value, Array] = {}
        runner = None
        if self._passes[stage.pass_name].applied(stage):
            network.move_to(number)
            try:
                part = treat(network.behind(), unit.layer, (stage,), unit.stats, self._passes)
                runner = Runner(part)
            except InputError:
                return math.inf
        elif network.covers(number):
            weights = self._stand_in(unit, stage)
            network.move_to(number)
        else:
            return math.inf
        comparison = compare_runs(
            lambda sample: network.references[sample["rx.index"]],
            lambda sample: network.run(int(sample["rx.index"]), weights, runner),
            numbered,
            outputs=self._outputs,
        )
        return max(1.0 - comparison.cosine(), 0.0) if not comparison.failures else math.inf

    def _samples(self, probes: int) -> list[dict[str, Any]]:
        """As many as the time allows; as many as last time, where something is known of it."""
        number = min(len(self._data), _SAMPLES)
        names = {str(v.name): None for v in self._model.graph.inputs if not v.is_initializer()}
        if number > _LEAST_SAMPLES:
            if _COUNT not in self._known:
                self._known[_COUNT] = self._affordable(number, probes)
            number = min(int(self._known[_COUNT]), number)
        return [
            {name: self._data[i][name] for name in names} for i in _spread(len(self._data), number)
        ]

    def _affordable(self, most: int, probes: int) -> int:
        seconds, size = self._half_run
        affordable = min(_SECONDS / max(probes * seconds, 1e-9), _OUTPUT_BYTES / max(size, 1))
        return int(min(most, max(_LEAST_SAMPLES, affordable)))

    def _is_slow(self) -> bool:
        """Whether each method on its own would take too long; as last time, where that is known."""
        if _JOINT not in self._known:
            each = sum(len(choices) for unit in self._units for choices in probed(unit).values())
            samples = min(len(self._data), _LEAST_SAMPLES)
            seconds = each * samples * self._half_run[0] if each else 0.0
            self._known[_JOINT] = float(seconds > _PATIENCE)
        return bool(self._known[_JOINT])

    @functools.cached_property
    def _half_run(self) -> tuple[float, int]:
        """Seconds that half of the network takes, as a probe on average does, and output bytes."""
        runner = Runner(self._model, outputs=self._outputs)
        seconds, size = [], 0
        for i in _spread(len(self._data), _TIMED):
            sample = fed(self._data[i], runner.inputs)
            runner(sample)
            begin = time.perf_counter()
            found = runner(sample)
            seconds.append(time.perf_counter() - begin)
            size = max(size, sum(getattr(value, "nbytes", 0) for value in found.values()))
        return float(np.mean(seconds)) / 2, size

    def _stand_in(self, unit: Unit, stage: Stage) -> dict[ir.Value, Array]:
        """What a stage stands for: arrays like the layer's weights."""
        own = []
        for value in unit.layer.weights:
            tensor = constant(value)
            assert tensor is not None  # a layer's weights are constants
            own.append(tensor.numpy())
        one = self._passes[stage.pass_name]
        factors = one.transform(unit.layer, stage, tuple(map(_factor, own)), unit.stats)
        restored = one.restore(unit.layer, factors)
        return {
            value: np.ascontiguousarray(array.astype(before.dtype, copy=False))
            for value, array, before in zip(unit.layer.weights, restored, own, strict=True)
        }

    def _key(self) -> str:
        """Of all that damages depend on beside the unit and the choice."""
        versions = [environment()["onnxslim-rx"], _FORMAT]
        outputs = None if self._outputs is None else list(self._outputs)
        return key_for([key_of(self._model, [], self._data, [_FORMAT]), outputs, versions])

    def _name(self, unit: Unit, choice: Choice) -> str:
        return key_for([unit.layer.name, list(map(_spelt, choice.stages)), self._traces[id(unit)]])


def _factor(array: Array) -> Array:
    """In float64; a large one in float32, as passes that treat such weights at all do with that."""
    narrow = array.dtype == np.float32 and array.size > _LARGE
    return array if narrow else array.astype(np.float64)


def _spread(length: int, number: int) -> list[int]:
    """At most `number` indices below `length`, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, length - 1, number).astype(int))]


def _spelt(stage: Stage) -> list[object]:
    return [stage.pass_name, sorted(stage.options.items())]


def _trace(stats: LayerStatistics | None) -> str:
    """Changes where the statistics do, without reading whole Gram matrices."""
    if stats is None:
        return ""
    total = hashlib.sha256(f"{stats.rows} {stats.shape}".encode())
    for array in (stats.counts, stats.mean, None if stats.gram is None else stats.gram.diagonal()):
        total.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    for member in stats.members:
        total.update(_trace(member).encode())
    return total.hexdigest()
