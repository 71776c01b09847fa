"""Comparing how long things take on a machine that also does other work."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Timing", "time_interleaved"]

_MIN_ROUNDS = 7
_PRECISION = 0.01


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall time of one call.

    Args:
        median_ms: median over all rounds, milliseconds.
        p10: 10th percentile, milliseconds.
        p90: 90th percentile, milliseconds.
        runs: number of rounds, warm-up not counted.
        ratio: median over rounds of this time divided by the first runner's time in the same
            round, no unit; below 1 is faster than the first.
    """

    median_ms: float
    p10: float
    p90: float
    runs: int
    ratio: float


def time_interleaved(
    runners: Sequence[Callable[[], object]],
    *,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
) -> list[Timing]:
    """Time `runners` in turns, so that a slow spell of the machine hits all of them.

    Every round calls each runner once, starting with another one each time. Rounds go on for at
    least `min_seconds` and end when the median ratios to the first runner are known to 1%, or
    after `max_seconds` (one round is always finished).

    Args:
        runners: calls without arguments; each is called once before the first round.
        min_seconds: least time spent in rounds.
        max_seconds: time after which no new round starts.

    Source: confidence interval of a median, McGill, Tukey & Larsen, The American Statistician
        32(1), 1978.
    """
    if not runners:
        return []
    for runner in runners:
        runner()
    rounds: list[list[int]] = []
    next_look = _MIN_ROUNDS  # at all rounds so far: ever more rarely, as it takes ever longer
    begin = time.perf_counter()
    while True:
        rounds.append(_round(runners, first=len(rounds) % len(runners)))
        elapsed = time.perf_counter() - begin
        if elapsed >= max_seconds:
            break
        if elapsed >= min_seconds and len(rounds) >= next_look:
            if _settled(rounds):
                break
            next_look = len(rounds) + len(rounds) // 10 + 1
    times = np.asarray(rounds, dtype=np.float64) / 1e6  # (rounds, runners), milliseconds
    ratios = np.median(times / times[:, :1], axis=0)
    low, middle, high = np.percentile(times, [10, 50, 90], axis=0)
    return [
        Timing(float(middle[i]), float(low[i]), float(high[i]), len(rounds), float(ratios[i]))
        for i in range(len(runners))
    ]


def _round(runners: Sequence[Callable[[], object]], first: int) -> list[int]:
    """Nanoseconds of one call of each runner; at least 1, as they are divided by."""
    spent = [1] * len(runners)
    for step in range(len(runners)):
        index = (first + step) % len(runners)
        begin = time.perf_counter_ns()
        runners[index]()
        spent[index] = max(1, time.perf_counter_ns() - begin)
    return spent


def _settled(rounds: Sequence[Sequence[int]]) -> bool:
    """Whether the 95% interval of every median ratio is narrower than 1% to each side."""
    times: npt.NDArray[np.float64] = np.asarray(rounds, dtype=np.float64)
    values = times[:, 1:] / times[:, :1] if times.shape[1] > 1 else times
    low, middle, high = np.percentile(values, [25, 50, 75], axis=0)
    half_width = 1.57 * (high - low) / np.sqrt(len(rounds))
    return bool(np.all(half_width <= _PRECISION * middle))
