"""Changes to a graph that keep it valid: names stay unique, graph outputs keep theirs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from onnxslim_rx.ir import bodies, graphs, is_overridable, mark, nodes, spooled

__all__ = ["Editor", "Emitted", "drop_initializer", "remove"]

_FIRST_FREE_INITIALIZERS = 4
"""Before this version of the format every initializer had to be a graph input as well."""


class Emitted(Protocol):
    """Nodes in order, and constants, that belong to no graph yet: an `ir.tape.Tape` is that."""

    @property
    def nodes(self) -> Sequence[ir.Node]: ...  # noqa: D102

    @property
    def initializers(self) -> Sequence[ir.Value]: ...  # noqa: D102


class Editor:
    """Edits one model; made anew after anything else has changed the model.

    Names are collected when the first is asked for; the editor keeps track of its own changes.

    Args:
        model: changed in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @functools.cached_property
    def _names(self) -> set[str | None]:
        return {value.name for graph in graphs(self.model) for value in _values(graph)}

    @functools.cached_property
    def _node_names(self) -> set[str | None]:
        return {node.name for node in nodes(self.model)}

    @functools.cached_property
    def _bodies(self) -> set[ir.Graph]:
        return {function.graph for function in self.model.functions.values()}

    def fresh(self, wish: str) -> str:
        """A name that no value in the model has: `wish`, or `wish` with a number."""
        return _fresh(wish, self._names)

    def fresh_for_node(self, wish: str) -> str:
        """A name that no node in the model has: `wish`, or `wish` with a number."""
        return _fresh(wish, self._node_names)

    def constant(self, graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new constant that all nodes of `graph` can read.

        An initializer; in the body of a function, and in versions of the format whose
        initializers are all graph inputs, a Constant node at the head of the graph.
        """
        value = ir.Value(
            name=self.fresh(name),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        self.adopt(graph, value)
        return value

    def adopt(self, graph: ir.Graph, value: ir.Value) -> None:
        """Give `graph` a constant that belongs to none; see `constant`.

        Large ones of large models go to a temporary file at once.
        """
        if value.const_value is not None:
            value.const_value = spooled(self.model, value.const_value)
        if self.model.ir_version >= _FIRST_FREE_INITIALIZERS and graph not in self._bodies:
            graph.register_initializer(value)
            return
        assert value.const_value is not None
        attribute = ir.AttrTensor("value", value.const_value)
        value.const_value = None
        node = ir.Node("", "Constant", (), (attribute,), outputs=(value,))
        node.name = self.fresh_for_node(f"{value.name}/Constant")
        if len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)

    def insert(
        self,
        tape: Emitted,
        before: ir.Node,
        *,
        by: str,
        like: ir.Node | None = None,
        home: ir.Graph | None = None,
    ) -> None:
        """Put the nodes of `tape` in front of `before` and register its initializers.

        Args:
            tape: nodes and initializers without a graph.
            before: a node of a graph.
            by: name of the pass, noted on the nodes.
            like: the node whose name and metadata the new ones continue; None: `before`.
            home: the graph that gets the initializers; None: the graph of `before`.
        """
        graph, like = before.graph, like or before
        assert graph is not None  # a node of a tape cannot be replaced
        for value in tape.initializers:
            value.name = self.fresh(value.name or "constant")
            self.adopt(home or graph, value)
        for node in tape.nodes:
            wish = node.name or f"{like.name or like.op_type}/{node.op_type}"
            node.name = self.fresh_for_node(wish)
            for value in node.outputs:
                if value.name != "":  # an output that is left out has an empty name
                    value.name = self.fresh(value.name or f"{node.name}_out")
            for key, text in like.metadata_props.items():
                node.metadata_props.setdefault(key, text)
            mark(node, by)
            self._import(node)
        graph.insert_before(before, tape.nodes)

    def _import(self, node: ir.Node) -> None:
        """See to it that the domain of a new node is imported where the node lies."""
        self.model.opset_imports.setdefault(node.domain, node.version or 1)
        for function in self.model.functions.values():
            function.opset_imports.setdefault(node.domain, self.model.opset_imports[node.domain])

    def replace(
        self,
        old: Sequence[ir.Node],
        tape: Emitted,
        outputs: Mapping[ir.Value, ir.Value],
        *,
        by: str,
        home: ir.Graph | None = None,
    ) -> None:
        """Put what is on `tape` in the place of `old`.

        Args:
            old: nodes of one graph; the last is where the new nodes go. All their outputs but
                those in `outputs` are read by `old` alone.
            tape: new nodes and initializers, without a graph.
            outputs: the outputs of `old` that others read, and what takes their place: a value
                made on `tape` gets name, type, shape and metadata of the old one, so that a
                graph output stays what it was.
            by: name of the pass, noted on the new nodes.
            home: see `insert`.
        """
        root = old[-1]
        for other in old:  # the root's own metadata wins
            for key, text in other.metadata_props.items():
                root.metadata_props.setdefault(key, text)
            self._node_names.discard(other.name)
        made = {value for node in tape.nodes for value in node.outputs}
        self.insert(tape, root, by=by, home=home)
        for before, after in outputs.items():
            if after in made:
                _take_place(before, after)
            else:
                self.forward(before, after)
        for node in reversed(old):
            remove(node)

    def can_forward(self, old: ir.Value, new: ir.Value) -> bool:
        """Whether readers of `old` may read `new` instead, without a node in between.

        Not where `old` is returned by its graph and `new` cannot be, being an input, a constant,
        made in another graph, or returned already under its own name.
        """
        if not old.is_graph_output():
            return True
        producer = new.producer()
        return producer is not None and new.graph is old.graph and not new.is_graph_output()

    def forward(self, old: ir.Value, new: ir.Value) -> None:
        """Let everyone who reads `old` read `new`, which exists already and holds the same.

        Raises:
            ValueError: `can_forward` says no.
        """
        if not self.can_forward(old, new):
            raise ValueError(f"{new.name!r} cannot be returned in the place of {old.name!r}")
        if old.is_graph_output():
            _take_place(old, new)
            return
        new.type = new.type or old.type
        new.shape = new.shape or old.shape
        old.replace_all_uses_with(new)

    def remove_unused(self, values: Iterable[ir.Value | None]) -> None:
        """Drop those constants among `values` that nobody reads or returns."""
        for value in dict.fromkeys(values):
            if value is None or value.uses() or value.is_graph_output() or is_overridable(value):
                continue
            node = value.producer()
            if value.is_initializer():
                drop_initializer(value)
            elif node is not None and node.op_type == "Constant" and node.graph is not None:
                remove(node)


def drop_initializer(value: ir.Value) -> None:
    """Take an initializer that nobody reads, and callers cannot feed, out of its graph."""
    graph = value.graph
    assert graph is not None  # initializers belong to one
    if value.is_graph_input():  # in name only
        graph.inputs.remove(value)
    del graph.initializers[str(value.name)]


def remove(node: ir.Node) -> None:
    """Take a node that nobody reads out of its graph, and its subgraphs with it.

    Raises:
        ValueError: somebody reads it.
    """
    assert node.graph is not None  # it is removed once
    node.graph.remove(node, safe=True)
    for body in bodies(node):  # or its nodes would still count as readers of the graph around
        body.outputs.clear()
        for inner in reversed(list(body)):
            remove(inner)


def _fresh(wish: str, taken: set[str | None]) -> str:
    name = wish
    for number in itertools.count(1):
        if name not in taken:
            break
        name = f"{wish}_{number}"
    taken.add(name)
    return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _take_place(old: ir.Value, new: ir.Value) -> None:
    """`new` becomes what `old` was, to readers and as a graph output."""
    name, output = old.name, old.is_graph_output()
    new.type = old.type or new.type
    new.shape = old.shape if output or old.shape is not None else new.shape
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    new.doc_string = old.doc_string or new.doc_string
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    new.name = name
