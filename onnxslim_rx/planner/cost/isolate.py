"""One layer cut out of its network, as a model that can be timed.

Only what the runtime does is timed, not what comes out. So the weights are zeros: decompositions
of zeros are there at once (see `linalg.svd`), and the same operators of the same sizes run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration.dependence import closure, reads
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import bodies, clone, graphs, serialize
from onnxslim_rx.passbase import CompressionPass, Layer, LayerStatistics, Stage
from onnxslim_rx.planner.parts import Entering, extract
from onnxslim_rx.stages import apply_treatments, finish

__all__ = ["Region", "isolate", "structure", "treat"]

Array = npt.NDArray[Any]
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
# Larger constants are weights; smaller ones may be sizes and axes, which must stay what they are.
_LEAST_WEIGHT = 256


@dataclasses.dataclass(frozen=True)
class Region:
    """The nodes of a layer and what goes in and out.

    Args:
        layer: the layer.
        graph: the graph that holds its nodes.
        inputs: what is read from outside and depends on the sample.
        outputs: what others read.
    """

    layer: Layer
    graph: ir.Graph
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @classmethod
    def of(cls, layer: Layer) -> Region:
        """The region of a layer.

        Raises:
            InputError: the layer lies in a function.
        """
        graph = layer.node.graph
        if not isinstance(graph, ir.Graph):
            raise InputError(f"{layer.name} lies in a function")
        inner = set(layer.nodes)
        made = [value for node in layer.nodes for value in node.outputs]
        own = set(made)
        read = dict.fromkeys(value for node in layer.nodes for value in reads(node, graph))
        fixed = _Fixed(graph)
        inputs = tuple(value for value in read if value not in own and not fixed(value))
        outputs = tuple(
            value
            for value in made
            if value.is_graph_output() or any(use.node not in inner for use in value.uses())
        )
        return cls(layer, graph, inputs, outputs or (layer.output,))


class _Fixed:
    """Which values of a graph are computed from constants alone."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[ir.Value, bool] = {}

    def __call__(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is None or node.graph is not self._graph:
            return value.is_initializer() and value.const_value is not None
        if value not in self._known:
            everything = closure([value], _Reads(self._graph), lambda v: v.graph is not self._graph)
            sources = {source for one in everything for source in reads(one, self._graph)}
            roots = (source for source in sources if source.producer() not in everything)
            self._known[value] = all(v.is_initializer() for v in roots)
        return self._known[value]


class _Reads(Mapping[ir.Node, tuple[ir.Value, ...]]):
    """What each node of a graph reads, found when it is asked for."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def __getitem__(self, node: ir.Node) -> tuple[ir.Value, ...]:
        return tuple(reads(node, self._graph))

    def __iter__(self) -> Iterator[ir.Node]:
        return iter(self._graph)

    def __len__(self) -> int:
        return len(self._graph)


def isolate(
    model: ir.Model | None, region: Region, feeds: Mapping[str, Array], *, zeros: bool = True
) -> ir.Model:
    """A model of one layer.

    Args:
        model: lends versions and functions; None: the layer uses standard operators only.
        region: of the layer.
        feeds: what enters, by name: types and sizes become those of the inputs.
        zeros: whether weights of zero take the place of the layer's.

    Raises:
        InputError: the layer cannot be cut out.
    """
    if model is None:
        imports = dict(region.graph.opset_imports)
        model = ir.Model(ir.Graph([], [], nodes=[], opset_imports=imports), ir_version=10)
    entering = {value: Entering.of([feeds[str(value.name)]]) for value in region.inputs}
    alone = extract(model, region.graph, entering, region.outputs)
    alone.meta.clear()  # the part is not large as the whole may be
    for graph in graphs(alone) if zeros else ():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in _FLOATS and tensor.size >= _LEAST_WEIGHT:
                array = np.zeros(tensor.shape.numpy(), tensor.dtype.numpy())
                value.const_value = ir.Tensor(array, tensor.dtype, name=value.name)
    return alone


def treat(
    alone: ir.Model,
    layer: Layer,
    stages: Sequence[Stage],
    stats: LayerStatistics | None,
    passes: Mapping[str, CompressionPass],
) -> ir.Model:
    """A copy of an isolated layer after `stages`.

    Args:
        alone: of `isolate`; not changed.
        layer: as it is in the whole model.
        stages: what is done.
        stats: of the layer.
        passes: by name.

    Raises:
        InputError: a pass does not find the layer, or refuses.
    """
    copy = clone(alone)
    if not stages:
        return copy
    found = passes[stages[0].pass_name].layers(copy)
    same = [one for one in found if isinstance(one, Layer) and _is_like(one, layer)]
    if not same:
        raise InputError(f"{stages[0].pass_name} does not find {layer.name} on its own")
    own = [one for one in same if one.name == layer.name] or same
    with np.errstate(all="ignore"):  # ratios of zeros
        refused = apply_treatments(copy, [(own[0], stages, stats)], passes)
    if refused:
        raise InputError(f"{refused[0].where}: {refused[0].why}")
    finish(copy, [stages], passes)
    return copy


def _is_like(one: Layer, other: Layer) -> bool:
    """Whether a layer of the part is that of the whole: names of values stay, others may not."""
    return (
        one.output.name == other.output.name
        and one.weight_index == other.weight_index
        and len(one.members) == len(other.members)
    )


def structure(alone: ir.Model) -> str:
    """Hash of what an isolated layer computes: operators, attributes, sizes and types, no names."""
    total = hashlib.sha256(str(sorted(alone.opset_imports.items())).encode())
    numbers: dict[ir.Value | None, int] = {None: -1}

    def note(*parts: object) -> None:
        total.update(f"{parts}\n".encode())

    for value in (*alone.graph.inputs, *alone.graph.initializers.values()):
        numbers.setdefault(value, len(numbers))
        note(numbers[value], value.dtype, value.shape)
    for value in alone.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            large = tensor.dtype in _FLOATS and tensor.size >= _LEAST_WEIGHT
            content = b"" if large else tensor.tobytes()
            note(numbers[value], tensor.dtype, tuple(tensor.shape.numpy()), content)
    for node in alone.graph:
        for value in node.outputs:
            numbers[value] = len(numbers)
        reading, making = (
            [numbers.get(v, -2) for v in values] for values in (node.inputs, node.outputs)
        )
        note(node.domain, node.op_type, node.overload, reading, making)
        if any(True for _ in bodies(node)):  # their names tell them apart, at worst needlessly
            total.update(serialize(alone))
            continue
        attributes = sorted(node.attributes.items())
        note([(name, a.type, _plain(a)) for name, a in attributes])
    note([numbers[value] for value in alone.graph.outputs])
    return total.hexdigest()


def _plain(attribute: ir.Attr) -> object:
    tensor = attribute.type == ir.AttributeType.TENSOR
    return attribute.as_tensor().tobytes() if tensor else str(attribute.value)
