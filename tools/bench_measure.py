#!/usr/bin/env python3
"""Compare two ONNX models by plain ONNX Runtime: outputs, sizes, latency, task metric.

    python3 tools/bench_measure.py ORIGINAL RESULT DATA [--threads N] [--seconds S]

DATA is a folder that bench_data.py wrote; the samples in DATA/score are run. Prints one JSON
object. Nothing of onnxslim_rx is used, so that it cannot be wrong in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]
Outputs = dict[str, Array]
Run = Callable[[Sample], Outputs]

OPENINGS = 3


def read(folder: Path) -> list[dict[str, Array]]:
    """All samples of a folder, in order."""
    samples = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            samples.append(dict(arrays))
    return samples


def session(model: Path, threads: int) -> Run:
    """Runs a model in plain ONNX Runtime; sequences of maps become arrays of their values.

    Of a sample it takes what is an input.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in opened.get_outputs()]
    inputs = [value.name for value in opened.get_inputs()]

    def run(sample: Sample) -> Outputs:
        fed = {name: sample[name] for name in inputs if name in sample}
        values = opened.run(None, fed)
        return {name: _array(value) for name, value in zip(names, values, strict=True)}

    return run


def _array(value: Any) -> Array:
    if isinstance(value, list):
        return np.array([[item[key] for key in sorted(item)] for item in value], np.float64)
    return np.asarray(value)


def cosine(a: Array, b: Array) -> float:
    """Of two arrays, flattened, in float64; 1 for two zero vectors, 0 for one or other shapes."""
    if a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    if norms == 0:
        return float(not x.any() and not y.any())
    return float(x @ y / norms)


def quality(before: Sequence[Outputs], after: Sequence[Outputs]) -> dict[str, Any]:
    """Cosine over samples (of the worst float output), share of equal integers."""
    worst: list[float] = []
    equal: list[float] = []
    for reference, candidate in zip(before, after, strict=True):
        floats = [name for name, array in reference.items() if array.dtype.kind == "f"]
        worst.append(min((cosine(reference[n], candidate[n]) for n in floats), default=1.0))
        others = reference.keys() - set(floats)
        equal.extend(float(np.mean(reference[n] == candidate[n])) for n in others)
    cosines = {
        "mean": float(np.mean(worst)),
        "p5": float(np.percentile(worst, 5)),
        "min": float(np.min(worst)),
    }
    return {"cosine": cosines, "agreement": float(np.mean(equal)) if equal else None}


def latency(
    open_both: Callable[[], tuple[Run, Run]], samples: Sequence[Sample], seconds: float
) -> dict[str, Any]:
    """Time both models in turns on the same samples: at least 30 rounds and `seconds`.

    The models are opened three times, because where a session's memory happens to lie moves its
    time by some percent. Medians over rounds, ms a sample, and their ratio with a 95% bootstrap
    interval.
    """
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(8, len(samples)), dtype=int)]
    rounds: list[tuple[float, float]] = []
    for _ in range(OPENINGS):
        runs = open_both()
        for run in runs:
            run(chosen[0])
        least, end = len(rounds) + 30 // OPENINGS, time.perf_counter() + seconds / OPENINGS
        while len(rounds) < least or time.perf_counter() < end:
            times = [0.0, 0.0]
            order = (0, 1) if len(rounds) % 2 == 0 else (1, 0)  # neither is always first
            for sample in chosen:
                for which in order:
                    start = time.perf_counter()
                    runs[which](sample)
                    times[which] += time.perf_counter() - start
            rounds.append((times[0], times[1]))
    array = np.array(rounds) / len(chosen) * 1e3
    medians = np.median(array, axis=0)
    drawn = np.random.default_rng(0).integers(0, len(array), (500, len(array)))
    redrawn = np.median(array[drawn], axis=1)
    interval = np.percentile(redrawn[:, 1] / redrawn[:, 0], (2.5, 97.5))
    return {
        "latency_ms": medians.tolist(),
        "ratio": float(medians[1] / medians[0]),
        "ratio_interval": interval.tolist(),
    }


def score(facts: Mapping[str, Any], run: Run, outputs: list[Outputs], samples: list[Any]) -> float:
    """The task metric: top-1 accuracy, or area under the curve with the model's own state."""
    labels = np.array(facts["labels"])
    if facts["kind"] == "top1":
        return float(np.mean(classes(outputs) == labels))
    state, values = samples[0]["state"], []
    for number, sample in enumerate(samples):
        if number in facts["starts"]:
            state = np.zeros_like(state)
        found = run({**sample, "state": state})
        state = found["stateN"]
        values.append(float(found["output"].item()))
    return auc(np.array(values), labels)


def classes(outputs: Sequence[Outputs]) -> Array:
    """The best class of each sample."""
    return np.array([np.argmax(next(iter(found.values()))) for found in outputs])


def auc(values: Array, labels: Array) -> float:
    """Chance that a positive one has the higher value, ties counting half."""
    positive, negative = values[labels == 1], np.sort(values[labels == 0])
    below = np.searchsorted(negative, positive, "left").mean()
    upto = np.searchsorted(negative, positive, "right").mean()
    return float((below + upto) / 2 / len(negative))


def measure(
    original: Path, result: Path, data: Path, threads: int, seconds: float
) -> dict[str, Any]:
    """Sizes, quality, latency and task metric of a result."""
    external = result.parent.glob(result.name + ".*")
    facts = json.loads((data / "task.json").read_text(encoding="utf-8"))
    samples = read(data / "score")
    opened = session(original, threads), session(result, threads)
    before, after = ([run(sample) for sample in samples] for run in opened)
    found = {
        "bytes_before": original.stat().st_size,
        "bytes_after": result.stat().st_size + sum(path.stat().st_size for path in external),
        **quality(before, after),
        **latency(lambda: (session(original, threads), session(result, threads)), samples, seconds),
        "task": None,
    }
    if facts["kind"] != "none":
        values = [score(facts, r, o, samples) for r, o in zip(opened, (before, after), strict=True)]
        found["task"] = [facts["kind"], *values]
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare two models by plain ONNX Runtime.")
    parser.add_argument("original", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("data", type=Path, help="folder that bench_data.py wrote")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each session")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing")
    args = parser.parse_args(argv)
    print(json.dumps(measure(args.original, args.result, args.data, args.threads, args.seconds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
