"""MiniLM under budgets and by other tools, judged alike by plain ONNX Runtime."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tools import bench_quantize_peers
from tools.bench_data import Sample
from tools.bench_measure import Outputs, latency, quality, read, session
from tools.bench_quantize_data import Data
from tools.bench_quantize_peer_files import OPSET, converted, peer_file
from tools.bench_run import Done, Job, run

__all__ = ["BUDGETS", "JOBS", "Judge", "Row", "done_to_layers", "own_rows", "peer_rows"]

BUDGETS: dict[str, dict[str, Any]] = {
    **{
        f"{what} at {least}": {"min_cosine": least, "minimize": what}
        for what in ("bytes", "latency")
        for least in (0.9995, 0.998, 0.995, 0.99, 0.98, 0.96, 0.94)
    },
    **{
        f"{what} at {least}, weights alone": {"min_cosine": least, "minimize": what}
        for what, least in (
            ("bytes", 0.9995),
            ("bytes", 0.998),
            ("bytes", 0.995),
            ("bytes", 0.992),
            ("bytes", 0.96),
            ("latency", 0.999),
            ("latency", 0.998),
            ("latency", 0.992),
        )
    },
    "bytes at p5 0.985": {"min_cosine": 0.985, "cosine_stat": "p5", "minimize": "bytes"},
    "latency at p5 0.985": {"min_cosine": 0.985, "cosine_stat": "p5", "minimize": "latency"},
}
"""Fields of `rx.Budget` by name."""

_WEIGHTS = ("quantize-weights",)
_PRODUCTS = (*_WEIGHTS, "quantize-dynamic", "quantize-static")
ALONE = {
    name: _WEIGHTS if name.startswith("bytes") else _PRODUCTS
    for name in BUDGETS
    if name.endswith("weights alone")
}
"""Budgets for which these passes run alone, without clean-up: Q, K and V that are not merged get
formats of their own."""

NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Row:
    """One compressed model.

    Args:
        name: of the budget, or of the tool and its setting.
        peer: another tool made it.
        bytes: of the files, before and after.
        cosine: mean and 5th percentile over sentences of each domain, with the original's.
        ratio: latency of one sentence of 32 tokens, of the original's; with its 95% bootstrap
            interval.
        seconds: CPU time of the tool, all threads.
        peak_mb: most memory of the tool's process, 10^6 bytes.
        phases: CPU seconds and most memory above the start, 10^6 bytes; ours only.
        chosen: number of layers by what was done to them; ours only.
        runtime: least version of onnxruntime, as recorded; ours only.
        error: why there is none of the above.
    """

    name: str
    peer: bool = False
    bytes: tuple[int, int] = (0, 0)
    cosine: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    ratio: float = NAN
    interval: tuple[float, float] = (NAN, NAN)
    seconds: float = 0.0
    peak_mb: float = NAN
    phases: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    chosen: Mapping[str, int] = dataclasses.field(default_factory=dict)
    runtime: str = ""
    error: str = ""

    @property
    def times_smaller(self) -> float:
        """Bytes before by bytes after."""
        return self.bytes[0] / self.bytes[1] if self.bytes[1] else NAN

    def reaches(self, domain: str, mean: float, p5: float = -1.0) -> bool:
        """Whether the cosine on a domain is at least so much."""
        found = self.cosine.get(domain, (NAN, NAN))
        return found[0] >= mean and found[1] >= p5


JOBS: dict[str, dict[str, Any]] = {
    name: {"budget": budget, "only": ALONE.get(name, ())} for name, budget in BUDGETS.items()
}
"""Fields of `bench_run.Job` by name."""


class Judge:
    """Compares results with the original, without anything of onnxslim_rx.

    Attributes:
        kind: class of the rows that are filled in.

    Args:
        original: path of the model.
        data: sentences to score and to time.
        threads: of each session.
        seconds: of timing for each result.
    """

    kind: type[Row] = Row

    def __init__(self, original: Path, data: Data, threads: int, seconds: float) -> None:
        self.original, self.threads, self.seconds = original, threads, seconds
        self.short = data.short
        self.samples = {domain: read(folder) for domain, folder in data.score.items()}
        run_ = session(original, threads)
        self.outputs = {name: [run_(s) for s in samples] for name, samples in self.samples.items()}

    def measured(self, row: Row, result: Path) -> Row:
        """The row with sizes, cosines and latency; with an error where the file does not run."""
        try:
            beside = sum(path.stat().st_size for path in result.parent.glob(f"{result.name}.*"))
            run_ = session(result, self.threads)
            after = {name: [run_(s) for s in group] for name, group in self.samples.items()}
            sizes = (self.original.stat().st_size, result.stat().st_size + beside)
            found = {"bytes": sizes, **self.agreement(after), **self.speed(result)}
            return dataclasses.replace(row, **found)
        except Exception as error:  # noqa: BLE001  # onnxruntime's share no other base
            words = " ".join(str(error).split())
            return dataclasses.replace(row, error=f"does not run: {words[:200]}")

    def agreement(self, after: Mapping[str, list[Outputs]]) -> dict[str, Any]:
        """Fields of a row that tell how like the original's its outputs are."""
        cosine = {}
        for domain, outputs in after.items():
            found = quality(self.outputs[domain], outputs)["cosine"]
            cosine[domain] = (found["mean"], found["p5"])
        return {"cosine": cosine}

    def speed(self, result: Path) -> dict[str, Any]:
        """Fields of a row that tell how fast it is."""
        ratio, *interval = self.timed(self.original, result, self.short)
        return {"ratio": ratio, "interval": tuple(interval)}

    def timed(
        self, before: Path, after: Path, samples: Sequence[Sample]
    ) -> tuple[float, float, float]:
        """Latency of one file, of another's, in turns, with its 95% bootstrap interval."""
        found = latency(
            lambda: (session(before, self.threads), session(after, self.threads)),
            samples,
            self.seconds,
        )
        return (found["ratio"], *found["ratio_interval"])


def own_rows(
    judge: Judge, data: Data, work: Path, names: Sequence[str],
    jobs: Mapping[str, Mapping[str, Any]] = JOBS,
) -> Iterator[Row]:  # fmt: skip
    """Optimise as each job says; the first row pays for the statistics and timings of all."""
    for name in names:
        job = Job(
            str(judge.original), str(work / f"own_{name.replace(' ', '_')}.onnx"),
            data=str(data.calibrate), cache=str(work / "cache"), **jobs[name],
        )  # fmt: skip
        done = run(job)
        row = judge.kind(
            name, seconds=done.cpu_seconds, peak_mb=done.peak_mb or NAN, phases=done.phases,
            error=done.error,
        )  # fmt: skip
        if done.exit_code == 0:
            runtime = done.report["environment"]["min_onnxruntime"]
            row = dataclasses.replace(row, chosen=done_to_layers(done), runtime=runtime)
            row = judge.measured(row, Path(job.output))
        yield row


def done_to_layers(done: Done) -> dict[str, int]:
    """How many layers were treated in which way, as the report says."""
    found: dict[str, int] = {}
    for layer in done.report["layers"]:
        words = " + ".join(layer["stages"]) or "kept"
        found[words] = found.get(words, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def peer_rows(
    judge: Judge, data: Data, work: Path, names: Sequence[str], python: str,
    script: ModuleType = bench_quantize_peers, opset: int = OPSET,
) -> Iterator[Row]:  # fmt: skip
    """Each peer's file, made once from the model in an opset, measured."""
    for name in names:
        model = converted(judge.original, work, opset)
        made = peer_file(name, python, model, data.calibrate, work, script)
        row = judge.kind(
            name, peer=True, seconds=made.seconds, peak_mb=made.peak_mb, error=made.error
        )
        yield row if made.error else judge.measured(row, made.path)
