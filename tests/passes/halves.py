"""Models in text form, and layers of them in half."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import load, nodes
from onnxslim_rx.passbase import Layer
from onnxslim_rx.stages import apply_treatments, finish
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.compute_half import ComputeHalf

Array = npt.NDArray[Any]

TARGET = load_target("ort-cpu")


def model(text: str, weights: Mapping[str, Array], opset: int = 17) -> ir.Model:
    """A graph in ONNX's text form with the given initializers."""
    found = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')
    for name, array in weights.items():
        read = [v for n in found.graph.all_nodes() for v in n.inputs if v and v.name == name]
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for one in dict.fromkeys(read):
            one.replace_all_uses_with(value)
        found.graph.register_initializer(value)
    return load(ir.to_proto(found))


def in_half(found: ir.Model, names: Collection[str] = (), **options: Any) -> list[str]:
    """Treat the layers called `names` (none: all), in place; what was treated."""
    one = ComputeHalf(**{"type": "float16", "min_elements": 16, **options})
    layers = [layer for layer in one.layers(found) if isinstance(layer, Layer)]
    treatments = [
        (layer, candidate.stages, None)
        for layer in layers
        if not names or layer.name in names
        for candidate in one.candidates(layer, None, TARGET)
    ]
    assert apply_treatments(found, treatments, {one.name: one}) == []
    finish(found, [stages for _, stages, _ in treatments], {one.name: one})
    return [layer.name for layer, *_ in treatments]


def types(found: ir.Model) -> list[str]:
    """Operators in order, those in half with a `16` behind."""
    return [
        node.op_type
        if node.op_type == "Cast" or node.outputs[0].dtype != ir.DataType.FLOAT16
        else f"{node.op_type}16"
        for node in nodes(found)
    ]


def casts(found: ir.Model) -> int:
    """How many there are."""
    return sum(node.op_type == "Cast" for node in nodes(found))


def cosine(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The least of all outputs in floating point."""
    least = 1.0
    for name, array in one.items():
        if np.asarray(array).dtype.kind == "f":
            a, b = (np.ravel(x).astype(np.float64) for x in (array, other[name]))
            least = min(least, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return least
