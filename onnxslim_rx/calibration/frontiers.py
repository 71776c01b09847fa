"""Where to cut a graph so that its parts run one after the other.

A frontier is the set of tensors that are made before a cut and read after it. Between two
frontiers lies a block; a block runs in one step, or in several that each measure some tensors
where measuring all at once would take too much memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import onnx_ir as ir

__all__ = ["Step", "plan_steps"]

_MOST_LIVE = 64  # tensors across a frontier: each is an open file
# outputs differ from run to run, even without inputs
_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """Nodes that run together for every sample.

    Args:
        nodes: in topological order.
        inputs: graph inputs, and tensors that earlier steps saved, that the nodes read.
        weights: initializers that the nodes read.
        saves: tensors to keep for later steps.
        measures: tensors to measure.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    weights: tuple[ir.Value, ...]
    saves: tuple[ir.Value, ...]
    measures: tuple[ir.Value, ...]


def plan_steps(
    graph: ir.Graph,
    costs: Mapping[ir.Value, int],
    memory_bytes: int,
    size: Callable[[ir.Value], int],
    uncuttable: Collection[str] = (),
) -> list[Step]:
    """Steps that measure every tensor of `costs`, in an order in which they can run.

    Args:
        graph: the main graph of a model, nodes in topological order.
        costs: tensors to measure, with the memory that measuring each takes, bytes.
        memory_bytes: a step's measurements and weights take no more than this, except where a
            single node's do.
        size: estimates the bytes of a tensor.
        uncuttable: names of tensors that cannot be saved.
    """
    return _Planner(graph, costs, memory_bytes, size, uncuttable).steps()


class _Planner:
    def __init__(
        self,
        graph: ir.Graph,
        costs: Mapping[ir.Value, int],
        memory_bytes: int,
        size: Callable[[ir.Value], int],
        uncuttable: Collection[str],
    ) -> None:
        self.graph = graph
        self.costs = costs
        self.memory_bytes = memory_bytes
        self.size = size
        self.uncuttable = uncuttable
        self.reads = {node: tuple(dict.fromkeys(_reads(node, graph))) for node in graph}
        self.order = {node: number for number, node in enumerate(graph)}
        needed = self._closure(costs, stop=lambda _: False)
        self.position = {
            node: position for position, node in enumerate(self._varying(needed))
        }  # of the nodes that depend on the sample; all others run anew in each step
        self.last_read = {
            value: position
            for node, position in self.position.items()
            for value in self.reads[node]
        }
        self.live_bytes, self.live_count = self._live()

    def steps(self) -> list[Step]:
        """The steps, block by block."""
        steps = []
        first = 0
        measured: set[ir.Value] = set()
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
            inside = set(made)
            here = [
                value
                for value in self.costs
                if value not in measured and (value in inside or final or self._early(value))
            ]
            measured.update(here)
            groups = list(self._groups(here)) or [()]
            for number, group in enumerate(groups):
                kept = saves if number == len(groups) - 1 else ()
                steps.append(self._step(first, kept, group))
            if final:
                return steps
            first = last + 1

    def _early(self, value: ir.Value) -> bool:
        """Whether `value` needs no node that depends on the sample."""
        return value.producer() not in self.position

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
        self, first: int, saves: tuple[ir.Value, ...], measures: tuple[ir.Value, ...]
    ) -> Step:
        def earlier(value: ir.Value) -> bool:
            node = value.producer()
            return node in self.position and self.position[node] < first

        nodes = self._closure([*saves, *measures], stop=earlier)
        made = {value for node in nodes for value in node.outputs}
        read = dict.fromkeys(value for node in nodes for value in self.reads[node])
        outside = [value for value in read if value not in made]
        return Step(
            tuple(nodes),
            tuple(value for value in outside if not value.is_initializer()),
            tuple(value for value in outside if value.is_initializer()),
            saves,
            measures,
        )

    def _groups(self, values: Sequence[ir.Value]) -> Iterator[tuple[ir.Value, ...]]:
        """`values` in groups that fit into the memory."""
        group: list[ir.Value] = []
        cost = 0
        for value in values:
            if group and cost + self.costs[value] > self.memory_bytes:
                yield tuple(group)
                group, cost = [], 0
            group.append(value)
            cost += self.costs[value]
        if group:
            yield tuple(group)

    def _cut(self, first: int) -> int:
        """The position of the last node of the block that starts at `first`."""
        nodes = list(self.position)
        total = 0
        last = first
        for last in range(first, len(nodes)):
            total += self._cost(nodes[last])
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

    def _cost(self, node: ir.Node) -> int:
        measured = sum(self.costs.get(value, 0) for value in node.outputs)
        weights = sum(
            value.const_value.nbytes
            for value in self.reads[node]
            if value.is_initializer() and value.const_value is not None
        )
        return measured + 2 * weights  # the session's rearranged copy, and what it starts from

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


def _reads(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
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
