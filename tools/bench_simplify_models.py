"""Suites `models`, `big` and `scaling`: one process for each tool and model."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("ONNXSLIM_RX_ASSETS", ROOT.parent / "shared"))

RUN = 5_000  # nodes; ONNX Runtime takes minutes to open larger graphs without optimisation
GROWN = (1.5, 1e6)  # a file is grown when it is this many times as large, and so many bytes more


@dataclasses.dataclass
class Run:
    """One tool on one model.

    Args:
        error: why there is no result; empty where there is one.
        cpu_seconds: medians over repetitions, of reading and simplifying.
        peak_mb: of the process that did.
        cpu_seconds_saved, peak_mb_saved: the same with the writing of the result.
        nodes, bytes, operators: of the result.
        wrong: what is not as in the original.
        dropped: optional inputs that are gone, see bench_simplify_check.py.
    """

    error: str = ""
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    cpu_seconds_saved: float | None = None
    peak_mb_saved: float | None = None
    nodes: int | None = None
    bytes: int | None = None
    operators: dict[str, int] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    dropped: int = 0

    @property
    def right(self) -> bool:
        """There is a result, and it is as the original."""
        return not self.error and not self.wrong and self.nodes is not None


@dataclasses.dataclass
class Row:
    """One model: the original and what each tool makes of it."""

    name: str
    nodes: int
    bytes: int
    runs: dict[str, Run] = dataclasses.field(default_factory=dict)

    def grown(self, tool: str) -> bool:
        """The tool's file is much larger than the original: constants were unfolded into it."""
        size, (times, more) = self.runs[tool].bytes, GROWN
        return size is not None and size > times * self.bytes + more

    def honest(self, tool: str) -> bool:
        """The tool's file is not grown, and all optional inputs are there."""
        return not self.grown(tool) and not self.runs[tool].dropped

    def fewest(self, peers: Iterable[str], *, honest: bool) -> int:
        """Nodes of the best right peer, or of the original.

        Args:
            peers: tools that count.
            honest: count a result only where it is.
        """
        found = [self.nodes]
        for tool, run in self.runs.items():
            counts = tool in peers and run.right and (self.honest(tool) or not honest)
            if counts and run.nodes is not None:
                found.append(run.nodes)
        return min(found)


def light_models() -> Path:
    """Folder of the models whose weights are made by ConstantOfShape, in the wheel of onnx."""
    return Path(str(importlib.resources.files("onnx"))) / "backend" / "test" / "data" / "light"


def find(folders: Iterable[Path], only: str = "") -> list[Path]:
    """Models in folders whose name contains `only`, in order; those without external data first."""
    found = [path for folder in folders for path in folder.glob("*.onnx") if only in path.stem]
    return sorted(found, key=lambda path: (path.with_name(path.name + ".data").exists(), path))


def measure(
    tools: Sequence[str], model: Path, repeat: int, keep: Path | None = None, *, run: bool = True
) -> Row:
    """Run each tool `repeat` times in turns, and check its first result.

    Args:
        tools: names of tools that are installed.
        model: file of the original.
        repeat: at least 1.
        keep: folder for the results, as TOOL/MODEL.onnx; None: they are deleted.
        run: compare outputs; else results are only counted.
    """
    before = _json("bench_simplify_check.py", str(model))
    row = Row(model.stem, before["nodes"], before["bytes"])
    costs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    for turn in range(repeat):
        for tool in tools:
            if turn and row.runs[tool].error:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) if keep is None else keep / tool.replace(" ", "_")
                folder.mkdir(parents=True, exist_ok=True)
                output = folder / model.name if not turn else Path(temporary) / model.name
                job = tool, str(model), str(output)
                found = _json("bench_simplify_tools.py", *job, tmp=temporary)
                costs[tool].append(found)
                if not turn:
                    row.runs[tool] = _checked(found, [model, output] if run else [output])
    for tool, runs in costs.items():
        for key in ("cpu_seconds", "peak_mb", "cpu_seconds_saved", "peak_mb_saved"):
            values = [run[key] for run in runs if run.get(key) is not None]
            setattr(row.runs[tool], key, statistics.median(values) if values else None)
    return row


def _checked(found: Mapping[str, Any], files: Sequence[Path]) -> Run:
    run = Run(error=found["error"])
    if not run.error:
        facts = _json("bench_simplify_check.py", *map(str, files))
        for key, value in facts.items():
            setattr(run, key, value)
    return run


def _json(script: str, *arguments: str, tmp: str | None = None) -> dict[str, Any]:
    """The object that a script of this folder prints; `error` where it died."""
    environment = {**os.environ, **({"TMPDIR": tmp} if tmp else {})}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / script), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    lines = done.stderr.strip().splitlines()
    return {"error": lines[-1][:200] if lines else f"exit code {done.returncode}"}


def verdict(rows: Sequence[Row], own: str, peers: Sequence[str]) -> dict[str, bool]:
    """The bars of suite `models` for one of our tools; missed where nothing was measured."""
    mine = {row.name: row.runs[own] for row in rows}
    bars = {"right on every model": bool(rows) and all(run.right for run in mine.values())}
    clean = [row.runs[own].nodes is not None and row.honest(own) for row in rows]
    bars["no file grown, no input dropped"] = bool(rows) and all(clean)
    for honest, which in ((False, "any right peer"), (True, "any honest right peer")):
        few = not more(rows, own, peers, honest=honest)
        bars[f"no more nodes than {which}"] = bool(rows) and few
    ratios = cpu_ratios(rows, own, "OnnxSlim")
    if "OnnxSlim" in peers:
        bars["CPU <= 0.5 x OnnxSlim (median)"] = bool(ratios) and median(ratios) <= 0.5
        bars["CPU <= 1.2 x OnnxSlim (every model)"] = bool(ratios) and max(ratios.values()) <= 1.2
    if "onnxsim" in peers:
        ours, theirs = cpu_sums(rows, own, "onnxsim")
        bars["sum of CPU <= onnxsim's"] = 0 < ours <= theirs
    return bars


def more(rows: Sequence[Row], own: str, peers: Sequence[str], *, honest: bool) -> list[str]:
    """Models where ours has more nodes than the best right peer: "NAME (OURS > FEWEST)"."""
    found = []
    for row in rows:
        nodes, fewest = row.runs[own].nodes, row.fewest(peers, honest=honest)
        if nodes is None or nodes > fewest:
            found.append(f"{row.name} ({nodes} > {fewest})")
    return found


def cpu_ratios(rows: Sequence[Row], own: str, peer: str) -> dict[str, float]:
    """CPU seconds of ours by those of a peer, by model, where both were measured."""
    pairs = {row.name: (row.runs.get(own), row.runs.get(peer)) for row in rows}
    return {
        name: ours.cpu_seconds / theirs.cpu_seconds
        for name, (ours, theirs) in pairs.items()
        if ours and theirs and ours.cpu_seconds is not None and theirs.cpu_seconds
    }


def cpu_sums(rows: Sequence[Row], own: str, peer: str) -> tuple[float, float]:
    """Sums of CPU seconds over the models that both finished."""
    both = [row for row in rows if row.name in cpu_ratios(rows, own, peer)]
    first, second = (sum(row.runs[t].cpu_seconds or 0 for row in both) for t in (own, peer))
    return first, second


def median(values: Mapping[str, float]) -> float:
    """NaN of nothing."""
    return statistics.median(values.values()) if values else math.nan


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Exponent k of the power law n^k that fits (n, seconds) best, by least squares of logs."""
    logs = [(math.log(size), math.log(seconds)) for size, seconds in points]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def scaling(tools: Sequence[str], sizes: Sequence[int], repeat: int) -> list[Row]:
    """Measure generated graphs of about `sizes` nodes; outputs are compared up to `RUN`."""
    import onnx_ir

    from tools.bench_simplify_graphs import transformer

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"transformer_{size}.onnx"
            onnx_ir.save(transformer(size), path)
            rows.append(measure(tools, path, repeat, run=size <= RUN))
            path.unlink()
    return rows
