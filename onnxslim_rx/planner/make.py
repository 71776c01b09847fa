"""Decide what to do with each layer so that the budget holds at the least cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from onnxslim_rx.errors import BudgetError
from onnxslim_rx.ir import digest, size_bytes
from onnxslim_rx.planner.aims import Cost, aims
from onnxslim_rx.planner.bundles import bundle_up
from onnxslim_rx.planner.curves import method_of
from onnxslim_rx.planner.judge import Judge
from onnxslim_rx.planner.ladder import Ladder, Option, greedy, uniform
from onnxslim_rx.planner.problem import Outcome, Problem
from onnxslim_rx.planner.program import Bound, allocate
from onnxslim_rx.planner.search import climb, descent
from onnxslim_rx.planner.within import least_damage, no_slower
from onnxslim_rx.planner.workshop import Draft, Workshop
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.progress import Advance, task
from onnxslim_rx.runtime import Runner

__all__ = ["solve"]

# Inputs made up by us, or those that were fitted to, are easier than others: only this share of the
# damage is spent on them.
_BLIND_SHARE = 0.25
# A step that costs so many times what was predicted is corrected, at most so often.
_SURPRISE = 4.0
_CORRECTIONS = 6
_LEAST_DAMAGE = 1e-9
# Into so many parts the ladder is divided for the picture in the report.
_SKETCHED = 8
# Fitting takes as long as several other trials: so few are made. What it gains on average
# (measured on MiniLM: 0.55 to 0.7 of the damage is left) says where to begin.
_REFITS = 4
_REFIT_LEAVES = 0.7
# The integer program spends what the ladder leaves; a smaller gain than this is not worth a trial.
_WORTH = 0.005
# Shares of what may be lost that it aims at, in turn: predictions and samples scatter.
_AIMS = (0.95, 0.85, 0.7)


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
        judge = Judge(
            problem.reference,
            self._budget,
            problem.split.select,
            problem.metric,
            careful=not problem.split.weak,
        )
        self._bundles = bundle_up(problem.units, problem.passes)
        self._workshop = Workshop(problem, self._bundles, judge)

    def run(self) -> Outcome:
        budget = self._problem.budget
        unmet: list[tuple[int, str]] = []  # size of a model, and why it will not do
        costs = aims(budget, self._bundles)
        for number, cost in enumerate(costs):
            drafts = (
                self._search(cost, sketch=number == 0)
                if budget.limits_quality
                else self._within_limits(cost)
            )
            for draft in drafts:
                if not any(draft.picks) and cost is not costs[-1]:
                    continue  # to keep every layer is what is left where no aim finds anything
                outcome, size, why = self._confirmed(draft)
                if outcome is not None:
                    return outcome
                unmet.append((size, why))
        _, closest = min(unmet) if budget.max_bytes is not None else unmet[-1]
        raise BudgetError(
            f"no plan keeps the promise: {closest}",
            advice="allow a larger loss or a larger model",
        )

    def _ladder(self, cost: Cost) -> Ladder:
        options = [
            [Option(pick.damage, cost(pick)) for pick in bundle.picks] for bundle in self._bundles
        ]
        others = {"greedy": greedy, "uniform": uniform}
        order = others.get(self._problem.allocation)
        return Ladder(options, None if order is None else order(options))

    # -- a promise about quality ---------------------------------------------------------------

    def _search(self, cost: Cost, *, sketch: bool) -> Iterator[Draft]:
        """Drafts that pass on the samples that select, the cheapest first, then milder ones."""
        ladder, rung = self._climb(cost)
        if sketch:
            self._sketch(ladder)
        refit = False
        with task("verify plans") as advance:
            fitted = self._climb_fitted(ladder, rung, advance)
            if fitted is not None:
                rung, refit = fitted, True
            best = Draft(ladder.choices(rung), refit)
            filled = self._filled(best, cost, ladder.cost(rung), advance)
        if filled is not None:
            yield filled
        for lower in descent(ladder, rung):
            draft = Draft(ladder.choices(lower), refit)
            yield draft if self._workshop.may_refit(draft) else Draft(draft.picks)

    def _climb(self, cost: Cost) -> tuple[Ladder, int]:
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
                    verdict = self._workshop.verdict(Draft(ladder.choices(rung)))
                    measured[rung] = verdict.damage  # noqa: B023  # used within this round only
                    return verdict.passed, verdict.damage

                rung, _ = climb(ladder, self._allowed(), trial)
                if not self._corrected(ladder, rung, measured):
                    break
        return ladder, rung

    def _climb_fitted(self, ladder: Ladder, rung: int, advance: Advance) -> int | None:
        """The highest rung that passes once weights are fitted; None where that gains nothing."""
        start = Draft(ladder.choices(rung))
        higher = Draft(ladder.choices(min(rung + 1, len(ladder))))
        if not (self._workshop.may_refit(start) or self._workshop.may_refit(higher)):
            return None

        def trial(step: int) -> tuple[bool, float]:
            advance(1)
            verdict = self._workshop.verdict(Draft(ladder.choices(step), refit=True))
            return verdict.passed, verdict.damage

        factor = _REFIT_LEAVES * (self._workshop.factor(start) if rung else 1.0)
        found, _ = climb(ladder, self._allowed(), trial, low=rung, factor=factor, trials=_REFITS)
        if found > rung:
            return found
        # no higher rung: still better at this one, where there is something to fit
        if self._workshop.may_refit(start) and trial(rung)[0]:
            return rung
        return None

    def _filled(self, best: Draft, cost: Cost, paid: float, advance: Advance) -> Draft | None:
        """What the integer program finds beyond the best rung, if it passes."""
        allowed = self._allowed()
        if self._problem.allocation != "program" or not math.isfinite(allowed):
            return None
        factor = self._workshop.factor(best) if self._workshop.is_measured(best) else 1.0
        spent = self._workshop.damage(best)
        for aim in _AIMS:
            bound = max(aim * allowed / factor, spent)
            picks = allocate(
                [[cost(pick) for pick in bundle.picks] for bundle in self._bundles],
                [
                    Bound([[pick.damage for pick in b.picks] for b in self._bundles], bound),
                    no_slower(self._bundles),
                ],
            )
            if picks is None:
                return None
            draft = Draft(tuple(picks), best.refit)
            both = zip(self._bundles, draft.picks, strict=True)
            if sum(cost(bundle.picks[n]) for bundle, n in both) > (1.0 - _WORTH) * paid:
                return None
            advance(1)
            if self._workshop.verdict(draft).passed:
                return draft
        return None

    def _sketch(self, ladder: Ladder) -> None:
        """Note what predictions say of the plans between and above those that were tried."""
        steps = len(ladder)
        for rung in sorted({round(steps * share / _SKETCHED) for share in range(1, _SKETCHED)}):
            draft = Draft(ladder.choices(rung))
            if rung and not self._workshop.is_measured(draft):
                self._workshop.note(draft, None, None, None, "the cosine is predicted")

    def _corrected(self, ladder: Ladder, rung: int, measured: Mapping[int, float]) -> bool:
        """Whether the step above `rung` was badly predicted; its damages are changed then."""
        if rung == len(ladder) or rung not in measured or rung + 1 not in measured:
            return False
        jump = measured[rung + 1] - measured[rung]
        changed = ladder.changed(rung)
        if len(changed) > 1 or jump <= _SURPRISE * (ladder.damage(rung + 1) - ladder.damage(rung)):
            return False
        bundle = self._bundles[changed[0]]
        new = bundle.picks[ladder.choices(rung + 1)[changed[0]]].choices
        for number, option in zip(bundle.units, new, strict=True):
            choices = self._problem.units[number].choices
            if not choices[option].stages:
                continue
            method = method_of(choices[option].stages[0])
            factor = jump / max(choices[option].damage, _LEAST_DAMAGE)
            for choice in choices:
                if choice.stages and method_of(choice.stages[0]) == method:
                    choice.damage = max(choice.damage, _LEAST_DAMAGE) * max(factor, 1.0)
        self._bundles[:] = bundle_up(self._problem.units, self._problem.passes)
        return True

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

    # -- limits alone --------------------------------------------------------------------------

    def _within_limits(self, cost: Cost) -> Iterator[Draft]:
        """The plan of least predicted damage that is small and fast enough."""
        draft = None
        if self._problem.allocation == "program":
            draft = least_damage(self._problem, self._bundles, self._workshop, cost)
        if draft is None:
            ladder = self._ladder(cost)
            draft = Draft(ladder.choices(self._least_rung(ladder)))
        if self._workshop.may_refit(draft):
            fitted, plain = Draft(draft.picks, refit=True), self._workshop.verdict(draft)
            if self._workshop.verdict(fitted).damage <= plain.damage:
                yield fitted
        yield draft

    def _least_rung(self, ladder: Ladder) -> int:
        """The mildest plan that is small and fast enough; cost falls from rung to rung."""
        low, high = -1, len(ladder)
        while high - low > 1:
            middle = (low + high) // 2
            draft = Draft(ladder.choices(middle))
            model = self._workshop.build(draft).model
            why = self._problem.limits.broken(model)
            self._workshop.note(draft, size_bytes(model), None, not why, why)
            low, high = (low, middle) if not why else (middle, high)
        return high

    # -- the end -------------------------------------------------------------------------------

    def _confirmed(self, draft: Draft) -> tuple[Outcome | None, int, str]:
        """The outcome of a draft, if it holds on the samples held back; its size; why it fails."""
        problem = self._problem
        built = self._workshop.build(draft)
        model, size = built.model, size_bytes(built.model)
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
            self._workshop.note(draft, size, None, False, f"not kept: {why}")
            return None, size, why
        self._workshop.choose(draft, size, verdict)
        plan = Plan(
            model_digest=digest(problem.cleaned),
            target=problem.target.name,
            budget=problem.budget.to_dict(),
            layers=built.layers,
            seed=problem.seed,
            refit=draft.refit,
        )
        return Outcome(model, plan, self._workshop.choices(draft), verdict), size, ""


def _tightened(budget: Budget) -> Budget:
    """The budget with only a part of its loss, for samples that prove less."""
    cosine, snr = budget.min_cosine, budget.min_snr_db
    return dataclasses.replace(
        budget,
        min_cosine=None if cosine is None else 1.0 - _BLIND_SHARE * (1.0 - cosine),
        min_snr_db=None if snr is None else snr - 10.0 * math.log10(_BLIND_SHARE),
    )
