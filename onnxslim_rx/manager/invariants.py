"""What every pass must leave in place, checked cheaply after each one.

The cost is linear in nodes; no weight is read: tensors count as equal when they are the same
object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping

import onnx_ir as ir

from onnxslim_rx.ir import graphs, is_overridable

__all__ = [
    "Fingerprint",
    "Signature",
    "broken_promise",
    "count_nodes",
    "fingerprint",
    "problem",
    "signature",
]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The structure of a model at one moment; equal if and only if nothing was changed since.

    Args:
        structure: names, types, shapes, operators, attributes, metadata, and the identity of
            each tensor.
        tensors: keeps the tensors alive, so that no new one can take the identity of an old.
    """

    structure: Hashable
    tensors: tuple[ir.TensorProtocol, ...] = dataclasses.field(compare=False, repr=False)


def count_nodes(model: ir.Model) -> int:
    """Nodes of all graphs and functions."""
    return sum(len(graph) for graph in graphs(model))


def fingerprint(model: ir.Model) -> Fingerprint:
    """All that a file of `model` would hold, save the contents of tensors."""
    walk = _Walk()
    head = (
        model.ir_version,
        model.producer_name,
        model.producer_version,
        model.domain,
        model.model_version,
        model.doc_string,
        _items(model.metadata_props),
    )
    functions = tuple(
        (key, walk.attributes(f.attributes), _items(f.metadata_props), walk.graph(f.graph))
        for key, f in model.functions.items()
    )
    structure = head, walk.graph(model.graph), functions
    return Fingerprint(structure, tuple(walk.tensors))


class _Walk:
    """Collects tensors on the way."""

    def __init__(self) -> None:
        self.tensors: list[ir.TensorProtocol] = []

    def graph(self, graph: ir.Graph) -> Hashable:
        return (
            graph.name,
            graph.doc_string,
            _items(graph.metadata_props),
            _items(graph.opset_imports),
            tuple(_value(value) for value in graph.inputs),
            tuple(_value(value) for value in graph.outputs),
            tuple(
                (name, self.tensor(value.const_value), _value(value))
                for name, value in graph.initializers.items()
            ),
            tuple(self.node(node) for node in graph),
        )

    def node(self, node: ir.Node) -> Hashable:
        return (
            node.op_identifier(),
            node.name,
            node.version,
            node.doc_string,
            tuple(value.name if value is not None else None for value in node.inputs),
            tuple(_value(value) for value in node.outputs),
            self.attributes(node.attributes),
            _items(node.metadata_props),
        )

    def attributes(self, attributes: Mapping[str, ir.Attr]) -> Hashable:
        return tuple((name, self.attribute(one)) for name, one in attributes.items())

    def attribute(self, attribute: ir.Attr) -> Hashable:
        kind = attribute.type
        if attribute.is_ref() or attribute.value is None:
            return str(attribute)
        if kind == ir.AttributeType.GRAPH:
            return kind, self.graph(attribute.as_graph())
        if kind == ir.AttributeType.GRAPHS:
            return kind, tuple(self.graph(graph) for graph in attribute.as_graphs())
        if kind == ir.AttributeType.TENSOR:
            return kind, self.tensor(attribute.as_tensor())
        return kind, repr(attribute.value)

    def tensor(self, tensor: ir.TensorProtocol | None) -> int:
        if tensor is not None:
            self.tensors.append(tensor)
        return id(tensor)


def _value(value: ir.Value) -> Hashable:
    shape = None if value.shape is None else tuple(str(dim) for dim in value.shape)
    return value.name, str(value.type), shape, _items(value.metadata_props), value.doc_string


def _items(mapping: Mapping[str, Hashable]) -> Hashable:
    return tuple(mapping.items())


@dataclasses.dataclass(frozen=True)
class Signature:
    """What callers of a model rely on.

    Args:
        inputs: name, type and dimensions of each graph input, in order.
        outputs: the same of each output.
        opsets: version by domain.
        metadata: properties of the model.
        head: producer, domain, version and documentation.
        ir_version: of the file format.
        may_rise: whether the versions of the format and of the standard operators may rise.
    """

    inputs: tuple[tuple[str | None, str, tuple[str, ...] | None], ...]
    outputs: tuple[tuple[str | None, str, tuple[str, ...] | None], ...]
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    head: tuple[object, ...]
    ir_version: int
    may_rise: bool = False


def signature(model: ir.Model) -> Signature:
    """What callers of `model` rely on."""
    return Signature(
        inputs=tuple(_argument(one) for one in model.graph.inputs if is_overridable(one)),
        outputs=tuple(map(_argument, model.graph.outputs)),
        opsets=dict(model.opset_imports),
        metadata=dict(model.metadata_props),
        ir_version=model.ir_version,
        head=(
            model.producer_name,
            model.producer_version,
            model.domain,
            model.model_version,
            model.doc_string,
        ),
    )


def _argument(value: ir.Value) -> tuple[str | None, str, tuple[str, ...] | None]:
    shape = None if value.shape is None else tuple(str(dim) for dim in value.shape)
    return value.name, str(value.type), shape


def broken_promise(before: Signature, after: Signature) -> str | None:
    """What callers lost from `before` to `after`, or None.

    Opset imports may come and go (`problem` asks whether those in use are there), their versions
    may not change; metadata may be added.
    """
    for what in ("inputs", "outputs", "head"):
        old, new = getattr(before, what), getattr(after, what)
        if old != new:
            changed = [f"{a} became {b}" for a, b in zip(old, new, strict=False) if a != b]
            detail = changed[0] if len(old) == len(new) else f"{len(old)} became {len(new)}"
            return f"{'the header' if what == 'head' else what} of the model changed: {detail}"
    old_versions = {**before.opsets, "format": before.ir_version}
    new_versions = {**after.opsets, "format": after.ir_version}
    for domain, version in old_versions.items():
        new = new_versions.get(domain, version)
        rises = before.may_rise and domain in ("", "format") and new > version
        if new != version and not rises:
            what = "the format" if domain == "format" else f"the opset of {domain or 'ai.onnx'}"
            return f"the version of {what} changed from {version} to {new}"
    for key, text in before.metadata.items():
        if after.metadata.get(key) != text:
            return f"the metadata entry {key!r} was lost or changed"
    return None


def problem(model: ir.Model) -> str | None:
    """Why the structure is not valid, or None.

    Each value is made before it is read and visible from there; names are unique in a graph;
    what a graph returns is its own; each operator's domain is imported.
    """
    for message in _problems(model.graph, frozenset(), set(model.opset_imports)):
        return message
    for function in model.functions.values():
        for message in _problems(function.graph, frozenset(), set(function.opset_imports)):
            return f"in function {function.name}: {message}"
    return None


def _problems(
    graph: ir.Graph, outer: frozenset[ir.Value] | _Scope, domains: set[str]
) -> Iterator[str]:
    scope = _Scope(outer)
    for value in dict.fromkeys([*graph.inputs, *graph.initializers.values()]):
        yield from scope.add(value)
    for node in graph:
        if node.domain not in domains:
            yield f"no opset is imported for the domain of {_name(node)}"
        for read in node.inputs:
            if read is not None and read not in scope:
                yield f"{_name(node)} reads {read.name!r}, which nothing made before"
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _problems(attribute.as_graph(), scope, domains)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    yield from _problems(inner, scope, domains)
        for value in node.outputs:
            yield from scope.add(value)
    for value in graph.outputs:
        if value not in scope.own:
            yield f"the graph {graph.name!r} returns {value.name!r}, which it does not make"


class _Scope:
    """Values that can be read at one place: those of this graph so far, and of those around it."""

    def __init__(self, outer: frozenset[ir.Value] | _Scope) -> None:
        self.outer = outer
        self.own: set[ir.Value] = set()
        self.names: set[str] = set()

    def __contains__(self, value: object) -> bool:
        return value in self.own or value in self.outer

    def add(self, value: ir.Value) -> Iterator[str]:
        """Make `value` visible; complains where its name is taken."""
        if value.name:
            if value.name in self.names:
                yield f"two values of one graph are called {value.name!r}"
            self.names.add(value.name)
        self.own.add(value)


def _name(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type
