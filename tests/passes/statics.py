"""Models with static integers: calibrated, carried out, and as ONNX Runtime fuses them."""

from __future__ import annotations

import dataclasses
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
from onnxslim_rx.ir import clone, constant, serialize
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
    methods: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[ir.Model, list[Skipped]]:
    """A copy with the first candidate of every layer (or of `only`) carried out, not tidied up.

    `methods`: other methods than "minmax", by layer.
    """
    options.setdefault("method", "minmax")
    one = QuantizeStatic(**options)
    methods = methods or {}
    found = list(one.layers(model))
    layers = [layer for layer in found if isinstance(layer, Layer)]
    stats = collect(model, layers, samples, ranges=True)
    target = load_target("ort-cpu")
    stages = {}
    for layer in layers:
        if only is None or layer.name in only:
            own = dataclasses.replace(one, method=methods.get(layer.name, one.method))
            candidate, *_ = own.candidates(layer, stats.get(layer.name), target)
            stages[layer.name] = candidate.stages
    copy = clone(model)
    copied = [layer for layer in one.layers(copy) if isinstance(layer, Layer)]
    treatments = [(y, stages[y.name], stats[y.name]) for y in copied if y.name in stages]
    refused = apply_treatments(copy, treatments, {NAME: one})
    return copy, [s for s in found if isinstance(s, Skipped)] + refused


def carried_out(
    model: ir.Model, samples: Sequence[Sample], only: Sequence[str] | None = None, **options: Any
) -> ir.Model:
    """As `applied`, tidied up; nothing may be refused."""
    made, refused = applied(model, samples, only, **options)
    assert not refused
    QuantizeStatic().finish(made)
    check(made)
    return made


def check(model: ir.Model) -> None:
    """What kernels on integers take for granted.

    A bias stands in multiples of the scales of input and weight; data movement on integers has one
    grid on both sides; nothing is rounded twice in a row.
    """
    for node in model.graph:
        makers = [None if value is None else value.producer() for value in node.inputs]
        if node.op_type in ("Conv", "Gemm") and len(makers) == 3 and None not in makers:
            x, weight, bias = (scale(maker) for maker in makers if maker is not None)
            np.testing.assert_allclose(bias, x * weight, rtol=1e-6)
        readers = [use.node for value in node.outputs for use in value.uses()]
        rounds = bool(readers) and all(one.op_type == "QuantizeLinear" for one in readers)
        first = makers[0] if makers else None
        turned = first is not None and first.op_type == "DequantizeLinear"
        if node.op_type in MOVES and rounds and first is not None and turned:
            assert {float(scale(one)) for one in (first, *readers)} == {float(scale(first))}
        assert not (turned and node.op_type == "QuantizeLinear")


MOVES = ("MaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Split", "Resize")


def scale(node: ir.Node) -> Array:
    """That of a QuantizeLinear or DequantizeLinear."""
    tensor = constant(node.inputs[1])
    assert tensor is not None
    return np.asarray(tensor.numpy())


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
