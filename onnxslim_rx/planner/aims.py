"""What a search makes small, in numbers for each pick of each bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxslim_rx.planner.bundles import Bundle, Pick
from onnxslim_rx.plans import Budget

__all__ = ["Cost", "aims"]

Cost = Callable[[Pick], float]

# What the second aim weighs beside the first: bytes beside latency, latency beside bytes; and where
# that made a slower model.
_BYTES_BESIDE, _TIME_BESIDE = 0.25, 0.05
_MORE_TIME_BESIDE = 1.0


def aims(budget: Budget, bundles: Sequence[Bundle]) -> list[Cost]:
    """What to make small, in the order in which it is tried.

    At last only what runs as before by construction, which cannot be slower: all else costs
    infinitely much there.
    """
    total_bytes = sum(bundle.picks[0].bytes for bundle in bundles) or 1.0
    total_ms = sum(bundle.picks[0].ms for bundle in bundles) or 1.0

    def weighted(ms: float, size: float) -> Cost:
        return lambda pick: ms * pick.ms / total_ms + size * pick.bytes / total_bytes

    def faster(pick: Pick) -> float:
        # more nodes that are no faster alone are slower in the network
        return math.inf if pick.idle else weighted(1.0, _BYTES_BESIDE)(pick)

    def folding(pick: Pick) -> float:
        return pick.bytes / total_bytes if pick.folds else math.inf

    known: dict[str, Cost] = {
        "latency": faster,
        "bytes": weighted(_TIME_BESIDE, 1.0),
        "bytes, in no more time": weighted(_MORE_TIME_BESIDE, 1.0),
    }
    order: list[str] = [budget.minimize]
    if budget.max_bytes is not None:
        order.append("bytes")
    if budget.max_latency is not None or budget.max_flops is not None:
        order.append("latency")
    if not budget.limits_quality:  # the limits alone say what to make small
        order = order[1:] or order
        known["latency"] = weighted(1.0, _BYTES_BESIDE)
    if "bytes" in order:
        order.insert(order.index("bytes") + 1, "bytes, in no more time")
    return [*(known[name] for name in dict.fromkeys(order)), folding]
