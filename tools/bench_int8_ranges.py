"""Ranges of what flows through MobileNetV2, by entropy and by percentile: memory and time.

    python3 tools/bench_int8_ranges.py MODEL FOLDER COUNT PASS

FOLDER holds the pictures (see `bench_int8_data.halves`), of which COUNT are seen; the layers are
those of PASS. `measure_ranges` runs this in a process of its own, which tells what it found as
JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from onnxslim_rx import calibration, registry
from onnxslim_rx.ir import load
from onnxslim_rx.passbase import CompressionPass, Layer
from onnxslim_rx.quant.ranges import RangeMethod, find_range
from onnxslim_rx.runtime import Runner
from tools.bench_int8_data import Pictures
from tools.bench_run import limit_cpu, peak_mb

__all__ = ["COUNT", "PASS", "measure_ranges", "run", "show_ranges"]

COUNT = 512
PASS = "quantize-static"
_METHODS: tuple[RangeMethod, ...] = ("entropy", "percentile")


def run(model: Path, folder: Path, count: int, one: str) -> dict[str, Any]:
    """Calibrate in this process, which has done nothing else.

    Returns:
        Seconds and CPU seconds of the calibration, then seconds of finding ranges by each method;
        the most memory of the process, 10^6 bytes, after the float model ran once, and at the end.
    """
    made, pictures = load(model), Pictures(folder, count)
    layers = _layers(one, made)
    runner = Runner(str(model))
    data = calibration.load_data(pictures, runner.inputs, runner)
    runner(data[0])
    floats = peak_mb()
    begin, cpu = time.perf_counter(), time.process_time()
    found = calibration.collect(made, layers, data, ranges=True)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    tensors = [
        histogram
        for stats in (found[name] for name in found)
        for histogram in (stats.entering, stats.leaving)
        if histogram is not None
    ]
    if not tensors:
        raise ValueError(f"{one} finds no layer in {model.name} whose values are counted")
    methods = {}
    for method in _METHODS:
        begin = time.perf_counter()
        for histogram in tensors:
            find_range(histogram, method)
        methods[method] = time.perf_counter() - begin
    return {
        "images": count, "layers": len(found), "tensors": len(tensors), "seconds": seconds,
        "cpu_seconds": cpu, "methods": methods, "float_mb": floats, "peak_mb": peak_mb(),
    }  # fmt: skip


def _layers(name: str, model: Any) -> list[Layer]:
    one = registry.make(name, {})
    assert isinstance(one, CompressionPass)
    return [layer for layer in one.layers(model) if isinstance(layer, Layer)]


def measure_ranges(
    model: Path, folder: Path, count: int = COUNT, one: str = PASS
) -> dict[str, Any]:
    """What `run` finds in a process of its own; where it fails, the last line that it wrote."""
    command = [sys.executable, __file__, *map(str, (model, folder, count, one))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        lines = told.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit code {told.returncode}"}
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def show_ranges(found: Mapping[str, Any]) -> None:
    """One line for ours, one for each other tool."""
    ours = found["ours"]
    if "error" in ours:
        print(f"ranges: {ours['error']}")
    else:
        each = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in ours["methods"].items())
        print(
            f"ranges of {ours['tensors']} tensors on {ours['images']} images: {ours['seconds']:.0f}"
            f" s ({ours['cpu_seconds']:.0f} s CPU), then {each}; {ours['peak_mb']:.0f} MB, "
            f"{ours['peak_mb'] - ours['float_mb']:.0f} above the float model's"
        )
    for name, other in found["peers"].items():
        took = "{seconds:.0f} s CPU, {peak_mb:.0f} MB" if "seconds" in other else "{error}"
        print(f"{name}: {took.format(**other)}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Measure and tell."""
    model, folder, count, one = argv
    print(json.dumps(run(Path(model), Path(folder), int(count), one)))
    return 0


if __name__ == "__main__":
    limit_cpu()
    raise SystemExit(main(sys.argv[1:]))
