"""MiniLM and MobileNetV2 in integers, ours and others', judged alike by plain ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench_int8_data import IMAGES, Half, lengths
from tools.bench_measure import Outputs, classes
from tools.bench_quantize_data import LENGTH, Data
from tools.bench_quantize_rows import NAN, Judge, Row

__all__ = [
    "MINILM_JOBS",
    "MOBILENET_JOBS",
    "ImagesJudge",
    "ImagesRow",
    "LengthsJudge",
    "LengthsRow",
    "both",
]

Timed = tuple[float, float, float]
"""Latency, of another's, and its 95% bootstrap interval."""

_DYNAMIC, _STATIC = ("quantize-dynamic",), ("quantize-static",)
_INTEGERS = (*_STATIC, "quantize-weights")


def _fast(**budget: Any) -> dict[str, Any]:
    return {"budget": {"minimize": "latency"} | budget}


MINILM_JOBS: dict[str, dict[str, Any]] = {
    **{f"latency at {least}": _fast(min_cosine=least) for least in (0.998, 0.995, 0.994, 0.993)},
    "latency at 0.994, dynamic alone": {**_fast(min_cosine=0.994), "only": _DYNAMIC},
    "latency at 0.997, integers alone": {
        **_fast(min_cosine=0.997),
        "only": (*_DYNAMIC, *_INTEGERS),
    },
}
"""Fields of `bench_run.Job` by name."""

MOBILENET_JOBS: dict[str, dict[str, Any]] = {
    "cosine 0.997": _fast(min_cosine=0.997),
    "cosine 0.997, integers alone": {**_fast(min_cosine=0.997), "only": _INTEGERS},
    "cosine 0.996, integers alone": {**_fast(min_cosine=0.996), "only": _INTEGERS},
    "cosine 0.98, static alone": {**_fast(min_cosine=0.98), "only": _STATIC},
    "agreement 0.97, integers alone": {
        "metric": "agreement",
        **_fast(max_drop=0.03),
        "only": _INTEGERS,
    },
}
"""The same."""


@dataclasses.dataclass(frozen=True)
class LengthsRow(Row):
    """One compressed model.

    Args:
        ratios: latency of a sequence, of the original's, by the number of its tokens.
    """

    ratios: Mapping[str, Timed] = dataclasses.field(default_factory=dict)


class LengthsJudge(Judge):
    """Times sequences of several lengths; arguments as of `Judge`."""

    kind = LengthsRow

    def __init__(self, original: Path, data: Data, threads: int, seconds: float) -> None:
        super().__init__(original, data, threads, seconds)
        self.sequences = lengths(data.score["sst"])

    def speed(self, result: Path) -> dict[str, Any]:
        """The ratios at all lengths; that at 32 tokens is the row's."""
        ratios = {
            length: self.timed(self.original, result, samples)
            for length, samples in self.sequences.items()
        }
        ratio, *interval = ratios[str(LENGTH)]
        return {"ratio": ratio, "interval": tuple(interval), "ratios": ratios}


@dataclasses.dataclass(frozen=True)
class ImagesRow(Row):
    """One way to compress a network that classifies: two models, one for each half of the data.

    Args:
        same: share of the pictures that get the original's class.
        accuracy: share that gets the right one, before and after.
        against: latency, of the rival's.
    """

    same: float = NAN
    accuracy: tuple[float, float] = (NAN, NAN)
    against: Timed = (NAN, NAN, NAN)


class ImagesJudge(Judge):
    """Compares classes, and latency with a rival's.

    Args:
        original: path of the model.
        half: the data.
        threads: of each session.
        seconds: of timing for each result.
        rival: a file that results are timed against, too.
    """

    kind = ImagesRow

    def __init__(
        self, original: Path, half: Half, threads: int, seconds: float, rival: Path | None = None
    ) -> None:
        super().__init__(original, half.data, threads, seconds)
        self.rival = rival
        self.labels = np.array(half.labels)
        self.found = classes(self.outputs[IMAGES])

    def agreement(self, after: Mapping[str, list[Outputs]]) -> dict[str, Any]:
        """Cosine, classes that are the original's, classes that are right."""
        now = classes(after[IMAGES])
        right = tuple(float(np.mean(each == self.labels)) for each in (self.found, now))
        same = float(np.mean(now == self.found))
        return {**super().agreement(after), "same": same, "accuracy": right}

    def speed(self, result: Path) -> dict[str, Any]:
        """The latency, of the original's and of the rival's."""
        found = super().speed(result)
        if self.rival is not None:
            found["against"] = self.timed(self.rival, result, self.short)
        return found


def both(first: Iterable[Row], second: Iterable[Row]) -> Iterator[ImagesRow]:
    """One row of those of two halves, as they come: means of scores, the worst of costs."""
    for pair in zip(first, second, strict=True):
        yield _merged([row for row in pair if isinstance(row, ImagesRow)])


def _merged(rows: Sequence[ImagesRow]) -> ImagesRow:
    for row in rows:
        if row.error:
            return row
    slowest = max(rows, key=lambda row: row.ratio)
    return dataclasses.replace(
        slowest,
        bytes=max(row.bytes for row in rows),
        cosine={name: _mean(row.cosine[name] for row in rows) for name in slowest.cosine},
        same=float(np.mean([row.same for row in rows])),
        accuracy=_mean(row.accuracy for row in rows),
        against=max(row.against for row in rows),
        seconds=max(row.seconds for row in rows),
        peak_mb=max(row.peak_mb for row in rows),
    )


def _mean(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(list(pairs), axis=0)
    return float(first), float(second)
