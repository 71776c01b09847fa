"""Linear layers of MiniLM one by one: our rounding against others', and what 5% more bytes buy.

Errors are `||X W' - X W||_F / ||X W||_F` on tokens that nothing was fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from onnxslim_rx.quant import (
    BlockFormat,
    awq_scales,
    correct,
    restore,
    round_clipped,
    round_gptq,
    round_hqq,
    round_nearest,
    round_refined,
    stored_bytes,
)
from tools.bench_factorize_layers import linear_layers, probe
from tools.bench_measure import read
from tools.bench_quantize_data import Data
from tools.bench_run import spend

__all__ = ["PAIRS", "Layer", "judge_layers", "layers_of", "measure_layers", "spent", "with_more"]

Matrix = npt.NDArray[np.floating[Any]]

HELD_ROWS = 4000  # tokens that a layer is measured on
MORE = 0.05  # of the bytes
LEAST_GAIN = 0.08  # of the error of plain GPTQ, by correction with so many more bytes
SLACK = 0.002  # of an error, to be at least as good
PAIRS = {
    "nearest": ("ORT nearest", "onnxsim nearest"),
    "nearest, zero points": ("ORT nearest, zero points",),
    "HQQ, zero points": ("ORT HQQ", "onnxsim HQQ"),
    "AWQ": ("onnxsim AWQ",),
    "GPTQ": ("onnxsim GPTQ",),
    "GPTQ, zero points": ("ORT GPTQ",),
    "correction of rank 8": ("onnxsim LQER 8",),
}
"""Our methods at 4 bits in groups of 32, and implementations by others at the same settings."""


class Layer(NamedTuple):
    """One layer: weight (rows, K), its Gram matrix from so many tokens, tokens to measure on."""

    weight: Matrix
    gram: Matrix
    fitted: Matrix
    held: Matrix

    def bytes(self, block_format: BlockFormat) -> int:
        """Of the weight in a format."""
        rows, k = self.weight.shape
        return stored_bytes(rows, k, block_format)

    def error(self, found: Matrix) -> float:
        """Relative error of the outputs with another weight."""
        wanted = self.held @ self.weight.T
        return float(np.linalg.norm(self.held @ found.T - wanted) / np.linalg.norm(wanted))


def layers_of(model: Path, data: Data, every: int) -> list[Layer]:
    """Each `every`-th linear layer with the rows that enter it."""
    proto = onnx.load(model)
    chosen = linear_layers(proto)[::every]
    inputs = probe(proto, [name for name, _ in chosen])
    parts: dict[Path, list[list[Matrix]]] = {}
    for folder in (data.calibrate, data.score["sst"]):
        samples = read(folder)
        parts[folder] = [list(rows) for rows in zip(*map(inputs, samples), strict=True)]
    found = []
    for number, (_, weight) in enumerate(chosen):
        fitted, held = (np.concatenate(rows[number]) for rows in parts.values())
        found.append(Layer(weight.T.copy(), fitted.T @ fitted, fitted, held[:HELD_ROWS]))
    return found


def measure_layers(layers: Sequence[Layer], work: Path, python: str) -> dict[str, Any]:
    """Errors by method, ours and others'; and of what spends 5% more bytes, by base format."""
    ours = {name: [layer.error(method(layer)) for layer in layers] for name, method in OURS.items()}
    return {
        "layers": [list(layer.weight.shape) for layer in layers],
        "ours": ours,
        **_others(layers, work, python),
        "more": [with_more(layers, BlockFormat(4, group)) for group in (32, 128)],
    }


def _others(layers: Sequence[Layer], work: Path, python: str) -> dict[str, Any]:
    """What other tools come to, in a process of their own; nothing without their Python."""
    if not python:
        return {"others": {}, "failed": {}, "seconds": 0.0}
    source, result = work / "layers.npz", work / "layers.json"
    arrays: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        rows = {"w": layer.weight.T, "x": layer.fitted, "y": layer.held}
        arrays |= {f"{name}{number}": array.astype(np.float32) for name, array in rows.items()}
    np.savez(source, **arrays)
    script = Path(__file__).with_name("bench_quantize_layers_peers.py")
    _, seconds, error = spend([python, str(script), str(source), str(result)], work / "layers.log")
    if error:
        return {"others": {}, "failed": {"all": error}, "seconds": seconds}
    told = json.loads(result.read_text(encoding="utf-8"))
    return {"others": told["errors"], "failed": told["failed"], "seconds": seconds}


def _format(*, symmetric: bool = True) -> BlockFormat:
    """With the scales that the others have."""
    return BlockFormat(4, 32, symmetric=symmetric, scale_type=np.float32)


def _awq(layer: Layer) -> Matrix:
    scales = awq_scales(layer.weight, _format(), layer.gram, rows=len(layer.fitted))
    return restore(round_nearest(layer.weight * scales, _format())) / scales


def _gptq(layer: Layer, block_format: BlockFormat) -> Matrix:
    rows = len(layer.fitted)
    return restore(round_gptq(layer.weight, block_format, layer.gram, rows=rows))


def _refined(layer: Layer, block_format: BlockFormat) -> Matrix:
    rows = len(layer.fitted)
    return restore(round_refined(layer.weight, block_format, layer.gram, rows=rows))


def _corrected(layer: Layer, block_format: BlockFormat, rank: int) -> Matrix:
    rows = len(layer.fitted)
    return correct(layer.weight, block_format, layer.gram, rank, rows=rows).dense()


OURS: dict[str, Callable[[Layer], Matrix]] = {
    "nearest": lambda layer: restore(round_nearest(layer.weight, _format())),
    "nearest, zero points": lambda layer: restore(
        round_nearest(layer.weight, _format(symmetric=False))
    ),
    "clipped": lambda layer: restore(round_clipped(layer.weight, _format())),
    "HQQ, zero points": lambda layer: restore(round_hqq(layer.weight, _format(symmetric=False))),
    "AWQ": _awq,
    "GPTQ": lambda layer: _gptq(layer, _format()),
    "GPTQ, zero points": lambda layer: _gptq(layer, _format(symmetric=False)),
    "GPTQ, refined": lambda layer: _refined(layer, _format()),
    "correction of rank 8": lambda layer: _corrected(layer, _format(), 8),
}


def with_more(layers: Sequence[Layer], base: BlockFormat) -> dict[str, Any]:
    """Mean errors with `MORE` of the bytes of a format: a correction, smaller groups, 8 bits.

    Smaller groups and 8 bits go to the layers where they lower the error most per byte.
    """
    sizes = [layer.bytes(base) for layer in layers]
    ranks = [_rank(layer, MORE * size) for layer, size in zip(layers, sizes, strict=True)]
    start = [layer.error(_refined(layer, base)) for layer in layers]
    corrected = [
        layer.error(_corrected(layer, base, rank))
        for layer, rank in zip(layers, ranks, strict=True)
    ]
    smaller = [BlockFormat(4, group) for group in (16, 32, 64) if group < base.group]
    found = {
        "GPTQ": float(np.mean([layer.error(_gptq(layer, base)) for layer in layers])),
        "GPTQ, refined": float(np.mean(start)),
        "correction": float(np.mean(corrected)),
    }
    for name, formats in (("smaller groups", smaller), ("8 bits", [BlockFormat(8, 128)])):
        options = []
        for number, layer in enumerate(layers):
            for other in formats:
                more = layer.bytes(other) - sizes[number]
                options.append((number, more, layer.error(_refined(layer, other))))
        found[name] = float(np.mean(spent(start, options, MORE * sum(sizes))))
    return {"group": base.group, "ranks": ranks, "errors": found}


def _rank(layer: Layer, limit: float) -> int:
    """The largest whose factors fit: INT8, and a scale of 4 bytes for each row and column."""
    return max(1, int(limit // (sum(layer.weight.shape) + 8)))


def spent(
    errors: Sequence[float], options: Sequence[tuple[int, int, float]], limit: float
) -> list[float]:
    """Errors of layers after the options (layer, more bytes, error) with the most gain per byte.

    Of each layer at most one is taken, as long as all fit.
    """
    found, left, taken = list(errors), limit, set()
    best = sorted(options, key=lambda option: (option[2] - errors[option[0]]) / option[1])
    for number, more, error in best:
        if number not in taken and more <= left and error < errors[number]:
            taken.add(number)
            found[number], left = error, left - more
    return found


def judge_layers(found: Mapping[str, Any]) -> list[str]:
    """The bars that are missed, one clause each."""
    missed = [f"{name}: {why}" for name, why in found["failed"].items() if name == "all"]
    for name, others in PAIRS.items():
        ours = float(np.mean(found["ours"][name]))
        for other in others:
            theirs = float(np.mean(found["others"].get(other, [np.nan])))
            if ours > theirs * (1.0 + SLACK):
                missed.append(f"{name}: layer error {ours:.4f}, {other} has {theirs:.4f}")
    for one in found["more"]:
        errors = one["errors"]
        gain = 1.0 - errors["correction"] / errors["GPTQ"]
        if not gain >= LEAST_GAIN:
            missed.append(
                f"correction of g{one['group']}: {gain:.1%} less error than GPTQ, bar"
                f" {LEAST_GAIN:.0%}"
            )
    return missed
