"""What a choice costs end to end: run the whole model with one layer's weight replaced.

One session serves all: the weights of the layers are made inputs with defaults, and a probe feeds
one of them. So a probe costs a few runs of the model and no new session. Where a layer has many
ranks, one of them is run and the others follow from their predicted errors: for small errors the
loss `1 - cosine` is quadratic in the error of the layer's output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Dataset
from onnxslim_rx.ir import clone, constant
from onnxslim_rx.passbase import CompressionPass, Layer, Stage
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import compare_runs

__all__ = ["measure_damages", "overridable"]

Array = npt.NDArray[Any]
# The error at which a rank is probed: large enough to rise above rounding, small enough for the
# loss to be quadratic.
_PROBE_ERROR = 0.1
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
    samples = [data[int(i)] for i in picks]
    references = [runner(sample) for sample in samples]
    with task("measure sensitivities", len(units)) as advance:
        for unit, name in zip(units, names, strict=True):

            def damage(choice: Choice, unit: Unit = unit, name: str = name) -> float:
                weight = {name: _weight(unit, choice.stages, passes)}
                comparison = compare_runs(
                    lambda pair: references[pair["index"]],
                    lambda pair: runner({**samples[pair["index"]], **weight}),
                    [{"index": np.intp(i)} for i in range(len(samples))],
                    outputs=outputs,
                )
                return max(1.0 - comparison.cosine(), 0.0) if not comparison.failures else math.inf

            _fill(unit, damage)
            advance(1)


def _fill(unit: Unit, damage: Any) -> None:
    """Probe each method once and let the errors tell the rest."""
    measured: dict[str, tuple[float, float]] = {}  # method -> (damage, error) of its probe
    for method in dict.fromkeys(_method(stage) for c in unit.choices for stage in c.stages):
        single = [c for c in unit.choices if len(c.stages) == 1 and _method(c.stages[0]) == method]
        if single:
            probe = min(single, key=lambda c: (abs(math.log(max(c.error, 1e-9) / _PROBE_ERROR)),))
            measured[method] = (damage(probe), probe.error)
    errors = {c.stages: c.error for c in unit.choices if len(c.stages) == 1}
    for choice in unit.choices:
        choice.damage = sum(
            _scaled(*measured[_method(stage)], errors.get((stage,), math.nan))
            for stage in choice.stages
            if _method(stage) in measured
        )


def _method(stage: Stage) -> str:
    """Choices of one method differ only in how much they round or cut away."""
    return f"{stage.pass_name} {stage.options.get('method', stage.options.get('bits', ''))}"


def _scaled(damage: float, probe_error: float, error: float) -> float:
    if probe_error <= 0.0 or math.isnan(error):
        return damage
    return max(damage, _NOISE) * (error / probe_error) ** 2


def _weight(unit: Unit, stages: Sequence[Stage], passes: Mapping[str, CompressionPass]) -> Array:
    """The weight that a choice stands for, in the layout and type of the layer's own."""
    tensor = constant(unit.layer.weight)
    assert tensor is not None  # a layer's weight is a constant
    own = tensor.numpy()
    factors: tuple[Array, ...] = (own.astype(np.float64),)
    for stage in stages:
        factors = passes[stage.pass_name].transform(unit.layer, stage, factors, unit.stats)
    product = passes[stages[0].pass_name].restore(unit.layer, factors)
    return np.ascontiguousarray(product.astype(own.dtype))


def overridable(model: ir.Model, layers: Sequence[Layer]) -> tuple[ir.Model, list[str]]:
    """A copy in which the weight of each layer is an input that has a default.

    Args:
        model: not changed.
        layers: layers of `model`.

    Returns:
        The copy, and the name of the input for each layer.
    """
    copies: dict[ir.Value, str] = {}
    copy = clone(model)
    originals = [value for graph in model.graphs() for value in graph.initializers.values()]
    twins = [value for graph in copy.graphs() for value in graph.initializers.values()]
    twin_of = dict(zip(originals, twins, strict=True))
    for number, layer in enumerate(layers):
        twin = twin_of[layer.weight]
        home = twin.graph
        assert home is not None  # it is an initializer of a graph of the copy
        home.initializers.pop(str(twin.name))
        twin.name = f"rx.probe.{number}"
        if twin.const_value is not None and twin.shape is None:
            twin.shape = ir.Shape(twin.const_value.shape.numpy())
        copy.graph.register_initializer(twin)
        copy.graph.inputs.append(twin)
        copies[layer.weight] = twin.name
    return copy, [copies[layer.weight] for layer in layers]
