"""Products to be carried out in INT8, and what is known of their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build

Array = npt.NDArray[Any]
K, N = 37, 19


def carried_out(
    model: ir.Model, bits: int = 8, stats: LayerStatistics | None = None, **options: str | float
) -> list[Skipped]:
    one = QuantizeDynamic(min_elements=1)
    stages = [Stage("quantize-dynamic", {"bits": bits, **options})]
    treatments = [(layer, stages, stats) for layer in one.layers(model) if isinstance(layer, Layer)]
    assert treatments
    return apply_treatments(model, treatments, {"quantize-dynamic": one})


def statistics(x: Array) -> LayerStatistics:
    wide = x.astype(np.float64)
    low, high = wide.min(axis=0), wide.max(axis=0)
    return LayerStatistics(wide.T @ wide, None, len(x), x, x.shape, low=low, high=high)


def product(weight: Array) -> ir.Model:
    k, n = weight.shape
    return build(f"g (float[B,{k}] x) => (float[B,{n}] y) {{ y = MatMul(x, w) }}", {"w": weight})


def uneven(rng: np.random.Generator, rows: int = 400, k: int = K) -> Array:
    """Correlated, with channels of very different sizes."""
    mixed = rng.standard_normal((rows, 9)) @ rng.standard_normal((9, k))
    x = (mixed + 0.5 * rng.standard_normal((rows, k))) * np.exp(rng.uniform(-3, 3, k))
    return np.asarray(x, np.float32)


def offered(
    model: ir.Model, stats: LayerStatistics | None, **options: Any
) -> tuple[QuantizeDynamic, Layer, list[Candidate]]:
    one = QuantizeDynamic(min_elements=1, **options)
    layer = next(iter(one.layers(model)))
    assert isinstance(layer, Layer)
    return one, layer, list(one.candidates(layer, stats, load_target("ort-cpu")))
