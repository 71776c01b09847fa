"""The order of a run in which measurements change weights as it goes on.

Once a measurement is made, weights get new contents, and all that depends on these holds only from
then on. So a node runs for good as soon as a measurement needs it and no weight that it depends on
will change any more; what a measurement needs besides is computed for it alone. Measurements that
none of the changes of the others reaches form a round: they are made in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.calibration.dependence import closure, reads, varying
from onnxslim_rx.calibration.frontiers import Key, Measure, Route

__all__ = ["route"]


def route(
    graph: ir.Graph,
    measures: Mapping[Key, Measure],
    changes: Mapping[Key, Sequence[ir.Value]],
) -> Route[Key]:
    """The rounds of `measures`, and where each node runs.

    Args:
        graph: the main graph of a model, nodes in topological order.
        measures: in the order in which they are to be made.
        changes: initializers that get new contents after each measurement.
    """
    keys = list(measures)
    # bit i: depends on what measurement i changes
    masks: dict[ir.Value, int] = {}
    for number, key in enumerate(keys):
        for value in changes[key]:
            masks[value] = masks.get(value, 0) | 1 << number
    read = {node: tuple(dict.fromkeys(reads(node, graph))) for node in graph}
    for node in graph:
        mask = 0
        for value in read[node]:
            mask |= masks.get(value, 0)
        if mask:
            masks.update(dict.fromkeys(node.outputs, mask))
    rounds = _rounds({key: measures[key].values for key in keys}, masks)
    stage: dict[ir.Node, int] = {}

    def placed(value: ir.Value) -> bool:
        return value.producer() in stage

    for current in range(max(rounds.values(), default=-1) + 1):
        wanted = [v for key in keys if rounds[key] == current for v in measures[key].values]
        for node in closure(wanted, read, placed):
            # the last change that it depends on
            last = masks.get(node.outputs[0], 0).bit_length() - 1
            if last < 0 or rounds[keys[last]] < current:
                stage[node] = current
    nodes = sorted(
        varying((node for node in graph if node in stage), graph, read), key=stage.__getitem__
    )
    stages = [stage[node] for node in nodes]
    places = {key: sum(1 for one in stages if one <= rounds[key]) for key in keys}
    return Route(tuple(nodes), places, rounds)


def _rounds(
    values: Mapping[Key, Sequence[ir.Value]], masks: Mapping[ir.Value, int]
) -> dict[Key, int]:
    """The round of each measurement."""
    found: dict[Key, int] = {}
    members = current = 0
    for number, (key, wanted) in enumerate(values.items()):
        if any(masks.get(value, 0) & members for value in wanted):
            current += 1
            members = 0
        found[key] = current
        members |= 1 << number
    return found
