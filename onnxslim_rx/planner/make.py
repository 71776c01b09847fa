"""Decide what to do with each layer so that the budget holds at the least cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnxslim_rx.errors import BudgetError
from onnxslim_rx.ir import digest, size_bytes
from onnxslim_rx.passbase import Skipped
from onnxslim_rx.planner.carry_out import apply_plan, describe
from onnxslim_rx.planner.judge import Judge, Verdict
from onnxslim_rx.planner.ladder import Ladder, Option
from onnxslim_rx.planner.options import Choice, Unit
from onnxslim_rx.planner.problem import Outcome, Problem, Trial
from onnxslim_rx.planner.search import climb, descent
from onnxslim_rx.plans import Budget, LayerPlan, Plan
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner

__all__ = ["solve"]

# What the second aim weighs beside the first.
_SECOND_AIM = 0.25
# Inputs made up by us, or those that were fitted to, are easier than others: only this share of the
# damage is spent on them.
_BLIND_SHARE = 0.25
# A step that costs so many times what was predicted is corrected, at most so often.
_SURPRISE = 4.0
_CORRECTIONS = 6
_LEAST_DAMAGE = 1e-9
# Into so many parts the ladder is divided for the picture in the report.
_SKETCHED = 8


def solve(problem: Problem) -> Outcome:
    """The cheapest plan found that keeps the promise, verified and confirmed.

    Raises:
        BudgetError: not even keeping every layer keeps the promise.
    """
    return _Solver(problem).run()


class _Solver:
    """The search; holds what its steps share."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._budget = _tightened(problem.budget) if problem.blind else problem.budget
        self._judge = Judge(
            problem.reference,
            self._budget,
            problem.split.select,
            problem.metric,
            careful=not problem.split.weak,
        )
        self._trials = problem.trials
        self._verdicts: dict[tuple[int, ...], Verdict] = {}

    def run(self) -> Outcome:
        budget = self._problem.budget
        unmet: list[tuple[int, str]] = []  # size of a model, and why it will not do
        for costs in self._aims():
            if budget.limits_quality:
                ladder, rung = self._climb(costs)
                if not unmet:
                    self._sketch(ladder)
            else:
                ladder = self._ladder(costs)
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

    def _ladder(self, cost: Callable[[Unit, Choice], float]) -> Ladder:
        return Ladder(
            [
                [Option(choice.damage, cost(unit, choice)) for choice in unit.choices]
                for unit in self._problem.units
            ]
        )

    def _climb(self, cost: Callable[[Unit, Choice], float]) -> tuple[Ladder, int]:
        """The ladder, and the highest rung that passes on the samples that select.

        A single step that is far worse than predicted would bar the way to all above it. So it is
        given the damage that was measured, and the ladder is climbed anew.
        """
        with task("verify plans") as advance:
            for _ in range(_CORRECTIONS + 1):
                ladder = self._ladder(cost)
                measured = {0: 0.0}

                def trial(rung: int, ladder: Ladder = ladder) -> tuple[bool, float]:
                    advance(1)
                    verdict = self._verdict(ladder, rung)
                    measured[rung] = verdict.damage  # noqa: B023  # used within this round only
                    return verdict.passed, verdict.damage

                rung, _ = climb(ladder, self._allowed(), trial)
                if not self._corrected(ladder, rung, measured):
                    break
        return ladder, rung

    def _sketch(self, ladder: Ladder) -> None:
        """Note what predictions say of the plans between and above those that were tried."""
        kept = sum(unit.choices[0].bytes for unit in self._problem.units)
        rest = size_bytes(self._problem.cleaned) - kept
        steps = len(ladder)
        for rung in sorted({round(steps * share / _SKETCHED) for share in range(1, _SKETCHED)}):
            choices = tuple(ladder.choices(rung))
            if not rung or choices in self._verdicts:
                continue
            chosen = [u.choices[n] for u, n in zip(self._problem.units, choices, strict=True)]
            size = rest + sum(choice.bytes for choice in chosen)
            name = describe([LayerPlan("", choice.stages) for choice in chosen])
            damage = ladder.damage(rung)
            self._trials.append(
                Trial(name, size, None, None, "the cosine is predicted", False, damage)
            )

    def _corrected(self, ladder: Ladder, rung: int, measured: Mapping[int, float]) -> bool:
        """Whether the step above `rung` was badly predicted; its damages are changed then."""
        if rung == len(ladder) or rung not in measured or rung + 1 not in measured:
            return False
        step = ladder.steps[rung]
        jump = measured[rung + 1] - measured[rung]
        if jump <= _SURPRISE * step.damage:
            return False
        choices = self._problem.units[step.layer].choices
        first = choices[step.option].stages[0].pass_name
        factor = jump / max(choices[step.option].damage, _LEAST_DAMAGE)
        for choice in choices:
            if choice.stages and choice.stages[0].pass_name == first:
                choice.damage = max(choice.damage, _LEAST_DAMAGE) * factor
        return True

    def _verdict(self, ladder: Ladder, rung: int) -> Verdict:
        """What a rung measures on the samples that select; each plan is measured once."""
        choices = tuple(ladder.choices(rung))
        if choices not in self._verdicts:
            model, plans, refused = self._build(ladder, rung)
            verdict = self._verdicts[choices] = self._judge(Runner(model))
            why = verdict.why or (refused[0].why if refused else "")
            name = describe(plans)
            self._trials.append(Trial(name, size_bytes(model), verdict, verdict.passed, why))
        return self._verdicts[choices]

    def _allowed(self) -> float:
        """Damage that the budget allows, as `1 - cosine`; infinite for a metric alone."""
        budget = self._budget
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
            self._trials.append(Trial(describe(plans), size_bytes(model), None, not why, why))
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
        name, size = describe(plans), size_bytes(model)
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
        min_cosine=None if cosine is None else 1.0 - _BLIND_SHARE * (1.0 - cosine),
        min_snr_db=None if snr is None else snr - 10.0 * math.log10(_BLIND_SHARE),
    )
