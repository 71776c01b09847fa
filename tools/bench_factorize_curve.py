"""MiniLM with a share of its encoder's parameters: our plans and plain SVD, measured alike."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import onnxslim_rx as rx
from onnxslim_rx.vocabulary import Allocation
from tools import bench_measure

THREADS = 2
SECONDS = 6.0
# everything that stores weights in fewer bits, or treats something else than the encoder
OTHERS = ("quantize-weights", "factorize-embedding")


@dataclasses.dataclass(frozen=True)
class Row:
    """One compressed model.

    Args:
        share: of the encoder's parameters that was asked for.
        kept: share that is there.
        allocation: how ranks were chosen.
        cosine: mean over held-out sentences, of the sentence embedding.
        p5: 5th percentile.
        ratio: latency, of the original's.
        predicted: cosine that the planner predicted before weights were fitted.
        predicted_ms: predicted latency of the layers.
        seconds: CPU time of the optimizer.
    """

    share: float
    kept: float
    allocation: str
    cosine: float
    p5: float
    ratio: float
    predicted: float | None
    predicted_ms: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def measure_plan(model: Path, data: Path, work: Path, share: float, allocation: Allocation) -> Row:
    """Optimize to a size, and measure."""
    cleaned = work / "cleaned.onnx"  # what clean-up saves is not to be spent on parameters
    if not cleaned.is_file():
        found = rx.simplify(onnx.load(model))
        assert isinstance(found, onnx.ModelProto)  # as it was given
        onnx.save(found, cleaned)
    limit = math.floor(cleaned.stat().st_size - (1.0 - share) * 4 * encoder_parameters(model))
    start = time.process_time()
    result = rx.optimize(
        model,
        budget=rx.Budget(max_bytes=limit),
        calibration=data / "calibrate",
        skip=OTHERS,
        allocation=allocation,
        cache=work / "cache",
        progress=False,
    )
    seconds = time.process_time() - start
    output = work / f"{allocation}_{share}.onnx"
    result.save(output)
    layers = result.report.layers
    ms = [row.latency_after_ms for row in layers if row.latency_after_ms is not None]
    damage = sum(row.damage or 0.0 for row in layers)
    return _row(model, output, data, share, allocation, 1.0 - damage, sum(ms), seconds)


def baseline(model: Path, data: Path, work: Path, share: float) -> Row:
    """Plain SVD (numpy) of every linear layer of the encoder at one ratio."""
    start = time.process_time()
    proto = onnx.load(model)
    weights = {i.name: i for i in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        name = node.input[1]
        w = numpy_helper.to_array(weights[name]).astype(np.float64)
        k, n = w.shape
        u, s, vt = np.linalg.svd(w, full_matrices=False)
        rank = int(share * k * n / (k + n))
        for suffix, array in ((".p", u[:, :rank] * s[:rank]), (".q", vt[:rank])):
            tensor = numpy_helper.from_array(array.astype(np.float32), name + suffix)
            proto.graph.initializer.append(tensor)
        proto.graph.initializer.remove(weights[name])
        middle = node.output[0] + ".middle"
        for x, factor, y in ((node.input[0], ".p", middle), (middle, ".q", node.output[0])):
            nodes.append(onnx.NodeProto(op_type="MatMul", input=[x, name + factor], output=[y]))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    output = work / f"svd_{share}.onnx"
    onnx.save(proto, output)
    return _row(model, output, data, share, "plain SVD", None, None, time.process_time() - start)


def encoder_parameters(model: Path) -> int:
    """Entries of all constant matrices of rank 2 that a MatMul or Gemm multiplies by."""
    proto = onnx.load(model)
    sizes = {i.name: math.prod(i.dims) for i in proto.graph.initializer if len(i.dims) == 2}
    names = {n.input[1] for n in proto.graph.node if n.op_type in ("MatMul", "Gemm")}
    return sum(sizes.get(name, 0) for name in names)


def _row(
    model: Path, output: Path, data: Path, share: float, allocation: str,
    predicted: float | None, predicted_ms: float | None, seconds: float,
) -> Row:  # fmt: skip
    found = bench_measure.measure(model, output, data, THREADS, SECONDS)
    return Row(
        share, encoder_parameters(output) / encoder_parameters(model), allocation,
        found["cosine"]["mean"], found["cosine"]["p5"], found["ratio"], predicted, predicted_ms,
        seconds,
    )  # fmt: skip
