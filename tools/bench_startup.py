#!/usr/bin/env python3
"""CPU time of `onnxslim-rx --help`, against an empty Python program.

    python3 tools/bench_startup.py [--runs 10] [--bar 0.3] [--json FILE]

Exit code 0 where the median is at most the bar, else 1. User and system time together, of the
process and its children; wall time would depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "onnxslim-rx --help": ["-m", "onnxslim_rx", "--help"],
}


def cpu_seconds(arguments: Sequence[str]) -> float:
    """CPU seconds of one run of this Python with `arguments`.

    Raises:
        RuntimeError: the command failed.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, float]:
    """Median CPU seconds of each command; the commands take turns."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(cpu_seconds(arguments))
    return {name: statistics.median(found[1:]) for name, found in times.items()}  # first: cold


def results(medians: dict[str, float], bar: float, runs: int) -> dict[str, object]:
    """Everything, ready for JSON."""
    return {
        "cpu_seconds": medians,
        "bar": bar,
        "runs": runs,
        "met": medians["onnxslim-rx --help"] <= bar,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="CPU time of the start of onnxslim-rx.")
    parser.add_argument("--runs", type=int, default=10, help="runs of each command")
    parser.add_argument("--bar", type=float, default=0.3, help="CPU seconds allowed")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    args = parser.parse_args(argv)
    if args.runs < 1:
        parser.error(f"--runs is {args.runs}; expected at least 1")
    medians = measure(args.runs)
    for name, seconds in medians.items():
        print(f"{seconds:6.3f} s  {name}")
    found = results(medians, args.bar, args.runs)
    print(f"{'met' if found['met'] else 'MISSED'}: at most {args.bar} s of CPU time")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if found["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
