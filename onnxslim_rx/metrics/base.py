"""What a metric is, and how sure its value is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError, OnnxslimError
from onnxslim_rx.verify import Run, without_extras

__all__ = ["Data", "Drop", "Metric", "Score", "Units", "bootstrap"]

Array = npt.NDArray[Any]
Data = Sequence[Mapping[str, Array]]
Units = npt.NDArray[np.float64]
"""What each row (or sample, or pair) adds to a metric, along the first axis."""

_RESAMPLES = 2000
_FEWEST_RESAMPLES = 100
_MOST_NUMBERS = 200_000_000  # drawn in all; bounds the time of large metrics


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric's value, in its units, higher is better.

    Args:
        value: on all samples.
        low, high: bootstrap interval of 95%; NaN where the metric gives a single number only.
        units: what each row adds, for comparing two scores row by row; may be empty.
    """

    value: float
    low: float
    high: float
    units: Units = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Drop:
    """How much lower a metric is than before, in its units; negative is a gain.

    Args:
        value: before minus after.
        low, high: bootstrap interval of 95%, over the same samples for both; NaN where the
            metric gives a single number only.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric with a name; calling it gives its value.

    Args:
        name: for messages and reports.
        units: takes the metric apart by rows: `(run, data)` to units.
        aggregate: from units to the value; None: their mean.
        function: instead of `units`: the user's `(run, data)`, which returns the value, or one
            score for each sample, whose mean is the value.
        labels: makes what is right out of what the original gives, `(run, data)` to data; None:
            the samples say so themselves.
    """

    name: str
    units: Callable[[Run, Data], Units] | None = None
    aggregate: Callable[[Units], float] | None = None
    function: Callable[[Run, Data], Any] | None = None
    labels: Callable[[Run, Data], Data] | None = None

    def against(self, original: Run, data: Data) -> Data:
        """The samples with what is right, where that is what the original gives."""
        return data if self.labels is None else self.labels(original, data)

    def __call__(self, run: Run, data: Data) -> float:
        """The value on `data`; errors as in `score`."""
        value, _ = self._measure(run, data)
        return value

    def score(self, run: Run, data: Data, *, seed: int = 0) -> Score:
        """The value on `data` with its bootstrap interval.

        Raises:
            InputError: the metric raises, or what it gives is not a finite number.
        """
        value, units = self._measure(run, data)
        return Score(value, *bootstrap(self._value, [units], seed), units)

    def drop(self, before: Score, after: Score, *, seed: int = 0) -> Drop:
        """How much lower `after` is, both scores of this metric on the same samples."""
        value = before.value - after.value
        if len(before.units) != len(after.units):
            return Drop(value, math.nan, math.nan)
        interval = bootstrap(
            lambda old, new: self._value(old) - self._value(new), [before.units, after.units], seed
        )
        return Drop(value, *interval)

    def _measure(self, run: Run, data: Data) -> tuple[float, Units]:
        if not len(data):
            raise InputError(f"metric {self.name} has no sample", expected="at least one")
        run = without_extras(run)
        try:
            if self.units is not None:
                units = self.units(run, data)
                return self._finite(self._value(units)), units
            assert self.function is not None  # one of the two is always given
            found = self.function(run, data)
        except OnnxslimError:
            raise
        except Exception as error:  # the user's code may raise anything
            reason = " ".join(str(error).split())
            raise InputError(
                f"metric {self.name} raised {type(error).__name__}: {reason}"
            ) from error
        scores = np.asarray(found)
        if scores.shape == (len(data),) and scores.dtype.kind in "biuf":
            numbers = scores.astype(np.float64)
            return self._finite(float(numbers.mean())), numbers
        return self._finite(found), np.empty(0)

    def _finite(self, value: Any) -> float:
        is_number = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"
        if not is_number or not math.isfinite(value):
            shown = " ".join(repr(value).split())[:80]
            raise InputError(f"metric {self.name} returned {shown}", expected="a finite number")
        return float(value)

    def _value(self, units: Units) -> float:
        return float(np.mean(units)) if self.aggregate is None else self.aggregate(units)


def bootstrap(
    statistic: Callable[..., float], groups: Sequence[Units], seed: int
) -> tuple[float, float]:
    """Interval of 95% of `statistic(*groups)`: percentiles over resampled units.

    The same units are drawn from every group, so that paired scores stay paired. NaN where there
    are fewer than two units.

    Source: Efron, Annals of Statistics 7(1), 1979.
    """
    count = len(groups[0])
    if count < 2:
        return math.nan, math.nan
    affordable = _MOST_NUMBERS // sum(group.size for group in groups)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(max(_FEWEST_RESAMPLES, min(_RESAMPLES, affordable))):
        drawn = rng.integers(0, count, count)
        values.append(statistic(*(group[drawn] for group in groups)))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
