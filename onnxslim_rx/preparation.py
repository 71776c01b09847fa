"""What a run of `optimize` settles before it searches: budget, samples, statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from threadpoolctl import threadpool_limits

from onnxslim_rx import registry
from onnxslim_rx.analysis import flops
from onnxslim_rx.calibration import Calibration, Dataset, Split, collect, load_data, split
from onnxslim_rx.calibration.collect import MEMORY_BYTES
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, size_bytes
from onnxslim_rx.metrics import Metric
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Skipped
from onnxslim_rx.planner import Choice
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import generate_inputs
from onnxslim_rx.vocabulary import Minimize, Preset

__all__ = [
    "Phased",
    "blas_threads",
    "compression_passes",
    "flops_counter",
    "frozen",
    "longest",
    "metric_name",
    "resolve_budget",
    "safe_without_data",
    "samples",
    "size_on_disk",
    "statistics",
]

_LOOKED_AT = 64
# As many made-up samples as a quick run affords: they prove little however many there are.
_SYNTHETIC_SAMPLES = 16

# Where data proves little: the largest relative error that each kind of pass may make. Hardly
# anything may be lost by cutting a rank; 2 bits are too few; how activations round is not known.
_BLIND_ERRORS = {
    "factorize-": 0.02,
    "tensorize-": 0.02,
    "quantize-weights": 0.15,
    "quantize-dynamic": 0.0,
}
_THREADED_SIDE = 1024


class Phased:
    """A run in phases, each of which is timed.

    Attributes:
        timings: seconds of each phase so far, by name.
    """

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Whatever runs inside belongs to the phase `name`."""
        begin = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begin


def resolve_budget(budget: Budget | None, preset: Preset | None, plan: Plan | None) -> Budget:
    """What must hold: as the user says, or the plan, or a mean cosine of 0.99.

    Raises:
        InputError: the plan's budget has fields that are not known.
    """
    if budget is None and plan is not None:
        fields = dict(plan.budget)
        if "outputs" in fields:
            fields["outputs"] = tuple(fields["outputs"])
        try:
            budget = Budget(**fields)
        except TypeError as error:
            raise InputError(f"the budget of the plan is not known: {error}") from error
    if budget is None:
        budget = Budget()
    # clean-up alone promises more than a cosine: the same outputs up to rounding
    if not (budget.limits_quality or budget.limits_cost or preset == "safe"):
        budget = dataclasses.replace(budget, min_cosine=0.99)
    aims: dict[Preset | None, Minimize] = {"small": "bytes", "fast": "latency"}
    return dataclasses.replace(budget, minimize=aims.get(preset, budget.minimize))


def compression_passes(options: Mapping[str, Mapping[str, Any]]) -> dict[str, CompressionPass]:
    """The passes that the user has options for, by name.

    Raises:
        InputError: no such pass, one that does not compress, or an option that it does not take.
    """
    found: dict[str, CompressionPass] = {}
    for name, given in options.items():
        one = registry.make(name, given)
        if not isinstance(one, CompressionPass):
            raise InputError(
                f"there are options for {name}, which is no compression pass",
                advice="give such options where the pass is used on its own (rx.passes)",
            )
        found[name] = one
    return found


def samples(
    original: ir.Model,
    reference: Runner,
    calibration: Calibration | None,
    seed: int,
    metric: Metric | None,
    *,
    proves: bool,
) -> tuple[Split, str]:
    """The user's samples in three parts, or made-up ones, and what to tell the user of them.

    `proves`: see `calibration.split`.

    Raises:
        InputError: the data does not fit the model, or there is a metric and no data.
    """
    if calibration is not None:
        parts = split(load_data(calibration, reference.inputs, reference), seed, proves=proves)
        return parts, f"{parts.reason[0].upper()}{parts.reason[1:]}." if parts.weak else ""
    if metric is not None:
        raise InputError(
            "a metric needs data, and there is none", advice="give calibration data with labels"
        )
    made = generate_inputs(original, samples=_SYNTHETIC_SAMPLES, seed=seed)
    return split(made, seed), (
        "No calibration data: made-up inputs were used, estimates are weaker, and only a part of"
        " the budget was spent. Give --calibration for more."
    )


def statistics(
    model: ir.Model,
    passes: Mapping[str, CompressionPass],
    data: Dataset,
    *,
    cache: Path | None,
    memory_bytes: int | None,
    seed: int,
    shapes_only: bool,
) -> Mapping[str, LayerStatistics]:
    """What enters the layers of all passes; only the shapes of it where data proves too little."""
    layers = {
        layer.name: layer
        for one in passes.values()
        for layer in one.layers(model)
        if not isinstance(layer, Skipped)
    }
    if not layers:
        return {}
    # layers of several units read the same tensors: they are measured once
    single = {m.name: m for layer in layers.values() for m in layer.members or (layer,)}
    bound = MEMORY_BYTES if memory_bytes is None else memory_bytes
    if bound < 1:
        raise InputError(f"memory_bytes is {bound}", expected="at least 1")
    units = list(single.values())
    ranges = any(one.reads_ranges for one in passes.values()) and not shapes_only
    found = collect(model, units, data, memory_bytes=bound, cache=cache, seed=seed, ranges=ranges)
    known: Mapping[str, LayerStatistics] = found
    if shapes_only:
        known = {
            name: LayerStatistics(
                None, None, rows=one.rows, sample=None, shape=one.shape, positions=one.positions
            )
            for name, one in found.items()
        }
    return UnitStatistics(layers, known)


class UnitStatistics(Mapping[str, LayerStatistics]):
    """Statistics of units by name, put together from those of their members when asked for.

    Args:
        layers: the units by name.
        single: statistics of layers that have no members.
    """

    def __init__(self, layers: Mapping[str, Layer], single: Mapping[str, LayerStatistics]) -> None:
        self._layers = {
            name: layer
            for name, layer in layers.items()
            if any(member.name in single for member in layer.members or (layer,))
        }
        self._single = single

    def __getitem__(self, name: str) -> LayerStatistics:
        layer = self._layers[name]
        if not layer.members:
            return self._single[name]
        members = tuple(self._single.get(member.name) for member in layer.members)
        first = next(found for found in members if found is not None)
        return LayerStatistics(
            None,
            None,
            rows=first.rows,
            sample=None,
            shape=first.shape,
            members=members,
            positions=first.positions,
        )

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def blas_threads(model: ir.Model) -> contextlib.AbstractContextManager[object]:
    """One thread for the linear algebra of small layers.

    Threads that wait for each other made an eigen-decomposition of 384 x 384 four times as dear
    (measured, 2 cores); above the size given here they pay.
    """
    sides = [
        min(value.shape.numpy()[-2:])
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.shape is not None and len(value.shape) > 1 and value.shape.is_static()
    ]
    if max(sides, default=0) > _THREADED_SIDE:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def frozen(model: ir.Model) -> ir.Model:
    """A copy whose initializers are no inputs: nobody can override them any more."""
    copy = clone(model)
    common.RemoveInitializersFromInputsPass()(copy)
    # before version 4 of the format, every initializer had to be listed as an input
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def longest(data: Dataset) -> Mapping[str, Any]:
    """The sample with the most elements among the first: layers are timed on what it gives them."""
    few = [data[i] for i in range(min(len(data), _LOOKED_AT))]
    return max(few, key=lambda sample: sum(np.size(array) for array in sample.values()))


def safe_without_data(choice: Choice) -> bool:
    """Whether a choice may be made on samples that prove little: see `_BLIND_ERRORS`."""
    return all(
        choice.error <= most
        for stage in choice.stages
        for prefix, most in _BLIND_ERRORS.items()
        if stage.pass_name.startswith(prefix)
    )


def size_on_disk(original: ir.Model, path: str | None) -> int:
    """Bytes of the user's file where its weights are inside, of the model as we save it else."""
    computed = size_bytes(original)
    on_disk = Path(path).stat().st_size if path is not None else computed
    # a file whose weights lie beside it is far smaller than the model
    return on_disk if on_disk >= computed // 2 else computed


def flops_counter(sample: Mapping[str, Any]) -> Callable[[ir.Model], int | None]:
    """Counts the operations of a model at the input shapes of `sample`; None: not known."""
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in sample.items()}

    def count(model: ir.Model) -> int | None:
        inputs = {value.name for value in model.graph.inputs}
        try:
            known = {name: shape for name, shape in shapes.items() if name in inputs}
            return flops(model, known).flops
        except InputError:
            return None

    return count


def metric_name(metric: str | Callable[..., float] | None) -> str:
    """What reports call the user's metric; "" where there is none."""
    if metric is None or isinstance(metric, str):
        return metric or ""
    return getattr(metric, "__name__", type(metric).__name__)
