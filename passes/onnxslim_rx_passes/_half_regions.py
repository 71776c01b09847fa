"""Which nodes between layers in 16 bits run in 16 bits as well, so that the fewest Casts are left.

Each node computes in half or in float32; some are settled. A value costs one Cast where it is made
in one type and read in the other, however many read it. The least number of Casts is a minimum cut
(Ford & Fulkerson, 1956); of all minimum cuts, the one with the fewest nodes in half is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["Carried", "nodes_in_half"]

_ENDLESS = 1 << 16  # more Casts than there are


@dataclasses.dataclass(frozen=True)
class Carried:
    """A value that is float32 or half, as needed.

    Args:
        maker: the node that makes it; None: it comes from outside.
        readers: the nodes of the same graph that read it.
        outside: whether others read it, too: the graph's caller, or nodes of other graphs.
    """

    maker: ir.Node | None
    readers: frozenset[ir.Node]
    outside: bool


def nodes_in_half(
    values: Iterable[Carried],
    settled: Callable[[ir.Node], bool | None],
    *,
    outside: bool = False,
) -> set[ir.Node]:
    """Nodes that are not settled and had better compute in half.

    Args:
        values: all that may be cast.
        settled: whether a node computes in half; None: it may.
        outside: whether what comes from outside and goes there is half.
    """
    cut = _Cut(settled)
    for value in values:
        maker = int(not outside) if value.maker is None else cut.number(value.maker)
        readers = {cut.number(node) for node in value.readers}
        if value.outside:
            readers.add(int(not outside))
        if readers - {maker}:
            cut.add(maker, sorted(readers))
    return cut.half()


class _Cut:
    """Numbers 0 and 1 are half and float32; nodes and helpers follow."""

    def __init__(self, settled: Callable[[ir.Node], bool | None]) -> None:
        self._settled = settled
        self._numbers: dict[ir.Node, int] = {}
        self._count = 2
        self._edges: dict[tuple[int, int], int] = {}

    def number(self, node: ir.Node) -> int:
        """Of a node: that of its type where it is settled."""
        half = self._settled(node)
        if half is not None:
            return int(not half)
        if node not in self._numbers:
            self._numbers[node] = self._fresh()
        return self._numbers[node]

    def _fresh(self) -> int:
        self._count += 1
        return self._count - 1

    def add(self, maker: int, readers: list[int]) -> None:
        """One Cast where any of the readers is on the other side than the maker."""
        to_float, to_half = self._fresh(), self._fresh()
        self._edge(maker, to_float, 1)
        self._edge(to_half, maker, 1)
        for reader in readers:
            self._edge(to_float, reader, _ENDLESS)
            self._edge(reader, to_half, _ENDLESS)

    def _edge(self, start: int, end: int, capacity: int) -> None:
        if start != end:
            self._edges[start, end] = self._edges.get((start, end), 0) + capacity

    def half(self) -> set[ir.Node]:
        """Nodes on the side of half of the smallest minimum cut: what is still reached."""
        starts, ends = zip(*self._edges, strict=True) if self._edges else ((), ())
        capacities = np.fromiter(self._edges.values(), np.int32, len(self._edges))
        shape = (self._count, self._count)
        graph = csr_array(coo_array((capacities, (starts, ends)), shape=shape))
        left = csr_array(graph - maximum_flow(graph, 0, 1).flow)
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, 0, return_predecessors=False).tolist())
        return {node for node, number in self._numbers.items() if number in reached}
