"""Where to cut a graph so that its parts run one after the other.

A frontier is the set of tensors that are made before a cut and read after it. Between two
frontiers lies a block; a block runs in one step, or in several that each measure some tensors
where measuring all at once would take too much memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import onnx_ir as ir

from onnxslim_rx.calibration.dependence import closure, reads, varying

__all__ = ["BlockedError", "Key", "Measure", "Route", "Step", "plan_steps"]

Key = TypeVar("Key", bound=Hashable)

_MOST_LIVE = 64  # tensors across a frontier: each is an open file


class BlockedError(Exception):
    """No block can end where it has to.

    Args:
        keys: the measurements after which it has to.
    """

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self.keys = tuple(keys)
        super().__init__(", ".join(map(str, self.keys)))


@dataclasses.dataclass(frozen=True)
class Measure:
    """What one measurement needs.

    Args:
        values: tensors that must be at hand together.
        bytes: memory that measuring takes, the tensors included.
    """

    values: tuple[ir.Value, ...]
    bytes: int


@dataclasses.dataclass(frozen=True)
class Route(Generic[Key]):
    """The order in which nodes run where measurements change weights; see `rounds`.

    Args:
        nodes: nodes that depend on the sample, each where its outputs are there for good.
        places: for each measurement the number of `nodes` that run before it; a block ends there.
            What it needs of other nodes is computed for it alone.
        rounds: the round of each measurement; no two rounds share a step.
    """

    nodes: tuple[ir.Node, ...]
    places: Mapping[Key, int]
    rounds: Mapping[Key, int]


@dataclasses.dataclass(frozen=True)
class Step(Generic[Key]):
    """Nodes that run together for every sample.

    Args:
        nodes: in topological order.
        inputs: graph inputs, and tensors that earlier steps saved, that the nodes or the
            measurements read.
        weights: initializers that the nodes read.
        saves: tensors to keep for later steps.
        measures: measurements to make.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]
    saves: tuple[ir.Value, ...]
    measures: tuple[Key, ...]


def plan_steps(
    graph: ir.Graph,
    measures: Mapping[Key, Measure],
    memory_bytes: int,
    size: Callable[[ir.Value], int],
    uncuttable: Collection[str] = (),
    route: Route[Key] | None = None,
) -> list[Step[Key]]:
    """Steps that make all `measures`, in an order in which they can run.

    Args:
        graph: the main graph of a model, nodes in topological order.
        measures: what to measure, by any name.
        memory_bytes: a step's measurements and weights take no more than this, except where a
            single node's do.
        size: estimates the bytes of a tensor.
        uncuttable: names of tensors that cannot be saved.
        route: the order of the nodes; None: that of the graph.

    Raises:
        BlockedError: tensors that cannot be saved live where a block has to end.
    """
    return _Planner(graph, measures, memory_bytes, size, uncuttable, route).steps()


class _Planner(Generic[Key]):
    def __init__(
        self,
        graph: ir.Graph,
        measures: Mapping[Key, Measure],
        memory_bytes: int,
        size: Callable[[ir.Value], int],
        uncuttable: Collection[str],
        route: Route[Key] | None,
    ) -> None:
        self.graph = graph
        self.measures = measures
        self.memory_bytes = memory_bytes
        self.size = size
        self.uncuttable = uncuttable
        self.reads = {node: tuple(dict.fromkeys(reads(node, graph))) for node in graph}
        self.order = {node: number for number, node in enumerate(graph)}
        run = self._varying_order() if route is None else route.nodes
        # of the nodes that depend on the sample; all others run anew in each step
        self.position = {node: position for position, node in enumerate(run)}
        self.last_read = {
            value: position
            for node, position in self.position.items()
            for value in self.reads[node]
        }
        # where all that a measurement needs is there; -1: it does not depend on the sample
        self.place = {
            key: max((self._made_at(value) for value in measure.values), default=-1)
            if route is None
            else route.places[key] - 1
            for key, measure in measures.items()
        }
        self.rounds = {} if route is None else route.rounds
        self.ends = [] if route is None else sorted({*self.place.values()} - {-1})
        for key, measure in measures.items():
            for value in self._sources(measure.values, self.place[key]):
                last = self.last_read.get(value, -1)
                self.last_read[value] = max(last, self.place[key])
        self.live_bytes, self.live_count = self._live()
        self.costs = self._costs()
        blocked = [key for key in self.rounds if self._is_blocked(self.place[key])]
        if blocked:
            raise BlockedError(blocked)

    def steps(self) -> list[Step[Key]]:
        """The steps, block by block."""
        steps = []
        first = 0
        while True:
            last = self._cut(first)
            final = last >= len(self.position) - 1
            made = [
                value
                for node, position in self.position.items()
                if first <= position <= last
                for value in node.outputs
            ]
            saves = tuple(value for value in made if self.last_read.get(value, -1) > last)
            # what needs no node of any block is measured in the first
            here = [
                key
                for key, place in self.place.items()
                if first <= place <= last or (place < 0 and first == 0)
            ]
            groups = list(self._groups(here)) or [()]
            for number, group in enumerate(groups):
                kept = saves if number == len(groups) - 1 else ()
                steps.append(self._step(first, kept, group))
            if final:
                return steps
            first = last + 1

    def _made_at(self, value: ir.Value) -> int:
        """The position of the node that makes `value`; -1 where it is there from the start."""
        node = value.producer()
        return -1 if node is None else self.position.get(node, -1)

    def _varying_order(self) -> Iterator[ir.Node]:
        """The nodes that the measurements need and that depend on the sample."""
        wanted = [value for measure in self.measures.values() for value in measure.values]
        needed = self._closure(wanted, stop=lambda _: False)
        return varying(needed, self.graph, self.reads)

    def _sources(self, values: Iterable[ir.Value], place: int) -> Iterator[ir.Value]:
        """What blocks up to `place` made and the computation of `values` there starts from."""
        values = list(values)

        def there(value: ir.Value) -> bool:
            return 0 <= self._made_at(value) <= place

        for node in self._closure(values, stop=there):
            values += self.reads[node]
        return filter(there, values)

    def _is_blocked(self, place: int) -> bool:
        """Whether something that cannot be saved, or too much, lives after a place in between."""
        return 0 <= place < len(self.position) - 1 and self.live_count[place] > _MOST_LIVE

    def _closure(
        self, targets: Iterable[ir.Value], stop: Callable[[ir.Value], bool]
    ) -> list[ir.Node]:
        """As `closure`, in the graph's order."""
        return sorted(closure(targets, self.reads, stop), key=self.order.__getitem__)

    def _step(
        self, first: int, saves: tuple[ir.Value, ...], measures: tuple[Key, ...]
    ) -> Step[Key]:
        def earlier(value: ir.Value) -> bool:
            return 0 <= self._made_at(value) < first

        wanted = [value for key in measures for value in self.measures[key].values]
        nodes = self._closure([*saves, *wanted], stop=earlier)
        made = {value for node in nodes for value in node.outputs}
        read = dict.fromkeys(value for node in nodes for value in self.reads[node])
        read |= dict.fromkeys(value for value in wanted if earlier(value))
        outside = [value for value in read if value not in made]
        return Step(
            tuple(nodes),
            tuple(value for value in outside if not value.is_initializer()),
            tuple(value for value in outside if value.is_initializer()),
            saves,
            measures,
        )

    def _groups(self, keys: Sequence[Key]) -> Iterator[tuple[Key, ...]]:
        """`keys` in groups that fit into the memory."""
        group: list[Key] = []
        cost = 0
        for key in keys:
            full = cost + self.measures[key].bytes > self.memory_bytes
            if group and (full or self.rounds.get(key) != self.rounds.get(group[-1])):
                yield tuple(group)
                group, cost = [], 0
            group.append(key)
            cost += self.measures[key].bytes
        if group:
            yield tuple(group)

    def _cut(self, first: int) -> int:
        """The position of the last node of the block that starts at `first`."""
        end = next((end for end in self.ends if end >= first), len(self.position) - 1)
        total = 0
        last = first
        for last in range(first, end + 1):
            total += self.costs[last]
            if total > self.memory_bytes and last > first:
                last -= 1
                break
        else:
            return end
        allowed = [p for p in range(first, end) if self.live_count[p] <= _MOST_LIVE]
        late = [p for p in allowed if (first + last) // 2 <= p <= last]
        if late:
            return min(late, key=lambda p: (self.live_bytes[p], self.live_count[p], -p))
        before = [p for p in allowed if p <= last]
        after = [p for p in allowed if p > last]
        return before[-1] if before else after[0] if after else end

    def _costs(self) -> list[int]:
        """Bytes that each node takes: its weights, and the measurements that follow it."""
        costs = [
            2
            * sum(  # the session's rearranged copy, and what it starts from
                value.const_value.nbytes
                for value in self.reads[node]
                if value.is_initializer() and value.const_value is not None
            )
            for node in self.position
        ]
        for key, place in self.place.items():
            if costs:
                costs[max(place, 0)] += self.measures[key].bytes
        return costs

    def _live(self) -> tuple[list[int], list[int]]:
        """Bytes and number of the tensors that live after each position."""
        length = len(self.position) + 1
        sizes, counts = [0] * length, [0] * length
        for node, made in self.position.items():
            for value in node.outputs:
                last = self.last_read.get(value, made)
                if last > made:
                    count = _MOST_LIVE + 1 if value.name in self.uncuttable else 1
                    for position, sign in ((made, 1), (last, -1)):
                        sizes[position] += sign * self.size(value)
                        counts[position] += sign * count
        return list(accumulate(sizes)), list(accumulate(counts))
