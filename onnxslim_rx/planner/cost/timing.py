"""Which candidates of a layer are timed, and what that says of the others.

Of many ranks of one method a few are timed. Between two of them time is taken to be a straight
line over the multiply-adds. Where one of the two is slower than the layer as it was and the other
is not, all between them are timed, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxslim_rx.passbase import Stage
from onnxslim_rx.planner.curves import method_of
from onnxslim_rx.planner.options import Choice

__all__ = ["Stages", "time_choices", "timed_stages"]

Stages = tuple[Stage, ...]
_TIMED = 5  # of each method, spread over its choices


def timed_stages(choice: Choice) -> Stages:
    """The stages that cost time: a last one that folds away at load does not."""
    return choice.stages[:-1] if choice.folds and choice.stages else choice.stages


def time_choices(
    choices: Sequence[Choice],
    measure: Callable[[Sequence[Stages]], Mapping[Stages, float]],
    slower: float,
) -> dict[Stages, float]:
    """Time by stages, relative to the layer as it was; what cannot be timed is missing.

    Args:
        choices: of one layer.
        measure: times some stages in turns with the layer as it was.
        slower: from this ratio on a choice is slower than the layer.
    """
    curves = _curves(choices)
    found = dict(measure([stages for curve in curves for stages in _spread(curve)]))
    between = [
        stages
        for curve in curves
        for stages in _doubtful(curve, found, slower)
        if stages not in found
    ]
    if between:
        found.update(measure(between))
    for curve in curves:
        timed = [stages for stages in curve if stages in found]
        flops = [curve[stages] for stages in timed]
        ratios = [found[stages] for stages in timed]
        for stages, own in curve.items():
            if stages not in found and timed and flops[0] <= own <= flops[-1]:
                found[stages] = float(np.interp(own, flops, ratios))
    return found


Curve = Mapping[Stages, int]
"""Stages of one method and their operations, in ascending order."""


def _curves(choices: Sequence[Choice]) -> list[Curve]:
    by_method: dict[tuple[str, ...], dict[Stages, int]] = {}
    for choice in choices:
        stages = timed_stages(choice)
        if stages:
            methods = tuple(method_of(stage) for stage in stages)
            by_method.setdefault(methods, {}).setdefault(stages, choice.flops)
    return [dict(sorted(curve.items(), key=lambda entry: entry[1])) for curve in by_method.values()]


def _spread(curve: Curve) -> list[Stages]:
    """A few of a method; all, where operations do not tell them apart."""
    stages = list(curve)
    if len(set(curve.values())) < len(stages):
        return stages
    picks = np.unique(np.linspace(0, len(stages) - 1, min(_TIMED, len(stages))).round().astype(int))
    return [stages[i] for i in picks]


def _doubtful(curve: Curve, found: Mapping[Stages, float], slower: float) -> list[Stages]:
    """What lies between a choice that is slower than the layer and one that is not."""
    stages = list(curve)
    timed = [i for i, one in enumerate(stages) if one in found]
    doubtful: list[Stages] = []
    for low, high in itertools.pairwise(timed):
        if (found[stages[low]] > slower) != (found[stages[high]] > slower):
            doubtful += stages[low + 1 : high]
    return doubtful
