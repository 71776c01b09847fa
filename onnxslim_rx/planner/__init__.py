"""The planner: from measured errors and costs to one choice per layer that keeps the promise."""

from __future__ import annotations

from onnxslim_rx.planner.carry_out import apply_plan
from onnxslim_rx.planner.cost.latency import measure_latencies
from onnxslim_rx.planner.damage.sensitivity import measure_damages
from onnxslim_rx.planner.fit.refit import Refitted, refit
from onnxslim_rx.planner.fit.rounding import Rounding
from onnxslim_rx.planner.judge import Judge, Verdict
from onnxslim_rx.planner.limits import CostLimits
from onnxslim_rx.planner.make import solve
from onnxslim_rx.planner.options import Choice, Unit, find_units
from onnxslim_rx.planner.pareto import unbeaten
from onnxslim_rx.planner.problem import Outcome, Problem, Trial
from onnxslim_rx.planner.recorded import Recorded
from onnxslim_rx.planner.tuning import tune

__all__ = [
    "Choice",
    "CostLimits",
    "Judge",
    "Outcome",
    "Problem",
    "Recorded",
    "Refitted",
    "Rounding",
    "Trial",
    "Unit",
    "Verdict",
    "apply_plan",
    "find_units",
    "measure_damages",
    "measure_latencies",
    "refit",
    "solve",
    "tune",
    "unbeaten",
]
