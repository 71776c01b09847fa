"""Mixtures of experts whose weights are constants of their own, found by their shape.

Two forms, as exporters write them:

- Every expert sees every row, and a gate weighs what it gives: `Add(Mul(y_0, g_0), Mul(y_1, g_1))`
  and so on, or the outputs stacked by `Concat` and summed later.
- Rows are gathered for each expert, and what it gives is scattered back into a sum:
  `ScatterElements` or `ScatterND` with `reduction="add"`, one behind the other.

So the terms of such a sum are followed back to linear layers; terms of equal paths and equal
weights are the experts' last layers. From there all experts are walked up in step as long as they
are alike, which gives the layers before. A wrong guess costs nothing but a candidate that no plan
takes: whatever is shared, its error is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["find_experts"]

_SUMS = {"Add", "Sum"}
_SCATTERS = {"ScatterElements", "ScatterND"}
# What may lie between a last layer and the sum, and which inputs carry it.
_BEHIND: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "Cast": (0,),
    "Div": (0,),
    "Identity": (0,),
    "Mul": (0, 1),
    "Reshape": (0,),
    "Squeeze": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
    "Where": (1, 2),
}
# Of these, what gives each row its share, if it is computed.
_GATES = {"Mul", "Where"}
_MOST_BEHIND, _MOST_BEFORE = 12, 256  # nodes that are followed, behind and before last layers

Trail = tuple[tuple[str, int], ...]


def find_experts(model: ir.Model, layers: Iterable[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Layers that do the same in each expert of a mixture: one tuple for each place.

    Args:
        model: not changed.
        layers: linear layers with a constant matrix that nobody else reads.

    Yields:
        Two or more layers of one graph, of equal operator, attributes, shape and type, in the
        order of the terms of the sum; each layer at most once.
    """
    by_node = {layer.node: layer for layer in layers}
    seen: set[ir.Node] = set()
    for graph in model.graphs():
        for node in graph:
            terms = _terms(node)
            for last in _alike(terms, by_node, stacked=node.op_type == "Concat"):
                for place in _walk(last, by_node):
                    if not seen & {layer.node for layer in place}:
                        seen.update(layer.node for layer in place)
                        yield place


def _terms(root: ir.Node) -> list[tuple[ir.Value, bool]]:
    """What a sum (or a stack) is made of, and whether each term was scattered; none: no sum."""
    if root.domain != "":
        return []
    if root.op_type == "Concat":
        return [(value, False) for value in root.inputs if value is not None]
    if not _adds(root) or _goes_on(root):
        return []
    found: list[tuple[ir.Value, bool]] = []
    stack: list[tuple[ir.Value | None, bool]] = [(root.outputs[0], False)]
    while stack:
        value, scattered = stack.pop()
        if value is None or constant(value) is not None:
            continue
        node = value.producer()
        inside = node is root or (node is not None and len(value.uses()) == 1)
        if node is None or not inside or not _adds(node) or scattered:
            found.append((value, scattered))
        elif node.op_type in _SCATTERS:
            stack += [(node.inputs[2], True), (node.inputs[0], False)]
        else:
            stack += [(one, False) for one in reversed(node.inputs)]
    return found


def _adds(node: ir.Node) -> bool:
    if node.domain != "":
        return False
    scatters = node.op_type in _SCATTERS
    return node.op_type in _SUMS or (
        scatters and node.attributes.get_string("reduction", "none") == "add"
    )


def _goes_on(node: ir.Node) -> bool:
    """Whether the only reader of a sum is another one that takes it in as a term."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not _adds(uses[0].node):
        return False
    return uses[0].node.op_type in _SUMS or uses[0].idx == 0  # else rows or indices to scatter


def _alike(
    terms: Sequence[tuple[ir.Value, bool]], by_node: Mapping[ir.Node, Layer], *, stacked: bool
) -> Iterator[tuple[Layer, ...]]:
    """The last layers of experts, in groups that are alike."""
    groups: dict[object, list[Layer]] = {}
    for value, scattered in terms:
        found = _follow(value, by_node, _MOST_BEHIND)
        if found is None:
            continue
        layer, trail, gated = found
        if gated or scattered or (stacked and trail[:1] == (("Unsqueeze", 0),)):
            members = groups.setdefault((trail, _key(layer)), [])
            if layer not in members:
                members.append(layer)
    yield from (tuple(members) for members in groups.values() if len(members) > 1)


def _follow(
    value: ir.Value | None, by_node: Mapping[ir.Node, Layer], steps: int
) -> tuple[Layer, Trail, bool] | None:
    """The first linear layer up from `value`, the way to it, and whether a gate lies on it."""
    node = value.producer() if value is not None else None
    if node is None or steps == 0:
        return None
    if node in by_node:
        return by_node[node], (), False
    for index in _BEHIND.get(node.op_type, ()) if node.domain == "" else ():
        others = [one for i, one in enumerate(node.inputs) if i != index]
        computed = any(constant(one) is None for one in others)
        if node.op_type == "Add" and computed:  # no bias
            continue
        found = _follow(node.inputs[index], by_node, steps - 1)
        if found is not None:
            layer, trail, gated = found
            gates = node.op_type in _GATES and computed
            return layer, ((node.op_type, index), *trail), gated or gates
    return None


def _walk(last: tuple[Layer, ...], by_node: Mapping[ir.Node, Layer]) -> Iterator[tuple[Layer, ...]]:
    """The last layers, and all before them at which the experts are still alike."""
    yield last
    stack: list[tuple[ir.Value | None, ...]] = [tuple(layer.activation for layer in last)]
    seen: set[ir.Node] = {layer.node for layer in last}
    while stack and len(seen) < _MOST_BEFORE * len(last):
        values = stack.pop()
        producers = [value.producer() if value is not None else None for value in values]
        nodes = [node for node in producers if node is not None]
        # equal nodes are where the experts meet; what was seen is not walked twice
        if len(set(nodes)) < len(values) or seen & set(nodes):
            continue
        seen.update(nodes)
        layers = [by_node[node] for node in nodes if node in by_node]
        if len(layers) == len(nodes) and len({_key(layer) for layer in layers}) == 1:
            yield tuple(layers)
            stack.append(tuple(layer.activation for layer in layers))
        elif not layers and len({_form(node) for node in nodes}) == 1:
            stack += list(zip(*(node.inputs for node in nodes), strict=True))


def _form(node: ir.Node) -> object:
    return (node.domain, node.op_type, len(node.inputs), _attributes(node))


def _key(layer: Layer) -> object:
    """What layers that may share a factor have in common."""
    tensor = tensor_of(layer.weight)
    shape = tuple(tensor.shape.numpy())
    graph = layer.node.graph
    return (layer.op, layer.weight_index, shape, tensor.dtype, graph, _attributes(layer.node))


def _attributes(node: ir.Node) -> str:
    """As text, so that it can be compared; subgraphs are never equal."""
    return str(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
