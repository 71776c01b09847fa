"""What the search is given, what it notes, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.calibration import Split
from onnxslim_rx.metrics import Metric
from onnxslim_rx.passbase import CompressionPass, LayerStatistics
from onnxslim_rx.planner.carry_out import Refit
from onnxslim_rx.planner.judge import Verdict
from onnxslim_rx.planner.limits import CostLimits
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import Target
from onnxslim_rx.vocabulary import Allocation

__all__ = ["Outcome", "Problem", "Trial"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that the search needs to know.

    Args:
        cleaned: the model after clean-up; plans are carried out on copies of it.
        reference: the original model, running.
        units: the layers with their choices, damages and latencies filled in.
        passes: compression passes by name.
        stats: by name of the layer.
        target, budget, metric, seed: as the user gave them.
        split: samples to select on and to confirm with.
        blind: whether the samples prove little: they are made up, or were fitted to.
        limits: checks size, latency and operations.
        allocation: how plans are found; all but "program" are there for comparison.
        refit: gives a model whose layers have their new form, and whose weights will be rounded,
            weights that fit the original's outputs, in place; None: there is no data for that.
        trials: every plan that is tried is added, also where none holds.
    """

    cleaned: ir.Model
    reference: Runner
    units: Sequence[Unit]
    passes: Mapping[str, CompressionPass]
    stats: Mapping[str, LayerStatistics]
    target: Target
    budget: Budget
    metric: Metric | None
    seed: int
    split: Split
    blind: bool
    limits: CostLimits
    allocation: Allocation = "program"
    refit: Refit | None = None
    trials: list[Trial] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Trial:
    """One plan that was built and measured, or only predicted.

    Args:
        name: short description.
        bytes: size of the model.
        verdict: on the samples that select; None where quality was not measured.
        passed: whether everything held; None where the plan was not tried.
        why: what did not; empty where it did.
        chosen: whether this is the plan that was carried out.
        predicted: predicted `1 - cosine`.
        predicted_ms: predicted latency of the layers that the planner treats, milliseconds; None
            where none was measured.
        refit: whether weights were fitted to the original's outputs.
    """

    name: str
    bytes: int
    verdict: Verdict | None
    passed: bool | None
    why: str
    chosen: bool = False
    predicted: float | None = None
    predicted_ms: float | None = None
    refit: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The plan that keeps the promise, carried out.

    Args:
        model: the rewritten model.
        plan: what was done.
        choices: the choice of each unit, in the order of `Problem.units`.
        verdict: on the samples that confirm.
    """

    model: ir.Model
    plan: Plan
    choices: Sequence[Choice]
    verdict: Verdict
