"""Remove transpositions around elementwise operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._regions import (
    BROADCASTING,
    MOST_NODES,
    UNARY,
    in_order,
    is_pointwise,
    is_read_by,
    operands,
)
from onnxslim_rx_passes.merge_transposes import composed, permutation

__all__ = ["CancelTransposes"]

_ALONG_AXIS = {"Concat", "LogSoftmax", "Softmax"}

_SMALL = 4096
"""Elements of a constant that may be stored a second time, transposed."""


@dataclasses.dataclass
class _Region:
    """Operators between transpositions by `perm`, which come first, and a value.

    Args:
        perm: of all transpositions.
        leaves: these transpositions.
        nodes: the operators, each after those that it reads.
    """

    perm: tuple[int, ...]
    leaves: list[ir.Node]
    nodes: list[ir.Node]

    @property
    def own(self) -> int:
        """How many of the transpositions nothing outside reads."""
        return sum(is_read_by(leaf, self.nodes) for leaf in self.leaves)


@dataclasses.dataclass(frozen=True)
class CancelTransposes(Rule):
    """Compute elementwise operators on what was not transposed yet.

    `Transpose<q>(f(Transpose<p>(x), c))` is `Transpose<r>(f(x, c'))` with `r[i] = p[q[i]]`, and no
    Transpose at all where that is the identity; `f(Transpose<p>(x), Transpose<p>(y))` is
    `Transpose<p>(f(x, y))`. f is a region of elementwise operators, `Concat` and `Softmax` whose
    results nobody else reads; constants in it are transposed in turn. Only where transpositions
    become fewer. Refused where a large constant would have to be stored twice.
    """

    name: ClassVar[str] = "cancel-transposes"
    roots: ClassVar[tuple[str, ...]] = ("Concat", "Transpose", *sorted(BROADCASTING))

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if node.op_type != "Transpose":
            if sum(scene.maker(value, "Transpose") is not None for value in node.inputs) < 2:
                return False
            return self._sink(node, scene)
        last, after = _inner(node.inputs[0], node, scene), permutation(node, scene)
        if last is None or after is None or not is_read_by(last, [node]):
            return False
        region = _region(last, scene, whole=True)
        if not isinstance(region, _Region):
            return region
        if len(after) != len(region.perm):
            return False
        perm = composed(region.perm, after)
        if perm != tuple(range(len(perm))) and not region.own:
            return False
        return _rebuild(region, [node], perm, scene)

    def _sink(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """Transpose once after `node`, not each of its inputs."""
        region = _region(node, scene, whole=False)
        if not isinstance(region, _Region):
            return region
        return region.own > 1 and _rebuild(region, [], region.perm, scene)


def _inner(value: ir.Value | None, reader: ir.Node, scene: Scene) -> ir.Node | None:
    """The operator that made `value`, if a region may hold it."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "" or node.graph is not reader.graph:
        return None
    known = node.op_type in UNARY or node.op_type in BROADCASTING or node.op_type in _ALONG_AXIS
    return node if known and len(node.outputs) == 1 else None


def _region(last: ir.Node, scene: Scene, *, whole: bool) -> _Region | bool | Skip:
    """The region that ends in `last`; or no pattern, or why it cannot be computed earlier.

    Args:
        last: the operator.
        scene: what is known.
        whole: False: only `last` itself belongs to it.
    """
    leaves: dict[ir.Node, tuple[int, ...]] = {}
    found, todo = {last: None}, [last]
    while todo:
        node = todo.pop()
        if not is_pointwise(node, scene):
            return False
        for value in operands(node):
            if value is None or scene.facts.array(value) is not None:
                continue
            leaf = scene.maker(value, "Transpose")
            if leaf is not None and leaf.graph is last.graph:
                perm = permutation(leaf, scene)
                if perm is None:
                    return Skip("the number of dimensions is not known")
                leaves[leaf] = perm
                continue
            inner = _inner(value, node, scene) if whole else None
            if inner is None or len(found) >= MOST_NODES:
                return False
            if inner not in found:
                found[inner] = None
                todo.append(inner)
    if len(set(leaves.values())) != 1:
        return False
    if not all(is_read_by(node, found) for node in found if node is not last):
        return False
    perm = next(iter(leaves.values()))
    why_not = next(filter(None, (_why_not(node, perm, scene) for node in found)), None)
    if why_not is not None:
        return Skip(why_not)
    return _Region(perm, list(leaves), in_order(last, found))


def _why_not(node: ir.Node, perm: Sequence[int], scene: Scene) -> str | None:
    if node.op_type in ("Softmax", "LogSoftmax"):
        if scene.opset < 13:
            return "Softmax takes all later axes together in this opset"
        axis = node.attributes.get_int("axis", -1) % len(perm)
        if axis == len(perm) - 1 and perm[axis] != axis:
            return "Softmax is slower along another axis than the last"
    for value in operands(node):
        array = scene.facts.array(value)
        if value is None or array is None:
            continue
        if array.ndim > len(perm) or (node.op_type == "Concat" and array.ndim != len(perm)):
            return "a constant has other dimensions"
        if array.size > _SMALL and not scene.is_private(value):
            return "a large constant is read elsewhere too"
    return None


def _rebuild(
    region: _Region, after: Sequence[ir.Node], perm: tuple[int, ...], scene: Scene
) -> bool | Skip:
    """Compute the region on what its leaves transpose, and transpose the result by `perm`."""
    root = after[-1] if after else region.nodes[-1]
    tape = ir.tape.Tape()
    made = {leaf.outputs[0]: leaf.inputs[0] for leaf in region.leaves}
    for node in region.nodes:
        count = len(operands(node))
        inputs = [
            value and (made.get(value) or _turned(tape, value, region.perm, scene))
            for value in node.inputs[:count]
        ]
        attributes = dict(node.attributes)
        if node.op_type in _ALONG_AXIS:
            axis = node.attributes.get_int("axis", -1) % len(region.perm)
            attributes["axis"] = ir.AttrInt64("axis", region.perm[axis])
        made[node.outputs[0]] = tape.op(node.op_type, [*inputs, *node.inputs[count:]], attributes)
    result = made[region.nodes[-1].outputs[0]]
    assert result is not None  # an output of a node on the tape
    if perm != tuple(range(len(perm))):
        result = tape.op("Transpose", [result], {"perm": perm})
    old = [*region.leaves, *region.nodes, *after]
    return scene.replace(old, tape, {root.outputs[0]: result}, keep=True)


def _turned(tape: ir.tape.Tape, value: ir.Value, perm: Sequence[int], scene: Scene) -> ir.Value:
    """The constant whose transposition by `perm` is `value`, for operands that broadcast."""
    array = scene.facts.array(value)
    assert array is not None  # `_region` took nothing else
    if array.size == 1:
        return value
    whole = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    turned = np.ascontiguousarray(whole.transpose(np.argsort(perm)))
    dtype = scene.facts.dtype(value)
    return tape.initializer(ir.tensor(turned, dtype=dtype), name=value.name)
