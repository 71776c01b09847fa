"""Decide what to do with each layer so that the budget holds at the least cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.calibration import Split
from onnxslim_rx.errors import BudgetError, InputError
from onnxslim_rx.ir import clone, digest, size_bytes
from onnxslim_rx.metrics import Metric
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Skipped
from onnxslim_rx.planner.judge import Judge, Verdict
from onnxslim_rx.planner.ladder import Ladder, Option
from onnxslim_rx.planner.limits import CostLimits
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.planner.search import climb, descent
from onnxslim_rx.plans import Budget, LayerPlan, Plan
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import Target

__all__ = ["Outcome", "Problem", "Trial", "apply_plan", "solve"]

# What the second aim weighs beside the first.
_SECOND_AIM = 0.25
# Inputs made up by us are easier than real ones: only this share of the damage is spent on them.
_SYNTHETIC_SHARE = 0.25


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
        synthetic: whether the samples are made up.
        limits: checks size, latency and operations.
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
    synthetic: bool
    limits: CostLimits
    trials: list[Trial] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Trial:
    """One plan that was built and measured.

    Args:
        name: short description.
        bytes: size of the model.
        verdict: on the samples that select; None where quality was not measured.
        passed: whether everything held.
        why: what did not; empty where it did.
        chosen: whether this is the plan that was carried out.
    """

    name: str
    bytes: int
    verdict: Verdict | None
    passed: bool
    why: str
    chosen: bool = False


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


def solve(problem: Problem) -> Outcome:
    """The cheapest plan found that keeps the promise, verified and confirmed.

    Raises:
        BudgetError: not even keeping every layer keeps the promise.
    """
    return _Solver(problem).run()


def apply_plan(
    model: ir.Model,
    layers: Iterable[LayerPlan],
    passes: Mapping[str, CompressionPass],
    stats: Mapping[str, LayerStatistics],
) -> tuple[ir.Model, list[Skipped]]:
    """A copy of `model` with the plan of each layer carried out, and what passes refused.

    Raises:
        InputError: the plan names a pass or a layer that there is not.
    """
    copy = clone(model)
    found: dict[str, dict[str, Layer]] = {}
    treatments = []
    for planned in layers:
        if not planned.stages:
            continue
        for stage in planned.stages:
            if stage.pass_name not in passes:
                raise InputError(
                    f"the plan names the pass {stage.pass_name!r}",
                    expected="one of " + ", ".join(sorted(passes)),
                )
        first = planned.stages[0].pass_name
        if first not in found:
            every = passes[first].layers(copy)
            found[first] = {layer.name: layer for layer in every if isinstance(layer, Layer)}
        if planned.name not in found[first]:
            raise InputError(
                f"{first} finds no layer {planned.name!r} in the model",
                advice="make the plan again for this model",
            )
        layer = found[first][planned.name]
        treatments.append((layer, planned.stages, stats.get(planned.name)))
    return copy, apply_treatments(copy, treatments, passes)


class _Solver:
    """The search; holds what its steps share."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._judge = Judge(
            problem.reference,
            _tightened(problem.budget) if problem.synthetic else problem.budget,
            problem.split.select,
            problem.metric,
            careful=not problem.split.weak,
        )
        self._trials = problem.trials

    def run(self) -> Outcome:
        budget = self._problem.budget
        unmet: list[tuple[int, str]] = []  # size of a model, and why it will not do
        for costs in self._aims():
            ladder = Ladder([self._options(unit, costs) for unit in self._problem.units])
            if budget.limits_quality:
                rung = self._climb(ladder)
            else:
                rung = self._least_rung_within_limits(ladder)
            for lower in descent(ladder, rung):
                outcome, size, why = self._confirmed(ladder, lower)
                if outcome is not None:
                    return outcome
                unmet.append((size, why))
                if not budget.limits_quality:
                    break  # a milder plan is never cheaper
        _, closest = min(unmet) if budget.max_bytes is not None else unmet[-1]
        raise BudgetError(
            f"no plan keeps the promise: {closest}",
            advice="allow a larger loss or a larger model",
        )

    def _aims(self) -> list[Callable[[Unit, Choice], float]]:
        """What to make small, in the order in which it is tried."""
        every = self._problem.units
        total_bytes = sum(unit.choices[0].bytes for unit in every) or 1
        total_ms = sum(u.latency_ms for u in every if not math.isnan(u.latency_ms)) or 1.0

        def latency(unit: Unit, choice: Choice) -> float:
            own = 0.0 if math.isnan(unit.latency_ms) else unit.latency_ms
            return own * choice.relative_latency / total_ms

        def size(_unit: Unit, choice: Choice) -> float:
            return choice.bytes / total_bytes

        def folding(unit: Unit, choice: Choice) -> float:
            runs_as_before = choice.folds and len(choice.stages) <= 1
            return size(unit, choice) if runs_as_before else math.inf

        def weighted(first: float, second: float) -> Callable[[Unit, Choice], float]:
            return lambda unit, choice: first * latency(unit, choice) + second * size(unit, choice)

        budget = self._problem.budget
        aims = {"latency": weighted(1.0, _SECOND_AIM), "bytes": weighted(_SECOND_AIM, 1.0)}
        order = [budget.minimize]
        if budget.max_bytes is not None:
            order.append("bytes")
        if budget.max_latency is not None or budget.max_flops is not None:
            order.append("latency")
        if not budget.limits_quality:  # the limits alone say what to make small
            order = order[1:] or order
        # at last only what folds away at load, which cannot be slower
        return [*(aims[name] for name in dict.fromkeys(order)), folding]

    def _options(self, unit: Unit, cost: Callable[[Unit, Choice], float]) -> list[Option]:
        return [Option(choice.damage, cost(unit, choice)) for choice in unit.choices]

    def _climb(self, ladder: Ladder) -> int:
        if not len(ladder):
            return 0
        with task("verify plans") as advance:

            def trial(rung: int) -> tuple[bool, float]:
                advance(1)
                model, plans, refused = self._build(ladder, rung)
                verdict = self._judge(Runner(model))
                name = _describe(plans)
                size = size_bytes(model)
                why = verdict.why or (str(refused[0].why) if refused else "")
                self._trials.append(Trial(name, size, verdict, verdict.passed, why))
                return verdict.passed, verdict.damage

            rung, _ = climb(ladder, self._allowed(), trial)
        return rung

    def _allowed(self) -> float:
        """Damage that the budget allows, as `1 - cosine`; infinite for a metric alone."""
        budget = (
            _tightened(self._problem.budget) if self._problem.synthetic else (self._problem.budget)
        )
        limits = []
        if budget.min_cosine is not None:
            limits.append(1.0 - budget.min_cosine)
        if budget.min_snr_db is not None:
            # noise at a right angle to the signal, of relative power p, costs p / 2 in cosine
            limits.append(0.5 * 10.0 ** (-budget.min_snr_db / 10.0))
        return min(limits, default=math.inf)

    def _least_rung_within_limits(self, ladder: Ladder) -> int:
        """The mildest plan that is small and fast enough; cost falls from rung to rung."""
        low, high = -1, len(ladder)
        while high - low > 1:
            middle = (low + high) // 2
            model, plans, _ = self._build(ladder, middle)
            why = self._problem.limits.broken(model)
            self._trials.append(Trial(_describe(plans), size_bytes(model), None, not why, why))
            low, high = (low, middle) if not why else (middle, high)
        return high

    def _build(self, ladder: Ladder, rung: int) -> tuple[ir.Model, list[LayerPlan], list[Skipped]]:
        problem = self._problem
        plans = []
        for unit, number in zip(problem.units, ladder.choices(rung), strict=True):
            choice = unit.choices[number]
            plans.append(LayerPlan(unit.layer.name, choice.stages, choice.error, choice.damage))
        model, refused = apply_plan(problem.cleaned, plans, problem.passes, problem.stats)
        return model, plans, refused

    def _confirmed(self, ladder: Ladder, rung: int) -> tuple[Outcome | None, int, str]:
        """The outcome of a rung, if it holds on the samples held back; its size; why it fails."""
        problem = self._problem
        model, plans, _ = self._build(ladder, rung)
        name, size = _describe(plans), size_bytes(model)
        why = problem.limits.broken(model) or problem.limits.worse_than_before(model)
        if not why:
            judge = Judge(
                problem.reference,
                problem.budget,
                problem.split.confirm,
                problem.metric,
                careful=False,
            )
            verdict = judge(Runner(model))
            why = verdict.why
        if why:
            self._trials.append(Trial(name, size, None, False, f"not kept: {why}"))
            return None, size, why
        for trial in reversed(self._trials):
            if trial.name == name and trial.passed:
                trial.chosen = True
                break
        else:
            self._trials.append(Trial(name, size, verdict, True, "", chosen=True))
        plan = Plan(
            model_digest=digest(problem.cleaned),
            target=problem.target.name,
            budget=problem.budget.to_dict(),
            layers=tuple(plans),
            seed=problem.seed,
        )
        chosen = [
            unit.choices[n] for unit, n in zip(problem.units, ladder.choices(rung), strict=True)
        ]
        return Outcome(model, plan, chosen, verdict), size, ""


def _tightened(budget: Budget) -> Budget:
    """The budget with only a part of its loss, for samples that prove less."""
    cosine, snr = budget.min_cosine, budget.min_snr_db
    return dataclasses.replace(
        budget,
        min_cosine=None if cosine is None else 1.0 - _SYNTHETIC_SHARE * (1.0 - cosine),
        min_snr_db=None if snr is None else snr - 10.0 * math.log10(_SYNTHETIC_SHARE),
    )


def _describe(plans: Sequence[LayerPlan]) -> str:
    """Such as "quantize-weights on 37 layers, factorize-gemm on 4"."""
    counts: dict[str, int] = {}
    for plan in plans:
        for stage in plan.stages:
            counts[stage.pass_name] = counts.get(stage.pass_name, 0) + 1
    return ", ".join(f"{name} on {count} layers" for name, count in counts.items()) or "keep all"
