"""Walk over a model: graphs, nodes, tensors, constants, marks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir

__all__ = ["clone", "constant", "graphs", "mark", "marked", "nodes", "tensors"]

MARK = "rx.by"


def clone(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy with new graphs, nodes and values; the tensors are shared."""
    copy = model.clone()
    copy.meta.update(model.meta)
    return copy


def graphs(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    """The main graph, its subgraphs, then the body of each function and its subgraphs."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def nodes(model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    """Every node of every graph and function; a node comes before those of its subgraphs."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


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
            yield from attribute_tensors(attribute)


def attribute_tensors(attribute: onnx_ir.Attr) -> tuple[onnx_ir.TensorProtocol, ...]:
    """The tensors that an attribute holds, in order; those of its graphs left out."""
    if attribute.is_ref() or attribute.value is None:
        return ()
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    if attribute.type == onnx_ir.AttributeType.TENSORS:
        return tuple(attribute.as_tensors())
    return ()


def constant(value: onnx_ir.Value | None) -> onnx_ir.TensorProtocol | None:
    """The tensor that `value` always holds, or None where it depends on the model's inputs.

    That is an initializer that the caller of the model cannot override (not a graph input), or
    the output of a Constant node.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() and not value.is_graph_input() else None
    if producer.op_type != "Constant" or producer.domain != "":
        return None
    return onnx_ir.convenience.get_const_tensor(value)


def mark(node: onnx_ir.Node, by: str) -> None:
    """Note on `node` that the pass named `by` made it, so that it treats it only once."""
    node.metadata_props[MARK] = by


def marked(node: onnx_ir.Node) -> str | None:
    """The name of the pass that made `node`, or None."""
    return node.metadata_props.get(MARK)
