"""What is to be measured where: from layers to tensors of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from onnxslim_rx.analysis import Shape
from onnxslim_rx.passbase import Layer

__all__ = ["Reading", "readings"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One measurement; layers that want the same one share it.

    Args:
        kind: as of the layer.
        value: the tensor that enters the layer.
        output: the tensor that leaves it, for convolutions; otherwise None.
        transposed: the rows of X lie along the last axis of `value`, not the one before.
        size: columns of X of a linear layer, rows of an embedding, 0 for convolutions.
    """

    kind: str
    value: ir.Value
    output: ir.Value | None
    transposed: bool
    size: int


def readings(
    model: ir.Model, layers: Iterable[Layer], shapes: Mapping[str, Shape | None]
) -> tuple[dict[str, Reading], dict[str, str]]:
    """The reading of each layer by name, and the reasons of layers that have none.

    Args:
        model: the model.
        layers: units of `model`.
        shapes: what is known of the shapes of its values, by name.
    """
    found: dict[str, Reading] = {}
    reasons: dict[str, str] = {}
    for layer in layers:
        reading = _reading(model, layer, shapes)
        if isinstance(reading, str):
            reasons[layer.name] = reading
        else:
            found[layer.name] = reading
    return found, reasons


def _reading(model: ir.Model, layer: Layer, shapes: Mapping[str, Shape | None]) -> Reading | str:
    if layer.node.graph is not model.graph:
        return "it lies in a function or in the body of an If, Loop or Scan"
    if layer.kind == "conv":
        return Reading("conv", layer.activation, layer.output, False, 0)
    dims = _dims(layer.weight, shapes)
    if not dims:
        return "the shape of its weight is not known"
    if layer.kind == "embedding":
        if layer.node.attributes.get_int("axis", 0) != 0:
            return "it does not read whole rows"
        return Reading("embedding", layer.activation, None, False, dims[0])
    if layer.kind == "linear":
        transposed, width = _orientation(layer, dims)
        return Reading("linear", layer.activation, None, transposed, width)
    return f"layers of the kind {layer.kind!r} are not measured"


def _orientation(layer: Layer, dims: tuple[int, ...]) -> tuple[bool, int]:
    """Whether X is the transposed activation in `Y = X W`, and the columns of X.

    With the constant on the left, `Y = W A` is `Y^T = A^T W^T`, so X is `A^T`.
    """
    flipped = {name: bool(layer.node.attributes.get_int(name, 0)) for name in ("transA", "transB")}
    if layer.activation_index == 0:
        columns = dims[-1] if flipped["transB"] else dims[-2:][0]
        return flipped["transA"], columns
    columns = dims[-2:][0] if flipped["transA"] else dims[-1]
    return not flipped["transB"], columns


def _dims(weight: ir.Value, shapes: Mapping[str, Shape | None]) -> tuple[int, ...]:
    """The shape of a weight, also of one that is computed from others; empty if not known."""
    if weight.const_value is not None:
        return tuple(weight.const_value.shape.numpy())
    shape = shapes.get(str(weight.name)) or ()
    dims = tuple(dim for dim in shape if dim is not None)
    return dims if len(dims) == len(shape) else ()
