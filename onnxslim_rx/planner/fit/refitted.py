"""What a refit did to one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from onnxslim_rx.passbase import LayerStatistics

__all__ = ["Fitted", "Refitted"]


@dataclasses.dataclass(frozen=True)
class Refitted:
    """What became of one factorized or rounded layer, or of a BatchNormalization behind one.

    Args:
        name: of the original weight; of the output where there is none, or several layers have it.
        before: `||T - T'||_F / ||T||_F` on the fitted samples, T what the layer's output adds up to
            in the original network, T' in the compressed one, with everything before the layer
            fitted already; of a BatchNormalization, T and T' are mean and deviation of each channel
            of its output; NaN where it was not measured.
        after: the same with the new factors or statistics.
        rows: rows that were measured.
        why_not: why the layer keeps what it has; "" where it has something new.
        stats: by name of a layer whose weight is to be rounded: what enters it now.
    """

    name: str
    before: float
    after: float
    rows: int
    why_not: str = ""
    stats: Mapping[str, LayerStatistics] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """New contents of weights.

    Args:
        arrays: what the model gets; none where they are no better.
        shown: what the walk goes on with: `arrays`, rounded where they will be.
        report: what to tell.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    shown: Mapping[str, npt.NDArray[Any]]
    report: Refitted
