"""Plans become models, and models are measured, each once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.ir import size_bytes
from onnxslim_rx.passbase import Skipped
from onnxslim_rx.planner.bundles import Bundle, choices_of
from onnxslim_rx.planner.carry_out import apply_plan, describe
from onnxslim_rx.planner.judge import Judge, Verdict
from onnxslim_rx.planner.options import Choice
from onnxslim_rx.planner.problem import Problem, Trial
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.runtime import Runner

__all__ = ["Built", "Draft", "Workshop"]


_Key = tuple[tuple[int, ...], bool]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A plan on paper.

    Args:
        picks: number of the pick of each bundle.
        refit: fit the weights of layers in a new form to the original's outputs.
    """

    picks: tuple[int, ...]
    refit: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
    """A draft carried out."""

    model: ir.Model
    layers: tuple[LayerPlan, ...]
    refused: tuple[Skipped, ...]


class Workshop:
    """Builds drafts and measures them on the samples that select.

    Args:
        problem: its trials are added to.
        bundles: what the picks of drafts refer to.
        judge: holds models against the budget.
    """

    def __init__(self, problem: Problem, bundles: Sequence[Bundle], judge: Judge) -> None:
        self._problem = problem
        self._bundles = bundles
        self._judge = judge
        self._verdicts: dict[_Key, Verdict] = {}
        self._trials: dict[_Key, Trial] = {}
        # fitting takes long, and models much memory: the last, and the last that passed, are kept
        self._last: tuple[_Key, Built] | None = None
        self._passed: tuple[_Key, Built] | None = None

    def choices(self, draft: Draft) -> list[Choice]:
        """The choice of each unit."""
        return choices_of(self._problem.units, self._bundles, draft.picks)

    def damage(self, draft: Draft) -> float:
        """Predicted `1 - cosine`, without fitting."""
        return sum(b.picks[n].damage for b, n in zip(self._bundles, draft.picks, strict=True))

    def milliseconds(self, draft: Draft) -> float | None:
        """Predicted latency of the layers that are treated."""
        found = sum(b.picks[n].ms for b, n in zip(self._bundles, draft.picks, strict=True))
        return found if found > 0 else None

    def bytes(self, draft: Draft) -> int:
        """Predicted size of the model."""
        kept = sum(bundle.picks[0].bytes for bundle in self._bundles)
        rest = size_bytes(self._problem.cleaned) - kept
        found = sum(b.picks[n].bytes for b, n in zip(self._bundles, draft.picks, strict=True))
        return round(rest + found)

    def may_refit(self, draft: Draft) -> bool:
        """Whether there is something to fit, and something to fit it to."""
        if self._problem.refit is None:
            return False
        stages = [choice.stages[0] for choice in self.choices(draft) if choice.stages]
        passes = self._problem.passes
        return any(
            passes[s.pass_name].replaces == "output" or passes[s.pass_name].follows_data(s)
            for s in stages
        )

    def build(self, draft: Draft) -> Built:
        """Carry a draft out, if it is neither the last one nor the last that passed."""
        key = self._key(draft)
        for known in (self._last, self._passed):
            if known is not None and known[0] == key:
                return known[1]
        self._last = None
        problem = self._problem
        layers = tuple(
            LayerPlan(unit.layer.name, choice.stages, choice.error, choice.damage)
            for unit, choice in zip(problem.units, self.choices(draft), strict=True)
        )
        model, refused = apply_plan(
            problem.cleaned,
            layers,
            problem.passes,
            problem.stats,
            refit=problem.refit if draft.refit else None,
            target=problem.target,
        )
        built = Built(model, layers, tuple(refused))
        self._last = (key, built)
        return built

    def verdict(self, draft: Draft) -> Verdict:
        """What a draft measures on the samples that select."""
        key = self._key(draft)
        if key not in self._verdicts:
            built = self.build(draft)
            verdict = self._verdicts[key] = self._judge(Runner(built.model))
            why = verdict.why or (built.refused[0].why if built.refused else "")
            self.note(draft, size_bytes(built.model), verdict, verdict.passed, why)
            if verdict.passed:
                self._passed = (key, built)
        return self._verdicts[key]

    def is_measured(self, draft: Draft) -> bool:
        """Whether there is a verdict on the draft."""
        return self._key(draft) in self._verdicts

    def factor(self, draft: Draft) -> float:
        """Measured damage divided by the predicted one; 1 where either is nothing."""
        predicted, measured = self.damage(draft), self.verdict(draft).damage
        ratio = measured / predicted if predicted > 0 else 1.0
        return ratio if ratio > 0 and math.isfinite(ratio) else 1.0

    def note(
        self,
        draft: Draft,
        size: int | None,
        verdict: Verdict | None,
        passed: bool | None,
        why: str,
    ) -> None:
        """Add a draft to the trials; without `size`, with the predicted one."""
        layers = [LayerPlan("", choice.stages) for choice in self.choices(draft)]
        trial = Trial(
            describe(layers) + (", refitted" if draft.refit else ""),
            self.bytes(draft) if size is None else size,
            verdict,
            passed,
            why,
            predicted=self.damage(draft),
            predicted_ms=self.milliseconds(draft),
            refit=draft.refit,
        )
        self._problem.trials.append(trial)
        if passed:
            self._trials[self._key(draft)] = trial

    def choose(self, draft: Draft, size: int, verdict: Verdict) -> None:
        """Note that this is the draft that is carried out; `verdict` is on the confirm samples."""
        key = self._key(draft)
        if key not in self._trials:
            self.note(draft, size, verdict, True, "")
        self._trials[key].chosen = True

    def _key(self, draft: Draft) -> _Key:
        """The same for the same plan, also after the bundles were made anew."""
        numbers = {
            unit: choice
            for bundle, pick in zip(self._bundles, draft.picks, strict=True)
            for unit, choice in zip(bundle.units, bundle.picks[pick].choices, strict=True)
        }
        return tuple(numbers[unit] for unit in sorted(numbers)), draft.refit
