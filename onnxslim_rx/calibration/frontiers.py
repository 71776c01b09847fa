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

__all__ = ["Measure", "Step", "plan_steps", "reads"]

Key = TypeVar("Key", bound=Hashable)

_MOST_LIVE = 64  # tensors across a frontier: each is an open file
# outputs differ from run to run, even without inputs
_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


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
) -> list[Step[Key]]:
    """Steps that make all `measures`, in an order in which they can run.

    Args:
        graph: the main graph of a model, nodes in topological order.
        measures: what to measure, by any name.
        memory_bytes: a step's measurements and weights take no more than this, except where a
            single node's do.
        size: estimates the bytes of a tensor.
        uncuttable: names of tensors that cannot be saved.
    """
    return _Planner(graph, measures, memory_bytes, size, uncuttable).steps()


class _Planner(Generic[Key]):
    def __init__(
        self,
        graph: ir.Graph,
        measures: Mapping[Key, Measure],
        memory_bytes: int,
        size: Callable[[ir.Value], int],
        uncuttable: Collection[str],
    ) -> None:
        self.graph = graph
        self.measures = measures
        self.memory_bytes = memory_bytes
        self.size = size
        self.uncuttable = uncuttable
        self.reads = {node: tuple(dict.fromkeys(reads(node, graph))) for node in graph}
        self.order = {node: number for number, node in enumerate(graph)}
        wanted = [value for measure in measures.values() for value in measure.values]
        needed = self._closure(wanted, stop=lambda _: False)
        self.position = {
            node: position for position, node in enumerate(self._varying(needed))
        }  # of the nodes that depend on the sample; all others run anew in each step
        self.last_read = {
            value: position
            for node, position in self.position.items()
            for value in self.reads[node]
        }
        self.place = {
            key: max((self._made_at(value) for value in measure.values), default=-1)
            for key, measure in measures.items()
        }  # where all values of a measurement are there; -1: they do not depend on the sample
        for key, measure in measures.items():
            for value in measure.values:
                if self._made_at(value) >= 0:
                    last = self.last_read.get(value, -1)
                    self.last_read[value] = max(last, self.place[key])
        self.live_bytes, self.live_count = self._live()
        self.costs = self._costs()

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

    def _varying(self, needed: Iterable[ir.Node]) -> Iterator[ir.Node]:
        varying = {value for value in self.graph.inputs if not value.is_initializer()}
        for node in needed:
            if node.op_type in _RANDOM or not varying.isdisjoint(self.reads[node]):
                varying.update(node.outputs)
                yield node

    def _closure(
        self, targets: Iterable[ir.Value], stop: Callable[[ir.Value], bool]
    ) -> list[ir.Node]:
        """The nodes that make `targets` from the values where to stop, in the graph's order."""
        found: set[ir.Node] = set()
        stack = list(targets)
        while stack:
            value = stack.pop()
            node = value.producer()
            if node is None or node in found or stop(value):
                continue
            found.add(node)
            stack.extend(self.reads[node])
        return sorted(found, key=self.order.__getitem__)

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
            if group and cost + self.measures[key].bytes > self.memory_bytes:
                yield tuple(group)
                group, cost = [], 0
            group.append(key)
            cost += self.measures[key].bytes
        if group:
            yield tuple(group)

    def _cut(self, first: int) -> int:
        """The position of the last node of the block that starts at `first`."""
        nodes = list(self.position)
        total = 0
        last = first
        for last in range(first, len(nodes)):
            total += self.costs[last]
            if total > self.memory_bytes and last > first:
                last -= 1
                break
        else:
            return len(nodes) - 1
        allowed = [p for p in range(first, len(nodes) - 1) if self.live_count[p] <= _MOST_LIVE]
        late = [p for p in allowed if (first + last) // 2 <= p <= last]
        if late:
            return min(late, key=lambda p: (self.live_bytes[p], self.live_count[p], -p))
        before = [p for p in allowed if p <= last]
        after = [p for p in allowed if p > last]
        return before[-1] if before else after[0] if after else len(nodes) - 1

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
