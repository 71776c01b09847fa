"""Models with static integers: calibrated, carried out, and as ONNX Runtime fuses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

from onnxslim_rx.calibration import collect
from onnxslim_rx.ir import clone, serialize
from onnxslim_rx.passbase import Layer, Skipped
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.quantize_static import QuantizeStatic

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]
NAME = QuantizeStatic.name
SIZES = {"B": 2, "S": 5}


def draws(model: ir.Model, rng: np.random.Generator, count: int = 8) -> list[dict[str, Array]]:
    """Standard normal inputs; symbols have the sizes in `SIZES`."""
    shapes = {
        str(value.name): [d if isinstance(d, int) else SIZES[str(d.value)] for d in value.shape]
        for value in model.graph.inputs
        if value.shape is not None
    }
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def applied(
    model: ir.Model,
    samples: Sequence[Sample],
    only: Sequence[str] | None = None,
    **options: Any,
) -> tuple[ir.Model, list[Skipped]]:
    """A copy with the first candidate of every layer (or of `only`) carried out, not tidied up."""
    options.setdefault("method", "minmax")
    one = QuantizeStatic(**options)
    found = list(one.layers(model))
    layers = [layer for layer in found if isinstance(layer, Layer)]
    stats = collect(model, layers, samples, ranges=True)
    target = load_target("ort-cpu")
    stages = {
        layer.name: next(iter(one.candidates(layer, stats.get(layer.name), target))).stages
        for layer in layers
        if only is None or layer.name in only
    }
    copy = clone(model)
    own = [layer for layer in one.layers(copy) if isinstance(layer, Layer)]
    treatments = [(y, stages[y.name], stats[y.name]) for y in own if y.name in stages]
    refused = apply_treatments(copy, treatments, {NAME: one})
    return copy, [s for s in found if isinstance(s, Skipped)] + refused


def carried_out(
    model: ir.Model, samples: Sequence[Sample], only: Sequence[str] | None = None, **options: Any
) -> ir.Model:
    """As `applied`, tidied up; nothing may be refused."""
    made, refused = applied(model, samples, only, **options)
    assert not refused
    QuantizeStatic().finish(made)
    return made


def fused(model: ir.Model, folder: Path, level: str = "EXTENDED") -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a model when it loads it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}"
    )
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3  # a warning: the file is for this machine alone
    onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / "optimized.onnx").graph
    return Counter(node.op_type for node in graph.node)


def run(model: ir.Model, feeds: Sample, *, optimize: bool = True) -> list[Array]:
    """Outputs by stock ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        serialize(model), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(one) for one in session.run(None, dict(feeds))]
