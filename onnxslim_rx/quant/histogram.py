"""How often a tensor has which values: counts in equal bins around zero."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram"]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Values of a tensor, counted in equal bins over `[-reach, reach)`.

    Args:
        counts: (N,) int64, N even.
        reach: a power of two, no less than the largest absolute value.
        low: the least value seen.
        high: the largest one.
    """

    counts: npt.NDArray[np.integer[Any]]
    reach: float
    low: float
    high: float
