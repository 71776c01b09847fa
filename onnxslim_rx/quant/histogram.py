"""How often a tensor has which values: counts in equal bins around zero."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "Histogram", "Tally"]

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float64]

BINS = 4096
"""Bins that a `Tally` counts in."""

_HALF = BINS // 2
_LEAST_EXPONENT = -148  # the least positive number in single precision is 2**-149
_MOST_EXPONENT = 1023
_AT_ONCE = 1 << 16  # values that are copied to float64


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Values of a tensor, counted in equal bins over `[-reach, reach)`.

    Args:
        counts: (N,) int64, N even.
        reach: a power of two, above the largest absolute value.
        low: the least value seen; infinity where none was.
        high: the largest one; minus infinity where none was.
    """

    counts: npt.NDArray[np.integer[Any]]
    reach: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2 * self.reach / len(self.counts)

    def pieces(self) -> tuple[Vector, Vector, Vector]:
        """Where each bin that is not empty begins and ends, and its count; ascending, float64.

        The outermost ones are no wider than the values seen.
        """
        filled = np.flatnonzero(self.counts)
        left = (filled - len(self.counts) // 2) * self.width
        right = np.minimum(left + self.width, self.high)
        return np.maximum(left, self.low), right, self.counts[filled].astype(np.float64)


class Tally:
    """Counts values as they come, in 4,096 bins.

    When a value lies outside, the reach doubles and bins merge in pairs. As it is a power of two
    and zero is the border of two bins, no value changes sides: counts are exact, and do not depend
    on the order of values or how many come at once.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._exponent = _LEAST_EXPONENT
        self._low, self._high = math.inf, -math.inf

    def add(self, values: Array, counted: Array | None = None) -> None:
        """Take in the values of a tensor of any shape; nothing of it where they are refused.

        Args:
            values: numbers of any type.
            counted: those among `values` that are counted; None: all. Extremes are always exact.

        Raises:
            ValueError: NaN, infinity, or numbers from 2**1023 on.
        """
        if not values.size:
            return
        if values.dtype.itemsize == 2 and values.dtype.kind not in "iu":
            values = values.astype(np.float32)  # in half precision, extremes take 30 times as long
        low, high = float(values.min()), float(values.max())
        largest = max(-low, high)
        if not math.isfinite(low) or not largest < 2.0**_MOST_EXPONENT:
            raise ValueError(f"found values from {low} to {high}; expected finite ones")
        self._low, self._high = min(self._low, low), max(self._high, high)
        if largest:
            self._grow(math.frexp(largest)[1])
        flat = (values if counted is None else counted).reshape(-1)
        for start in range(0, len(flat), _AT_ONCE):
            self._count(flat[start : start + _AT_ONCE].astype(np.float64))

    def histogram(self) -> Histogram:
        """What was counted so far."""
        return Histogram(self._counts.copy(), 2.0**self._exponent, self._low, self._high)

    def _grow(self, exponent: int) -> None:
        """Merge bins until they reach up to `2**exponent`, at least."""
        doublings = exponent - self._exponent
        if doublings > 0:
            merged = (np.arange(-_HALF, _HALF) >> min(doublings, _HALF.bit_length())) + _HALF
            counts = np.zeros_like(self._counts)
            np.add.at(counts, merged, self._counts)
            self._counts, self._exponent = counts, exponent

    def _count(self, values: Vector) -> None:
        scaled = values * math.ldexp(_HALF, -self._exponent)
        bins = np.floor(scaled)
        # a negative number too small for the product
        bins -= (scaled == 0) & (values < 0)
        self._counts += np.bincount(bins.astype(np.intp) + _HALF, minlength=BINS)
