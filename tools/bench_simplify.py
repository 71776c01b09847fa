#!/usr/bin/env python3
"""Measure rx.simplify against other simplifiers in the same run: nodes, CPU, memory, rightness.

    python3 tools/bench_simplify.py models [--models FOLDER ...] [--json FILE] [--plot FILE.png]
    python3 tools/bench_simplify.py micro | backend | scaling | big [--models FOLDER ...]

Suites: `models` takes every *.onnx of the folders, of the assets' models, and the light models of
the onnx wheel; `micro` the graphs of one rewrite each of the assets; `backend` ONNX's
own backend suite; `scaling` generated graphs of 1,000 to 50,000 nodes; `big` a model named
big_decoder.onnx in one of the folders. The assets lie where ONNXSLIM_RX_ASSETS says, default
../shared beside the checkout; their export_set/build_models.py writes more models to a folder.
Exit code 0 where our tools meet every bar, else 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from tools import bench_simplify_cases as cases
from tools import bench_simplify_models as models
from tools.bench_models import machine
from tools.bench_simplify_batch import OPTIMIZE
from tools.bench_simplify_tables import cost_table, failures, group_table, node_table, summary
from tools.bench_simplify_tools import TOOLS

PEERS = """Peers are optional: `pip install onnxslim onnxsim onnxscript onnxoptimizer` into the
environment of the Python that runs this; one that is not installed is left out with a note.
"rx" is rx.simplify(path), "rx-unverified" the same with verify=None."""
OWN = [tool.name for tool in TOOLS.values() if tool.own]
SIZES = (1_000, 2_500, 5_000, 12_480, 25_000, 50_000)
BIG, BIG_MB = "big_decoder", 400
TIMED, TIMED_SECONDS = 12_480, 3.0
LINEAR = 1.15  # exponent of a power law that still counts as linear
Report = dict[str, Any]


def run_models(args: argparse.Namespace, tools: list[str]) -> Report:
    """Suite `models`."""
    folders = [models.ASSETS / "models", models.light_models(), *(args.models or [])]
    paths = models.find(folders, args.only)
    if not paths:
        raise FileNotFoundError("no models found; name folders with --models")
    peers = [tool for tool in tools if tool not in OWN]
    rows = []
    for path in paths:
        rows.append(models.measure(tools, path, args.repeat, args.keep))
        print(node_table(rows[-1:], tools, peers).splitlines()[-1], flush=True)
    print("\n" + node_table(rows, tools, peers))
    print(
        "x wrong or no result, ! file grown, * optional inputs dropped; honest: without ! and *\n"
    )
    print(cost_table("CPU s", rows, tools, "cpu_seconds", 2) + "\n")
    print(cost_table("peak MB", rows, tools, "peak_mb", 0) + "\n")
    print("\n".join([*failures(rows, tools), "", *summary(rows, tools, peers)]))
    bars = {own: models.verdict(rows, own, peers) for own in OWN if own in tools}
    return {"bars": bars, "rows": [dataclasses.asdict(row) for row in rows]}


def run_big(args: argparse.Namespace, tools: list[str]) -> Report:
    """Suite `big`: simplifying and saving."""
    paths = models.find(args.models or [models.ASSETS / "models"], BIG)
    if not paths:
        raise FileNotFoundError(f"no {BIG}.onnx in the folders; name its folder with --models")
    row = models.measure(tools, paths[0], args.repeat, args.keep)
    for key, digits in (("cpu_seconds_saved", 2), ("peak_mb", 0), ("peak_mb_saved", 0)):
        print(cost_table(key, [row], tools, key, digits) + "\n")
    print(node_table([row], tools, [tool for tool in tools if tool not in OWN]))
    print("\n".join(failures([row], tools)))
    bars = {
        own: {
            "right": run.right,
            f"<= {BIG_MB} MB with the saving": (run.peak_mb_saved or BIG_MB + 1) <= BIG_MB,
            "file not larger": run.bytes is not None and run.bytes <= row.bytes,
        }
        for own, run in row.runs.items()
        if own in OWN
    }
    return {"bars": bars, "rows": [dataclasses.asdict(row)]}


def run_scaling(args: argparse.Namespace, tools: list[str]) -> Report:
    """Suite `scaling`."""
    rows = models.scaling(tools, args.sizes, args.repeat)
    print(cost_table("CPU s", rows, tools, "cpu_seconds", 2))
    print("\n".join(failures(rows, tools)))
    bars: dict[str, dict[str, bool]] = {}
    slopes = {}
    for tool in tools:
        points = [(r.nodes, r.runs[tool].cpu_seconds) for r in rows if r.runs[tool].cpu_seconds]
        if len(points) > 1:
            slopes[tool] = models.slope([(n, s) for n, s in points if s])
            print(f"{tool}: CPU seconds grow as n^{slopes[tool]:.2f}")
        if tool in OWN:
            timed = [
                row.runs[tool].cpu_seconds
                for row in rows
                if TIMED * 0.97 < row.nodes < TIMED * 1.03
            ]
            bars[tool] = {
                f"{TIMED} nodes <= {TIMED_SECONDS:g} s": any(
                    s and s <= TIMED_SECONDS for s in timed
                ),
                "linear": slopes.get(tool, 9.0) <= LINEAR,
                "right": all(row.runs[tool].right for row in rows),
            }
    return {"bars": bars, "slopes": slopes, "rows": [dataclasses.asdict(row) for row in rows]}


def run_micro(args: argparse.Namespace, tools: list[str]) -> Report:
    """Suite `micro`."""
    found = cases.micro(tools)
    print(group_table(found, lambda case: case.reached))
    for own in (tool for tool in tools if tool in OWN):
        print(f"\nmissed by {own}:")
        for case in found[own]:
            if not case.reached:
                print(f"  {case.group}: {case.name}: {case.why}")
    bars = {own: cases.micro_verdict(found[own]) for own in OWN if own in tools}
    return {"bars": bars, "cases": _plain(found)}


def run_backend(args: argparse.Namespace, tools: list[str]) -> Report:
    """Suite `backend`."""
    found = cases.backend(tools if args.peers else [t for t in tools if t in OWN], args.only)
    if args.optimize:
        found |= cases.backend([OPTIMIZE], args.only)
    print(group_table(found, lambda case: case.right))
    for tool, results in found.items():
        times = [case.seconds for case in results if case.seconds is not None]
        print(
            f"{tool}: median {statistics.median(times or [0]):.3f}, most {max(times or [0]):.2f} s"
        )
        for case in results:
            if not case.right:
                print(f"  {case.name}: {case.why}")
    own = [*OWN, OPTIMIZE]
    bars = {tool: cases.backend_verdict(found[tool]) for tool in found if tool in own}
    return {"bars": bars, "cases": _plain(found)}


def _plain(found: Mapping[str, Sequence[cases.Case]]) -> dict[str, list[dict[str, Any]]]:
    return {tool: [dataclasses.asdict(case) for case in results] for tool, results in found.items()}


SUITES = {
    "models": run_models,
    "micro": run_micro,
    "backend": run_backend,
    "scaling": run_scaling,
    "big": run_big,
}


def chosen(names: str, warn: Callable[[str], None]) -> list[str]:
    """The tools of a comma separated list that are installed; the others are noted."""
    tools = []
    for name in names.split(","):
        if TOOLS[name].installed:
            tools.append(name)
        else:
            warn(f"{name} is not installed and left out")
    return tools


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure rx.simplify against other simplifiers.",
        epilog=PEERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--models", type=Path, action="append", help="folder of models; repeatable")
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma separated; default all")
    parser.add_argument("--only", default="", help="part of the names of models or cases")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which medians are taken")
    parser.add_argument("--sizes", type=_numbers, default=SIZES, help="nodes of `scaling`'s graphs")
    parser.add_argument("--peers", action="store_true", help="peers in `backend` too")
    parser.add_argument("--optimize", action="store_true", help="rx.optimize in `backend` too")
    parser.add_argument("--keep", type=Path, help="keep results as FOLDER/TOOL/MODEL.onnx")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--plot", type=Path, help="draw `models` or `scaling` (needs matplotlib)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.tools.split(",")) - set(TOOLS))
    if unknown:
        parser.error(f"unknown tools {', '.join(unknown)}; known are {', '.join(TOOLS)}")
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and judge."""
    args = parse(argv)
    tools = chosen(args.tools, lambda note: print(note, file=sys.stderr))
    try:
        found = SUITES[args.suite](args, tools)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    report = {"suite": args.suite, **found, "machine": machine(1)}
    print()
    for tool, bars in report["bars"].items():
        for bar, met in bars.items():
            print(f"{'met   ' if met else 'MISSED'}  {tool}: {bar}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot and "rows" in report:
        from tools.bench_simplify_plot import draw

        draw(report, args.plot)
    return 0 if all(met for bars in report["bars"].values() for met in bars.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
