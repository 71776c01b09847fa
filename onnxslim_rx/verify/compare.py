"""Comparing two models on the same data (definitions: design.md, section 2)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.progress import task
from onnxslim_rx.verify.measures import Difference, cosine, failed, is_float, measure
from onnxslim_rx.verify.parts import Run, flatten, without_extras, without_padding
from onnxslim_rx.vocabulary import CosineStat

__all__ = ["Comparison", "OutputError", "compare_runs"]

Array = npt.NDArray[Any]
OutputKind = Literal["float", "integer", "other"]

_STATISTICS: tuple[CosineStat, ...] = ("mean", "p5", "min")


@dataclasses.dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference, over all samples.

    Args:
        name: the output; `name[i]` or `name[key]` for a part of a sequence or map.
        kind: "float", "integer" (bool too) or "other" (text).
        per_sample: (samples,) float64, cosine of each sample, or share of equal elements where
            the output is not float; 0 where a sample cannot be compared. One number has no
            direction: where every sample has one, the cosine is that of all samples together.
        snr_db: `10 log10(sum r^2 / sum (c - r)^2)` over all samples, dB; infinite where nothing
            differs, NaN where the output is not float.
        max_abs: largest absolute difference; NaN where the output is not float.
        max_rel: largest difference of a sample divided by the largest absolute value of the
            reference in this sample; NaN where the output is not float.
        failures: what could not be compared, one line each.
    """

    name: str
    kind: OutputKind
    per_sample: npt.NDArray[np.float64] = dataclasses.field(repr=False, compare=False)
    snr_db: float
    max_abs: float
    max_rel: float
    failures: tuple[str, ...] = ()

    @property
    def cosine_mean(self) -> float:
        """Mean over samples."""
        return self.statistic("mean")

    @property
    def cosine_p5(self) -> float:
        """5th percentile over samples: 95% are better."""
        return self.statistic("p5")

    @property
    def cosine_min(self) -> float:
        """The worst sample."""
        return self.statistic("min")

    @property
    def agreement(self) -> float:
        """Mean share of equal elements; NaN for floats."""
        return math.nan if self.kind == "float" else float(self.per_sample.mean())

    def statistic(self, stat: CosineStat) -> float:
        """A statistic of `per_sample`."""
        if stat == "p5":
            return float(np.percentile(self.per_sample, 5))
        return float(self.per_sample.min() if stat == "min" else self.per_sample.mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None stands for infinite and undefined."""
        values = {
            "agreement": self.agreement,
            "snr_db": self.snr_db,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
        }
        for stat in _STATISTICS:
            values[f"cosine_{stat}"] = self.statistic(stat) if self.kind == "float" else math.nan
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        return {"name": self.name, "kind": self.kind, **finite, "failures": list(self.failures)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far a candidate is from a reference on the same samples.

    Args:
        outputs: every output (or part of one), in the reference's order; the float outputs count
            for `cosine` and the like, the others only where there is none or they are named.
        samples: number of samples.
    """

    outputs: tuple[OutputError, ...]
    samples: int

    def counting(self, outputs: Sequence[str] | None = None) -> tuple[OutputError, ...]:
        """The outputs that count: the named ones, else all floats, else all.

        Raises:
            InputError: there is no output of a given name.
        """
        if outputs is None:
            return tuple(o for o in self.outputs if o.kind == "float") or self.outputs
        known = {o.name.partition("[")[0] for o in self.outputs} | {o.name for o in self.outputs}
        for name in outputs:
            if name not in known:
                raise _no_output(name, sorted(known))
        return tuple(
            o for o in self.outputs if o.name in outputs or o.name.partition("[")[0] in outputs
        )

    def worst(self, stat: CosineStat = "mean", outputs: Sequence[str] | None = None) -> OutputError:
        """The output with the lowest `stat` among those that count."""
        return min(self.counting(outputs), key=lambda output: output.statistic(stat))

    def cosine(self, stat: CosineStat = "mean", outputs: Sequence[str] | None = None) -> float:
        """Statistic of the worst output, in [-1, 1]; agreement where no output is float."""
        return self.worst(stat, outputs).statistic(stat)

    @property
    def per_sample(self) -> npt.NDArray[np.float64]:
        """(samples,) cosine of each sample, of the output whose mean is worst."""
        return self.worst().per_sample

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio of the noisiest output, dB; infinite where nothing differs."""
        return self.snr()

    def snr(self, outputs: Sequence[str] | None = None) -> float:
        """As `snr_db`, among the named outputs; infinite where none of them is float."""
        ratios = [o.snr_db for o in self.counting(outputs) if o.kind == "float"]
        return min(ratios, default=math.inf)

    @property
    def max_abs(self) -> float:
        """Largest absolute difference in any float output."""
        return max((o.max_abs for o in self.outputs if o.kind == "float"), default=0.0)

    @property
    def max_rel(self) -> float:
        """Largest relative difference in any float output."""
        return max((o.max_rel for o in self.outputs if o.kind == "float"), default=0.0)

    @property
    def failures(self) -> tuple[str, ...]:
        """What could not be compared, one line each."""
        return tuple(line for output in self.outputs for line in output.failures)

    def passed(
        self,
        *,
        min_cosine: float | None = None,
        min_snr_db: float | None = None,
        stat: CosineStat = "mean",
        outputs: Sequence[str] | None = None,
    ) -> bool:
        """Whether everything could be compared and the limits that are given hold."""
        return (
            not any(o.failures for o in self.counting(outputs))
            and (min_cosine is None or self.cosine(stat, outputs) >= min_cosine)
            and (min_snr_db is None or self.snr(outputs) >= min_snr_db)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None stands for infinite and undefined."""
        numbers = {"snr_db": self.snr_db, "max_abs": self.max_abs, "max_rel": self.max_rel}
        return {
            "cosine": {stat: self.cosine(stat) for stat in _STATISTICS},
            **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
            "samples": self.samples,
            "worst_output": self.worst().name,
            "outputs": [output.to_dict() for output in self.outputs],
        }


def compare_runs(
    reference: Run,
    candidate: Run,
    data: Sequence[Mapping[str, Array]],
    *,
    outputs: Sequence[str] | None = None,
) -> Comparison:
    """Run both on every sample of `data` and compare what comes out.

    Args:
        reference: what is right.
        candidate: what is compared with it.
        data: one dictionary of inputs for each sample.
        outputs: names of the outputs to compare; None: all of the reference.

    Raises:
        InputError: there is no sample, no output, or no output of a given name.
    """
    if not len(data):
        raise InputError("there is no sample to compare on", expected="at least one")
    reference, candidate = without_extras(reference), without_extras(candidate)
    found: dict[str, _Collected] = {}
    with task("compare", total=len(data)) as advance:
        for index, sample in enumerate(data):
            right, other = reference(sample), candidate(sample)
            for output in right if outputs is None else outputs:
                if output not in right:
                    raise _no_output(output, right)
                parts = _differences(right[output], other.get(output), output, sample)
                for name, kind, difference in parts:
                    collected = found.setdefault(name, _Collected(kind))
                    collected.differences[index] = difference
            advance(1)
    if not found:
        raise InputError("the model has no output that could be compared")
    summaries = (collected.summary(name, len(data)) for name, collected in found.items())
    return Comparison(tuple(summaries), len(data))


def _no_output(name: str, known: Iterable[str]) -> InputError:
    return InputError(f"the model has no output {name!r}", expected="one of " + ", ".join(known))


@dataclasses.dataclass
class _Collected:
    """Differences of one output, by the sample's index."""

    kind: OutputKind
    differences: dict[int, Difference] = dataclasses.field(default_factory=dict)

    def summary(self, name: str, samples: int) -> OutputError:
        """All samples in one; those that lack this part of a sequence or map do not differ."""
        per_sample = np.ones(samples)
        for index, difference in self.differences.items():
            per_sample[index] = difference.closeness
        singles = [d.single for d in self.differences.values() if d.single is not None]
        if len(singles) == samples > 1:
            per_sample[:] = cosine(*np.asarray(singles, dtype=np.float64).T)
        failures = tuple(
            f"output {name!r} of sample {index} {difference.failure}"
            for index, difference in self.differences.items()
            if difference.failure
        )
        all_ = self.differences.values()
        numbers = (math.nan, math.nan, math.nan)
        if self.kind == "float":
            snr_db = _decibels(sum(d.signal for d in all_), sum(d.noise for d in all_))
            numbers = (snr_db, max(d.max_abs for d in all_), max(d.max_rel for d in all_))
        return OutputError(name, self.kind, per_sample, *numbers, failures)


def _differences(
    reference: Any, candidate: Any, name: str, sample: Mapping[str, Array]
) -> Iterator[tuple[str, OutputKind, Difference]]:
    """One output of one sample, part by part."""
    ours, theirs = dict(flatten(name, reference)), dict(flatten(name, candidate))
    for part, array in ours.items():
        other = theirs.get(part)
        if other is None:
            difference = failed("is missing")
        elif other.shape == array.shape:
            difference = measure(without_padding(array, sample), without_padding(other, sample))
        else:
            difference = measure(array, other)
        yield part, _kind(array.dtype), difference
    for part in theirs.keys() - ours.keys():
        yield part, _kind(theirs[part].dtype), failed("does not exist in the original")


def _kind(dtype: np.dtype[Any]) -> OutputKind:
    if is_float(dtype):
        return "float"
    return "integer" if dtype.kind in "iub" else "other"


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if signal == 0.0 or not math.isfinite(noise):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))
