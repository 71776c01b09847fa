"""Choices that another one beats in everything need not be probed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxslim_rx.planner.options import Choice

__all__ = ["unbeaten"]

# Errors are predicted from the layer alone: only one that is smaller by so much counts as smaller.
_CLEARLY = 0.8


def unbeaten(choices: Sequence[Choice]) -> list[Choice]:
    """The choices without those that another one beats clearly, in their order.

    One beats another of the same storage form where its predicted error is clearly smaller, and
    bytes, operations and latency are no more. What keeps the layer, what has no predicted error,
    and what follows others in chains, whose damage is told from it, is never beaten.

    Args:
        choices: of one layer, with latencies.
    """
    needed = {c.stages[1:] for c in choices}
    return [c for c in choices if c.stages in needed or not any(_beats(o, c) for o in choices)]


def _beats(one: Choice, other: Choice) -> bool:
    if len(one.stages) != len(other.stages) or one.stages[1:] != other.stages[1:]:
        return False
    if not one.stages or math.isnan(one.error) or math.isnan(other.error):
        return False
    return (
        one.error < _CLEARLY * other.error
        and one.bytes <= other.bytes
        and one.flops <= other.flops
        and one.relative_latency <= other.relative_latency
    )
