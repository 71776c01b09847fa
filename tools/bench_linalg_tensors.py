"""Tensors of kernels: errors and times of our decompositions beside those of tensorly.

Ranks: half of each channel side for Tucker and the tensor train, 40% of the numbers for CP.
tensorly runs with its own stopping rules; parafac does so from each of its starts and is judged by
the least error and by the time of the faster start.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from onnxslim_rx.linalg import cp, cp_full, tt_full, tt_svd, tucker, tucker_full

try:
    import tensorly
    from tensorly.decomposition import parafac, partial_tucker, tensor_train
except ImportError:  # a peer, not a need
    tensorly = None

__all__ = ["SHAPES", "judge", "kernels", "measure", "sample", "show"]

Tensor: TypeAlias = npt.NDArray[np.float64]
Way: TypeAlias = Callable[[], Tensor]
SHAPES = ["128x128x9", "192x192x9", "256x128x9", "33x47x5", "64x3x49"]
KEPT = 0.4
# Two ways to a local minimum end this near to each other, relative.
SLACK = 1e-3
# Times above those of the peer by less are noise, or those of kernels that are done at once.
SLACK_TIME, SLACK_SECONDS = 1.1, 2e-2


def sample(shape: tuple[int, ...], seed: int) -> Tensor:
    """Terms of falling size, as many as twice the largest side, and noise of a tenth."""
    rng = np.random.default_rng(seed)
    rank = 2 * max(shape)
    factors = [rng.standard_normal((side, rank)) for side in shape]
    factors[0] *= np.arange(1.0, rank + 1.0) ** -0.75
    t = cp_full(factors)
    noise = rng.standard_normal(shape)
    found: Tensor = t / np.linalg.norm(t) + 0.1 * noise / np.linalg.norm(noise)
    return found


def kernels(model: Path) -> dict[str, Tensor]:
    """Weights (M, C, prod k) of convolutions, by name; those with a side of 1 are left out."""
    graph = onnx.load(model).graph
    weights = {weight.name: weight for weight in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            w = onnx.numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
            if w.size // max(w.shape[0], 1) > w.shape[1] > 1:
                found[node.input[1]] = w.reshape(*w.shape[:2], -1)
    return found


def cp_rank(shape: tuple[int, ...]) -> int:
    """The rank whose factors have the share `KEPT` of the numbers."""
    return max(int(KEPT * np.prod(shape) / sum(shape)), 1)


def own_ways(t: Tensor) -> dict[str, Way]:
    """Each decomposition, giving the tensor that it stands for."""
    ranks = {mode: max(t.shape[mode] // 2, 1) for mode in (0, 1)}
    swapped = t.transpose(1, 2, 0)  # C, k, M
    return {
        "tucker": lambda: tucker_full(*tucker(t, ranks)),
        "cp": lambda: cp_full(cp(t, cp_rank(t.shape))),
        "tensor train": lambda: tt_full(tt_svd(swapped, [ranks[1], ranks[0]])).transpose(2, 0, 1),
    }


def peer_ways(t: Tensor) -> dict[str, list[Way]]:
    """The same by tensorly, from each of its starts."""
    ranks = [max(t.shape[mode] // 2, 1) for mode in (0, 1)]
    swapped = t.transpose(1, 2, 0)

    def by_tucker() -> Tensor:
        (core, factors), _ = partial_tucker(t, rank=ranks, modes=[0, 1])
        full: Tensor = tucker_full(core, dict(enumerate(factors)))
        return full

    def by_cp(init: str) -> Tensor:
        found = parafac(t, cp_rank(t.shape), init=init, random_state=0)
        full: Tensor = tensorly.cp_to_tensor(found)
        return full

    def by_train() -> Tensor:
        found = tensor_train(swapped, rank=[1, ranks[1], ranks[0], 1])
        full: Tensor = found.to_tensor().transpose(2, 0, 1)
        return full

    return {
        "tucker": [by_tucker],
        "cp": [partial(by_cp, init) for init in ("svd", "random")],
        "tensor train": [by_train],
    }


def timed(way: Way, t: Tensor, repeats: int) -> tuple[float, float]:
    """Median of the CPU seconds (all threads), and the relative error."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        found = way()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), float(np.linalg.norm(t - found) / np.linalg.norm(t))


def measure(t: Tensor, repeats: int) -> dict[str, Any]:
    """Errors and seconds by decomposition; "peer" where tensorly is installed."""
    rows: dict[str, Any] = {}
    for name, way in own_ways(t).items():
        seconds, error = timed(way, t, repeats)
        rows[name] = {"seconds": seconds, "error": error}
    if tensorly is None:
        return rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, ways in peer_ways(t).items():
            found = [timed(way, t, repeats) for way in ways]
            seconds, error = (min(column) for column in zip(*found, strict=True))
            rows[name]["peer"] = {"seconds": seconds, "error": error}
    return rows


def judge(rows: Mapping[str, Any]) -> list[str]:
    """Where tensorly has a lower error or takes clearly less time."""
    missed = []
    for name, row in rows.items():
        if "peer" not in row:
            continue
        if row["error"] > row["peer"]["error"] * (1.0 + SLACK):
            missed.append(f"{name}: error {row['error']:.5f} above {row['peer']['error']:.5f}")
        if row["seconds"] > SLACK_TIME * row["peer"]["seconds"] + SLACK_SECONDS:
            missed.append(f"{name}: {row['seconds'] / row['peer']['seconds']:.2f} times as long")
    return missed


def show(case: Mapping[str, Any]) -> None:
    """One block of text."""
    print(f"\n{case['name']}, {' x '.join(map(str, case['shape']))}")
    for name, row in case["methods"].items():
        peer = row.get("peer")
        beside = f"  tensorly {peer['error']:.5f} {peer['seconds']:8.4f} s" if peer else ""
        print(f"  {name:13} error {row['error']:.5f} {row['seconds']:8.4f} s{beside}")
    for text in case["missed"]:
        print(f"  MISSED: {text}")
