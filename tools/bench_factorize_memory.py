#!/usr/bin/env python3
"""Peak memory of optimizing a decoder of GPT-2's shape, phase by phase: a part of bench_factorize.

    python3 tools/bench_factorize_memory.py MODEL PASS SHARE

Runs one pass alone to a share of the model's bytes and prints one JSON object. Counted is anonymous
memory (see bench_peak.py; Linux only), less what there was before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

import onnxslim_rx as rx
from models import make_gpt2
from onnxslim_rx import optimizer
from tools.bench_peak import Peak, watching

BAR_GB = 1.5
RUNS = {"factorize-gemm": 0.85, "quantize-weights": 0.5}
"""Passes that run alone, and the share of the bytes that is promised."""

SAMPLES, LENGTH = 8, 16


def run(model: Path, name: str, share: float) -> dict[str, Any]:
    """Optimize with one pass; bytes of the peak above the start, in all and by phase."""
    size = bytes_of(model)
    tokens = vocabulary(model)
    rng = np.random.default_rng(1)
    data = [{"input_ids": rng.integers(0, tokens, (1, LENGTH))} for _ in range(SAMPLES)]
    peak = Peak()
    with watching(optimizer._Run, peak):
        budget = rx.Budget(max_bytes=int(share * size))
        result = rx.optimize(model, budget=budget, calibration=data, only=[name], progress=False)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        output = Path(folder) / model.name
        with peak.phase("save"):
            result.save(output)
        kept = bytes_of(output) / size
    return {
        "pass": name,
        "share": share,
        "kept": kept,
        "peak_bytes": peak.peak - peak.start,
        "phases": {name: bytes_ - peak.start for name, bytes_ in peak.phases.items()},
    }


def decoder(work: Path, layers: int, width: int) -> Path:
    """A decoder of GPT-2's shape in `work`, made unless it is there.

    One smaller than the medium size has fewer tokens and positions, so that these take the same
    share of the bytes.
    """
    model = work / f"gpt2_{layers}x{width}" / "gpt2.onnx"
    if not model.is_file():
        part = min(1.0, layers * width / (make_gpt2.LAYERS * make_gpt2.WIDTH))
        tokens, positions = (
            max(LENGTH, round(part * count))
            for count in (make_gpt2.VOCABULARY, make_gpt2.POSITIONS)
        )
        made = make_gpt2.layout(layers, width, vocabulary=tokens, positions=positions)
        make_gpt2.write(model, *made)
    return model


def measure_memory(
    work: Path,
    layers: int = make_gpt2.LAYERS,
    width: int = make_gpt2.WIDTH,
    *,
    runs: Mapping[str, float] = RUNS,
) -> list[dict[str, Any]]:
    """Make the decoder in `work`, unless it is there, and run each pass in a process of its own."""
    model = decoder(work, layers, width)
    found = []
    for name, share in runs.items():
        command = [sys.executable, __file__, str(model), name, str(share)]
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found.append(json.loads(told.stdout))
        show(found[-1])
    return found


def show(found: Mapping[str, Any]) -> None:
    """One line a phase."""
    print(f"{found['pass']} to {found['share']:.0%} ({found['kept']:.1%}): anonymous memory, MB")
    for phase, peak in found["phases"].items():
        print(f"  {phase:20s} {peak / 1e6:7.0f}")
    print(f"  {'all':20s} {found['peak_bytes'] / 1e6:7.0f}", flush=True)


def missed_memory(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bars that are missed, one clause each."""
    return [
        f"memory of {one['pass']}: {one['peak_bytes'] / 1e9:.2f} GB, bar {BAR_GB}"
        for one in found
        if one["peak_bytes"] > BAR_GB * 1e9
    ]


def bytes_of(model: Path) -> int:
    """Of a model and the files beside it that hold its weights."""
    return sum(path.stat().st_size for path in model.parent.glob(model.name + "*"))


def vocabulary(model: Path) -> int:
    """Number of tokens that a decoder knows."""
    (output,) = onnx.load(model, load_external_data=False).graph.output
    return int(output.type.tensor_type.shape.dim[-1].dim_value)


def main(argv: Sequence[str]) -> int:
    """Measure one run."""
    print(json.dumps(run(Path(argv[0]), argv[1], float(argv[2]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
