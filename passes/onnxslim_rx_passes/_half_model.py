"""A model of which some layers compute in 16 bits: what lies between them follows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import constant, graphs_in, marked
from onnxslim_rx.rewriter import Editor
from onnxslim_rx_passes._half_casts import is_cast, source, tidy_casts
from onnxslim_rx_passes._half_interface import round_interface
from onnxslim_rx_passes._half_nodes import PRODUCTS, fits, floats_entering, in_half, is_safe
from onnxslim_rx_passes._half_regions import Carried, nodes_in_half
from onnxslim_rx_passes._halves import HALVES

__all__ = ["HalfModel"]

_FLOAT = ir.DataType.FLOAT


class HalfModel:
    """What `compute-half` does when all layers are settled.

    Args:
        model: changed in place.
        by: name of the pass, noted on what computes in half.
        kept: layers that are to stay as they are.
        sums: whether operators that sum, and exponentials, may follow.
        least: products with larger constants do not follow; they are layers.
    """

    def __init__(
        self, model: ir.Model, by: str, kept: Collection[ir.Node], *, sums: bool, least: int
    ) -> None:
        self._model, self._by, self._kept = model, by, kept
        self._sums, self._least = sums, least
        self._editor = Editor(model)

    def finish(self, *, io: bool) -> None:
        """Let nodes follow and drop needless Casts; done again, nothing changes.

        Args:
            io: whether inputs and outputs of the model are rounded to half, too.
        """
        facts = Facts(self._model)
        found = {
            facts.dtype(node.outputs[0])
            for graph in graphs_in(self._model.graph)
            for node in graph
            if marked(node) == self._by and not is_cast(node, self._by)
        }
        types = [name for name, dtype in HALVES.items() if dtype in found]
        for name in types:
            for graph in graphs_in(self._model.graph):
                self._follow(graph, name, outside=io and graph is self._model.graph)
        if io and types:
            round_interface(self._editor, HALVES[types[0]], self._by)
        tidy_casts(self._editor, self._by)

    def _follow(self, graph: ir.Graph, name: str, *, outside: bool) -> None:
        """Nodes of one graph that had better compute in half do so."""
        facts = Facts(self._model)
        settled = self._settled(name, facts)
        if not any(settled(node) for node in graph):
            return
        values = list(self._carried(graph, HALVES[name], facts))
        chosen = nodes_in_half(values, settled, outside=outside)
        for node in [one for one in graph if one in chosen]:
            tape = ir.tape.Tape()
            made = in_half(node, floats_entering(node, facts), name, tape)
            read = list(node.inputs)
            self._editor.replace([node], tape, made, by=self._by)
            self._editor.remove_unused(read)

    def _settled(self, name: str, facts: Facts) -> Callable[[ir.Node], bool | None]:
        """Whether a node computes in half; None: it may."""
        known: dict[ir.Node, bool | None] = {}

        def look(node: ir.Node) -> bool | None:
            if node not in known:
                known[node] = self._look(node, name, facts)
            return known[node]

        return look

    def _look(self, node: ir.Node, name: str, facts: Facts) -> bool | None:
        if is_cast(node, self._by):
            return None
        if marked(node) == self._by:
            return facts.dtype(node.outputs[0]) == HALVES[name]
        if node in self._kept or not is_safe(node, sums=self._sums):
            return False
        if node.op_type in PRODUCTS and self._is_large(node):
            return False
        floats = all(facts.dtype(value) == _FLOAT for value in node.outputs)
        indices = floats_entering(node, facts)
        return None if floats and indices and fits(node, indices, name) else False

    def _is_large(self, node: ir.Node) -> bool:
        tensors = [constant(value) for value in node.inputs]
        return any(tensor is not None and tensor.size >= self._least for tensor in tensors)

    def _carried(self, graph: ir.Graph, half: ir.DataType, facts: Facts) -> Iterator[Carried]:
        """The values that nodes of a graph hand on, as they are without Casts."""
        readers: dict[ir.Value, set[ir.Node]] = {}
        outside: set[ir.Value] = set()
        for node in graph:
            values = [value for value in node.inputs if value is not None]
            for value in [] if is_cast(node, self._by) else values:
                readers.setdefault(source(value, self._by), set()).add(node)
            for value in node.outputs:
                foreign = any(use.node.graph is not graph for use in value.uses())
                if foreign or value.is_graph_output():
                    outside.add(source(value, self._by))
        for value in {**readers, **dict.fromkeys(outside)}:
            if constant(value) is None and facts.dtype(value) in (_FLOAT, half):
                maker = value.producer()
                own = maker if maker is not None and maker.graph is graph else None
                yield Carried(own, frozenset(readers.get(value, ())), value in outside)
