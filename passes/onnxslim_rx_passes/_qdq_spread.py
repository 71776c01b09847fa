"""Which operators between quantized layers compute on integers, and on which grids.

All is said of a graph without pairs: its layers, and the grids that they asked for. Grids go on
from there: data movement keeps the grid of its input, what comes together in a Concat may have the
grid of the whole, averages that of their input, a Sigmoid lies between 0 and 1. An operator
computes on integers if all that it reads and makes has a grid, if what it reads is on integers
before it, and if somebody behind it wants integers. So residual paths stay on integers, and no
pair is there for nobody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis import activated
from onnxslim_rx_passes._qdq_grids import CLAMPS, Grid
from onnxslim_rx_passes._qdq_operators import (
    clamps_output,
    data_inputs,
    is_move,
    is_one_to_one,
    is_scalar,
    keeps_range,
    unit_range,
)

__all__ = ["Readers", "Spread"]

Readers = Sequence[tuple[ir.Node, int]]
"""Nodes, and which of their inputs it is."""

_BITS = 8  # kernels on integers are for these


@dataclasses.dataclass
class Spread:
    """Grids and nodes on integers of one graph.

    Args:
        nodes: all nodes, in order.
        layers: those that are quantized layers.
        asked: grids that layers asked for.

    Attributes:
        grids: of tensors; tentative, see `places`.
        integer: nodes other than layers that compute on integers.
    """

    nodes: Sequence[ir.Node]
    layers: Collection[ir.Node]
    asked: Mapping[ir.Value, Grid]

    def __post_init__(self) -> None:
        self.grids: dict[ir.Value, Grid] = dict(self.asked)
        while self._forward() or self._backward() or self._derive():
            pass
        self.integer: set[ir.Node] = {node for node in self.nodes if self._is_possible(node)}
        while unfit := [node for node in self.integer if not self._is_fit(node)]:
            self.integer.difference_update(unfit)
        for node in self.nodes:
            if node in self.integer and is_move(node):
                for value in node.outputs:
                    self.grids[value] = self.grids[_first(node)]

    def places(self) -> Iterator[tuple[ir.Value, Grid, Readers | None]]:
        """Tensors that get a pair, their grids, and who reads what comes out; None: everybody."""
        made = [value for node in self.nodes for value in node.outputs]
        for value in [v for v in self.grids if v.producer() is None] + made:
            grid = self.grids.get(value)
            if grid is None:
                continue
            readers = [(n, i) for n, i in value.uses() if self._reads_integers(n, i)]
            if self._is_made_of_integers(value, len(readers)):
                yield value, grid, None
            elif readers:
                yield value, grid, readers

    def scalars(self) -> Iterator[tuple[ir.Node, int, ir.DataType]]:
        """Numbers that nodes on integers read, by place, and the type of the integers there."""
        for node in self.nodes:
            if node in self.integer:
                inputs = [(index, node.inputs[index]) for index in data_inputs(node)]
                for index, value in inputs:
                    if is_scalar(value):
                        yield node, index, self._type_at(node)

    def _type_at(self, node: ir.Node) -> ir.DataType:
        known = (self.grids.get(value) for value in node.inputs if value is not None)
        return next(grid.dtype for grid in known if grid is not None)

    def _forward(self) -> bool:
        """Data movement: what comes out is on the grid of what goes in."""
        return self._fill(
            (value, self.grids.get(_first(node)))
            for node in self.nodes
            if is_move(node)
            for value in node.outputs
        )

    def _backward(self) -> bool:
        """What goes in may be on the grid of what comes out, where nothing is cut off by that."""
        return self._fill(
            (value, self.grids.get(node.outputs[0]))
            for node in reversed(self.nodes)
            if is_move(node) or (node.op_type == "Concat" and node.domain == "")
            for index in data_inputs(node)
            if (value := node.inputs[index]) is not None and self._may_take(value, node)
        )

    def _derive(self) -> bool:
        """Grids that follow from what an operator does."""
        return self._fill(
            (self._leaving(node), grid if keeps_range(node) else _unit(grid))
            for node in self.nodes
            if keeps_range(node) or unit_range(node)
            if (grid := self.grids.get(_first(node))) is not None
        )

    def _fill(self, found: Iterator[tuple[ir.Value, Grid | None]]) -> bool:
        before = len(self.grids)
        for value, grid in found:
            if grid is not None and grid.dtype.bitwidth == _BITS:
                self.grids.setdefault(value, grid)
        return len(self.grids) > before

    def _may_take(self, value: ir.Value, node: ir.Node) -> bool:
        maker = value.producer()
        if maker is None or not (maker in self.layers or data_inputs(maker) or _is_clamp(maker)):
            return False
        alone = len(value.uses()) == 1 and not value.is_graph_output()
        return alone or is_one_to_one(node) or node.op_type == "Concat"

    def _leaving(self, node: ir.Node) -> ir.Value:
        """What leaves a node, behind a Relu or Clip that the grid there makes needless."""
        (value, *_) = node.outputs
        behind = activated(value)
        if behind is value or value in self.grids or not clamps_output(node):
            return value
        grid, clamp = self.grids.get(behind), behind.producer()
        return behind if grid and clamp is not None and grid.saturates(clamp) else value

    def _maker(self, value: ir.Value) -> ir.Node | None:
        """The node that `value` leaves, see `_leaving`."""
        node = value.producer()
        if node is not None and _is_clamp(node):
            before = _first(node).producer()
            if before is not None and self._leaving(before) is value:
                return before
        return node

    def _is_possible(self, node: ir.Node) -> bool:
        """Whether everything that a node reads and makes has a grid of the same type."""
        read = [node.inputs[index] for index in data_inputs(node)]
        tensors = [value for value in read if not is_scalar(value)]
        if not tensors or node in self.layers or not all(value.uses() for value in node.outputs):
            return False
        made = [self._leaving(node)] if len(node.outputs) == 1 else list(node.outputs)
        grids = [None if v is None else self.grids.get(v) for v in (*tensors, *made)]
        types = {None if grid is None else grid.dtype for grid in grids}
        return len(types) == 1 and all(one is not None and one.bitwidth == _BITS for one in types)

    def _is_fit(self, node: ir.Node) -> bool:
        """Whether what a node reads is on integers, and somebody wants what it makes on them."""
        for index in data_inputs(node):
            value = node.inputs[index]
            if value is None or not (is_scalar(value) or self._is_on_integers(value)):
                return False
        made = [self._leaving(node)] if len(node.outputs) == 1 else node.outputs
        return any(
            value in self.asked or any(self._reads_integers(*use) for use in value.uses())
            for value in made
        )

    def _is_on_integers(self, value: ir.Value) -> bool:
        maker = self._maker(value)
        if value in self.asked or maker in self.integer or maker in self.layers:
            return True
        return maker is not None and unit_range(maker)

    def _reads_integers(self, node: ir.Node, index: int) -> bool:
        if node in self.layers:
            return index == 0
        return node in self.integer and index in data_inputs(node)

    def _is_made_of_integers(self, value: ir.Value, readers: int) -> bool:
        """Whether the node that makes `value` gives integers.

        Gemm and MatMul do if nobody reads floating point.
        """
        maker = self._maker(value)
        if maker in self.integer:
            return True
        if maker is None or maker not in self.layers:
            return False
        return maker.op_type == "Conv" or (
            readers == len(value.uses()) and not value.is_graph_output()
        )


def _is_clamp(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in CLAMPS


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None  # the data of all these operators
    return value


def _unit(grid: Grid) -> Grid:
    """0 to 1, on integers of the same type."""
    return Grid(1 / (grid.highest - grid.lowest), grid.lowest, grid.dtype)
