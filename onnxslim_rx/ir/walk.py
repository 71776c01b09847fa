"""Walk over a model: graphs, nodes, tensors, constants, marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir

__all__ = [
    "FOLDED",
    "MARK",
    "SOURCES",
    "SPOOL",
    "bodies",
    "clone",
    "constant",
    "graphs",
    "graphs_in",
    "is_overridable",
    "mark",
    "marked",
    "nodes",
    "nodes_in",
    "replace_tensors",
    "seal",
    "tensors",
]

_GRAPH, _GRAPHS = onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS

_OWNERS = {"If", "Loop", "Scan", "SequenceMap"}
"""The standard operators that have subgraphs."""

_FIRST_OVERRIDABLE = 4
"""The first version of the format whose initializers may be inputs, and need not."""

_SEALED = "rx.sealed"
"""Key in `value.meta`: an initializer that is an input in name only."""

MARK = "rx.by"
"""Key in the metadata of a node: the pass that made it."""

SOURCES = "rx.sources"
"""Key in `model.meta`: the files that the model was loaded from, which are never written."""

SPOOL = "rx.spool"
"""Key in `model.meta` of large models: where new tensors are kept; copies of the model share it."""

FOLDED = "rx.folded"
"""Key in `model.meta`: what a session computed from constants alone; copies start without."""


def clone(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy with new graphs, nodes and values; the tensors are shared."""
    copy = model.clone()
    copy.meta.update(model.meta)
    copy.meta.pop(FOLDED, None)
    return copy


def graphs(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    """The main graph, its subgraphs, then the body of each function and its subgraphs."""
    yield from graphs_in(model.graph)
    for function in model.functions.values():
        yield from graphs_in(function.graph)


def graphs_in(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Graph]:
    """A graph, then the subgraphs of its nodes, at any depth."""
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from graphs_in(body)


def nodes(model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    """Every node of every graph and function; a node comes before those of its subgraphs."""
    yield from nodes_in(model.graph)
    for function in model.functions.values():
        yield from nodes_in(function.graph)


def nodes_in(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Node]:
    """Every node of a graph and its subgraphs; a node comes before those of its subgraphs."""
    for node in graph:
        yield node
        for body in bodies(node):
            yield from nodes_in(body)


def bodies(node: onnx_ir.Node) -> Sequence[onnx_ir.Graph]:
    """The subgraphs of a node."""
    if node.op_type not in _OWNERS and node.domain == "":  # the most frequent case
        return ()
    found: list[onnx_ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == _GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type == _GRAPHS and not attribute.is_ref():
            found.extend(attribute.as_graphs())
    return found


def tensors(model: onnx_ir.Model) -> Iterator[onnx_ir.TensorProtocol]:
    """Every stored tensor: initializers of all graphs, then tensors in attributes of nodes.

    A tensor that several values share is given once for each.
    """
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in nodes(model):
        for attribute in node.attributes.values():
            yield from _held(attribute)


def replace_tensors(
    model: onnx_ir.Model,
    change: Callable[[onnx_ir.TensorProtocol], onnx_ir.TensorProtocol],
) -> None:
    """Put `change` of it in the place of every stored tensor (see `tensors`)."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = change(value.const_value)
    for node in nodes(model):
        for name, attribute in list(node.attributes.items()):
            changed = [change(tensor) for tensor in _held(attribute)]
            if changed:
                single = attribute.type == onnx_ir.AttributeType.TENSOR
                node.attributes[name] = onnx_ir.Attr(
                    name,
                    attribute.type,
                    changed[0] if single else changed,
                    doc_string=attribute.doc_string,
                )


def _held(attribute: onnx_ir.Attr) -> Sequence[onnx_ir.TensorProtocol]:
    """The tensors that an attribute holds, in order; those of its graphs left out."""
    if attribute.is_ref() or attribute.value is None:
        return ()
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    return attribute.as_tensors() if attribute.type == onnx_ir.AttributeType.TENSORS else ()


def constant(value: onnx_ir.Value | None) -> onnx_ir.TensorProtocol | None:
    """The tensor that `value` always holds, or None where it depends on the model's inputs.

    That is an initializer that the caller of the model cannot override (see `is_overridable`),
    or the output of a Constant node.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() and not is_overridable(value) else None
    if producer.op_type != "Constant" or producer.domain != "" or len(producer.attributes) != 1:
        return None
    (attribute,) = producer.attributes.values()
    if attribute.type == onnx_ir.AttributeType.TENSOR and not attribute.is_ref():
        return attribute.as_tensor()  # onnx_ir's own way would rename it, and change the file
    if attribute.type == onnx_ir.AttributeType.SPARSE_TENSOR:
        return None
    return onnx_ir.convenience.get_const_tensor(value)


def is_overridable(value: onnx_ir.Value) -> bool:
    """Whether callers may feed `value`: it is a graph input.

    Before version 4 of the format every initializer had to be listed as an input; ONNX Runtime
    takes those for constants, and refuses to be fed one. `seal` tells them from inputs.
    """
    return value.is_graph_input() and not (value.is_initializer() and _SEALED in value.meta)


def seal(model: onnx_ir.Model) -> None:
    """Note on initializers that are listed as inputs that they are no inputs, where so."""
    if model.ir_version < _FIRST_OVERRIDABLE:
        for value in model.graph.inputs:
            if value.is_initializer():
                value.meta[_SEALED] = True


def mark(node: onnx_ir.Node, by: str) -> None:
    """Note on `node` that the pass named `by` made it, so that it treats it only once."""
    node.metadata_props[MARK] = by


def marked(node: onnx_ir.Node) -> str | None:
    """The name of the pass that made `node`, or None."""
    return node.metadata_props.get(MARK)
