#!/usr/bin/env python3
"""Low rank on MiniLM: layers alone, the whole network at sizes, predictions against measurements.

    python3 tools/bench_factorize.py layers|curve|all [--sentences N] [--keep 0.8 0.6 0.4]
        [--allocations program lagrangian greedy uniform] [--work FOLDER] [--json FILE]
        [--plot FILE.svg]
    python3 tools/bench_factorize.py memory [--layers N] [--width N] [--work FOLDER] [--json FILE]

layers  FFN layers at 3.2 times fewer parameters: cosine of each layer's outputs, all tokens of
        held-out sentences together, for our data-aware factors, for those of ASVD, and for plain
        low rank by numpy, scipy and scikit-learn (where it is installed).
curve   the whole network, all linear layers of the encoder together kept at a share of their
        parameters: cosine of the sentence embedding on 400 held-out sentences, and latency against
        the original, for each way to allocate, and for plain SVD at a uniform ratio (numpy). Every
        plan's predicted quality and latency beside the measured ones.
memory  peak memory above the mapped weights, by phase, of low rank to 85% of the bytes and of INT8
        on a decoder of GPT-2's medium size with random weights, which is made in FOLDER (1.4 GB;
        Linux only, some minutes).

N sentences are given to the optimizer, which fits to half of them; none of them is measured on.
The assets (model, tokenizer, sentences) lie where ONNXSLIM_RX_ASSETS says; memory needs none, and
is no part of "all".

Exit code 0 where each bar that was measured is met, else 1: layers 0.98 on average, 0.965 worst;
network 0.965 / 0.925 / 0.86 at 80 / 60 / 40%; rank correlation of predictions at least 0.9; memory
at most 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from models import make_gpt2
from tools.bench_data import ASSETS, Task, minilm
from tools.bench_factorize_curve import Row, baseline, measure_plan
from tools.bench_factorize_layers import measure_layers
from tools.bench_factorize_memory import measure_memory, missed_memory
from tools.bench_models import machine

LAYER_BARS = {"mean": 0.98, "worst": 0.965}
NETWORK_BARS = {0.8: 0.965, 0.6: 0.925, 0.4: 0.86}
CORRELATION_BAR = 0.9
LEAST_PLANS = 6  # fewer say nothing about a rank correlation


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=("layers", "curve", "memory", "all"))
    parser.add_argument("--sentences", type=int, default=4096)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.8, 0.6, 0.4])
    parser.add_argument(
        "--allocations", nargs="+", default=["program", "lagrangian", "greedy", "uniform"]
    )
    parser.add_argument("--layers", type=int, default=make_gpt2.LAYERS)
    parser.add_argument("--width", type=int, default=make_gpt2.WIDTH, help="a multiple of 64")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"machine": machine(2)}
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        if args.suite == "memory":
            found["memory"] = measure_memory(work, args.layers, args.width)
        elif (model := ASSETS / "models" / "minilm.onnx").is_file():
            measure_minilm(args, model, work, found)
        else:
            print(f"{model} is missing: set ONNXSLIM_RX_ASSETS", file=sys.stderr)
            return 2
    missed = judge(found)
    found["missed"] = missed
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def measure_minilm(
    args: argparse.Namespace, model: Path, work: Path, found: dict[str, Any]
) -> None:
    """Layers and curve, into `found`."""
    found["sentences"] = args.sentences
    data = work / f"data{args.sentences}"
    if not (data / "task.json").is_file():
        task = Task(data)
        minilm(task, np.random.default_rng(0), args.sentences)
        task.close()
    if args.suite in ("layers", "all"):
        found["layers"] = measure_layers(model, data)
        show_layers(found["layers"])
    if args.suite in ("curve", "all"):
        rows = []
        for share in args.keep:
            for way in args.allocations:
                rows.append(measure_plan(model, data, work, share, way))
                show_row(rows[-1])
            rows.append(baseline(model, data, work, share))
            show_row(rows[-1])
        found["curve"] = [row.to_dict() for row in rows]
        found["correlation"] = correlations(rows)
        if args.plot:
            draw(rows, args.plot)


def show_layers(found: Mapping[str, Any]) -> None:
    """One line a method."""
    print(f"FFN layers at {found['ratio']}x fewer parameters, cosine of outputs")
    for name, cosines in found["methods"].items():
        print(f"  {name:24s} mean {np.mean(cosines):.4f}  worst {np.min(cosines):.4f}")


def show_row(row: Row) -> None:
    """One line a plan."""
    ms = "" if row.predicted_ms is None else f"  predicted {row.predicted_ms:.2f} ms"
    cosine = "" if row.predicted is None else f"  predicted {row.predicted:.4f}"
    print(
        f"keep {row.share:.2f} ({row.kept:.4f})  {row.allocation:12s} cosine {row.cosine:.4f}"
        f"{cosine}  latency x {row.ratio:.2f}{ms}  {row.seconds:.0f} s CPU",
        flush=True,
    )


def correlations(rows: Sequence[Row]) -> dict[str, float]:
    """Spearman's rank correlation of predicted and measured numbers over all plans."""
    planned = [row for row in rows if row.predicted is not None and row.predicted_ms is not None]
    if len(planned) < LEAST_PLANS:
        return {}
    quality = scipy.stats.spearmanr([r.predicted for r in planned], [r.cosine for r in planned])
    latency = scipy.stats.spearmanr([r.predicted_ms for r in planned], [r.ratio for r in planned])
    found = {
        "quality": float(quality.statistic),
        "latency": float(latency.statistic),
        "plans": len(planned),
    }
    print(f"rank correlation over {len(planned)} plans: {found}")
    return found


def judge(found: Mapping[str, Any]) -> list[str]:
    """The bars that are missed, one clause each."""
    missed = []
    if "layers" in found:
        ours = found["layers"]["methods"]["whitened-svd"]
        for name, value in (("mean", float(np.mean(ours))), ("worst", float(np.min(ours)))):
            if value < LAYER_BARS[name]:
                missed.append(f"FFN layers: {name} {value:.4f}, bar {LAYER_BARS[name]}")
    for row in found.get("curve", []):
        bar = NETWORK_BARS.get(row["share"])
        if row["allocation"] == "program" and bar is not None and row["cosine"] < bar:
            missed.append(f"keep {row['share']}: {row['cosine']:.4f}, bar {bar}")
    for name in ("quality", "latency"):
        value = found.get("correlation", {}).get(name, 1.0)
        if value < CORRELATION_BAR:
            missed.append(f"rank correlation of {name}: {value:.3f}, bar {CORRELATION_BAR}")
    return missed + missed_memory(found.get("memory", []))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Quality against share for each allocation, and predicted against measured numbers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    curve, quality, latency = figure.subplots(1, 3)
    for way in dict.fromkeys(row.allocation for row in rows):
        mine = sorted((r for r in rows if r.allocation == way), key=lambda r: r.kept)
        curve.plot([r.kept for r in mine], [r.cosine for r in mine], marker="o", label=way)
    curve.set(xlabel="share of the encoder's parameters kept", ylabel="mean cosine, held out")
    curve.legend()
    planned = [row for row in rows if row.predicted is not None]
    quality.scatter([r.predicted for r in planned], [r.cosine for r in planned])
    quality.set(xlabel="predicted cosine (before fitting)", ylabel="measured cosine")
    timed = [row for row in planned if row.predicted_ms is not None]
    latency.scatter([r.predicted_ms for r in timed], [r.ratio for r in timed])
    latency.set(xlabel="predicted ms of the layers", ylabel="measured latency ratio")
    figure.savefig(path)


if __name__ == "__main__":
    raise SystemExit(main())
