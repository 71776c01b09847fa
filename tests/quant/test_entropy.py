"""Ranges by divergence against the steps of the original, one candidate after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxslim_rx.quant import Histogram, Tally, find_range

Array = npt.NDArray[Any]


def histogram_of(values: Array) -> Histogram:
    tally = Tally()
    tally.add(values)
    return tally.histogram()


def divergence(bins: Array, first: int, last: int, levels: int) -> float:
    """KL(P || Q) with loops, as on the slides; `bins` from `first` to `last` - 1 are kept."""
    p = [float(count) for count in bins[first:last]]
    p[0] += float(sum(bins[:first]))
    p[-1] += float(sum(bins[last:]))
    width = last - first
    q = [0.0] * width
    groups: dict[int, list[int]] = {}
    for i in range(width):
        groups.setdefault(i * levels // width, []).append(i)
    for group in groups.values():
        total = sum(float(bins[first + i]) for i in group)
        filled = [i for i in group if p[i] > 0]
        for i in filled:
            q[i] = max(total / len(filled), 1e-4)
    return sum(
        a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a
    )


def smoothed(found: Histogram) -> Array:
    bins = found.counts.astype(np.float64)
    middle = len(bins) // 2
    bins[middle] = min(bins[middle], max(bins[middle - 1], bins[middle + 1]))
    return bins


@pytest.mark.parametrize("shape", ["normal", "laplace", "relu"])
def test_symmetric_ranges_are_near_the_best_of_all(shape: str, rng: np.random.Generator) -> None:
    normal = rng.standard_normal(30000)
    values = {"normal": normal, "laplace": rng.laplace(size=30000), "relu": np.maximum(normal, 0)}
    found = histogram_of(values[shape])
    bins = smoothed(found)
    folded = bins[2048:] + bins[:2048][::-1]
    most = int(np.flatnonzero(folded)[-1]) + 1
    kept = int(np.argmax(np.cumsum(folded) >= 0.99 * bins.sum())) + 1
    ends = range(max(128, kept), most + 1, 16)
    every = {end: divergence(folded, 0, end, 128) for end in ends}
    low, high = find_range(found, "entropy", symmetric=True)
    assert low == -high
    ours = divergence(folded, 0, min(round(high / found.width), most), 128)
    assert ours <= min(every.values()) * 1.05
    assert ours < max(every.values())


@pytest.mark.parametrize("levels", [16, 256])
def test_both_ends_are_near_the_best(levels: int, rng: np.random.Generator) -> None:
    values = np.append(rng.gamma(2.0, 1.0, 30000) - 1, [-6.0, 25.0])
    found = histogram_of(values)
    bins = smoothed(found)

    def ours(low: float, high: float) -> float:
        first = 2048 + max(round(low / found.width), -int(6 / found.width) - 1)
        last = 2048 + min(round(high / found.width), int(25 / found.width) + 1)
        return divergence(bins, first, last, levels)

    low, high = find_range(found, "entropy", levels=levels)
    assert -6 <= low < 0 < high < 25  # the outlier goes
    tried = [ours(a, b) for a in np.linspace(-6, -0.9, 6) for b in np.linspace(8, 25, 12)]
    assert ours(low, high) <= min(tried) * 1.1


def test_few_values_are_cut_off(rng: np.random.Generator) -> None:
    """All values in a range far from zero: cutting nearly all of them would hardly diverge."""
    values = rng.normal(10, 0.1, 20000)
    for symmetric in (False, True):
        _, high = find_range(histogram_of(values), "entropy", symmetric=symmetric)
        assert np.mean(values > high) <= 0.011


def test_zeros_do_not_decide(rng: np.random.Generator) -> None:
    values = np.abs(rng.standard_normal(50000))
    alone = find_range(histogram_of(values), "entropy")
    among = find_range(histogram_of(np.append(values, np.zeros(500_000))), "entropy")
    assert among[1] == pytest.approx(alone[1], rel=0.1)
