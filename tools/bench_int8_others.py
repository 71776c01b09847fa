"""Models in which integers may gain little: whole runs under the default budget, with reasons."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools import bench_models
from tools.bench_data import ASSETS, PREPARE, prepared
from tools.bench_measure import measure
from tools.bench_models import bars, gain
from tools.bench_quantize_rows import done_to_layers
from tools.bench_run import Job, run

__all__ = ["OTHERS", "WAYS", "OtherRow", "judge_other", "other_row", "reasons", "show_other"]

WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "raised": {"also": ("raise-opset",), "freeze_weights": True},
}
"""Fields of `bench_run.Job`. Old models have no operators for integers by channels, and say that
callers may give other weights: "raised" they are converted, and their weights frozen."""

OTHERS = (
    "silero_vad_16k_op15", "ultraface_RFB_320", "ultraface_RFB_320, raised", "super_resolution",
    "super_resolution, raised", "vit_ibp_3_3_8", "vit_ibp_3_3_8, raised", "magika_fast_v2_1",
)  # fmt: skip
_MOST_REASONS = 6  # shown


@dataclasses.dataclass
class OtherRow(bench_models.Row):
    """One model.

    Args:
        reasons: why layers were left as they were, and how many.
    """

    reasons: Mapping[str, int] = dataclasses.field(default_factory=dict)


def other_row(name: str, work: Path, threads: int, seconds: float) -> OtherRow:
    """Optimise under the default budget, and measure.

    Args:
        name: of the model, and a key of `WAYS`.
        work: folder of data and results.
        threads: of each session.
        seconds: of timing.
    """
    row = OtherRow(name)
    name, _, way = name.partition(", ")
    original, output = ASSETS / "models" / f"{name}.onnx", work / f"{name}_{way}.onnx"
    data = prepared(work / f"data_{name}", PREPARE[name])
    job = Job(
        str(original), str(output), data=str(data / "calibrate"), cache=str(work / "cache"),
        **WAYS[way],
    )  # fmt: skip
    done = run(job)
    row.exit_code, row.error = done.exit_code, done.error
    row.cpu_seconds, row.peak_mb = done.cpu_seconds, done.peak_mb
    if done.exit_code == 0:
        row.notes, row.reasons = done.report["notes"], reasons(done.report)
        row.layers = done_to_layers(done)
        for key, value in measure(original, output, data, threads, seconds).items():
            setattr(row, key, value)
    return row


def reasons(report: Mapping[str, Any]) -> dict[str, int]:
    """What a report says of layers to which nothing was done, the most frequent first."""
    kept = [layer for layer in report["layers"] if not layer["stages"]]
    return dict(Counter(layer["skipped"] or layer["why"] for layer in kept).most_common())


def judge_other(row: OtherRow) -> dict[str, bool]:
    """The bars of bench_models.py; and a gain, or a reason for each layer that was left."""
    stated = bool(row.notes or row.reasons) and "" not in row.reasons
    return {**bars(row), "gain or reason": bool(gain(row)) or stated}


def show_other(row: OtherRow) -> None:
    """What was done to layers, and why nothing was."""
    print(f"    gain: {gain(row) or 'none'}  {row.error}")
    for words, count in row.layers.items():
        print(f"    {count:3d} {words}")
    for words, count in list(row.reasons.items())[:_MOST_REASONS]:
        print(f"    {count:3d} left: {words}")
    for note in row.notes:
        print(f"    note: {note}", flush=True)
