"""Does a model keep the promise? Measured, on samples that nothing was fitted to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from onnxslim_rx.calibration import Dataset
from onnxslim_rx.metrics import Drop, Metric, Score
from onnxslim_rx.planner.recorded import Recorded, own_state
from onnxslim_rx.plans import Budget
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import Comparison, compare_runs

__all__ = ["Judge", "Verdict"]

# Without a margin every second plan that passes here would fail on fresh samples. So two standard
# errors of the mean are added to the loss, and a tenth of the budget is left: the plan that did
# best on these samples was also lucky on them.
_STANDARD_ERRORS = 2.0
_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was measured of one model, and whether that is within the budget.

    Args:
        passed: whether every promise about quality holds, with the margin that was asked for.
        why: the promise that fails, one clause; empty where all hold.
        comparison: outputs against the original's.
        damage: `1 - cosine`, of the mean over samples, at least 0.
        metric: the user's metric of this model and of the original; None where there is none.
        drop: how much lower the metric is than the original's; None where there is none.
    """

    passed: bool
    why: str
    comparison: Comparison
    damage: float
    metric: tuple[Score, Score] | None = None
    drop: Drop | None = None


class Judge:
    """Compares models with the original on one set of samples.

    The original runs once on each sample, however many models are compared with it.

    Args:
        reference: the original model.
        budget: what must hold.
        data: the samples; arrays that are no inputs (labels) are left to the metric.
        metric: the user's metric, where the budget limits its drop.
        careful: demand a margin, for plans that other samples are yet to confirm.
    """

    def __init__(
        self,
        reference: Runner,
        budget: Budget,
        data: Dataset,
        metric: Metric | None,
        *,
        careful: bool,
    ) -> None:
        self._reference = reference
        self._budget = budget
        self._dataset = data
        self._data = data if metric is None else metric.against(reference, data)
        self._metric = metric
        self._careful = careful
        self._baseline: Score | None = None
        self._right = Recorded(reference, data)

    def __call__(self, candidate: Runner) -> Verdict:
        """Run the candidate on every sample and hold the differences against the budget."""
        found = own_state(candidate, self._dataset)
        comparison = compare_runs(self._right, found, self._right.data)
        scores, drop = None, None
        if self._metric is not None:
            if self._baseline is None:
                self._baseline = self._metric.score(self._reference, self._data)
            scores = (self._metric.score(candidate, self._data), self._baseline)
            drop = self._metric.drop(self._baseline, scores[0])
        why = self._broken_promise(comparison, drop)
        damage = max(1.0 - comparison.cosine("mean", self._budget.outputs), 0.0)
        return Verdict(not why, why, comparison, damage, scores, drop)

    def _broken_promise(self, comparison: Comparison, drop: Drop | None) -> str:
        budget = self._budget
        counting = comparison.counting(budget.outputs)
        failures = [failure for output in counting for failure in output.failures]
        if failures and budget.limits_quality:
            return failures[0]
        if budget.min_cosine is not None:
            worst = comparison.worst(budget.cosine_stat, budget.outputs)
            cosine = worst.statistic(budget.cosine_stat)
            if self._loss(cosine, worst.per_sample) > 1.0 - budget.min_cosine:
                return f"cosine {cosine:.5f} of {worst.name}, below {budget.min_cosine:g}"
        if budget.min_snr_db is not None:
            snr = comparison.snr(budget.outputs)
            if snr - (0.5 if self._careful else 0.0) < budget.min_snr_db:
                return f"signal-to-noise ratio {snr:.1f} dB, below {budget.min_snr_db:g}"
        # 0.98 - 0.975 is a little above 0.005
        if (
            budget.max_drop is not None
            and drop is not None
            and drop.value > budget.max_drop + 1e-12
        ):
            return f"the metric drops by {drop.value:.4g}, above {budget.max_drop:g}"
        return ""

    def _loss(self, cosine: float, per_sample: Any) -> float:
        """`1 - cosine`, with the margin."""
        loss = 1.0 - cosine
        # float64 sums of equal vectors may give 1 - 1e-16: no loss
        if loss <= 1e-12 or not self._careful:
            return max(loss, 0.0) if loss > 1e-12 else 0.0
        if self._budget.cosine_stat == "mean":
            loss += _STANDARD_ERRORS * float(np.std(per_sample)) / math.sqrt(len(per_sample))
        return loss / _SHARE
