"""What several passes ask of a graph."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxslim_rx.ir import graphs

__all__ = ["Proofs", "has_reference", "is_random", "label", "opset"]

_log = logging.getLogger(__name__)

_LARGE_BYTES = 1024  # no operator takes a shape from a larger constant
_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def label(node: ir.Node) -> str:
    """How a node is called in reports."""
    return node.name or next((value.name for value in node.outputs if value.name), node.op_type)


def opset(model: ir.Model) -> int:
    """Version of the standard operators."""
    return model.opset_imports.get("", 1)


def has_reference(node: ir.Node) -> bool:
    """Whether an attribute is that of the function around the node, so not known here."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def is_random(node: ir.Node) -> bool:
    """Whether two runs of a standard operator may give different results."""
    training = node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    return node.domain == "" and (node.op_type in _RANDOM or training)


class Proofs:
    """Types and shapes that follow from the model's inputs and weights.

    What the file states of the shapes in between is not used: exporters, and scripts that edit
    models, leave stale shapes behind, and a wrong one would be folded into the graph. Two equal
    symbols are equal sizes.

    Args:
        model: left as it is. Inference takes place when something is first asked for; values
            that are made later have no shape.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @functools.cached_property
    def _inferred(self) -> dict[ir.Value, onnx.TypeProto.Tensor]:
        """What ONNX infers for the outputs of nodes in the main graph and its subgraphs."""
        found: dict[ir.Value, onnx.TypeProto.Tensor] = {}
        with _without_claims(self._model):
            try:
                proto = ir.to_proto(self._model)
                _drop_overridable(proto.graph)
                inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
            except Exception as error:  # noqa: BLE001  (C++ raises several types on odd models)
                _log.info("shape inference failed: %s", error)
                return found
        _collect(self._model.graph, inferred.graph, found)
        return found

    def shape(self, value: ir.Value | None) -> ir.Shape | None:
        """The shape of a value, with symbols; None where not even the rank is known."""
        if value is None:
            return None
        if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
            return ir.Shape(value.const_value.shape.numpy())
        if value.is_graph_input() and value.graph is self._model.graph:
            return value.shape
        known = self._inferred.get(value)
        if known is None or not known.HasField("shape"):
            return None
        return ir.Shape(_dim(dim) for dim in known.shape.dim)

    def rank(self, value: ir.Value | None) -> int | None:
        """The number of dimensions of a value, or None."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def sizes(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The shape of a value where all of it is numbers, or None."""
        shape = self.shape(value)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return tuple(dim for dim in shape if isinstance(dim, int))

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The element type of a tensor, or None."""
        if value is None:
            return None
        if value.type is not None:
            return value.dtype if isinstance(value.type, ir.TensorType) else None
        known = self._inferred.get(value)
        return None if known is None or not known.elem_type else ir.DataType(known.elem_type)

    def replaced(self, old: ir.Value, new: ir.Value) -> None:
        """Note that `new`, which was made later, has the type and shape of `old`."""
        if old in self._inferred:
            self._inferred[new] = self._inferred[old]

    @contextlib.contextmanager
    def shown(self, model: ir.Model) -> Iterator[None]:
        """Inside the `with` block, all values of `model` carry the proven types and shapes.

        Sizes that are not known have symbols of their own. Rules of onnxscript read what values
        carry; they also take an initializer for a constant although callers may override it, so
        those show no content. Afterwards values carry again what they did, and what took the
        place of a value carries what that did.
        """
        before = {value: (value.type, value.shape) for value in _values(model)}
        by_name = {value.name: state for value, state in before.items()}
        unknown = itertools.count()
        overridable = {v: v.const_value for v in model.graph.inputs if v.is_initializer()}
        for value in before:
            dtype, shape = self.dtype(value), self.shape(value)
            if dtype is not None:
                value.type = ir.TensorType(dtype)
            value.shape = (
                None
                if shape is None
                else ir.Shape(
                    f"unknown {next(unknown)}" if _is_unknown(dim) else dim for dim in shape
                )
            )
        for value in overridable:
            value.const_value = None
        try:
            yield
        finally:
            for value, tensor in overridable.items():
                value.const_value = tensor
            for value in _values(model):
                if value in before or not value.is_initializer():
                    state = before.get(value) or by_name.get(value.name, (value.type, None))
                    value.type, value.shape = state


@contextlib.contextmanager
def _without_claims(model: ir.Model) -> Iterator[None]:
    """Inside the `with` block, only inputs have shapes, and large initializers no content.

    Inference does not need that content.
    """
    shapes = {value: value.shape for value in _values(model) if not value.is_initializer()}
    large: dict[ir.Value, ir.TensorProtocol] = {}
    for value in model.graph.inputs:
        shapes.pop(value, None)
    try:
        for value in shapes:
            value.shape = None
        for graph in graphs(model):
            for name, value in graph.initializers.items():
                tensor = value.const_value
                if tensor is not None and tensor.nbytes > _LARGE_BYTES:
                    large[value] = tensor
                    shape = ir.Shape(tensor.shape.numpy())
                    value.const_value = ir.ExternalTensor(
                        "none", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name
                    )
        yield
    finally:
        for value, claimed in shapes.items():
            value.shape = claimed
        for value, tensor in large.items():
            value.const_value = tensor


def _drop_overridable(proto: onnx.GraphProto) -> None:
    """Take out initializers that callers may override: inference would rely on them."""
    inputs = {info.name for info in proto.input}
    for index in reversed(range(len(proto.initializer))):
        if proto.initializer[index].name in inputs:
            del proto.initializer[index]


def _collect(
    graph: ir.Graph, proto: onnx.GraphProto, found: dict[ir.Value, onnx.TypeProto.Tensor]
) -> None:
    infos = [*proto.value_info, *proto.output]
    types = {i.name: i.type.tensor_type for i in infos if i.type.HasField("tensor_type")}
    for node, twin in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if value.name in types:
                found[value] = types[value.name]
        for attribute in twin.attribute:
            if attribute.HasField("g"):
                _collect(node.attributes[attribute.name].as_graph(), attribute.g, found)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is None


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
        for node in graph:
            yield from node.outputs
