"""A CNN for CIFAR-10 at shares of its multiply-adds: each method, the planner's mix, and peers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from onnxslim_rx.vocabulary import Allocation
from tools import bench_measure
from tools.bench_conv_macs import macs
from tools.bench_conv_peers import uniform
from tools.bench_conv_plain import METHODS as PEERS
from tools.bench_data import cifar, prepared
from tools.bench_run import Done, Job, run

__all__ = ["MIX", "PASS", "Asked", "Row", "cifar_data", "measured", "own_rows", "peer_rows"]

MIX = "mix"
PASS = "factorize-conv"
IMAGES = (512, 5000)  # to calibrate on, to measure on
Asked = tuple[str, Allocation, float]
"""Method, allocation, share of the multiply-adds."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One compressed model.

    Args:
        method: of the convolutions; `MIX`: what the planner chose.
        allocation: how ranks were spread over the layers.
        share: of the multiply-adds that was allowed.
        macs: multiply-adds, before and after.
        bytes: of the files, before and after.
        accuracy: top-1 on images that nothing was fitted to, before and after.
        cosine: mean over these of the logits' cosine with the original's.
        ratio: latency, of the original's; with its 95% bootstrap interval.
        seconds: CPU time of the optimizer, or of the decomposition.
        chosen: number of layers by method.
        error: why there is none of the above.
    """

    method: str
    allocation: Allocation
    share: float
    macs: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    accuracy: tuple[float, float] = (math.nan, math.nan)
    cosine: float = math.nan
    ratio: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    seconds: float = 0.0
    chosen: Mapping[str, int] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> Asked:
        """What was asked for."""
        return self.method, self.allocation, self.share

    @property
    def kept(self) -> float:
        """Share of the multiply-adds that is there."""
        return self.macs[1] / self.macs[0] if self.macs[0] else math.nan

    @property
    def drop(self) -> float:
        """Accuracy lost, points of percent."""
        return 100.0 * (self.accuracy[0] - self.accuracy[1])

    @property
    def is_peer(self) -> bool:
        """Whether another tool decomposed the network."""
        return self.method in PEERS


def cifar_data(folder: Path, name: str) -> Path:
    """Make the samples for a model whose input has this name, once."""
    return prepared(folder, cifar(name, *IMAGES))


def own_rows(
    model: Path, data: Path, work: Path, asked: Sequence[Asked],
    threads: int, seconds: float,
) -> Iterator[Row]:  # fmt: skip
    """Optimise to shares of the operations, one row for each (method, allocation, share)."""
    for method, allocation, share in asked:
        limit = math.floor(share * 2 * macs(model))
        job = Job(
            str(model), str(work / f"{method}_{allocation}_{share}.onnx"),
            data=str(data / "calibrate"), budget={"max_flops": limit}, allocation=allocation,
            options={} if method == MIX else {PASS: {"method": method}},
            skip=("quantize-weights",),
            cache=str(work / "cache"),
        )  # fmt: skip
        row, done = Row(method, allocation, share), run(job)
        if done.exit_code != 0:
            yield dataclasses.replace(row, seconds=done.cpu_seconds, error=done.error)
        else:
            row = dataclasses.replace(row, seconds=done.cpu_seconds, chosen=chosen(done))
            yield measured(row, model, Path(job.output), data, threads, seconds)


def chosen(done: Done) -> dict[str, int]:
    """How many layers got which method, as the report says."""
    found: dict[str, int] = {}
    for layer in done.report["layers"]:
        for stage in layer["stages"]:
            name = stage.partition("method=")[2].partition(",")[0].rstrip(")") or stage
            found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def peer_rows(
    model: Path, data: Path, work: Path, asked: Sequence[Asked],
    threads: int, seconds: float,
) -> Iterator[Row]:  # fmt: skip
    """Plain decompositions at the same share of every convolution."""
    for method, allocation, share in asked:
        start = time.process_time()
        made = uniform(onnx.load(model), method, share)
        row = Row(method, allocation, share, seconds=time.process_time() - start)
        output = work / f"peer_{method.split()[0]}_{share}.onnx"
        onnx.save(made, output)
        yield measured(row, model, output, data, threads, seconds)


def measured(
    row: Row, original: Path, result: Path, data: Path, threads: int, seconds: float
) -> Row:
    """Fill in what plain ONNX Runtime says of the two files."""
    found: dict[str, Any] = bench_measure.measure(original, result, data, threads, seconds)
    low, high = found["ratio_interval"]
    return dataclasses.replace(
        row, macs=(macs(original), macs(result)),
        bytes=(found["bytes_before"], found["bytes_after"]),
        accuracy=(found["task"][1], found["task"][2]), cosine=found["cosine"]["mean"],
        ratio=found["ratio"], interval=(low, high),
    )  # fmt: skip
