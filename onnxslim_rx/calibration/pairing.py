"""Two networks in one graph, so that what enters the same layer of both is made together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from onnxslim_rx.calibration.dependence import reads
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, graphs_in

__all__ = ["PREFIX", "Pairing", "pair_up"]

PREFIX = "rx.second:"
"""Starts the name of each value of the second network."""


class Pairing:
    """The graph of both networks.

    Args:
        model: has the inputs of the first network; nodes of both follow each other in the order
            in which layers are paired. No outputs.
        first: values of the first network's main graph by name.
        second: those of the second network, by the name they have there.
    """

    def __init__(
        self, model: ir.Model, first: Mapping[str, ir.Value], second: Mapping[str, ir.Value]
    ) -> None:
        self.model = model
        self.first = first
        self.second = second


def pair_up(
    first: ir.Model, second: ir.Model, pairs: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> Pairing:
    """Join two models; weights are shared with them, not copied.

    Args:
        first: the one whose inputs count; not changed.
        second: takes the same inputs, or some of them; not changed.
        pairs: names of the values of each network that must be there together.

    Raises:
        InputError: the networks differ in their inputs or in versions of operators.
    """
    one, other = _flat(first), _flat(second)
    imports = dict(one.graph.opset_imports)
    for domain, version in other.graph.opset_imports.items():
        if imports.setdefault(domain, version) != version:
            raise InputError(
                f"the networks use versions {imports[domain]} and {version} of the operators of"
                f" {domain or 'ai.onnx'}",
                expected="the same version",
            )
    firsts = _values(one.graph)
    seconds = _values(other.graph)
    _rename(other.graph)
    inputs = {value.name: value for value in one.graph.inputs}
    for value in other.graph.inputs:
        if value.is_initializer():
            continue
        name = str(value.name).removeprefix(PREFIX)
        if name not in inputs:
            raise InputError(
                f"only one of the networks has the input {name!r}",
                expected=", ".join(map(repr, inputs)),
            )
        ir.convenience.replace_all_uses_with(value, inputs[name])
        seconds[name] = inputs[name]
    # what was renamed by way of a new value
    renamed = other.graph.initializers
    seconds = {name: renamed.get(PREFIX + name, value) for name, value in seconds.items()}
    order = [
        *_places(one.graph, [[firsts[n] for n in names] for names, _ in pairs], 0),
        *_places(other.graph, [[seconds[n] for n in names] for _, names in pairs], 1),
    ]
    order.sort(key=lambda item: item[0])
    weights = [*one.graph.initializers.values(), *other.graph.initializers.values()]
    for model in (one, other):
        model.graph.remove(list(model.graph))
        model.graph.initializers.clear()
        model.graph.outputs.clear()
    kept = list(one.graph.inputs)
    one.graph.inputs.clear()
    graph = ir.Graph(
        kept,
        [],
        nodes=[node for _, node in order],
        initializers=weights,
        opset_imports=imports,
        name="pair",
    )
    version = max(one.ir_version, other.ir_version)
    return Pairing(ir.Model(graph, ir_version=version), firsts, seconds)


def _flat(model: ir.Model) -> ir.Model:
    """A copy without functions: those of two models may differ under one name."""
    copy = clone(model)
    if copy.functions:
        common.InlinePass()(copy)
    return copy


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = [*graph.inputs, *graph.initializers.values()]
    found += [value for node in graph for value in node.outputs]
    return {str(value.name): value for value in found if value.name}


def _rename(graph: ir.Graph) -> None:
    """Start all names with `PREFIX`."""
    for inner in list(graphs_in(graph)):
        for name, value in list(inner.initializers.items()):
            # a new value: renaming this one would rename the tensor, which is not ours
            renamed = ir.Value(
                name=PREFIX + name,
                type=value.type,
                shape=value.shape,
                const_value=value.const_value,
            )
            ir.convenience.replace_all_uses_with(value, renamed, replace_graph_outputs=True)
            if value.is_graph_input():
                inner.inputs.remove(value)
            del inner.initializers[name]
            inner.register_initializer(renamed)
        for value in [*inner.inputs, *(value for node in inner for value in node.outputs)]:
            if value.name:
                value.name = PREFIX + value.name
        for node in inner:
            if node.name:
                node.name = PREFIX + node.name


def _places(
    graph: ir.Graph, targets: Sequence[Sequence[ir.Value]], network: int
) -> Iterator[tuple[tuple[int, int, int], ir.Node]]:
    """The nodes that the targets need, each with its place: as early as the first that needs it."""
    stage: dict[ir.Node, int] = {}
    for number, values in enumerate(targets):
        stack = list(values)
        while stack:
            node = stack.pop().producer()
            if node is not None and node not in stage:
                stage[node] = number
                stack.extend(reads(node, graph))
    for order, node in enumerate(graph):
        if node in stage:
            yield (stage[node], network, order), node
