#!/usr/bin/env python3
"""Scales in float16 through a Cast against scales in float32: a part of bench_quantize.py.

    python3 tools/bench_quantize_scales.py MODEL

opens a model in ONNX Runtime and prints one JSON object: seconds, and bytes of anonymous memory
(Linux only) that the session holds, weights packed for the kernels included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.append(str(Path(__file__).resolve().parent.parent))  # found by its parts' full names

import onnxslim_rx as rx
from tools.bench_data import Sample, sentence_of
from tools.bench_measure import latency, quality, session
from tools.bench_peak import anonymous

__all__ = ["judge_scales", "measure_scales", "with_float32_scales"]

OPENINGS = 5  # of each model, in turns
SLOWEST = 1.05  # latency, of that with scales in float32


def with_float32_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which constants in float32 stand for float16 constants and their Casts."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    narrow = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    kept, gone = [], set()
    for node in graph.node:
        target = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "Cast" and node.input[0] in narrow and target == onnx.TensorProto.FLOAT:
            gone.add(node.input[0])
            wide = numpy_helper.to_array(narrow[node.input[0]]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
        else:
            kept.append(node)
    read = {name for node in kept for name in node.input}
    weights = [t for t in graph.initializer if t.name not in gone or t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    return made


def measure_scales(
    model: Path, short: Sequence[Sample], work: Path, threads: int, seconds: float
) -> dict[str, Any]:
    """Both forms of a model in INT4: bytes, outputs, latency of 32 tokens and 1, opening."""
    half, single = work / "scales_float16.onnx", work / "scales_float32.onnx"
    rx.quantize(model, half, method="nearest", progress=False)
    onnx.save(with_float32_scales(onnx.load(half)), single)
    one = [sentence_of(sample["input_ids"][0, :1]) for sample in short]
    outputs = [
        [run(s) for s in short] for run in (session(single, threads), session(half, threads))
    ]

    def timed(samples: Sequence[Sample]) -> dict[str, Any]:
        return latency(lambda: (session(single, threads), session(half, threads)), samples, seconds)

    opened: list[list[dict[str, float]]] = [[], []]
    for _ in range(OPENINGS):
        for path, found in zip((single, half), opened, strict=True):
            told = subprocess.run(
                [sys.executable, __file__, path], stdout=subprocess.PIPE, check=True
            )
            found.append(json.loads(told.stdout))
    return {
        "bytes": [single.stat().st_size, half.stat().st_size],
        "cosine": quality(*outputs)["cosine"]["min"],
        "ratio": timed(short)["ratio"],
        "ratio_one_token": timed(one)["ratio"],
        "open_seconds": [float(np.median([o["seconds"] for o in found])) for found in opened],
        "open_bytes": [float(np.median([o["bytes"] for o in found])) for found in opened],
    }


def judge_scales(found: Mapping[str, Any]) -> list[str]:
    """The bars that are missed, one clause each."""
    missed = [
        f"scales: {name} {found[name]:.2f} with float16, bar {SLOWEST}"
        for name in ("ratio", "ratio_one_token")
        if not found[name] <= SLOWEST
    ]
    if not found["cosine"] >= 1.0 - 1e-6:
        missed.append(f"scales: outputs differ, cosine {found['cosine']:.6f}")
    return missed


def main(argv: Sequence[str]) -> int:
    """Open one model."""
    before, begin = anonymous(), time.perf_counter()
    run = session(Path(argv[0]), 1)
    told = {"seconds": time.perf_counter() - begin, "bytes": anonymous() - before}
    del run
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
