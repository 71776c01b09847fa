"""What is to be measured where: from layers to tensors of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from onnxslim_rx.analysis import Shape
from onnxslim_rx.ir import bodies
from onnxslim_rx.passbase import Layer

__all__ = ["Reading", "readings"]

Gates = tuple[tuple[ir.Value, bool], ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One measurement; layers that want the same one share it.

    Args:
        kind: "linear" (the Gram matrix of X and more), "tandem" (see `mismatch`), "embedding" or
            "conv".
        value: the tensor that enters the layer.
        output: the tensor that leaves it, for convolutions; otherwise None.
        transposed: the rows of X lie along the last axis of `value`, not the one before.
        size: columns of X of a linear layer, rows of an embedding, 0 for convolutions.
        others: for "tandem": the outputs that are wanted, and those that there are.
        other_size: columns of these; 0 where there are none.
        other_transposed: as `transposed`, of `others`.
        strides: of a pointwise convolution, whose rows are the positions that it reads, with the
            channels as columns; None for all others.
        gates: conditions, and what each must be for the sample to count.
        band: rows of the matrix that are summed up in one go, first and last + 1; None: all.
    """

    kind: str
    value: ir.Value
    output: ir.Value | None
    transposed: bool
    size: int
    others: tuple[ir.Value, ...] = ()
    other_size: int = 0
    other_transposed: bool = False
    strides: tuple[int, ...] | None = None
    gates: Gates = ()
    band: tuple[int, int] | None = None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """All tensors that must be there to measure."""
        more = (self.output, *self.others, *(condition for condition, _ in self.gates))
        return (self.value, *(value for value in more if value is not None))

    def bands(self, height: int) -> list[Reading]:
        """The reading in parts of at most `height` rows of its matrix."""
        if height >= self.size:
            return [self]
        return [
            dataclasses.replace(self, band=(first, min(first + height, self.size)))
            for first in range(0, self.size, height)
        ]


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
    owners = {body: node for node in model.graph.all_nodes() for body in bodies(node)}
    for layer in layers:
        reading = _reading(model, layer, owners, shapes)
        if isinstance(reading, str):
            reasons[layer.name] = reading
        else:
            found[layer.name] = reading
    return found, reasons


def _reading(
    model: ir.Model,
    layer: Layer,
    owners: Mapping[ir.Graph, ir.Node],
    shapes: Mapping[str, Shape | None],
) -> Reading | str:
    gates = _gates(model, layer, owners)
    if isinstance(gates, str):
        return gates
    if layer.kind == "conv":
        if gates:
            return "it lies in a branch of an If, and only the sizes of its output say its rows"
        return _pointwise(layer) or Reading("conv", layer.activation, layer.output, False, 0)
    dims = _dims(layer.weight, shapes)
    if not dims:
        return "the shape of its weight is not known"
    if layer.kind == "embedding":
        if layer.node.attributes.get_int("axis", 0) != 0:
            return "it does not read whole rows"
        return Reading("embedding", layer.activation, None, False, dims[0], gates=gates)
    if layer.kind == "linear":
        transposed, width = _orientation(layer, dims)
        return Reading("linear", layer.activation, None, transposed, width, gates=gates)
    if layer.kind == "recurrent" and layer.weight_index == 1:  # (directions, gates, K)
        return Reading("linear", layer.activation, None, False, dims[-1], gates=gates)
    return f"layers of the kind {layer.kind!r} are not measured"


def _pointwise(layer: Layer) -> Reading | None:
    """The rows of a convolution of 1 x 1, which is linear in the channels; None for others."""
    weight, node = layer.weight.const_value, layer.node
    if weight is None or node.op_type != "Conv" or layer.weight_index != 1:
        return None
    _, channels, *kernel = weight.shape.numpy()  # (M, C / group, 1, 1)
    padded = any(node.attributes.get_ints("pads", []))
    if set(kernel) != {1} or padded or node.attributes.get_int("group", 1) != 1:
        return None
    strides = tuple(node.attributes.get_ints("strides", [1] * len(kernel)))
    return Reading("linear", layer.activation, None, False, channels, strides=strides)


def _gates(model: ir.Model, layer: Layer, owners: Mapping[ir.Graph, ir.Node]) -> Gates | str:
    """Conditions in the main graph under which a layer runs, or why it cannot be measured.

    A layer in a branch of an If can be seen from outside where what it reads comes from there.
    """
    gates: list[tuple[ir.Value, bool]] = []
    graph = layer.node.graph
    while graph is not model.graph:
        node = owners.get(graph) if isinstance(graph, ir.Graph) else None
        if node is None:
            return "it lies in a function"
        if node.op_type != "If" or node.domain != "":
            return f"it lies in the body of a {node.op_type}"
        condition = node.inputs[0]
        if condition is None or not _is_seen(condition, model):
            return "it lies in a branch of an If whose condition is computed in another branch"
        gates.append((condition, graph is node.attributes["then_branch"].as_graph()))
        graph = node.graph
    if gates and not _is_seen(layer.activation, model):
        return "it lies in a branch of an If, and so does what it reads"
    return tuple(dict.fromkeys(gates))


def _is_seen(value: ir.Value, model: ir.Model) -> bool:
    """Whether a value that a subgraph reads is one of the main graph."""
    return value.graph is model.graph


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
