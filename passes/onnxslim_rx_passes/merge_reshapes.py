"""Merge nodes in a row that only change the shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import (
    axes_of,
    bypass,
    emit_axes,
    equal,
    ones_between,
    shape_constant,
    squeezed,
)
from onnxslim_rx_passes.merge_transposes import permutation

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["MergeReshapes"]

_TYPES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class MergeReshapes(Rule):
    """Merge nodes in a row that only change the shape into one, or none.

    `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, and `Transpose` that only moves axes of size 1.
    Two `Squeeze` make one, two `Unsqueeze` likewise; all others make a `Reshape` to a constant
    shape, where each size is a number, or copied from the same place (0), and one may be
    inferred (-1), or else a `Squeeze` or `Unsqueeze`. Other readers of the first must be such
    nodes as well, unless nothing is left of both.

    Refused where several sizes would have to be inferred, and where one would beside sizes that
    may be 0: nothing can be inferred then.
    """

    name: ClassVar[str] = "merge-reshapes"
    roots: ClassVar[tuple[str, ...]] = _TYPES

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        first = scene.maker(node.inputs[0], *_TYPES)
        if first is None or first.graph is not node.graph:
            return False
        source, last = first.inputs[0], node.outputs[0]
        if first.op_type == node.op_type == "Transpose":
            return False  # see merge-transposes
        if source is None or not (_keeps_order(first, scene) and _keeps_order(node, scene)):
            return False
        if _undoes(first, node, scene) or equal(scene.facts.shape(source), scene.facts.shape(last)):
            return bypass(scene, [first, node], source)
        if first.outputs[0].is_graph_output() or not all(
            use.node is node or _may_skip(use.node, first) for use in first.outputs[0].uses()
        ):
            return False
        tape = ir.tape.Tape()
        result = _same_kind(tape, first, node, scene) or _as_before(tape, source, node, scene)
        if result is None:
            target = _target(source, first, node, scene)
            if not isinstance(target, Skip):
                shape = shape_constant(tape, target, f"{last.name}.shape")
                result = tape.op("Reshape", [source, shape])
            else:
                ones = _ones(source, last, scene)
                if ones is None:
                    return target
                result = emit_axes(tape, ones[0], source, ones[1], scene)
        return scene.replace([first, node], tape, {last: result}, keep=True)


def _may_skip(reader: ir.Node, first: ir.Node) -> bool:
    """Whether a reader of `first` may read what that reads, and let it die."""
    known = reader.op_type in _TYPES and reader.op_type != "Transpose" and reader.domain == ""
    return known and reader.graph is first.graph


def _ones(source: ir.Value, last: ir.Value, scene: Scene) -> tuple[str, list[int]] | None:
    """The Unsqueeze or Squeeze that does the same; or None."""
    before, after = scene.facts.shape(source), scene.facts.shape(last)
    return None if before is None or after is None else ones_between(before, after)


def _keeps_order(node: ir.Node, scene: Scene) -> bool:
    """Whether the elements keep their order in memory."""
    if node.op_type == "Reshape":
        return len(node.inputs) > 1  # before opset 5 the shape is an attribute
    if node.op_type != "Transpose":
        return True
    perm, shape = permutation(node, scene), scene.facts.shape(node.inputs[0])
    if perm is None or shape is None:
        return False
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _undoes(first: ir.Node, second: ir.Node, scene: Scene) -> bool:
    """Whether one drops the axes of size 1 that the other adds."""
    rank = scene.facts.rank(first.outputs[0])
    if (first.op_type, second.op_type) == ("Unsqueeze", "Squeeze"):
        added = axes_of(first, scene, rank)
        return added is not None and added == axes_of(second, scene, rank)
    if (first.op_type, second.op_type) == ("Squeeze", "Unsqueeze"):
        dropped = squeezed(first, scene)
        rank = scene.facts.rank(second.outputs[0])
        return dropped is not None and dropped == axes_of(second, scene, rank)
    return False


def _same_kind(
    tape: ir.tape.Tape, first: ir.Node, second: ir.Node, scene: Scene
) -> ir.Value | None:
    """One Squeeze or Unsqueeze in the place of two, in the form of this opset, or None."""
    op_type = second.op_type
    if first.op_type != op_type or op_type not in ("Squeeze", "Unsqueeze"):
        return None
    if op_type == "Squeeze":
        early, late = squeezed(first, scene), squeezed(second, scene)
    else:  # axes count in the result: the second sees those of the first moved up by its own
        rank, last = (scene.facts.rank(one.outputs[0]) for one in (first, second))
        late, early = axes_of(first, scene, rank), axes_of(second, scene, last)
    if early is None or late is None:
        return None
    count = len(early) + len(late) + max((*early, *late), default=0) + 1
    free = [axis for axis in range(count) if axis not in early]
    axes = tuple(sorted({*early, *(free[axis] for axis in late)}))
    source = first.inputs[0]
    assert source is not None  # the caller looked
    return emit_axes(tape, op_type, source, axes, scene)


def _as_before(
    tape: ir.tape.Tape, source: ir.Value, node: ir.Node, scene: Scene
) -> ir.Value | None:
    """The last Reshape on `source`, if what it was told copies no size of its input; or None."""
    if node.op_type != "Reshape":
        return None
    told = scene.facts.array(node.inputs[1])
    if told is None or (told == 0).any():
        return None
    return tape.op("Reshape", [source, node.inputs[1]])


def _target(source: ir.Value, first: ir.Node, node: ir.Node, scene: Scene) -> Sequence[int] | Skip:
    """What to tell a Reshape that makes the result of `node` from `source`."""
    shape, result = scene.facts.shape(source), scene.facts.shape(node.outputs[0])
    if result is None:
        return Skip("the number of dimensions of the result is not known")
    before: Sequence[Dim] = shape or ()
    target = []
    for index, dim in enumerate(result):
        if isinstance(dim, int) and dim > 0:
            target.append(dim)
        else:
            target.append(0 if index < len(before) and before[index] == dim else -1)
    if target.count(-1) > 1:
        return Skip("more than one size would have to be inferred")
    if -1 in target and 0 in target and not (_infers(first, scene) or _infers(node, scene)):
        return Skip("a size would have to be inferred beside one that may be 0")
    if -1 in target and result[target.index(-1)] == 0:
        return Skip("the result has no elements")
    return target


def _infers(node: ir.Node, scene: Scene) -> bool:
    """Whether `node` infers a size, so that it runs on tensors with elements alone."""
    return node.op_type == "Reshape" and -1 in (scene.facts.contents(node.inputs[1]) or ())
