"""What depends on what in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

__all__ = ["closure", "reads", "varying"]

# outputs differ from run to run, even without inputs
_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


def closure(
    targets: Iterable[ir.Value],
    reads: Mapping[ir.Node, Iterable[ir.Value]],
    stop: Callable[[ir.Value], bool],
) -> set[ir.Node]:
    """The nodes that make `targets` from the values where to stop.

    Args:
        targets: values of the main graph.
        reads: what each node of the main graph reads.
        stop: whether a value is there without computing it.
    """
    found: set[ir.Node] = set()
    stack = list(targets)
    while stack:
        value = stack.pop()
        node = value.producer()
        if node is None or node in found or stop(value):
            continue
        found.add(node)
        stack.extend(reads[node])
    return found


def varying(
    nodes: Iterable[ir.Node], graph: ir.Graph, reads: Mapping[ir.Node, Iterable[ir.Value]]
) -> Iterator[ir.Node]:
    """Those of `nodes`, in topological order, that depend on the sample."""
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in nodes:
        if node.op_type in _RANDOM or not found.isdisjoint(reads[node]):
            found.update(node.outputs)
            yield node


def reads(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of `graph` that `node` reads, also deep inside its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies: Sequence[ir.Graph] = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = attribute.as_graphs()
        else:
            continue
        for body in bodies:
            inner = [value for inner in body.all_nodes() for value in inner.inputs]
            yield from (
                value
                for value in [*inner, *body.outputs]
                if value is not None and value.graph is graph
            )
