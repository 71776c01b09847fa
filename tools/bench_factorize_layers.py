"""FFN layers of MiniLM one by one: low rank with data against low rank without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    layers = [(x, w) for x, w in linear_layers(proto) if max(w.shape) > min(w.shape)]
    inputs = probe(proto, [name for name, _ in layers])
    grams = [np.zeros((len(w), len(w))) for _, w in layers]
    sizes = [np.zeros(len(w)) for _, w in layers]
    rows = 0
    for sample in read(data / "calibrate"):
        for number, x in enumerate(inputs(sample)):
            grams[number] += x.T @ x
            sizes[number] += np.abs(x).sum(axis=0)
        rows += len(x)
    held: list[list[Matrix]] = [[] for _ in layers]
    for sample in read(data / "score"):
        for number, x in enumerate(inputs(sample)):
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


def linear_layers(proto: onnx.ModelProto) -> list[tuple[str, Matrix]]:
    """Of each MatMul with a constant matrix: the name of its input, and the matrix (K, N)."""
    weights = {i.name: i for i in proto.graph.initializer if len(i.dims) == 2}
    return [
        (node.input[0], numpy_helper.to_array(weights[node.input[1]]).astype(np.float64))
        for node in proto.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    ]


def probe(
    proto: onnx.ModelProto, names: Sequence[str]
) -> Callable[[Mapping[str, Any]], list[Matrix]]:
    """A function that gives the rows of these values for a sample; adds outputs to `proto`."""
    once = list(dict.fromkeys(names))
    for name in once:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)

    def rows(sample: Mapping[str, Any]) -> list[Matrix]:
        found = dict(zip(once, session.run(once, dict(sample)), strict=True))
        arrays = (found[name] for name in names)
        return [a.reshape(-1, a.shape[-1]).astype(np.float64) for a in arrays]

    return rows


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


def _cut(decomposition: Any, rank: int) -> tuple[Matrix, Matrix]:
    u, s, vt = decomposition
    return u[:, :rank] * s[:rank], vt[:rank]


def _cosine(a: Matrix, b: Matrix) -> float:
    """Of all rows together."""
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
