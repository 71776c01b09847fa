#!/usr/bin/env python3
"""Our operators on the CPU against the stock operators that do the same.

    python3 tools/bench_native.py [--threads 1 2] [--only TEXT] [--seconds 0.5] [--json FILE]

Sessions of both kinds take turns, so that what else runs on the machine meets both alike. Prints
the best time of each and their ratio: CPU time with one thread, which does not grow while others
have the processor, and wall time with more; medians are in the JSON. Exit code 0 where all ratios
are at most the bar, else 1. Before it is timed, a result is compared with that of the stock
operators.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onnxslim_rx.runtime import native

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names
from tools.bench_native_cases import Array, Case, cases

ERROR = 1e-5
"""Allowed difference of float results, as a share of the largest number."""
ROUNDED = 0.05
"""The same against operators that round activations to integers (level 4)."""
RUNS = 7


def session(model: bytes, threads: int, library: Path | None) -> onnxruntime.InferenceSession:
    """A session on the CPU, with our operators of a library on the CPU too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library is not None:
        options.add_session_config_entry(f"{native.DOMAIN}.device", "cpu")
        options.register_custom_ops_library(os.fspath(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def time_all(
    runs: Mapping[str, Callable[[], object]], clock: Callable[[], float], seconds: float
) -> dict[str, list[float]]:
    """Microseconds of each run; they take turns until the time is used up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    rounds = 0
    while rounds < RUNS or time.perf_counter() < end:
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e6)
        rounds += 1
    return {name: found[1:] for name, found in times.items()}  # the first one is cold


def difference(found: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure(case: Case, threads: int, seconds: float, library: Path) -> list[dict[str, Any]]:
    """A row for each kind of stock operators.

    Raises:
        RuntimeError: results differ.
    """
    sessions = {name: session(make(), threads, None) for name, make in case.stock.items()}
    ours = session(case.ours(), threads, library)
    result = ours.run(None, dict(case.feed))[0]
    for name, stock in sessions.items():
        error = difference(result, stock.run(None, dict(case.feed))[0])
        if error > (ROUNDED if name.endswith("level 4") else ERROR):
            raise RuntimeError(f"{case.name}: differs from {name} by {error:.2g}")
    feed = dict(case.feed)
    runs = {name: (lambda s=s: s.run(None, feed)) for name, s in {**sessions, "": ours}.items()}
    # a session of one thread runs on ours
    times = time_all(runs, time.thread_time if threads == 1 else time.perf_counter, seconds)
    return [
        {
            "case": case.name,
            "stock": name,
            "threads": threads,
            "stock_us": min(times[name]),
            "ours_us": min(times[""]),
            "ratio": min(times[""]) / min(times[name]),
            "stock_median_us": statistics.median(times[name]),
            "ours_median_us": statistics.median(times[""]),
            "runs": len(times[""]),
        }
        for name in sessions
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of sessions")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each session of a case")
    parser.add_argument("--bar", type=float, default=1.5, help="ratio that is good enough")
    parser.add_argument("--library", type=Path, help="another build than the installed one")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    options = parse(arguments)
    library = options.library or native.library_path()
    if library is None:
        print("the native library is not built: python3 tools/dev.py build", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    print(f"{'case':44} {'against':26} threads {'stock us':>10} {'ours us':>10}  ratio")
    for case in cases():
        if options.only.lower() not in case.name.lower():
            continue
        for threads in options.threads:
            for row in measure(case, threads, options.seconds, library):
                rows.append(row)
                print(
                    f"{row['case']:44} {row['stock']:26} {threads:7} {row['stock_us']:10.1f} "
                    f"{row['ours_us']:10.1f} {row['ratio']:6.2f}"
                    + (" over the bar" if row["ratio"] > options.bar else ""),
                    flush=True,
                )
    missed = [row for row in rows if row["ratio"] > options.bar]
    print(f"{len(rows) - len(missed)} of {len(rows)} within {options.bar} x")
    if options.json:
        found = {
            "rows": rows,
            "bar": options.bar,
            "onnxruntime": onnxruntime.__version__,
            "processors": os.cpu_count(),
            "machine": platform.machine(),
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
