#!/usr/bin/env python3
"""Integers: MiniLM and MobileNetV2 beside other tools; other models; memory of calibration.

    python3 tools/bench_int8.py minilm|mobilenet|others|ranges|all [--peers PYTHON]
        [--jobs NAME ...] [--tools NAME ...] [--models NAME ...] [--images N]
        [--threads N] [--seconds S] [--work FOLDER] [--json FILE] [--resume] [--plot FILE.svg]

minilm     the sentence encoder under budgets, calibrated on 256 sentences, and by other tools:
           cosine of the embedding on 400 other sentences and on a second domain (docstrings of
           Python's standard library), latency of 16, 32 and 128 tokens in turns with float32.
mobilenet  MobileNetV2 under budgets and by other tools: share of 500 pictures that get float32's
           class, accuracy, bytes, latency in turns with float32 and with ONNX Runtime's own static
           quantization. Every model is made twice, each time from one half of the pictures, and
           scored on the other half: shares are of all 500, none of which the model had seen; of
           bytes, latency and cost the worse is shown.
others     silero_vad, ultraface, super_resolution, vit_ibp and magika under the default budget; old
           ones also raised to a newer opset, their weights frozen. Why layers were left.
ranges     calibration on 512 pictures with ranges by entropy and by percentile: memory above that
           of the float model, seconds; ONNX Runtime's on 16 and 64 pictures, which holds all
           activations.

Other tools run by the Python of --peers, which has onnx, onnxruntime, onnxsim, nncf and torch;
without it they are left out, and so is whatever fails there: its row has the reason. The assets
(models, tokenizer, sentences, pictures) lie where ONNXSLIM_RX_ASSETS says. With --resume the rows
of --json that are there already are not measured again.

Exit code 0 where each bar that was measured is met, else 1: minilm: one model at 0.45 x the latency
at each length with a mean cosine of 0.993 on both domains; mobilenet: one model with 97% of the
classes, 0.30 x the bytes, no slower than ONNX Runtime's; others: bars of bench_models.py, and a
gain or reasons; ranges: 1.5 GB.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

from tools import bench_int8_bars as bars
from tools import bench_int8_peers as peers
from tools.bench_data import ASSETS
from tools.bench_found import Found
from tools.bench_int8_bars import Bar
from tools.bench_int8_data import Half, halves
from tools.bench_int8_others import OTHERS, OtherRow, other_row, show_other
from tools.bench_int8_ranges import COUNT, measure_ranges, show_ranges
from tools.bench_int8_rows import (
    MINILM_JOBS,
    MOBILENET_JOBS,
    ImagesJudge,
    ImagesRow,
    LengthsJudge,
    LengthsRow,
    both,
)
from tools.bench_models import table
from tools.bench_quantize import show_row
from tools.bench_quantize_data import prepare
from tools.bench_quantize_peer_files import Made, converted, peer_file
from tools.bench_quantize_plot import draw
from tools.bench_quantize_rows import Row, own_rows, peer_rows

SUITES = ("minilm", "mobilenet", "others", "ranges")
OPSET = 17  # NNCF writes types of 21 that onnxruntime refuses
SECONDS = 6.0
Kind = TypeVar("Kind", bound=Row)


class Bench:
    """The suites.

    Args:
        args: of the command line.
        work: folder of data and results.
    """

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.found = Found(SUITES, args.threads, args.json, resume=args.resume)
        self.mobile = ASSETS / "models" / "mobilenetv2_fp32.onnx"

    def minilm(self) -> list[Bar]:
        """One row for each budget and for each tool."""
        args, work = self.args, self.folder("minilm")
        data = prepare(work)
        rows = self.found.rows("minilm", LengthsRow)
        original = ASSETS / "models" / "minilm.onnx"
        judge = LengthsJudge(original, data, args.threads, args.seconds)
        own = self.wanted(MINILM_JOBS, args.jobs, rows)
        tools = self.wanted(peers.MINILM, args.tools, rows) if args.peers else []
        self.fresh(work, rows)
        made = [
            own_rows(judge, data, work, own, MINILM_JOBS),
            peer_rows(judge, data, work, tools, args.peers, peers, OPSET),
        ]
        self.take("minilm", (row for each in made for row in each), rows)
        if args.plot:
            draw(rows, args.plot)
        return bars.judge_minilm(rows)

    def mobilenet(self) -> list[Bar]:
        """The same, from either half of the pictures."""
        args, work = self.args, self.folder("mobilenet")
        rows = self.found.rows("mobilenet", ImagesRow)
        own = self.wanted(MOBILENET_JOBS, args.jobs, rows)
        tools = self.wanted(peers.MOBILENET, args.tools, rows) if args.peers else []
        made: list[list[Iterator[Row]]] = [[], []]
        for number, half in enumerate(halves(self.mobile, work / "pictures")):
            place = self.folder(f"mobilenet/{number}")
            self.fresh(place, rows)
            rival = self.peer(peers.RIVAL, half, place) if args.peers else None
            other = None if rival is None or rival.error else rival.path
            judge = ImagesJudge(self.mobile, half, args.threads, args.seconds, other)
            made[0].append(peer_rows(judge, half.data, place, tools, args.peers, peers, OPSET))
            made[1].append(own_rows(judge, half.data, place, own, MOBILENET_JOBS))
        self.take("mobilenet", (row for first, second in made for row in both(first, second)), rows)
        return bars.judge_mobilenet(rows)

    def others(self) -> list[Bar]:
        """One row a model."""
        args, work = self.args, self.folder("others")
        rows = self.found.rows("others", OtherRow)
        for name in self.wanted(OTHERS, args.models, rows):
            row = other_row(name, work, args.threads, args.seconds)
            rows.append(row)
            self.found.add("others", row)
            print(table([row]))
            show_other(row)
        return bars.judge_others(rows)

    def ranges(self) -> list[Bar]:
        """Ours, and what holds all activations."""
        args, place = self.args, self.folder("mobilenet/0")
        pictures = self.work / "mobilenet" / "pictures"
        half = halves(self.mobile, pictures)[0]
        model = converted(self.mobile, place, OPSET)  # scales by channel need 13; it has 12
        found = {"ours": measure_ranges(model, pictures, args.images), "peers": {}}
        for name in peers.GROWING if args.peers else ():
            made = self.peer(name, half, place)
            took = {"seconds": made.seconds, "peak_mb": made.peak_mb}
            found["peers"][name] = {"error": made.error} if made.error else took
        self.found.put("ranges", found)
        show_ranges(found)
        return bars.judge_ranges(found["ours"])

    def folder(self, name: str) -> Path:
        """A place of its own for a suite: their files have the same names."""
        place = self.work / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def wanted(
        self, known: Iterable[str], asked: Sequence[str] | None, rows: Iterable[Row | OtherRow]
    ) -> list[str]:
        """Those of `known` that are asked for, None: all, and not measured yet."""
        done = {row.name for row in rows}
        return [name for name in known if name not in done and (asked is None or name in asked)]

    def fresh(self, place: Path, rows: Sequence[Row]) -> None:
        """Times and memory are those of a first run: forget what such runs left behind."""
        if all(row.peer for row in rows):
            shutil.rmtree(place / "cache", ignore_errors=True)

    def peer(self, name: str, half: Half, place: Path) -> Made:
        """The file of a tool, from one half of the pictures."""
        model = converted(self.mobile, place, OPSET)
        return peer_file(name, self.args.peers, model, half.data.calibrate, place, peers)

    def take(self, suite: str, made: Iterable[Row], rows: list[Kind]) -> None:
        """Keep and show rows as they come."""
        for row in cast(Iterable[Kind], made):  # judges fill in rows of their kind
            rows.append(row)
            self.found.add(suite, row)
            show_int8(row)


def show_int8(row: Row) -> None:
    """As bench_quantize.py shows it, and what else was measured."""
    show_row(row)
    if row.error:
        return
    if isinstance(row, LengthsRow):
        for length, (ratio, low, high) in row.ratios.items():
            print(f"    {length:>3s} tokens: latency x {ratio:.3f} ({low:.3f} to {high:.3f})")
    elif isinstance(row, ImagesRow):
        (before, after), (ratio, low, high) = row.accuracy, row.against
        print(
            f"    {row.same:.1%} the same class, accuracy {before:.1%} > {after:.1%}, the rival's"
            f" latency x {ratio:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module."""
    args = _arguments(argv)
    if not (ASSETS / "models").is_dir():
        print(f"{ASSETS / 'models'} is missing: set ONNXSLIM_RX_ASSETS", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(args, args.work or Path(temporary))
        suites = SUITES if args.suite == "all" else (args.suite,)
        found = [bar for suite in suites for bar in getattr(bench, suite)()]
    for bar in found:
        print(f"{'met   ' if bar.met else 'MISSED'}  {bar.what}")
    bench.found.put("missed", [bar.what for bar in found if not bar.met])
    return 0 if all(bar.met for bar in found) else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs, tools = [*MINILM_JOBS, *MOBILENET_JOBS], [*peers.MINILM, *peers.MOBILENET]
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--peers", default="", help="a Python that has the other tools")
    parser.add_argument("--jobs", nargs="*", choices=jobs, help="of ours; default: all")
    parser.add_argument("--tools", nargs="*", choices=tools, help="default: all")
    parser.add_argument("--models", nargs="*", choices=OTHERS, help="of others; default: all")
    parser.add_argument("--images", type=int, default=COUNT, help="of ranges")
    parser.add_argument("--threads", type=int, default=1, help="of each session")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing for each row")
    parser.add_argument("--work", type=Path, help="keep data, models and reports in this folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json")
    parser.add_argument("--plot", type=Path, help="of minilm")
    args = parser.parse_args(argv)
    if args.resume and not args.json:
        parser.error("--resume needs --json")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
