"""Climb the ladder of plans as far as the promise holds."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxslim_rx.planner.ladder import Ladder

__all__ = ["climb", "descent"]

_TRIALS = 8
# The part of the allowed damage that a plan is aimed at: predictions are not exact.
_AIM = 0.9
# A rung that lowers the cost by less than this share is not worth another trial.
_WORTH = 0.005


def climb(
    ladder: Ladder,
    allowed: float,
    trial: Callable[[int], tuple[bool, float]],
    *,
    low: int = 0,
    factor: float = 1.0,
    trials: int = _TRIALS,
) -> tuple[int, list[int]]:
    """The highest rung found to pass, by a bisection that predictions guide.

    Quality is taken to fall from rung to rung. Each trial says how far the prediction was off;
    the next rung is the one that the corrected prediction allows.

    Args:
        ladder: the plans.
        allowed: damage that the budget allows; infinite where predictions say nothing about it.
        trial: measures a rung; gives whether it passes and its measured damage.
        low: a rung that is known to pass.
        factor: measured damage divided by predicted one, as far as is known.
        trials: so many at most.

    Returns:
        The rung, `low` where none above it passes, and all rungs tried in order.
    """
    high = len(ladder) + 1
    tried: list[int] = []
    bounded = math.isfinite(allowed)
    rung: int | None = ladder.highest(allowed * _AIM / factor) if bounded else len(ladder)
    while high - low > 1 and len(tried) < trials:
        rung = min(max(rung or 0, low + 1), high - 1)
        if tried and low and ladder.cost(low) - ladder.cost(high - 1) < _WORTH * ladder.cost(0):
            break
        passed, damage = trial(rung)
        tried.append(rung)
        low, high = (rung, high) if passed else (low, rung)
        rung = _next_rung(ladder, allowed, low, high, damage / (ladder.damage(rung) or math.inf))
        if rung is None:
            break
    return low, tried


def _next_rung(ladder: Ladder, allowed: float, low: int, high: int, factor: float) -> int | None:
    """Where to try next between a rung that passed and one that did not; None: nowhere.

    `factor` is the measured damage of the last trial divided by the predicted one.
    """
    if math.isfinite(allowed) and factor > 0:
        for aim in (_AIM, 1.0):
            rung = ladder.highest(aim * allowed / factor)
            if low < rung < high:
                return rung
        if low and rung <= low:
            return None  # what the last trial taught says that the next rung fails
    return ladder.highest((ladder.damage(low) + ladder.damage(high - 1)) / 2)


def descent(ladder: Ladder, rung: int) -> list[int]:
    """Where to walk from a rung that was not confirmed: ever milder plans, at last none at all."""
    top = ladder.damage(rung)
    shares = (0.8, 0.6, 0.4, 0.2, 0.1, 0.03, 0.0)
    lower = [ladder.highest(share * top) for share in shares]
    return [r for r in dict.fromkeys([rung, *lower]) if r <= rung] + ([0] if 0 not in lower else [])
