"""Find attention: scores and contexts whose heads come from constant weights.

Each side of a product of activations must come from a projection through nothing that mixes or
counts columns but one Reshape that cuts them into heads. What is found is proven: sizes come from
`analysis.facts`, and every intermediate result that changes is read by what changes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir

from onnxslim_rx.passbase import Layer
from onnxslim_rx_passes._heads import Dropped, Heads, Piece, Size
from onnxslim_rx_passes._projections import (
    Projection,
    Projections,
    Refused,
    Walk,
    shape_of,
    sole_reader,
)
from onnxslim_rx_passes._softmax import softmax_of

__all__ = ["find_scores", "find_values", "products"]


class _Branch(NamedTuple):
    """A projection as heads.

    Args:
        projection: what makes the columns of all heads, and all nodes on the way.
        heads: how many.
        width: columns of each.
        position: axis of the heads in the value; None for a single head without an axis.
        cut: the Reshape that cuts columns into heads, or None.
    """

    projection: Projection
    heads: int
    width: int
    position: int | None
    cut: ir.Node | None


class _Outlet(NamedTuple):
    """The projection that contexts go through, with the Reshapes and all nodes on the way."""

    layer: Layer
    merges: tuple[ir.Node, ...]
    nodes: tuple[ir.Node, ...]


def products(known: Projections) -> Iterator[ir.Node]:
    """Every MatMul of two activations, in the order of the model."""
    for node in known.order:
        if node.op_type != "MatMul" or node.domain != "" or node in known.layers:
            continue
        # cut out on its own, a part of the graph has inputs in the place of nodes
        if not any(value is None or value.is_initializer() for value in node.inputs):
            yield node


def find_scores(product: ir.Node, known: Projections) -> Heads:
    """The unit of queries and keys, `product` being that of both.

    Raises:
        Refused: narrower heads would not fit.
    """
    query = _branch(product.inputs[0], -1, known)
    key = _branch(product.inputs[1], -2, known)
    if query.heads != key.heads:
        raise Refused(f"there are {query.heads} heads of queries and {key.heads} of keys")
    ranks = {known.facts.rank(value) for value in product.inputs}
    if query.heads > 1 and (query.position != key.position or len(ranks) > 1):
        raise Refused("the heads of queries and keys are not along the same axis")
    one, other = query.projection, key.projection
    if one.layer is other.layer and one.start == other.start:
        raise Refused("queries and keys are the same")
    region = _region([query, key], [product], known)
    weights = _constants(one.layer.weight, one.bias, other.layer.weight, other.bias)
    free = softmax_of(product.outputs[0], known) is not None
    dropped: tuple[Dropped, ...] = ()
    if free and other.bias is not None and other.adder is not None:
        alone = shape_of(other.bias)[-1] == key.heads * key.width
        if alone and other.adder.op_type == "Add":
            at = list(other.adder.inputs).index(other.bias)
            place = region.index(other.adder), weights.index(other.bias)
            dropped = (Dropped(*place, 1 - at),)
    shared = one.layer.activation is other.layer.activation
    return Heads(
        f"{product.outputs[0].name}.scores",
        one.layer.op,
        "linear",
        one.layer.node,
        one.layer.weight_index,
        one.layer.activation_index,
        region=region,
        constants=weights,
        members=(one.layer,) if shared else (one.layer, other.layer),
        heads=query.heads,
        width=query.width,
        pieces=(*_columns(one, 0, weights), *_columns(other, 1, weights)),
        gains=(one.gains, other.gains),
        reshapes=_reshapes([query, key], (), region),
        splits=_splits([query, key], region),
        by_attribute=known.opset < 13,
        free=free,
        dropped=dropped,
    )


def find_values(product: ir.Node, known: Projections) -> Heads:
    """The unit of values and output projection, `product` being that of weights and values.

    Raises:
        Refused: narrower heads would not fit.
    """
    value = _branch(product.inputs[1], -1, known)
    context = known.facts.shape(product.outputs[0])
    if context is None or len(context) != known.facts.rank(product.inputs[1]):
        raise Refused("the values are broadcast")
    outlet = _outlet(product.outputs[0], value, known)
    one = value.projection
    region = _region([value], [product, *outlet.nodes], known)
    weights = _constants(one.layer.weight, one.bias, outlet.layer.weight)
    rows = 1 if outlet.layer.node.attributes.get_int("transB", 0) else 0
    end = Piece(weights.index(outlet.layer.weight), rows, 0, 1)
    return Heads(
        f"{outlet.layer.output.name}.values",  # the context's name goes when its shape changes
        outlet.layer.op,
        "linear",
        outlet.layer.node,
        outlet.layer.weight_index,
        outlet.layer.activation_index,
        region=region,
        constants=weights,
        members=(outlet.layer,),
        heads=value.heads,
        width=value.width,
        pieces=(*_columns(one, 0, weights), end),
        gains=(one.gains, (1.0, 1.0)),
        reshapes=_reshapes([value], outlet.merges, region),
        splits=_splits([value], region),
        by_attribute=known.opset < 13,
    )


def _branch(value: ir.Value | None, features: int, known: Projections) -> _Branch:
    """What makes `value`, whose axis `features` (-1 or -2) counts the columns of a head."""
    facts = known.facts
    shape = facts.shape(value)
    if shape is None or len(shape) < 2:
        raise Refused("the number of axes is not known")
    rank, width = len(shape), shape[features]
    if not isinstance(width, int) or width < 1:
        raise Refused("the width of a head is not known")
    walk, order = Walk(known, value), list(range(rank))
    while (node := walk.node()) is not None:
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", tuple(range(rank))[::-1])
            order = [perm[axis] for axis in order]
            walk.step(0)
        elif not walk.pass_by():
            break
    if order[features] != rank - 1:
        raise Refused("the columns of a head are not the last axis of a projection")
    before = None if node is None or node.op_type != "Reshape" else facts.shape(node.inputs[0])
    if node is None or not before or before[-1] == width:
        return _Branch(walk.projection(width), 1, width, None, None)
    heads = facts.shape(walk.value)[-2]  # type: ignore[index]  # of a rank that is known
    if not isinstance(heads, int) or before[-1] != heads * width:
        raise Refused("a Reshape does more than to cut columns into heads")
    position = order.index(rank - 2)
    if position >= rank - 2:
        raise Refused("the product sums over heads, or has them as rows")
    known.check_target(node, width)
    walk.step(0)
    return _Branch(walk.projection(heads * width), heads, width, position, node)


def _outlet(context: ir.Value, value: _Branch, known: Projections) -> _Outlet:
    """The one projection that the contexts of all heads, side by side, go through."""
    rank, total = known.facts.rank(context) or 0, value.heads * value.width
    order, together = list(range(rank)), value.heads == 1
    way, merges, here = list[ir.Node](), list[ir.Node](), context
    while (node := sole_reader(here)) is not None:
        way.append(node)
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm", tuple(range(known.facts.rank(here) or 0))[::-1])
            if not together:
                order = [order[axis] for axis in perm]
            elif perm[-1] != len(perm) - 1:
                raise Refused("the columns of a head are not the last axis of a projection")
        elif node.op_type == "Reshape":
            after = known.facts.shape(node.outputs[0])
            aligned = together or order[-2:] == [value.position, rank - 1]
            if not aligned or not after or after[-1] != total:
                raise Refused("a Reshape does more than to put heads side by side")
            known.check_target(node, total)
            together = True
            merges.append(node)
        elif node.op_type in ("MatMul", "Gemm") and together and node.inputs[0] is here:
            return _Outlet(known.find(node, rows=total), tuple(merges), tuple(way))
        elif not known.keeps_values(node) and known.factor(node) is None:
            raise Refused(f"{node.op_type} lies between contexts and their projection")
        here = node.outputs[0]
    raise Refused("a context is read elsewhere too")


def _region(
    branches: Sequence[_Branch], others: Sequence[ir.Node], known: Projections
) -> tuple[ir.Node, ...]:
    """All nodes, in order, whose results nobody else reads where they change."""
    inside = {*(node for branch in branches for node in branch.projection.nodes), *others}
    picked = {
        branch.projection.split.outputs[branch.projection.pick]
        for branch in branches
        if branch.projection.split is not None
    }
    splits = {branch.projection.split for branch in branches}
    region = known.ordered(inside)
    for node in inside:
        if node.graph is not region[-1].graph:
            raise Refused("it lies in several graphs")
        if node is others[-1]:
            continue  # its result stays as wide as it was
        for value in node.outputs:
            if node in splits and value not in picked:
                continue
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                raise Refused("an intermediate result is read elsewhere too")
    return region


def _constants(*values: ir.Value | None) -> tuple[ir.Value, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _columns(one: Projection, side: int, weights: Sequence[ir.Value]) -> list[Piece]:
    """Where the weight and the bias of a projection hold its heads."""
    axis = 0 if one.layer.node.attributes.get_int("transB", 0) else 1
    pieces = [Piece(weights.index(one.layer.weight), axis, one.start, side)]
    if one.bias is not None:
        last = len(shape_of(one.bias)) - 1
        pieces.append(Piece(weights.index(one.bias), last, one.bias_start, side))
    return pieces


def _reshapes(
    branches: Sequence[_Branch], merges: Sequence[ir.Node], region: Sequence[ir.Node]
) -> Mapping[int, Size]:
    """The last size of each Reshape, by position; several branches may go through one."""
    found: dict[ir.Node, Size] = {}
    for branch in branches:
        if branch.cut is not None:
            found[branch.cut] = Size(0, 1)
        for node, total in branch.projection.totals.items():
            size = found.get(node, Size(total, 0))
            base = size.base - branch.heads * branch.width
            found[node] = Size(base, size.times + branch.heads)
    found.update((node, Size(0, branches[0].heads)) for node in merges)
    return {region.index(node): size for node, size in found.items()}


def _splits(
    branches: Sequence[_Branch], region: Sequence[ir.Node]
) -> Mapping[int, tuple[Size, ...]]:
    """The sizes of each Split, by position; several branches may come from one."""
    found: dict[ir.Node, list[Size]] = {}
    for branch in branches:
        one = branch.projection
        if one.split is not None:
            sizes = found.setdefault(one.split, [Size(size, 0) for size in one.sizes])
            rest = sizes[one.pick].base - branch.heads * branch.width
            sizes[one.pick] = Size(rest, branch.heads)
    return {region.index(node): tuple(sizes) for node, sizes in found.items()}
