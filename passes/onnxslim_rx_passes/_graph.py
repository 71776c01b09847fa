"""What several passes ask of a graph."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import onnx_ir as ir

from onnxslim_rx.analysis import infer_shapes
from onnxslim_rx.ir import clone, graphs, nodes

__all__ = ["Proofs", "has_reference", "is_random", "label", "opset"]

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
    """Types and shapes that follow from the model's inputs and weights, in its present state.

    What the file states of the shapes in between is not used: exporters, and scripts that edit
    models, leave stale shapes behind, and a wrong one would be folded into the graph. Two equal
    symbols are equal sizes.

    Args:
        model: left as it is; its values may be asked for while it is changed later.
    """

    def __init__(self, model: ir.Model) -> None:
        bare = clone(model)
        for graph in graphs(bare):
            inner = () if graph is bare.graph else graph.inputs
            for value in (*inner, *(output for node in graph for output in node.outputs)):
                value.shape = None
        self._shapes: dict[ir.Value, ir.Shape | None] = {}
        self._types: dict[ir.Value, ir.TypeProtocol | None] = {}
        for node, twin in zip(nodes(model), nodes(infer_shapes(bare)), strict=True):
            for value, known in zip(node.outputs, twin.outputs, strict=True):
                self._shapes[value] = known.shape
                self._types[value] = known.type
        for value in model.graph.inputs:
            self._shapes[value] = value.shape

    def shape(self, value: ir.Value | None) -> ir.Shape | None:
        """The shape of a value, with symbols; None where not even the rank is known."""
        if value is None:
            return None
        if value.is_initializer() and not value.is_graph_input() and value.const_value is not None:
            return ir.Shape(value.const_value.shape.numpy())
        return self._shapes.get(value)

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
        known = self._types.get(value) or value.type
        return known.dtype if isinstance(known, ir.TensorType) else None

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
            value.type = self._types.get(value) or value.type
            shape = self.shape(value)
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


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is None


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
        for node in graph:
            yield from node.outputs
