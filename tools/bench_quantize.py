#!/usr/bin/env python3
"""Quantized MiniLM: bytes, quality and latency beside other tools; layers; scales; memory.

    python3 tools/bench_quantize.py minilm|layers|scales|memory|all [--peers PYTHON]
        [--budgets NAME ...] [--tools NAME ...] [--every N] [--layers N] [--width N]
        [--threads N] [--seconds S] [--work FOLDER] [--json FILE] [--resume] [--plot FILE.svg]

minilm  MiniLM under budgets, calibrated on 256 sentences, and by other tools at their best
        settings: bytes, cosine of the sentence embedding on 400 other sentences and on a second
        domain (docstrings of Python's standard library), latency of 32 tokens in turns with
        float32, CPU seconds, memory; ours by phase.
layers  linear layers alone, every N-th: errors of our rounding and of other implementations at
        equal settings; what 5% more bytes buy as correction, as smaller groups and as 8 bits.
scales  scales in float16 through a Cast against float32: speed, opening, memory of the session.
memory  a decoder of 1.3 billion parameters without data; see bench_quantize_memory.py. It needs
        10 GB of disk in the work folder, and is no part of "all".

Other tools run by the Python of --peers, which has onnx, onnxruntime, onnxsim, nncf and torch;
without it they are left out, and so is whatever fails there: its row has the reason. The assets
(model, tokenizer, sentences) lie where ONNXSLIM_RX_ASSETS says; memory needs none. With --resume
the rows of --json that are there already are not measured again.

Exit code 0 where each bar that was measured is met, else 1: minilm, on both domains: 1/6.2 of the
bytes at a mean cosine of 0.99 and a 5th percentile of 0.985, 1/8 at 0.96, no point of another tool
above our front of bytes or of latency, 240 s, 3 GB; layers: no layer error above another
implementation's, correction 8% below plain GPTQ; scales: same outputs, latency at most 1.05 x;
memory: 2.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from tools import bench_quantize_memory as memory
from tools.bench_data import ASSETS
from tools.bench_found import Found
from tools.bench_quantize_bars import judge_minilm
from tools.bench_quantize_data import prepare
from tools.bench_quantize_layers import judge_layers, layers_of, measure_layers
from tools.bench_quantize_peers import PEERS, STEPS
from tools.bench_quantize_plot import draw
from tools.bench_quantize_rows import BUDGETS, Judge, Row, own_rows, peer_rows
from tools.bench_quantize_scales import judge_scales, measure_scales

SUITES = ("minilm", "layers", "scales", "memory")
TOOLS = tuple(name for name in PEERS if name not in STEPS or name.startswith("onnxsim"))
"""What others' MatMuls come to with embeddings in floats is only shown where it was asked for."""

SECONDS = 6.0
EVERY = 5  # all kinds of layers, of all depths


class Bench:
    """The suites, and what they have found so far.

    Args:
        args: of the command line.
        work: folder of data and results.
    """

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args = args
        self.work = work
        self.model = ASSETS / "models" / "minilm.onnx"
        self.found = Found(SUITES, args.threads, args.json, resume=args.resume)

    def minilm(self) -> list[str]:
        """One row for each budget and for each tool."""
        args = self.args
        rows = self.found.rows("minilm", Row)
        known = {row.name for row in rows}
        if not known & set(BUDGETS):  # times and memory are those of a first run
            shutil.rmtree(self.work / "cache", ignore_errors=True)
        data = prepare(self.work)
        judge = Judge(self.model, data, args.threads, args.seconds)
        own = [name for name in args.budgets if name not in known]
        others = [name for name in args.tools if name not in known] if args.peers else []
        for made in (
            own_rows(judge, data, self.work, own),
            peer_rows(judge, data, self.work, others, args.peers),
        ):
            for row in made:
                rows.append(row)
                self.found.add("minilm", row)
                show_row(row)
        if args.plot:
            draw(rows, args.plot)
        return judge_minilm(rows)

    def layers(self) -> list[str]:
        """Errors of single layers."""
        layers = layers_of(self.model, prepare(self.work), self.args.every)
        found = measure_layers(layers, self.work, self.args.peers)
        self.found.put("layers", found)
        show_layers(found)
        return judge_layers(found)

    def scales(self) -> list[str]:
        """Both types of scales."""
        args, short = self.args, prepare(self.work).short
        found = measure_scales(self.model, short, self.work, args.threads, args.seconds)
        self.found.put("scales", found)
        print("scales in float32, in float16:", json.dumps(found), flush=True)
        return judge_scales(found)

    def memory(self) -> list[str]:
        """The large decoder."""
        args = self.args
        found = memory.measure_memory(self.work, args.layers, args.width)
        self.found.put("memory", found)
        return memory.missed_memory(found)


def show_row(row: Row) -> None:
    """One line a model; ours with what it took by phase."""
    cosines = "  ".join(f"{k} {mean:.4f} / {p5:.4f}" for k, (mean, p5) in row.cosine.items())
    print(
        f"{row.name:50s} 1/{row.times_smaller:.2f}  {cosines}  latency x {row.ratio:.2f}"
        f"  {row.seconds:.0f} s CPU, {row.peak_mb:.0f} MB  {row.runtime}  {row.error}",
        flush=True,
    )
    for name, (seconds, peak) in row.phases.items():
        print(f"    {name:24s} {seconds:6.1f} s CPU {peak:8.0f} MB")
    for words, count in row.chosen.items():
        print(f"    {count:3d} {words}")


def show_layers(found: Mapping[str, Any]) -> None:
    """One line a method, then one a base format."""
    for kind in ("ours", "others"):
        for name, errors in found[kind].items():
            why = found["failed"].get(name, "")
            print(f"{kind:7s} {name:28s} layer error {np.mean(errors):.5f}  {why}")
    for one in found["more"]:
        plain = one["errors"]["GPTQ"]
        gains = ", ".join(f"{name} {1 - e / plain:+.1%}" for name, e in one["errors"].items())
        print(f"g{one['group']} and 5% more bytes, less error than GPTQ ({plain:.5f}): {gains}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module."""
    args = _arguments(argv)
    if args.suite != "memory" and not (ASSETS / "models").is_dir():
        print(f"{ASSETS / 'models'} is missing: set ONNXSLIM_RX_ASSETS", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, work)
        suites: Iterable[str] = SUITES[:-1] if args.suite == "all" else (args.suite,)
        missed = [line for suite in suites for line in getattr(bench, suite)()]
    bench.found.put("missed", missed)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--peers", default="", help="a Python that has the other tools")
    parser.add_argument("--budgets", nargs="*", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--tools", nargs="*", choices=list(PEERS), default=TOOLS)
    parser.add_argument("--every", type=int, default=EVERY, help="of layers, which are measured")
    parser.add_argument("--layers", type=int, default=memory.LAYERS, help="of memory")
    parser.add_argument("--width", type=int, default=memory.WIDTH, help="of memory")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each session")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing for each row")
    parser.add_argument("--work", type=Path, help="keep data, models and reports in this folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args(argv)
    if args.resume and not args.json:
        parser.error("--resume needs --json")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
