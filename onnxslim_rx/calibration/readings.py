"""What is to be measured where: from layers to tensors of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from onnxslim_rx.analysis import Shape
from onnxslim_rx.calibration.patches import Patches
from onnxslim_rx.ir import bodies
from onnxslim_rx.passbase import MOST_COLUMNS, Layer

__all__ = ["Reading", "of_patches", "readings"]

Gates = tuple[tuple[ir.Value, bool], ...]

_WIDEST = 2304  # 256 channels of 3 x 3; the Gram matrix of wider patches takes more than 42 MB
_LEAST = 64  # positions read of a sample at least
# Positions read of all samples, for each column of X. A CNN for CIFAR-10, 512 images, half and a
# quarter of the filters: the outputs of others were 0.5%, 0.15% and 0.06% worse at 2, 4 and 8 than
# with all positions.
_OFTEN = 8


@dataclasses.dataclass(frozen=True)
class Reading:
    """One measurement; layers that want the same one share it.

    Args:
        kind: "linear" (the Gram matrix of X and more), "columns" (each column of X alone, where
            there are very many), "tandem" (see `mismatch`), "channels" (see `channelwise`),
            "embedding", "shape" (how much there is of it) or "histogram" (see `values`).
        value: the tensor that enters the layer; for "histogram" also one that leaves it.
        transposed: the rows of X lie along the last axis of `value`, not the one before.
        size: columns of X of a linear layer, rows of an embedding, 0 for all others.
        others: for "tandem" and "channels": the outputs that are wanted, and those that there are.
        other_size: columns of these; 0 where there are none.
        other_transposed: as `transposed`, of `others`.
        patches: of a convolution: what it reads at one position, (channels, taps), is a row of X
            or, where `transposed`, gives one row for each tap; None for all others.
        most: positions that are read of a sample; None: all.
        kept: for "tandem": rows that are kept as they are.
        gates: conditions, and what each must be for the sample to count.
        band: rows of the matrix that are summed up in one go, first and last + 1; None: all.
    """

    kind: str
    value: ir.Value
    transposed: bool
    size: int
    others: tuple[ir.Value, ...] = ()
    other_size: int = 0
    other_transposed: bool = False
    patches: Patches | None = None
    most: int | None = None
    kept: int = 0
    gates: Gates = ()
    band: tuple[int, int] | None = None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """All tensors that must be there to measure."""
        return (self.value, *self.others, *(condition for condition, _ in self.gates))

    @property
    def channels(self) -> int:
        """Channels of what enters a convolution."""
        assert self.patches is not None
        return self.size if self.transposed else self.size // self.patches.taps

    @property
    def whole_patches(self) -> bool:
        """Whether a row of X is a patch."""
        return self.kind == "linear" and self.patches is not None and not self.transposed

    def bands(self, height: int) -> list[Reading]:
        """The reading in parts of at most `height` rows of its matrix."""
        if height >= self.size:
            return [self]
        return [
            dataclasses.replace(self, band=(first, min(first + height, self.size)))
            for first in range(0, self.size, height)
        ]


def readings(
    model: ir.Model, layers: Iterable[Layer], shapes: Mapping[str, Shape | None], samples: int
) -> tuple[dict[str, Reading], dict[str, str]]:
    """The reading of each layer by name, and the reasons of layers that have none.

    Args:
        model: the model.
        layers: units of `model`.
        shapes: what is known of the shapes of its values, by name.
        samples: how many there will be, at least 1.
    """
    found: dict[str, Reading] = {}
    reasons: dict[str, str] = {}
    owners = {body: node for node in model.graph.all_nodes() for body in bodies(node)}
    for layer in layers:
        reading = _reading(model, layer, owners, shapes, samples)
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
    samples: int,
) -> Reading | str:
    gates = _gates(model, layer, owners)
    if isinstance(gates, str):
        return gates
    dims = _dims(layer.weight, shapes)
    if not dims:
        return "the shape of its weight is not known"
    if layer.kind == "conv":
        return dataclasses.replace(_convolution(layer, dims, samples), gates=gates)
    if layer.kind == "embedding":
        if layer.node.attributes.get_int("axis", 0) != 0:
            return "it does not read whole rows"
        return Reading("embedding", layer.activation, False, dims[0], gates=gates)
    if layer.kind == "linear":
        transposed, width = _orientation(layer, dims)
        kind = "linear" if width <= MOST_COLUMNS else "columns"
        return Reading(kind, layer.activation, transposed, width, gates=gates)
    if layer.kind == "recurrent" and layer.weight_index == 1:  # (directions, gates, K)
        return Reading("linear", layer.activation, False, dims[-1], gates=gates)
    return f"layers of the kind {layer.kind!r} are not measured"


def _convolution(layer: Layer, dims: tuple[int, ...], samples: int) -> Reading:
    """The rows of a convolution: patches, or what they hold of all channels at one tap.

    A transposed convolution multiplies the channels of each position of its input.
    """
    node, groups = layer.node, layer.node.attributes.get_int("group", 1)
    spreads = layer.op == "ConvTranspose"
    patches = Patches.pointwise(len(dims) - 2) if spreads else Patches.of(node, dims[2:])
    channels = dims[0] if spreads else groups * dims[1]
    if layer.op not in ("Conv", "ConvTranspose") or 1 < groups == channels:
        return Reading("shape", layer.activation, False, 0, patches=patches)
    by_channel = spreads or channels * patches.taps > _WIDEST
    reading = Reading("linear", layer.activation, by_channel, channels)
    return of_patches(reading, patches, samples)


def of_patches(entering: Reading, patches: Patches, samples: int, often: int = _OFTEN) -> Reading:
    """The reading of what convolutions read.

    Args:
        entering: of the channels of the tensor; where not `transposed`, whole patches are wanted.
        patches: what is read.
        samples: how many there will be, at least 1.
        often: positions read of all samples, for each column of X.
    """
    size = entering.size * (1 if entering.transposed else patches.taps)
    most = None if patches.taps == 1 else max(_LEAST, -(-often * size // samples))
    return dataclasses.replace(entering, size=size, patches=patches, most=most)


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
