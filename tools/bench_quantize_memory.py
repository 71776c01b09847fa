#!/usr/bin/env python3
"""A decoder of 1.3 billion parameters to INT4 without data: memory, time, and whether it runs.

    python3 tools/bench_quantize_memory.py [--layers 24] [--width 2048] [--method METHOD]
        [--work FOLDER] [--json FILE]

The decoder has GPT-2's shape and random weights; it is made in FOLDER (5.3 GB; Linux only, some
minutes). Counted is anonymous memory, as in bench_factorize_memory.py: what is mapped is not. The
result is loaded in onnxruntime with its own settings, in a process of its own, and given one
sequence.

Exit code 0 where both bars are met, else 1: at most 2.5 GB above what there was before the run, and
logits that are finite.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

import onnxslim_rx as rx
from onnxslim_rx import datafree
from onnxslim_rx.vocabulary import Rounding
from tools.bench_factorize_memory import LENGTH, bytes_of, decoder, vocabulary
from tools.bench_peak import Peak, watching

BAR_GB = 2.5
LAYERS, WIDTH = 24, 2048
METHOD: Rounding = "clip"


def run(model: Path, output: Path, method: Rounding) -> dict[str, Any]:
    """Quantize; bytes of the peak above the start, in all and by phase, and seconds."""
    peak = Peak()
    begin = time.perf_counter(), time.process_time()
    with watching(datafree._Run, peak):
        result = rx.quantize(model, method=method, progress=False)
    with peak.phase("save"):
        result.save(output)
    changed = [layer for layer in result.report.layers if layer.changed]
    return {
        "method": method,
        "seconds": time.perf_counter() - begin[0],
        "cpu_seconds": time.process_time() - begin[1],
        "bytes": [bytes_of(model), bytes_of(output)],
        "layers": len(changed),
        "left": [layer.name for layer in result.report.layers if not layer.changed],
        "worst_error": max((layer.error or 0.0 for layer in changed), default=0.0),
        "peak_bytes": peak.peak - peak.start,
        "phases": {name: bytes_ - peak.start for name, bytes_ in peak.phases.items()},
    }


def logits_of(model: Path) -> dict[str, Any]:
    """Load a decoder with onnxruntime's own settings and run one sequence."""
    tokens = np.random.default_rng(1).integers(0, vocabulary(model), (1, LENGTH))
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    (logits,) = session.run(None, {"input_ids": tokens})
    return {
        "load_seconds": loaded - begin,
        "run_seconds": time.perf_counter() - loaded,
        "shape": list(logits.shape),
        "finite": bool(np.isfinite(logits).all()),
        "deviation": float(logits.std()),
    }


def measure_memory(
    work: Path, layers: int = LAYERS, width: int = WIDTH, *, method: Rounding = METHOD
) -> dict[str, Any]:
    """Make the decoder in `work`, unless it is there; quantize and load it, a process for each."""
    model = decoder(work, layers, width)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        output = Path(folder) / model.name
        found = _told("run", model, output, method)
        found["loaded"] = _told("load", output)
    show(found)
    return found


def _told(*words: object) -> dict[str, Any]:
    """What this script tells when it runs in a process of its own."""
    command = [sys.executable, __file__, *map(str, words)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def show(found: Mapping[str, Any]) -> None:
    """Sizes and times, then one line a phase."""
    before, after = found["bytes"]
    print(
        f"INT4, {found['method']}: {before / 1e6:,.0f} MB to {after / 1e6:,.0f} MB"
        f" (1/{before / after:.2f}), {found['layers']} layers, worst error"
        f" {found['worst_error']:.3f}, {found['cpu_seconds']:.0f} s of CPU time"
    )
    for phase, peak in found["phases"].items():
        print(f"  {phase:20s} {peak / 1e6:7.0f} MB")
    print(f"  {'all':20s} {found['peak_bytes'] / 1e6:7.0f} MB")
    loaded = found["loaded"]
    print(
        f"onnxruntime: loaded in {loaded['load_seconds']:.1f} s, logits {loaded['shape']} in"
        f" {loaded['run_seconds']:.2f} s, finite: {loaded['finite']}",
        flush=True,
    )


def missed_memory(found: Mapping[str, Any]) -> list[str]:
    """The bars that are missed, one clause each."""
    missed = []
    if found["peak_bytes"] > BAR_GB * 1e9:
        missed.append(f"memory: {found['peak_bytes'] / 1e9:.2f} GB, bar {BAR_GB}")
    if not found["loaded"]["finite"]:
        missed.append("logits are not finite")
    return missed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        method: Rounding = next(word for word in get_args(Rounding) if word == words[3])
        print(json.dumps(run(Path(words[1]), Path(words[2]), method)))
        return 0
    if words[:1] == ["load"]:
        print(json.dumps(logits_of(Path(words[1]))))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--method", choices=get_args(Rounding), default=METHOD)
    parser.add_argument("--work", type=Path, help="default: a folder that is deleted")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        found = measure_memory(
            args.work or Path(folder), args.layers, args.width, method=args.method
        )
    missed = missed_memory(found)
    for line in missed:
        print(f"missed: {line}")
    if args.json:
        args.json.write_text(json.dumps({**found, "missed": missed}, indent=2), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
