"""Where to cut a network, so that what comes before a layer need not run for each probe of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis import Shape, concrete_shapes, flops
from onnxslim_rx.calibration.dependence import closure, reads, varying
from onnxslim_rx.ir import bodies, nodes_in

__all__ = ["Layout", "choose_cuts"]

_MOST_LIVE = 64  # tensors across a cut
_UNKNOWN = 64  # assumed where a size depends on data
# What a node takes beside its products, in multiply-adds (measured, MiniLM on 2 cores).
_NODE_WORK, _ELEMENT_WORK = 100_000, 16
# Opening a session takes as long as so many runs of what is in it (measured, MiniLM).
_SESSION_RUNS = 25
# More places than this are not compared with each other.
_MOST_PLACES = 250


@dataclasses.dataclass(frozen=True)
class _Node:
    work: float  # multiply-adds, or what takes as long
    live: int  # tensors that are made before the node and read by it or later
    live_bytes: int


class Layout:
    """The nodes of a network that depend on the sample, in order, and what crosses between them.

    Args:
        model: the model; initializers that are inputs count as constants.
        outputs: values of the main graph that are wanted, each made by a node.
        input_shapes: sizes of a typical sample, by input.
    """

    def __init__(
        self,
        model: ir.Model,
        outputs: Sequence[ir.Value],
        input_shapes: Mapping[str, Sequence[int]],
    ) -> None:
        graph = model.graph
        self._reads = {node: tuple(dict.fromkeys(reads(node, graph))) for node in graph}
        needed = closure(outputs, self._reads, lambda _: False)
        ordered = [node for node in graph if node in needed]
        self._nodes = list(varying(ordered, graph, self._reads))
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._fixed = [node for node in ordered if node not in self._place]
        self._last_read = {
            value: place for node, place in self._place.items() for value in self._reads[node]
        }
        shapes = concrete_shapes(model, input_shapes)
        macs = flops(model, input_shapes).nodes

        def work(node: ir.Node) -> float:
            inner = itertools.chain(*(nodes_in(body) for body in bodies(node)))
            products = sum(macs[n].macs or 0 for n in (node, *inner) if n in macs)
            elements = sum(_elements(shapes.get(str(value.name))) for value in node.outputs)
            return products + _ELEMENT_WORK * elements + _NODE_WORK

        self._work = [work(node) for node in self._nodes]
        self._live, self._bytes = self._crossing(shapes)

    def __len__(self) -> int:
        """Number of nodes that depend on the sample."""
        return len(self._nodes)

    def first_readers(self) -> dict[ir.Value, int]:
        """For each constant the first node that depends on the sample and on the constant.

        A constant that no such node reads is missing.
        """
        sources: dict[ir.Value, set[ir.Value]] = {}  # constants behind a value that is no sample's
        for node in self._fixed:
            found = set().union(*(sources.get(v, {v}) for v in self._reads[node]))
            sources.update((value, found) for value in node.outputs)
        first: dict[ir.Value, int] = {}
        for place, node in enumerate(self._nodes):
            for value in self._reads[node]:
                for source in sources.get(value, {value}):
                    first.setdefault(source, place)
        return first

    def crossing(self, place: int) -> list[ir.Value]:
        """What is made by the nodes before `place` and read by it or later nodes."""
        return [
            value
            for node in self._nodes[:place]
            for value in node.outputs
            if self._last_read.get(value, -1) >= place
        ]

    def is_before(self, value: ir.Value, place: int) -> bool:
        """Whether a value depends on the sample and is made by a node before `place`."""
        node = value.producer()
        return node is not None and self._place.get(node, place) < place

    def remaining(self, place: int) -> float:
        """Work of the nodes from `place` on, in multiply-adds or what takes as long."""
        return sum(self._work[place:])

    def allows(self, place: int, most_bytes: int) -> bool:
        """Whether what crosses in front of `place` is few and small enough to be kept."""
        return self._live[place] <= _MOST_LIVE and self._bytes[place] <= most_bytes

    def _crossing(self, shapes: Mapping[str, Shape | None]) -> tuple[list[int], list[int]]:
        """Number and bytes of the tensors that cross in front of each node."""
        counts, sizes = [0] * (len(self._nodes) + 2), [0] * (len(self._nodes) + 2)
        for node, made in self._place.items():
            for value in node.outputs:
                last = self._last_read.get(value, made)
                if last > made:
                    itemsize = value.dtype.itemsize if value.dtype is not None else 4
                    size = math.ceil(_elements(shapes.get(str(value.name))) * itemsize)
                    for place, sign in ((made + 1, 1), (last + 1, -1)):
                        counts[place] += sign
                        sizes[place] += sign * size
        return list(itertools.accumulate(counts)), list(itertools.accumulate(sizes))


def choose_cuts(
    layout: Layout, probes: Mapping[int, int], samples: int, most_bytes: int
) -> list[int]:
    """Places to cut in front of, so that all probes together take least time.

    A cut costs a session and a run of the rest on all samples, and saves what lies before it to
    all probes behind it, up to the next cut: the best set is found by dynamic programming.

    Args:
        layout: of the network.
        probes: number of probes of weights whose first reader is at a place.
        samples: runs that a probe takes.
        most_bytes: what may be kept for one sample.

    Returns:
        The cuts in ascending order; the first is 0, which is no cut, unless nothing is probed
        before the second.
    """
    places = [p for p in sorted(probes) if p > 0 and layout.allows(p, most_bytes)]
    places = [0, *places[:: -(-len(places) // _MOST_PLACES) or 1]]
    if not probes:
        return [0]
    counts = [
        sum(number for at, number in probes.items() if begin <= at < end)
        for begin, end in zip(places, [*places[1:], len(layout) + 1], strict=True)
    ]
    behind = [layout.remaining(place) for place in places]
    total = [0, *itertools.accumulate(counts)]
    # best[i]: cost of all probes from places[i] on if there is a cut; follow[i]: the next cut
    best, follow = [0.0] * (len(places) + 1), [len(places)] * len(places)
    for i in reversed(range(len(places))):
        costs = {}
        for j in range(i + 1, len(places) + 1):
            runs = (total[j] - total[i]) * samples
            own = (_SESSION_RUNS + samples + runs) * behind[i] if runs else 0.0
            costs[j] = own + best[j]
        follow[i] = min(costs, key=lambda j: (costs[j], -j))
        best[i] = costs[follow[i]]
    cuts, i = [], 0
    while i < len(places):
        if total[follow[i]] > total[i]:
            cuts.append(places[i])
        i = follow[i]
    return cuts or [0]


def _elements(shape: Shape | None) -> int:
    known = (_UNKNOWN,) if shape is None else shape
    return math.prod(_UNKNOWN if size is None else size for size in known)
