"""Models of one convolution, and what FactorizeConv offers for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from tests.passes.conftest import build

Array = npt.NDArray[Any]
TARGET = load_target("ort-cpu")
FINE = dataclasses.replace(TARGET, rank_multiple=1, min_rank=1)
SIDE = 6


def conv_of(
    kernel: Array, attributes: str = "group = 1", *, op: str = "Conv", kind: str = "float"
) -> ir.Model:
    """x -> op -> y."""
    found = re.search(r"group = (\d+)", attributes)
    groups = int(found[1]) if found else 1
    channels = kernel.shape[0] if op == "ConvTranspose" else groups * kernel.shape[1]
    shape = [1, channels, *[SIDE] * (kernel.ndim - 2)]
    unknown = ", ".join(["?"] * kernel.ndim)
    node = f"{op}<{attributes}>(x, w)"
    return build(f"g ({kind}{shape} x) => ({kind}[{unknown}] y) {{ y = {node} }}", {"w": kernel})


def noise(rng: np.random.Generator, *dims: int) -> Array:
    """Independent entries, float32."""
    return rng.standard_normal(dims).astype(np.float32)


def only_layer(one: FactorizeConv, model: ir.Model) -> Layer:
    """The one layer that the pass finds."""
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer), layer
    return layer


def offers(
    model: ir.Model, target: Any = TARGET, stats: LayerStatistics | None = None, **options: Any
) -> list[Candidate]:
    """Candidates of the only layer of a model."""
    one = FactorizeConv(min_elements=1, **options)
    return list(one.candidates(only_layer(one, model), stats, target))


def options_of(candidate: Candidate) -> Mapping[str, Any]:
    """Of the only stage."""
    (stage,) = candidate.stages
    return stage.options


def white(channels: int, taps: int = 1, rows: int = 5000) -> LayerStatistics:
    """Statistics of independent inputs."""
    gram = rows * np.eye(channels * taps)
    return LayerStatistics(gram, None, rows, None, (), patches=taps > 1)
