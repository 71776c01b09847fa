#!/usr/bin/env python3
"""One simplifier on many small models, in a process that is replaced when it dies or hangs.

    python3 tools/bench_simplify_batch.py TOOL JOBS.json

JOBS.json is a list of {"name", "model", "feeds", "output"}: files of a model, of the pickled inputs
(a list of mappings), and where the result goes. Prints a line of JSON for each job: `error`,
`skip` (why the original cannot be compared), `wrong` (outputs), `cpu_seconds`, `seconds`. The
tool "rx-optimize" is `rx.optimize` with the default budget. Called by bench_simplify.py.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.append(str(Path(__file__).resolve().parent.parent))

from tools import bench_simplify_check as check
from tools import bench_simplify_inputs as inputs
from tools.bench_simplify_tools import TOOLS, Call, Save, message, quiet

ROOT = Path(__file__).resolve().parent.parent
Job = dict[str, str]
Found = dict[str, Any]

OPTIMIZE = "rx-optimize"
HANG = 90.0  # seconds of one job


def run_jobs(tool: str, jobs: Sequence[Job], hang: float = HANG) -> Iterator[Found]:
    """Results of `jobs`, in order.

    A job that kills the process or takes longer than `hang` seconds is an error, and those after
    it go on in a new process.
    """
    left = list(jobs)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "jobs.json"
            path.write_text(json.dumps(left), encoding="utf-8")
            for found in _lines([sys.executable, __file__, tool, str(path)], hang):
                yield {**found, "name": left.pop(0)["name"]}
        if left:
            yield {"name": left.pop(0)["name"], "error": "crash or hang", "skip": "", "wrong": []}


def _lines(command: list[str], hang: float) -> Iterator[Found]:
    """The lines of JSON that a process prints, until it ends or is silent for too long."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(Path(command[-1]).parent)},
    )
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()

    def read(stream: Any) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        while (line := lines.get(timeout=hang)) is not None:
            yield json.loads(line)
    except queue.Empty:
        pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def work(tool: str, jobs: Sequence[Job]) -> Iterator[Found]:
    """Do the jobs in this process."""
    call, save = _optimizer() if tool == OPTIMIZE else TOOLS[tool].make()
    for job in jobs:
        yield _one(call, save, job, loose=tool == OPTIMIZE)


def _optimizer() -> tuple[Call, Save]:
    import onnxslim_rx as rx

    return lambda path: rx.optimize(path, progress=False), lambda result, path: result.save(path)


def _one(call: Call, save: Save, job: Job, *, loose: bool) -> Found:
    found: Found = {"error": "", "skip": "", "wrong": [], "cpu_seconds": None, "seconds": None}
    feeds = pickle.loads(Path(job["feeds"]).read_bytes())  # our own file
    try:
        names, reference = _reference(job["model"], feeds)
    except Exception as error:  # noqa: BLE001 - not a case for stock ONNX Runtime
        names, reference, found["skip"] = [], [], message(error) or "does not run"
    wall, start = time.perf_counter(), time.process_time()
    try:
        result = call(job["model"])
        found["cpu_seconds"] = time.process_time() - start
        found["seconds"] = time.perf_counter() - wall
        save(result, job["output"])
        if not found["skip"]:
            after = _outputs(job["output"], feeds)
            compare = _far if loose else check.differences
            wrong = [compare(names, a, b) for a, b in zip(reference, after, strict=True)]
            found["wrong"] = sorted({name for part in wrong for name in part})
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is a result
        found["error"] = f"{type(error).__name__}: {message(error)}"
    return found


def _reference(model: str, feeds: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """What the original gives.

    Raises:
        ValueError: it does not give the same with another seed.
    """
    onnxruntime.set_seed(1)
    second = _outputs(model, feeds)
    onnxruntime.set_seed(0)
    first = _outputs(model, feeds)
    names = [output.name for output in inputs.session(Path(model)).get_outputs()]
    if any(check.differences(names, a, b, 0.0) for a, b in zip(first, second, strict=True)):
        raise ValueError("draws random numbers")
    return names, first


def _outputs(model: str, feeds: Sequence[dict[str, Any]]) -> list[list[Any]]:
    run = inputs.session(Path(model))
    return [inputs.run(run, feed) for feed in feeds]


def _far(names: Sequence[str], before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Outputs that the default budget does not allow: cosine below 0.99, or other integers."""
    wrong = set(check.differences(names, before, after))
    for name, a, b in zip(names, before, after, strict=True):
        if isinstance(a, np.ndarray) and a.dtype.kind == "f" and np.shape(a) == np.shape(b):
            x, y = (np.nan_to_num(np.asarray(v, np.float64)).ravel() for v in (a, b))
            scale = float(np.linalg.norm(x) * np.linalg.norm(y))
            if scale and float(x @ y) >= 0.99 * scale:
                wrong.discard(name)
    return [name for name in names if name in wrong]


def prepare(
    folder: Path, name: str, model: Any, feeds: Sequence[dict[str, Any]], write: Callable[..., Any]
) -> Job:
    """Write a model and its inputs to `folder`; the job for them."""
    paths = {
        key: str(folder / f"{name}{end}")
        for key, end in (("model", ".onnx"), ("feeds", ".pickle"), ("output", ".out.onnx"))
    }
    write(model, paths["model"])
    Path(paths["feeds"]).write_bytes(pickle.dumps(list(feeds)))
    return {"name": name, **paths}


def main(argv: list[str] | None = None) -> int:
    """Work, and print a line after each job."""
    parser = argparse.ArgumentParser(description="Run one simplifier on many small models.")
    parser.add_argument("tool", choices=[*TOOLS, OPTIMIZE])
    parser.add_argument("jobs", type=Path)
    args = parser.parse_args(argv)
    jobs = json.loads(args.jobs.read_text(encoding="utf-8"))
    results = work(args.tool, jobs)
    for _ in jobs:
        with quiet():
            found = next(results)
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
