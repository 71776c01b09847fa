"""What a choice costs end to end: run the whole model with one layer's weight replaced.

One session serves all: the weights of the layers are made inputs with defaults, and a probe feeds
one of them. So a probe costs a few runs of the model and no new session. Where a layer has many
ranks, a few of them are run. Between them, the logarithm of the loss is taken to be a straight
line over the logarithm of the predicted error of the layer's output. (For small errors the loss is
quadratic in the error; for the large ones of low ranks it is not, and one probe is not enough.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Dataset, fed
from onnxslim_rx.ir import clone, constant
from onnxslim_rx.passbase import CompressionPass, Layer, Stage
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import compare_runs

__all__ = ["measure_damages", "overridable"]

Array = npt.NDArray[Any]
_PROBES = 3  # of each method, spread over its choices
_SAMPLES = 8
# float32 sums of a network differ by about this in cosine when only their order changes
_NOISE = 1e-7


def measure_damages(
    model: ir.Model,
    units: Sequence[Unit],
    passes: Mapping[str, CompressionPass],
    data: Dataset,
    outputs: Sequence[str] | None,
) -> None:
    """Fill in the damage of every choice.

    Args:
        model: the cleaned model; not changed.
        units: layers of `model`; their choices are changed in place.
        passes: compression passes by name.
        data: samples to run; the first eight, evenly spread, are taken.
        outputs: names of the outputs that count; None: all.
    """
    probe_model, names = overridable(model, [unit.layer for unit in units])
    runner = Runner(probe_model)
    picks = np.unique(np.linspace(0, len(data) - 1, _SAMPLES).astype(int))
    samples = [fed(data[int(i)], runner.inputs) for i in picks]
    references = [runner(sample) for sample in samples]
    # the inputs are there for their masks, which say what is padding
    numbered = [{**sample, "rx.index": np.intp(i)} for i, sample in enumerate(samples)]
    with task("measure sensitivities", len(units)) as advance:
        for unit in units:

            def damage(choice: Choice, unit: Unit = unit) -> float:
                stand_ins = _stand_ins(unit, choice.stages, passes)
                weight = {names[value]: array for value, array in stand_ins.items()}
                comparison = compare_runs(
                    lambda pair: references[pair["rx.index"]],
                    lambda pair: runner({**samples[pair["rx.index"]], **weight}),
                    numbered,
                    outputs=outputs,
                )
                return max(1.0 - comparison.cosine(), 0.0) if not comparison.failures else math.inf

            _fill(unit, damage)
            advance(1)


def _fill(unit: Unit, damage: Callable[[Choice], float]) -> None:
    """Probe each method at a few of its choices and let the errors tell the rest."""
    curves: dict[str, list[tuple[float, float]]] = {}  # method -> (error, damage) of its probes
    for method in dict.fromkeys(_method(stage) for c in unit.choices for stage in c.stages):
        single = {
            c.error: c
            for c in unit.choices
            if len(c.stages) == 1 and _method(c.stages[0]) == method
        }
        errors = sorted(single)
        picks = np.unique(np.linspace(0, len(errors) - 1, min(_PROBES, len(errors))).astype(int))
        curves[method] = [(errors[i], damage(single[errors[i]])) for i in picks]
    own = {c.stages: c.error for c in unit.choices if len(c.stages) == 1}
    for choice in unit.choices:
        choice.damage = sum(
            _interpolated(curves[_method(stage)], own.get((stage,), math.nan))
            for stage in choice.stages
        )


def _method(stage: Stage) -> str:
    """Choices of one method differ only in how much they round or cut away."""
    return f"{stage.pass_name} {stage.options.get('method', stage.options.get('bits', ''))}"


def _interpolated(curve: Sequence[tuple[float, float]], error: float) -> float:
    """Damage at `error`, from probes (error, damage) in order of error.

    Damage is taken to rise with the error: where a probe says otherwise, chance or luck on the
    few samples did, and the larger damage of a smaller error holds.
    """
    if len(curve) == 1 or math.isnan(error):
        return max(damage for _, damage in curve)
    errors = np.log([max(e, 1e-12) for e, _ in curve])
    damages = np.maximum.accumulate([max(damage, _NOISE) for _, damage in curve])
    return float(np.exp(np.interp(math.log(max(error, 1e-12)), errors, np.log(damages))))


def _stand_ins(
    unit: Unit, stages: Sequence[Stage], passes: Mapping[str, CompressionPass]
) -> dict[ir.Value, Array]:
    """What a choice stands for: an array in the shape and type of each of the layer's weights."""
    own = []
    for value in unit.layer.weights:
        tensor = constant(value)
        assert tensor is not None  # a layer's weights are constants
        own.append(tensor.numpy())
    factors: tuple[Array, ...] = tuple(array.astype(np.float64) for array in own)
    for stage in stages:
        factors = passes[stage.pass_name].transform(unit.layer, stage, factors, unit.stats)
    restored = passes[stages[0].pass_name].restore(unit.layer, factors)
    return {
        value: np.ascontiguousarray(array.astype(before.dtype))
        for value, array, before in zip(unit.layer.weights, restored, own, strict=True)
    }


def overridable(model: ir.Model, layers: Sequence[Layer]) -> tuple[ir.Model, dict[ir.Value, str]]:
    """A copy in which each weight of the layers is an input that has a default.

    Args:
        model: not changed.
        layers: layers of `model`.

    Returns:
        The copy, and the name of the input for each weight.
    """
    copy = clone(model)
    originals = [value for graph in model.graphs() for value in graph.initializers.values()]
    twins = [value for graph in copy.graphs() for value in graph.initializers.values()]
    twin_of = dict(zip(originals, twins, strict=True))
    names: dict[ir.Value, str] = {}
    for value in dict.fromkeys(value for layer in layers for value in layer.weights):
        twin = twin_of[value]
        home = twin.graph
        assert home is not None  # it is an initializer of a graph of the copy
        home.initializers.pop(str(twin.name))
        twin.name = names[value] = f"rx.probe.{len(names)}"
        if twin.const_value is not None and twin.shape is None:
            twin.shape = ir.Shape(twin.const_value.shape.numpy())
        copy.graph.register_initializer(twin)
        copy.graph.inputs.append(twin)
    return copy, names
