"""Choices that another one beats in everything need not be probed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from onnxslim_rx.planner.options import Choice

__all__ = ["unbeaten"]

# Errors are predicted from the layer alone: only one that is smaller by so much counts as smaller.
_CLEARLY = 0.8


# Values that lie beyond a fixed range are cut off, and other data may have such. So what finds its
# ranges run by run is as good though it takes a little longer and stores a few numbers more.
_MORE_TIME, _MORE_BYTES = 1.15, 1.02


def unbeaten(choices: Sequence[Choice], fixed: Collection[str] = ()) -> list[Choice]:
    """The choices without those that another one beats clearly, in their order.

    One beats another of the same storage form where its predicted error is clearly smaller, and
    bytes, operations and latency are no more, or hardly more than those of a choice of `fixed`
    ranges. What keeps the layer, what has no predicted error,
    and what follows others in chains, whose damage is told from it, is never beaten.

    Args:
        choices: of one layer, with latencies.
        fixed: names of passes that rely on the ranges of activations that calibration saw.
    """
    needed = {c.stages[1:] for c in choices}

    def beaten(choice: Choice) -> bool:
        return any(_beats(other, choice, fixed) for other in choices)

    return [c for c in choices if c.stages in needed or not beaten(c)]


def _beats(one: Choice, other: Choice, fixed: Collection[str]) -> bool:
    if len(one.stages) != len(other.stages) or one.stages[1:] != other.stages[1:]:
        return False
    if not one.stages or math.isnan(one.error) or math.isnan(other.error):
        return False
    relies, other_relies = (c.stages[0].pass_name in fixed for c in (one, other))
    more_time, more_bytes = (_MORE_TIME, _MORE_BYTES) if other_relies > relies else (1.0, 1.0)
    return (
        one.error < _CLEARLY * other.error
        and one.bytes <= more_bytes * other.bytes
        and one.flops <= other.flops
        and one.relative_latency <= more_time * other.relative_latency
    )
