"""The plan of least damage within limits of size and operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxslim_rx.ir import size_bytes
from onnxslim_rx.planner.aims import Cost
from onnxslim_rx.planner.bundles import Bundle, Pick
from onnxslim_rx.planner.problem import Problem
from onnxslim_rx.planner.program import Bound, allocate
from onnxslim_rx.planner.workshop import Draft, Workshop

__all__ = ["least_damage", "no_slower"]

# Predictions leave out what a few more nodes take.
_ROUNDS = 6


def least_damage(
    problem: Problem, bundles: Sequence[Bundle], workshop: Workshop, cost: Cost
) -> Draft | None:
    """What the integer program says, where sizes or operations are all that is limited.

    Args:
        problem: what is planned.
        bundles: of its units.
        workshop: builds what the program proposes.
        cost: picks that cost infinitely much are left out.

    Returns:
        A draft within the limits; None where latency is limited, or nothing within them was found.
    """
    limits = _limits(problem, bundles, workshop)
    if problem.budget.max_latency is not None or not limits:
        return None
    damages = [
        [pick.damage if math.isfinite(cost(pick)) else math.inf for pick in bundle.picks]
        for bundle in bundles
    ]
    for _ in range(_ROUNDS):
        bounds = [limit.bound(bundles) for limit in limits]
        picks = allocate(damages, [*bounds, no_slower(bundles)]) or allocate(damages, bounds)
        if picks is None:
            return None
        draft = Draft(tuple(picks))
        model = workshop.build(draft).model
        beyond = [limit.tighten(model) for limit in limits]  # each of them, so no generator
        if not any(beyond):
            return draft
    return None


def no_slower(bundles: Sequence[Bundle]) -> Bound:
    """What picks take together is no more time than all layers as they are."""
    values = [[pick.ms for pick in bundle.picks] for bundle in bundles]
    return Bound(values, sum(bundle.picks[0].ms for bundle in bundles))


class _Limit:
    """One limit, in the units of what bundles say of their picks.

    Args:
        value: what a pick takes.
        measure: what a model has.
        most: what it may have.
        unit: how much of `measure` one of `value` stands for.
        kept: what the model has in which all layers are kept.
        bundles: where that is predicted.
    """

    def __init__(
        self,
        value: Callable[[Pick], float],
        measure: Callable[[ir.Model], float],
        most: float,
        unit: float,
        kept: float,
        bundles: Sequence[Bundle],
    ) -> None:
        self._value, self._measure, self._most, self._unit = value, measure, most, unit
        rest = kept - unit * sum(value(bundle.picks[0]) for bundle in bundles)
        self._left = (most - rest) / unit

    def bound(self, bundles: Sequence[Bundle]) -> Bound:
        return Bound([[self._value(pick) for pick in b.picks] for b in bundles], self._left)

    def tighten(self, model: ir.Model) -> bool:
        """Whether `model` is beyond the limit; the bound is lower by the excess then."""
        excess = self._measure(model) - self._most
        self._left -= max(excess, 0.0) / self._unit
        return excess > 0


def _limits(problem: Problem, bundles: Sequence[Bundle], workshop: Workshop) -> list[_Limit]:
    budget = problem.budget
    found = []
    if budget.max_bytes is not None:
        kept = float(workshop.bytes(Draft((0,) * len(bundles))))
        found.append(_Limit(lambda p: p.bytes, size_bytes, budget.max_bytes, 1.0, kept, bundles))
    if budget.max_flops is not None:
        operations = problem.limits.operations(problem.cleaned)
        predicted = sum(bundle.picks[0].flops for bundle in bundles)
        if operations is None or predicted <= 0:
            return []
        # one sample is counted, calibration saw many
        unit = 1.0 / max(len(problem.split.calibrate), 1)

        def count(model: ir.Model) -> float:
            return float(problem.limits.operations(model) or math.inf)

        found.append(
            _Limit(lambda p: p.flops, count, budget.max_flops, unit, float(operations), bundles)
        )
    return found
