"""What a refit did to one layer."""

from __future__ import annotations

import dataclasses

__all__ = ["Refitted"]


@dataclasses.dataclass(frozen=True)
class Refitted:
    """What became of one factorized layer, or of a BatchNormalization behind one.

    Args:
        name: of the original weight; of the output where there is none, or several layers have it.
        before: `||T - T'||_F / ||T||_F` on the fitted samples, T what the layer's output adds up to
            in the original network, T' in the compressed one, with everything before the layer
            fitted already; of a BatchNormalization, T and T' are mean and deviation of each channel
            of its output; NaN where it was not measured.
        after: the same with the new factors or statistics.
        rows: rows that were measured.
        why_not: why the layer keeps what it has; "" where it has something new.
    """

    name: str
    before: float
    after: float
    rows: int
    why_not: str = ""
