"""What a run of `optimize` settles before it starts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from threadpoolctl import threadpool_limits

from onnxslim_rx.analysis import flops
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, size_bytes
from onnxslim_rx.planner import Choice
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.vocabulary import Minimize, Preset

__all__ = [
    "blas_threads",
    "flops_counter",
    "frozen",
    "metric_name",
    "resolve_budget",
    "safe_without_data",
    "size_on_disk",
]

# Without data a rank may only be cut where hardly anything is lost.
_BLIND_ERROR = 0.02
_THREADED_SIDE = 1024


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


def safe_without_data(choice: Choice) -> bool:
    """Whether a choice may be made on made-up inputs: cuts no rank that the weight needs."""
    factorized = any(stage.pass_name == "factorize-gemm" for stage in choice.stages)
    return not factorized or choice.error <= _BLIND_ERROR


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
