"""Measured cost: time each layer, as it is and as each choice would make it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, Stage
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner, time_interleaved
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import Target

__all__ = ["isolate", "measure_latencies"]

# Per group of choices that are timed in turns; layers of equal shape share one measurement.
_MIN_SECONDS, _MAX_SECONDS = 0.05, 0.5
# A layer faster than this (ms) is below what a timer can tell; it is left at its latency.
_LEAST_MS = 0.002


def measure_latencies(
    units: Sequence[Unit], passes: Mapping[str, CompressionPass], target: Target
) -> None:
    """Fill in the latency of every choice that does not fold away at load.

    A choice whose layer could not be timed (its input shape is not known) is dropped, and so is
    one that is slower than the layer as it was: no plan shall pay with time for size unasked.

    Args:
        units: changed in place.
        passes: compression passes by name.
        target: says how far timings may differ by chance.
    """
    cache: dict[tuple[Any, ...], dict[tuple[Stage, ...], float]] = {}
    pending = [unit for unit in units if any(not c.folds for c in unit.choices)]
    with task("time layers", len(pending)) as advance:
        for unit in pending:
            key = _signature(unit)
            if key is not None and key not in cache:
                cache[key] = _time(unit, passes)
            _settle(unit, cache.get(key, {}) if key is not None else {}, target)
            advance(1)


def _settle(unit: Unit, times: Mapping[tuple[Stage, ...], float], target: Target) -> None:
    base = times.get((), math.nan)
    unit.latency_ms = base
    kept = []
    for choice in unit.choices:
        measured = times.get(_timed_stages(choice), math.nan)
        ratio = measured / base if base > _LEAST_MS else math.nan
        if not _timed_stages(choice):
            ratio = 1.0
        elif math.isnan(ratio):
            continue
        if abs(ratio - 1.0) <= target.latency_noise:
            ratio = 1.0
        if ratio <= 1.0:
            choice.relative_latency, choice.latency_ms = ratio, ratio * base
            kept.append(choice)
    unit.choices = kept


def _timed_stages(choice: Choice) -> tuple[Stage, ...]:
    """The stages that cost time: a last one that folds away at load does not."""
    return choice.stages[:-1] if choice.folds and choice.stages else choice.stages


def _signature(unit: Unit) -> tuple[Any, ...] | None:
    """Layers with equal signatures take equal time; None where the input's shape is not known."""
    layer = unit.layer
    if unit.stats is None or not unit.stats.shape or layer.weight.shape is None:
        return None
    attributes = sorted((name, str(a.value)) for name, a in layer.node.attributes.items())
    stages = tuple(c.stages for c in unit.choices)
    shapes = (layer.weight.shape.numpy(), tuple(unit.stats.shape), len(layer.node.inputs))
    return (layer.op, layer.weight_index, layer.weight.dtype, *shapes, *attributes, str(stages))


def _time(unit: Unit, passes: Mapping[str, CompressionPass]) -> dict[tuple[Stage, ...], float]:
    """Milliseconds by stages; choices that cannot be built or run are left out."""
    assert unit.stats is not None  # asked for by `_signature`
    rng = np.random.default_rng(0)
    shape = unit.stats.shape
    runners = {}
    for stages in dict.fromkeys([(), *(_timed_stages(c) for c in unit.choices)]):
        try:
            runner = Runner(isolate(unit, stages, passes))
        except InputError:
            continue  # this runtime cannot run the choice
        feed: dict[str, npt.NDArray[Any]] = {
            name: rng.standard_normal(shape).astype(spec.dtype)
            for name, spec in runner.inputs.items()
        }
        runners[stages] = functools.partial(runner, feed)
    if () not in runners or len(runners) < 2:
        return {}
    timings = time_interleaved(
        list(runners.values()), min_seconds=_MIN_SECONDS, max_seconds=_MAX_SECONDS
    )
    # the fast tenth: other work on the machine only ever adds time
    return {stages: timing.p10 for stages, timing in zip(runners, timings, strict=True)}


def isolate(
    unit: Unit, stages: tuple[Stage, ...], passes: Mapping[str, CompressionPass]
) -> ir.Model:
    """A model of the one layer, treated by `stages`, with the activation as its only input."""
    layer, stats = unit.layer, unit.stats
    assert stats is not None
    graph = layer.node.graph
    imports = dict(graph.opset_imports) if graph is not None else {}
    x = ir.Value(name="x", type=layer.activation.type, shape=ir.Shape(stats.shape))
    if x.type is None:
        x.type = layer.weight.type
    inputs: list[ir.Value | None] = []
    weights = []
    for index, value in enumerate(layer.node.inputs):
        if index == layer.activation_index:
            inputs.append(x)
        elif value is None:
            inputs.append(None)
        else:
            if value.const_value is None:
                raise InputError(f"input {index} of {layer.name} is not a constant")
            copy = ir.Value(
                name=f"w{index}", type=value.type, shape=value.shape, const_value=value.const_value
            )
            inputs.append(copy)
            weights.append(copy)
    node = ir.Node(
        layer.node.domain, layer.node.op_type, inputs, layer.node.attributes.values(), name="layer"
    )
    node.outputs[0].name = "y"
    node.outputs[0].type = layer.weight.type
    model = ir.Model(
        ir.Graph(
            [x], node.outputs, nodes=[node], initializers=weights, opset_imports=imports, name="g"
        ),
        ir_version=10,
    )
    own = dataclasses.replace(layer, node=node)
    refused = apply_treatments(model, [(own, stages, stats)], passes) if stages else []
    if refused:
        raise InputError(f"{refused[0].where}: {refused[0].why}")
    return model
