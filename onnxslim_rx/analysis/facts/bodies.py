"""Operators with graphs inside: If, Loop, Scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import low
from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.known import NOTHING, Known, Shape, Site

__all__ = ["RULES", "bodies", "captured", "has_bodies"]

_MOST_TRIES = 4
"""How often the body of a loop is looked at before its state is taken for unknown."""


class Inference(Protocol):
    """What the rules here ask of `Facts`."""

    def settle(self, values: Sequence[ir.Value | None]) -> list[Known]:
        """What is known of values."""

    def learn(self, value: ir.Value, known: Known) -> None:
        """Note what is known of a value."""

    def drop(self, value: ir.Value) -> None:
        """Take it back."""


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in the attributes of a node."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def has_bodies(node: ir.Node) -> bool:
    """Whether there are graphs in the attributes of a node."""
    return node.op_type in RULES and next(bodies(node), None) is not None


def captured(node: ir.Node) -> list[ir.Value]:
    """Values from outside that the bodies of a node read."""
    inside = set(bodies(node))
    for body in list(inside):
        inside.update(body.subgraphs())
    found: dict[ir.Value, None] = {}
    for body in inside:
        for reader in body:
            found.update(
                (v, None) for v in reader.inputs if v is not None and v.graph not in inside
            )
        found.update((v, None) for v in body.outputs if v.graph not in inside)
    return list(found)


def _if(site: Site, facts: Inference) -> Sequence[Known]:
    branches = [
        facts.settle(site.attribute(name).outputs) for name in ("then_branch", "else_branch")
    ]
    condition = site.numbers(0)
    if condition is not None and len(condition) == 1:
        return branches[0 if condition[0] else 1]
    return [_merge(a, b) for a, b in zip(*branches, strict=True)]


def _merge(a: Known, b: Known) -> Known:
    """What holds for a value that is either of the two."""
    if a is b:
        return a
    dtype = a.dtype if a.dtype == b.dtype else None
    contents = None
    if a.contents is not None and b.contents is not None and len(a.contents) == len(b.contents):
        contents = tuple(
            x if x == y else fresh(None) for x, y in zip(a.contents, b.contents, strict=True)
        )
    return Known(dtype, _merged_shape(a.shape, b.shape), contents)


def _merged_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(x if x == y else fresh() for x, y in zip(a, b, strict=True))


def _weaker(assumed: Known, found: Known, free: set[Dim]) -> Known:
    """What of an assumption holds after a step too; `assumed` itself if all does.

    Args:
        assumed: what was supposed before the step.
        found: what follows.
        free: symbols of which nothing is supposed; more are added.
    """
    dtype = assumed.dtype if assumed.dtype == found.dtype else None
    shape: Shape | None = None
    before, after = assumed.shape, found.shape
    if before is not None and after is not None and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        shape = tuple(x if x == y or x in free else fresh() for x, y in pairs)
        free.update(set(shape).difference(before))
    return assumed if (dtype, shape) == (assumed.dtype, assumed.shape) else Known(dtype, shape)


def _settled(
    body: ir.Graph, states: Mapping[ir.Value, tuple[Known, ir.Value]], facts: Inference
) -> None:
    """Find what holds for the state of a loop in each step.

    Starts from what holds before the first step, and keeps what a step preserves.

    Args:
        body: its inputs that are no state are known already.
        states: inputs of `body` with what holds at first, and the output that follows on each.
        facts: the state is noted there.
    """
    assumed = {value: first._replace(contents=None) for value, (first, _) in states.items()}
    free: set[Dim] = set()
    for attempt in range(_MOST_TRIES + 1):
        for value, known in assumed.items():
            facts.learn(value, known if attempt < _MOST_TRIES else NOTHING)
        found = facts.settle([after for _, after in states.values()])
        if attempt == _MOST_TRIES:
            return
        weaker = [_weaker(a, b, free) for a, b in zip(assumed.values(), found, strict=True)]
        if all(a is b for a, b in zip(assumed.values(), weaker, strict=True)):
            return
        assumed = dict(zip(assumed, weaker, strict=True))
        for inner in (body, *body.subgraphs()):
            for value in inner.inputs if inner is not body else ():
                facts.drop(value)
            for node in inner:
                for value in node.outputs:
                    facts.drop(value)


def _loop(site: Site, facts: Inference) -> Sequence[Known]:
    body: ir.Graph = site.attribute("body")
    count = len(body.inputs) - 2
    facts.learn(body.inputs[0], Known(ir.DataType.INT64, ()))
    facts.learn(body.inputs[1], Known(ir.DataType.BOOL, ()))
    first = [site.get(2 + index) for index in range(count)]
    after = body.outputs[1 : 1 + count]
    states = zip(body.inputs[2:], zip(first, after, strict=True), strict=True)
    _settled(body, dict(states), facts)
    steps = fresh()
    found = facts.settle(body.outputs[1:])
    final = [_merge(a._replace(contents=None), b) for a, b in zip(first, found, strict=False)]
    return [*final, *(_stacked(known, steps, 0) for known in found[count:])]


def _stacked(known: Known, steps: Dim, axis: int) -> Known:
    """What holds for the results of all steps, put together along a new axis."""
    if known.shape is None:
        return Known(known.dtype)
    shape = known.shape
    if (low(steps) or 0) < 1:  # without any step, the sizes of a step's result are not known
        shape = tuple(size if isinstance(size, int) else fresh() for size in shape)
    axis = axis + len(shape) + 1 if axis < 0 else axis
    return Known(known.dtype, (*shape[:axis], steps, *shape[axis:]))


def _scan(site: Site, facts: Inference) -> Sequence[Known]:
    body: ir.Graph = site.attribute("body")
    if site.version < 9:  # has a batch axis, and an input for lengths
        for value in body.inputs:
            facts.learn(value, NOTHING)
        return ()
    scanned = site.attribute("num_scan_inputs")
    count = len(body.inputs) - scanned
    steps: Dim = fresh()
    axes = site.attribute("scan_input_axes") or [0] * scanned
    for index, axis in enumerate(axes):
        known = site.get(count + index)
        slices = Known(known.dtype)
        if known.shape is not None:
            axis = axis % len(known.shape)
            steps = known.shape[axis]
            slices = Known(known.dtype, known.shape[:axis] + known.shape[axis + 1 :])
        facts.learn(body.inputs[count + index], slices)
    first = list(site.inputs[:count])
    states = zip(body.inputs[:count], zip(first, body.outputs[:count], strict=True), strict=True)
    _settled(body, dict(states), facts)
    found = facts.settle(body.outputs)
    final = [_merge(a._replace(contents=None), b) for a, b in zip(first, found, strict=False)]
    axes = site.attribute("scan_output_axes") or [0] * (len(found) - count)
    stacked = zip(found[count:], axes, strict=True)
    return [*final, *(_stacked(known, steps, axis) for known, axis in stacked)]


RULES: dict[str, Callable[[Site, Inference], Sequence[Known]]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
}
