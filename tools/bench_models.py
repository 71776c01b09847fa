#!/usr/bin/env python3
"""Optimise real models under the default budget and measure what came out, independently.

    python3 tools/bench_models.py [--models NAME,...] [--json FILE] [--peers]

Each model of the assets (ONNXSLIM_RX_ASSETS, default ../shared beside the checkout) is optimised
in a process of its own, whose CPU time and peak memory are taken; the result is compared with the
original by plain ONNX Runtime, on data that the optimiser has not seen, and timed against it in
turns, both sessions alive. Exit code 0 where every bar is met, else 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("ONNXSLIM_RX_ASSETS", ROOT.parent / "shared"))
MODELS = (
    "minilm", "mobilenetv2_fp32", "mobilenetv2-12-qdq", "cifar10_resnet_1m", "cifar10_resnet_4b",
    "vit_ibp_3_3_8", "magika_fast_v2_1", "silero_vad_16k_op15", "ultraface_RFB_320",
    "super_resolution", "sklearn_randomforest",
)  # fmt: skip
PEER = "ORT dynamic INT8"
CPU_LIMIT = 1200  # seconds of one optimisation, so that a hang ends


@dataclasses.dataclass
class Row:
    """What was measured of one model.

    Args:
        name: of the model, and of the peer in brackets.
        exit_code: of the process that optimised.
        error: its last line where it failed.
        cpu_seconds, peak_mb: of that process.
        bytes_before, bytes_after: of the files.
        cosine: mean, 5th percentile and minimum over held-back samples of the cosine between
            the outputs (the worst float output of each sample).
        agreement: share of equal elements of the integer outputs; None where there are none.
        latency_ms: medians of the original and the result.
        ratio: result by original; with its 95% bootstrap interval over the rounds.
        task: name of the task metric, its value before and after; None without labels.
        notes: what the report says to the user.
        layers: number of layers by what was done to them.
        peer: a tool for comparison: no bars.
    """

    name: str
    exit_code: int = 0
    error: str = ""
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    cosine: dict[str, float] | None = None
    agreement: float | None = None
    latency_ms: list[float] | None = None
    ratio: float | None = None
    ratio_interval: list[float] | None = None
    task: tuple[str, float, float] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    layers: dict[str, int] = dataclasses.field(default_factory=dict)
    peer: bool = False


def bars(row: Row) -> dict[str, bool]:
    """The bars that a row has to meet, and whether it does; unmeasured is missed."""
    if row.peer:
        return {}
    met = {
        "done": row.exit_code == 0,
        "cosine >= 0.99": row.cosine is not None and row.cosine["mean"] >= 0.99,
        "not larger": row.bytes_after is not None and row.bytes_after <= (row.bytes_before or 0),
        "latency ratio <= 1.05": row.ratio is not None and row.ratio <= 1.05,
    }
    if row.agreement is not None:
        met["integers agree >= 99%"] = row.agreement >= 0.99
    if row.name == "minilm":
        met["CPU <= 240 s"] = row.cpu_seconds is not None and row.cpu_seconds <= 240
        met["memory <= 3 GB"] = row.peak_mb is not None and row.peak_mb <= 3000
        met["<= 23 MB"] = row.bytes_after is not None and row.bytes_after <= 23e6
    return met


def gain(row: Row) -> str:
    """What got better by 5% or more: "-74% bytes, -12% time", or nothing."""
    parts = []
    if row.bytes_before and row.bytes_after and row.bytes_after <= 0.95 * row.bytes_before:
        parts.append(f"{row.bytes_after / row.bytes_before - 1:.0%} bytes")
    if row.ratio is not None and row.ratio <= 0.95:
        parts.append(f"{row.ratio - 1:.0%} time")
    return ", ".join(parts)


def verdict(rows: Sequence[Row]) -> dict[str, bool]:
    """The bars of the whole run."""
    own = [row for row in rows if not row.peer]
    gained = sum(bool(gain(row)) and all(bars(row).values()) for row in own)
    return {
        "every model meets its bars": bool(own) and all(all(bars(row).values()) for row in own),
        "a gain on at least 6 models": gained >= 6,
    }


HEADERS = (
    "model", "CPU s", "peak MB", "KB before", "after", "cosine", "p5", "min", "time", "task",
    "gain", "misses",
)  # fmt: skip


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text; "-" where nothing was measured."""
    lines = [HEADERS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in text)


def _cells(row: Row) -> tuple[str, ...]:
    def show(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    cosine, span = row.cosine or {}, row.ratio_interval
    misses = [bar for bar, met in bars(row).items() if not met]
    return (
        row.name,
        show(row.cpu_seconds, 1),
        show(row.peak_mb, 0),
        show(None if row.bytes_before is None else row.bytes_before / 1e3, 1),
        show(None if row.bytes_after is None else row.bytes_after / 1e3, 1),
        *(show(cosine.get(key), 4) for key in ("mean", "p5", "min")),
        show(row.ratio, 2) + ("" if span is None else f" ({span[0]:.2f}-{span[1]:.2f})"),
        "-" if row.task is None else "{} {:.3f} > {:.3f}".format(*row.task),
        gain(row) or "-",
        ", ".join(misses) or "none",
    )


def results(rows: Sequence[Row], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, ready for JSON."""
    models = [{**dataclasses.asdict(row), "bars": bars(row), "gain": gain(row)} for row in rows]
    return {"machine": dict(machine), "verdict": verdict(rows), "models": models}


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on."""
    names = ("onnxslim-rx", "onnxruntime", "onnx", "onnx-ir", "numpy")
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    model, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":")[2].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name"))  # fmt: skip
        model = next(lines, model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed.get(name) for name in names},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def worker(how: str, model: Path, data: Path, output: Path) -> int:
    """Optimise `model` on the samples in `data`, or let a peer do it; write what comes out."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    if how == PEER:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(model, output, weight_type=QuantType.QInt8, per_channel=True)
        return 0
    import numpy as np

    import onnxslim_rx as rx

    samples = []
    for path in sorted(data.glob("*.npz")):
        with np.load(path) as arrays:
            samples.append(dict(arrays))
    try:
        result = rx.optimize(str(model), calibration=samples, progress=False)
        result.save(output)
    except rx.OnnxslimError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    output.with_suffix(".json").write_text(result.report.to_json(), encoding="utf-8")
    return 0


def optimize(how: str, model: Path, data: Path, output: Path, row: Row) -> None:
    """Run the worker, and note what it cost and what its report says."""
    log, report = output.with_suffix(".log"), output.with_suffix(".json")
    for stale in (output, report):
        stale.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--worker", how, str(model), str(data), str(output)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = row.exit_code = os.waitstatus_to_exitcode(status)
    row.cpu_seconds = used.ru_utime + used.ru_stime
    row.peak_mb = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    if row.exit_code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        row.error = lines[-1] if lines else f"exit code {row.exit_code}"
    elif report.is_file():
        _take_from_report(json.loads(report.read_text(encoding="utf-8")), row)


def _take_from_report(report: Mapping[str, Any], row: Row) -> None:
    row.notes = report.get("notes", [])
    for layer in report.get("layers", []):
        names = [stage.partition("(")[0] for stage in layer["stages"]]
        done = " + ".join(names) or ("kept" if layer["skipped"] is None else "skipped")
        row.layers[done] = row.layers.get(done, 0) + 1


def measure(row: Row, original: Path, result: Path, data: Path, args: argparse.Namespace) -> None:
    """Fill in what bench_measure.py finds."""
    command = [sys.executable, str(ROOT / "tools" / "bench_measure.py")]
    command += [str(original), str(result), str(data)]
    command += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    for key, value in json.loads(found).items():
        setattr(row, key, value)


def bench(name: str, args: argparse.Namespace, work: Path) -> list[Row]:
    """Prepare, optimise and measure one model, and a peer where asked for."""
    data, original = work / name, ASSETS / "models" / f"{name}.onnx"
    prepare = [sys.executable, str(ROOT / "tools" / "bench_data.py"), name, str(data)]
    if code := subprocess.run(prepare, check=False).returncode:
        return [Row(name, exit_code=code, error="its data could not be made")]
    rows = [Row(name)]
    if args.peers and name == "minilm":
        rows.append(Row(f"{name} ({PEER})", peer=True))
    for row, how in zip(rows, ("onnxslim_rx", PEER), strict=False):
        result = work / f"{name}.{'peer' if row.peer else 'slim'}.onnx"
        optimize(how, original, data / "calibrate", result, row)
        if row.exit_code == 0:
            measure(row, original, result, data, args)
    shutil.rmtree(data)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Bench the models and judge them."""
    parser = argparse.ArgumentParser(description="Optimise real models and measure the results.")
    parser.add_argument("--models", default=",".join(MODELS), help="names, comma separated")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--work", type=Path, help="keep results and reports in this folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each session")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each model")
    parser.add_argument("--peers", action="store_true", help="also measure ORT's INT8 on MiniLM")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return worker(args.worker[0], *map(Path, args.worker[1:]))
    names = args.models.split(",")
    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        parser.error(f"unknown models {', '.join(unknown)}; known are {', '.join(MODELS)}")
    if not (ASSETS / "models").is_dir():
        parser.error(f"no models in {ASSETS}; set ONNXSLIM_RX_ASSETS to the folder that has them")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in names:
            new = bench(name, args, work)
            rows += new
            print("\n".join(table(new).splitlines()[1:]), new[0].error, flush=True)
    print("\n" + table(rows))
    judged = verdict(rows)
    for bar, met in judged.items():
        print(f"{'met   ' if met else 'MISSED'}  {bar}")
    if args.json:
        content = json.dumps(results(rows, machine(args.threads)), indent=1)
        args.json.write_text(content + "\n", encoding="utf-8")
    return 0 if all(judged.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
