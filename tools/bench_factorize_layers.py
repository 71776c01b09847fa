"""FFN layers of MiniLM one by one: low rank with data against low rank without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import scipy.linalg
from onnx import numpy_helper

from onnxslim_rx.linalg import scaled_svd, whitened_svd
from tools.bench_measure import read

try:
    from sklearn.utils.extmath import randomized_svd
except ImportError:  # a peer, not a need
    randomized_svd = None

RATIO = 3.2
ROWS = 4000  # held-out rows that each layer is measured on

Matrix = npt.NDArray[np.float64]


def measure_layers(model: Path, data: Path) -> dict[str, Any]:
    """Cosine of `X W` for each FFN layer and method; plain ONNX Runtime and numpy."""
    proto = onnx.load(model)
    weights = {i.name: i for i in proto.graph.initializer}
    layers = [
        (
            node.input[0],
            numpy_helper.to_array(weights[node.input[1]]).astype(np.float64),
        )
        for node in proto.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and max(weights[node.input[1]].dims) > min(weights[node.input[1]].dims)
    ]
    for name, _ in layers:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    names = [name for name, _ in layers]
    grams = [np.zeros((len(w), len(w))) for _, w in layers]
    sizes = [np.zeros(len(w)) for _, w in layers]
    rows = 0
    for sample in read(data / "calibrate"):
        for number, x in enumerate(_rows(session, names, sample)):
            grams[number] += x.T @ x
            sizes[number] += np.abs(x).sum(axis=0)
        rows += len(x)
    held: list[list[Matrix]] = [[] for _ in layers]
    for sample in read(data / "score"):
        for number, x in enumerate(_rows(session, names, sample)):
            held[number].append(x)
        if sum(map(len, held[0])) > ROWS:
            break
    found: dict[str, list[float]] = {}
    for (_, w), gram, size, parts in zip(layers, grams, sizes, held, strict=True):
        k, n = w.shape
        rank = int(k * n / RATIO / (k + n))
        x = np.concatenate(parts)
        for name, (p, q) in _factors(w, rank, gram, size / rows, rows).items():
            found.setdefault(name, []).append(_cosine(x @ w, x @ p @ q))
    return {"ratio": RATIO, "rows": rows, "methods": found}


def _factors(
    w: Matrix, rank: int, gram: Matrix, sizes: Matrix, rows: int
) -> dict[str, tuple[Matrix, Matrix]]:
    """Low-rank factors by each method."""
    found = {
        "whitened-svd": whitened_svd(w, gram, rank, rows=rows),
        "scaled-svd": scaled_svd(w, sizes, rank),
        "numpy svd": _cut(np.linalg.svd(w, full_matrices=False), rank),
        "scipy svd": _cut(scipy.linalg.svd(w, full_matrices=False), rank),
    }
    if randomized_svd is not None:
        found["scikit-learn randomized"] = _cut(randomized_svd(w, rank, random_state=0), rank)
    return found


def _rows(session: Any, names: list[str], sample: dict[str, Any]) -> list[Matrix]:
    return [a.reshape(-1, a.shape[-1]).astype(np.float64) for a in session.run(names, sample)]


def _cut(decomposition: Any, rank: int) -> tuple[Matrix, Matrix]:
    u, s, vt = decomposition
    return u[:, :rank] * s[:rank], vt[:rank]


def _cosine(a: Matrix, b: Matrix) -> float:
    """Of all rows together."""
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
