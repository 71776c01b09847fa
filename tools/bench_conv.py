#!/usr/bin/env python3
"""Decomposed convolutions: accuracy, latency, time and memory, beside plain decompositions.

    python3 tools/bench_conv.py cifar|kept|simple|vgg|all [--shares 0.8 0.6 0.4 0.25]
        [--methods mix channel-output ...] [--allocations program uniform] [--models NAME ...]
        [--python FILE] [--work FOLDER] [--json FILE] [--resume] [--plot FILE.svg]

cifar   cifar10_resnet_1m at shares of its multiply-adds, calibrated on 512 training images: each
        method alone and the planner's mix, for each way to allocate; SVD by numpy, Tucker and CP
        by tensorly (where it is installed) at the same share of each convolution. Accuracy on the
        5,000 test images, multiply-adds, bytes, latency in turns with the original, CPU seconds.
kept    models with little to gain, under the default budget, with and without quantization.
simple  SimpleConvNet (trained once into the work folder, by a Python that has torch: --python) at
        the ranks of the literature: compression, and accuracy without fine-tuning beside plain
        decomposition at the same ranks.
vgg     a network of VGG-16's shape, the whole run: CPU seconds and memory.

Optimizers run in processes of their own. Results go to --json after each row; with --resume the
rows of cifar that are there already are not measured again. The assets (models, images) lie where
ONNXSLIM_RX_ASSETS says.

Exit code 0 where each bar that was measured is met, else 1: cifar: the mix at 40% / 25% of the
multiply-adds at most 0.5 / 2 points below the original, latency at most 0.65 x at one of them,
program not below uniform at any share; kept: cosine 0.99, no larger, latency at most 1.05 x, at
most 0.85 x where multiply-adds fall by a third, a reason for every convolution that was kept;
simple: compression 7.0 / 14.2 / 22 x, 2 points above plain; vgg: 180 s, 3 GB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from onnxslim_rx.vocabulary import Allocation
from tools import bench_conv_bars as bars
from tools.bench_conv_cifar import MIX, Asked, Row, cifar_data, own_rows, peer_rows
from tools.bench_conv_models import KEPT, WAYS, ModelRow, kept_row, vgg_row
from tools.bench_conv_plain import METHODS as PEERS
from tools.bench_conv_plot import draw
from tools.bench_conv_simple import SimpleRow, simple_rows, trained
from tools.bench_data import ASSETS
from tools.bench_models import machine
from tools.bench_tables import row_of, table_of

METHODS = (
    MIX, "channel-output", "channel-input", "spatial", "tucker", "tt", "cp", "cp-separable",
)  # fmt: skip
SHARES = (0.8, 0.6, 0.4, 0.25)
SUITES = ("cifar", "kept", "simple", "vgg")
SECONDS = 6.0


class Bench:
    """The suites, and what they have found so far.

    Args:
        args: of the command line.
        work: folder of data and results.
    """

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args = args
        self.work = work
        self.found: dict[str, Any] = {"machine": machine(args.threads)}
        if args.resume and args.json.is_file():
            before = json.loads(args.json.read_text(encoding="utf-8"))
            self.found |= {suite: before[suite] for suite in SUITES if suite in before}

    def add(self, suite: str, row: Row | ModelRow | SimpleRow) -> None:
        """Keep one row, and write all."""
        self.found.setdefault(suite, []).append(table_of(row))
        self.write()

    def write(self) -> None:
        """Everything as JSON."""
        if self.args.json:
            self.args.json.write_text(json.dumps(self.found, indent=1), encoding="utf-8")

    def cifar(self) -> list[str]:
        """One row for each method, allocation and share, and for each peer and share."""
        args = self.args
        model = ASSETS / "models" / "cifar10_resnet_1m.onnx"
        data = cifar_data(self.work / "data_cifar10_resnet_1m", "x")
        rows = [row_of(Row, table) for table in self.found.get("cifar", [])]
        known = {row.key for row in rows if not row.error}
        rows = [row for row in rows if row.key in known]
        self.found["cifar"] = [table_of(row) for row in rows]
        ways: list[Allocation] = args.allocations
        own: list[Asked] = [(m, way, s) for s in args.shares for m in args.methods for way in ways]
        others: list[Asked] = [(m, "uniform", s) for s in args.shares for m in _peers(args.peers)]
        for make, asked in ((own_rows, own), (peer_rows, others)):
            todo = [key for key in asked if key not in known]
            for row in make(model, data, self.work, todo, args.threads, args.seconds):
                rows.append(row)
                self.add("cifar", row)
                show_row(row)
        if args.plot:
            draw(rows, args.plot)
        return bars.judge_cifar(rows)

    def kept(self) -> list[str]:
        """One row for each model and way."""
        rows = []
        self.found["kept"] = []
        for name in self.args.models:
            for way in WAYS:
                rows.append(kept_row(name, way, self.work, self.args.threads, self.args.seconds))
                self.add("kept", rows[-1])
                show_model(rows[-1])
        return bars.judge_kept(rows)

    def simple(self) -> list[str]:
        """Ours and plain at each setting."""
        model = trained(self.work, self.args.python)
        data = cifar_data(self.work / "data_simple", "image")
        rows = []
        self.found["simple"] = []
        for row in simple_rows(model, data, self.work, self.args.threads, self.args.seconds):
            rows.append(row)
            self.add("simple", row)
            show_simple(row)
        return bars.judge_simple(rows)

    def vgg(self) -> list[str]:
        """One row."""
        row = vgg_row(self.work)
        self.found["vgg"] = []
        self.add("vgg", row)
        show_model(row)
        return bars.judge_vgg(row)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    ways = get_args(Allocation)
    parser.add_argument("--allocations", nargs="+", choices=ways, default=("program", "uniform"))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--models", nargs="+", choices=KEPT, default=KEPT, help="of kept")
    parser.add_argument("--python", default=sys.executable, help="one that has torch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each session")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing for each row")
    parser.add_argument("--work", type=Path, help="keep data, models and reports in this folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args(argv)
    if args.resume and not args.json:
        parser.error("--resume needs --json")
    if not (ASSETS / "models").is_dir():
        print(f"{ASSETS / 'models'} is missing: set ONNXSLIM_RX_ASSETS", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, work)
        missed: list[str] = []
        for suite in SUITES if args.suite == "all" else (args.suite,):
            missed += getattr(bench, suite)()
        bench.found["missed"] = missed
        bench.write()
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def _peers(names: Sequence[str]) -> list[str]:
    """Those that can be measured here."""
    here = importlib.util.find_spec("tensorly") is not None
    return [name for name in names if here or "tensorly" not in name]


def show_row(row: Row) -> None:
    """One line a compressed network of cifar."""
    print(
        f"keep {row.share:.2f} ({row.kept:.4f})  {row.method:20s} {row.allocation:8s} "
        f"top-1 {100 * row.accuracy[1]:.2f} ({-row.drop:+.2f})  latency x {row.ratio:.2f}  "
        f"{row.bytes[1] / 1e6:.2f} MB  {row.seconds:.0f} s CPU  {row.error}",
        flush=True,
    )


def show_model(row: ModelRow) -> None:
    """One line a model, and why convolutions were kept."""
    cost = f"{row.cpu_seconds:.0f} s CPU"
    cost += "" if row.peak_mb is None else f", {row.peak_mb:.0f} MB"
    kept = "" if row.macs is None else f"  multiply-adds x {row.macs[1] / row.macs[0]:.2f}"
    kept += "" if row.bytes is None else f"  bytes x {row.bytes[1] / row.bytes[0]:.2f}"
    kept += "" if row.ratio is None else f"  latency x {row.ratio:.2f}"
    kept += "" if row.cosine is None else f"  cosine {row.cosine:.4f}"
    print(f"{row.name} ({row.way}){kept}  {row.done}  {cost}  {row.error}", flush=True)
    reasons = list(row.why.values())
    for reason in dict.fromkeys(reasons):
        print(f"    {reasons.count(reason)} kept: {reason or 'no reason'}")


def show_simple(row: SimpleRow) -> None:
    """One line a setting and way."""
    print(
        f"{row.setting:14s} {row.way:6s} parameters / {row.compression:.2f} "
        f"(literature {row.literature})  top-1 {100 * row.accuracy[1]:.2f} of "
        f"{100 * row.accuracy[0]:.2f}  latency x {row.ratio:.2f}  {row.seconds:.0f} s CPU  "
        f"{row.error}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
