"""Damage over error: a few probes of each method tell the rest.

Between two probes the logarithm of the loss is taken to be a straight line over the logarithm of
the predicted error of the layer's output. (For small errors the loss is quadratic in the error;
for the large ones of low ranks it is not, and one probe is not enough.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxslim_rx.passbase import Stage
from onnxslim_rx.planner.options import Choice, Unit

__all__ = ["method_of", "probed", "settle"]

_PROBES = 3  # of each method, spread over its choices
# float32 sums of a network differ by about this in cosine when only their order changes
_NOISE = 1e-7
_LEAST_ERROR = 1e-12

Curve = Sequence[tuple[float, float]]
"""(error, damage) of the probes of one method, in order of error."""


def method_of(stage: Stage) -> str:
    """Choices of one method differ only in how much they round or cut away."""
    method = stage.options.get("method", stage.options.get("bits", ""))
    # what is emitted in another form is computed in another way
    return f"{stage.pass_name} {method} {stage.options.get('form', '')}".rstrip()


def _curve_of(stage: Stage, joint: bool) -> str:
    """Choices of one curve; `joint`: all of a pass, told apart by their errors alone."""
    return stage.pass_name if joint else method_of(stage)


def probed(unit: Unit, *, joint: bool = False) -> dict[str, list[Choice]]:
    """By method, the choices of one stage that are worth a measurement, in order of error.

    Where no error is predicted, nothing can be told from others: every choice is measured.

    Args:
        unit: the layer.
        joint: whether all methods of a pass share one curve, and probes.
    """
    picked: dict[str, list[Choice]] = {}
    curves = (_curve_of(stage, joint) for c in unit.choices for stage in c.stages)
    for curve in dict.fromkeys(curves):
        single = [
            c for c in unit.choices if len(c.stages) == 1 and _curve_of(c.stages[0], joint) == curve
        ]
        by_error = {c.error: c for c in single if not math.isnan(c.error)}
        errors = sorted(by_error)
        picks = np.unique(np.linspace(0, len(errors) - 1, min(_PROBES, len(errors))).astype(int))
        picked[curve] = [by_error[errors[i]] for i in picks]
        picked[curve] += [c for c in single if math.isnan(c.error)]
    return picked


def settle(unit: Unit, damage: Callable[[Choice], float], *, joint: bool = False) -> None:
    """Fill in the damage of every choice from that of those that `probed` names.

    A chain costs what its stages cost together.

    Args:
        unit: the layer.
        damage: what was measured of a choice.
        joint: see `probed`.
    """
    measured: dict[Stage, float] = {}
    curves: dict[str, Curve] = {}
    for method, choices in probed(unit, joint=joint).items():
        found = [(c.error, damage(c)) for c in choices]
        measured.update((c.stages[0], d) for c, (_, d) in zip(choices, found, strict=True))
        curves[method] = [(error, d) for error, d in found if not math.isnan(error)]
    own = {c.stages[0]: c.error for c in unit.choices if len(c.stages) == 1}
    for choice in unit.choices:
        choice.damage = sum(
            _damage(stage, own, measured, curves[_curve_of(stage, joint)])
            for stage in choice.stages
        )


def _damage(
    stage: Stage,
    errors: Mapping[Stage, float],
    measured: Mapping[Stage, float],
    curve: Curve,
) -> float:
    error = errors.get(stage, math.nan)
    if math.isnan(error) and stage in measured:
        return measured[stage]
    return _interpolated(curve, error)


def _interpolated(curve: Curve, error: float) -> float:
    """Damage at `error`.

    Damage is taken to rise with the error: where a probe says otherwise, chance or luck on the
    few samples did, and the larger damage of a smaller error holds.
    """
    if len(curve) < 2 or math.isnan(error):
        return max((damage for _, damage in curve), default=math.inf)
    errors = np.log([max(e, _LEAST_ERROR) for e, _ in curve])
    damages = np.maximum.accumulate([max(damage, _NOISE) for _, damage in curve])
    at = math.log(max(error, _LEAST_ERROR))
    if np.isinf(damages).any():  # beyond a probe that failed, nothing is known to hold
        place = int(np.searchsorted(errors, at))
        if np.isinf(damages[min(place, len(damages) - 1)]):
            return math.inf
    return float(np.exp(np.interp(at, errors, np.log(damages))))
