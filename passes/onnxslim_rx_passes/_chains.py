"""Chains of products with constants and nothing between them: matrices, or convolutions.

Our own passes leave such, and so do other tools. What a chain computes depends on the product of
its kernels alone, so that its ranks (the channels between two of them) can be cut anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, Skipped, weight_layers
from onnxslim_rx_passes._chain_parts import Chain, Part
from onnxslim_rx_passes._linear import contracts_last, tensor_of

__all__ = ["find_chains"]

_KINDS = {"linear": "linear", "linear-left": "linear", "conv": "conv", "conv-transpose": "conv"}
_MOST_FULL = 3  # parts of a chain that are not depthwise


def find_chains(model: ir.Model, min_elements: int) -> Iterator[Chain | Skipped]:
    """The chains of a model, in its order, and those that cannot be cut, with reasons.

    A product belongs to one chain at most. Chains of more than three parts, depthwise ones left
    out, are taken apart.

    Args:
        model: not changed.
        min_elements: chains whose weights have fewer entries together are refused.
    """
    every = [one for one in weight_layers(model, _KINDS, min_elements=1) if isinstance(one, Layer)]
    usable = {one.node: one for one in (*every, *_depthwise(model)) if _is_alone(one)}
    seen: set[ir.Node] = set()
    for layer in every:
        row: list[Layer] = []
        following = usable.get(layer.node)
        while following is not None and following.node not in seen:
            row.append(following)
            seen.add(following.node)
            following = _next(following, usable)
        for parts in _units(row):
            yield _chain(parts, min_elements)


def _depthwise(model: ir.Model) -> Iterator[Layer]:
    """Convolutions that keep channels apart, which are no layers by themselves."""
    for use in weight_uses(model, min_elements=1):
        stored = not use.through and constant(use.weight) is not None
        seen = use.weight.is_graph_output() or not use.tensor.dtype.is_floating_point()
        if _KINDS.get(use.kind) == "conv" and use.why_not is not None and stored and not seen:
            layer = Layer(str(use.weight.name), use.node.op_type, "conv", use.node, use.index, 0)
            if _scales(layer):
                yield layer


def _is_alone(layer: Layer) -> bool:
    """Whether its weight is one matrix or kernel that nobody else reads."""
    matrix = layer.kind == "conv" or len(tensor_of(layer.weight).shape) == 2
    return matrix and len(layer.weight.uses()) == 1


def _next(layer: Layer, usable: Mapping[ir.Node, Layer]) -> Layer | None:
    """The product that alone reads what this one makes, along the axis that it made."""
    uses = layer.output.uses()
    if layer.output.is_graph_output() or len(uses) != 1:
        return None
    (use,) = uses
    found = usable.get(use.node)
    if found is None or found.activation is not layer.output or found.kind != layer.kind:
        return None
    if found.node.graph is not layer.node.graph:
        return None
    if layer.kind != "conv" and contracts_last(found) != (layer.weight_index == 1):
        return None
    return found


def _units(row: Sequence[Layer]) -> Iterator[tuple[Part, ...]]:
    """Chains in a row of products."""
    place = 0
    while place + 1 < len(row):
        found = _unit(row[place:])
        if len(found) > 1:
            yield found
        place += max(len(found), 1)


def _unit(row: Sequence[Layer]) -> tuple[Part, ...]:
    """The chain at the head of a row; one part or none where there is none."""
    groups = _groups(row[0])
    if groups > 1 and _scales(row[0]):
        return ()
    parts = [Part(row[0], groups)]
    for place, layer in enumerate(row[1:], 1):
        scales = _scales(layer) and _groups(layer) == groups * parts[0].makes
        if not scales and _groups(layer) != groups:
            break
        parts.append(Part(layer, groups, depthwise=scales))
        full = sum(not part.depthwise for part in parts)
        if full == len(parts) and place + 1 < len(row) and _scales(row[place + 1]):
            return tuple(parts[:-1])  # the last starts a chain of its own
        if not scales and (full < len(parts) or full == _MOST_FULL):
            break
    while parts and parts[-1].depthwise:
        parts.pop()
    return tuple(parts)


def _groups(layer: Layer) -> int:
    return layer.node.attributes.get_int("group", 1) if layer.kind == "conv" else 1


def _scales(layer: Layer) -> bool:
    """Whether it is a convolution that keeps channels apart, with one filter each."""
    shape = tensor_of(layer.weight).shape.numpy()
    return layer.kind == "conv" and shape[1] == 1 and _groups(layer) == shape[0]


def _chain(parts: Sequence[Part], min_elements: int) -> Chain | Skipped:
    first = parts[0].layer
    weights = [part.layer.weight for part in parts]
    name = " * ".join(str(value.name) for value in weights)
    bias = parts[0].bias
    found = Chain(
        name,
        first.op,
        first.kind,
        first.node,
        first.weight_index,
        first.activation_index,
        region=tuple(part.layer.node for part in parts),
        constants=(*weights, *(() if bias is None else (bias,))),
        members=(first,),
        parts=tuple(parts),
    )
    why = _why_not(found, min_elements)
    return found if why is None else Skipped(name, f"chain of {len(parts)}: {why}")


def _why_not(chain: Chain, min_elements: int) -> str | None:
    first, *inner, _ = chain.parts
    size = sum(chain.entries(chain.ranks))
    if size < min_elements:
        return f"{size} entries, below {min_elements}"
    if len({tensor_of(part.layer.weight).dtype for part in chain.parts}) > 1:
        return "its weights have different types"
    if not all(part.alpha for part in chain.parts):
        return "it is multiplied by zero"
    if any(part.bias is not None for part in inner):
        return "a bias is added inside"
    return _why_not_bias(first)


def _why_not_bias(first: Part) -> str | None:
    """Why the bias of the first product cannot be cut along with its weight."""
    if first.bias is None:
        return None
    tensor = constant(first.bias)
    if tensor is None or len(first.bias.uses()) > 1:
        return "the bias of its first part is computed, or shared"
    wanted = first.groups * first.makes
    row = tensor.shape.numpy()[-1:] == (wanted,) and tensor.size == wanted
    if not row or first.layer.weight_index == 0 or first.beta == 0.0:
        return "the bias of its first part is no row"
    return None
