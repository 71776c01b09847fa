"""Models in which little or nothing can be gained, and one of VGG-16's size: whole runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models import make_vgg16
from tools import bench_measure
from tools.bench_conv_macs import macs
from tools.bench_data import ASSETS, PREPARE, imagenet, prepared
from tools.bench_run import Done, Job, run

__all__ = ["KEPT", "WAYS", "ModelRow", "kept_row", "unexplained", "vgg_row"]

KEPT = ("mobilenetv2_fp32", "cifar10_resnet_4b", "super_resolution", "ultraface_RFB_320")
WAYS: Mapping[str, tuple[str, ...]] = {"all": (), "low rank": ("quantize-weights",)}
"""Passes that are left out: with quantization, and without, so that ranks alone are judged."""
CONVOLUTIONS = ("Conv", "ConvTranspose")
VGG_IMAGES = (16, 4)


@dataclasses.dataclass
class ModelRow:
    """One model under the default budget.

    Args:
        name: of the model.
        way: key of `WAYS`.
        error: why there is no result.
        cpu_seconds, peak_mb: of the optimizer.
        bytes, macs: before and after.
        cosine: mean over held-out samples.
        ratio: latency, of the original's; with its 95% bootstrap interval.
        task: name of the metric, before, after.
        done: number of convolutions by what was done to them.
        why: of each convolution that nothing was done to: the reason that the report gives.
    """

    name: str
    way: str
    error: str = ""
    cpu_seconds: float = 0.0
    peak_mb: float | None = None
    bytes: tuple[int, int] | None = None
    macs: tuple[int, int] | None = None
    cosine: float | None = None
    ratio: float | None = None
    interval: Sequence[float] = ()
    task: Sequence[Any] | None = None
    done: dict[str, int] = dataclasses.field(default_factory=dict)
    why: dict[str, str] = dataclasses.field(default_factory=dict)


def kept_row(name: str, way: str, work: Path, threads: int, seconds: float) -> ModelRow:
    """Optimise a model of the assets under the default budget, and measure."""
    original = ASSETS / "models" / f"{name}.onnx"
    data = prepared(work / f"data_{name}", PREPARE[name])
    output = work / f"{name}_{way.replace(' ', '_')}.onnx"
    job = Job(
        str(original), str(output), data=str(data / "calibrate"), skip=WAYS[way],
        cache=str(work / "cache"),
    )  # fmt: skip
    row = _ran(ModelRow(name, way), run(job), original, output)
    if not row.error:
        found = bench_measure.measure(original, output, data, threads, seconds)
        row.bytes = (found["bytes_before"], found["bytes_after"])
        row.cosine, row.task = found["cosine"]["mean"], found["task"]
        row.ratio, row.interval = found["ratio"], found["ratio_interval"]
    return row


def vgg_row(work: Path) -> ModelRow:
    """Optimise a network of VGG-16's shape under the default budget; its weights are random."""
    folder = work / "vgg16"
    original, output = folder / "vgg16.onnx", folder / "result.onnx"
    if not original.is_file():
        make_vgg16.write(original, *make_vgg16.layout())
    data = prepared(folder / "data", imagenet("image", *VGG_IMAGES))
    # no cache: everything that a first run costs is to be in its time
    done = run(Job(str(original), str(output), data=str(data / "calibrate")))
    row = _ran(ModelRow("vgg16", "all"), done, original, output)
    if not row.error:
        row.bytes = (_size(original), _size(output))
    return row


def _ran(row: ModelRow, done: Done, original: Path, output: Path) -> ModelRow:
    """What the optimizer cost and says."""
    row.cpu_seconds, row.peak_mb, row.error = done.cpu_seconds, done.peak_mb, done.error
    if done.exit_code != 0:
        row.error = done.error or f"exit code {done.exit_code}"
        return row
    try:
        row.macs = (macs(original), macs(output))
    except ValueError:  # whatever it has become: as the optimizer counts
        found = done.report["flops"]
        if None not in found.values():
            row.macs = (found["before"] // 2, found["after"] // 2)
    for layer in done.report["layers"]:
        if layer["op"] in CONVOLUTIONS:
            names = [stage.partition("(")[0] for stage in layer["stages"]]
            what = " + ".join(names) or ("kept" if layer["skipped"] is None else "refused")
            row.done[what] = row.done.get(what, 0) + 1
            if not names:
                row.why[layer["name"]] = layer["skipped"] or layer["why"]
    return row


def unexplained(row: ModelRow) -> int:
    """Convolutions that were left as they were, and nothing says why."""
    return sum(not reason.strip() for reason in row.why.values())


def _size(path: Path) -> int:
    """Bytes of a model with its external data."""
    beside = path.parent.glob(path.name + ".*")
    return path.stat().st_size + sum(found.stat().st_size for found in beside)
