"""Merge nodes that only rearrange the few elements of a vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import bypass, integers
from onnxslim_rx_passes._slices import cuts_of
from onnxslim_rx_passes.merge_transposes import permutation

__all__ = ["MergeRearrangements"]

Array = npt.NDArray[Any]

_SAME_ORDER = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_TYPES = (*_SAME_ORDER, "Gather", "Slice", "Transpose")
_MOST_ELEMENTS = 64
_MOST_NODES = 16


@dataclasses.dataclass(frozen=True)
class MergeRearrangements(Rule):
    """Merge nodes that only rearrange the few elements of a vector into one `Gather`.

    `Reshape(Transpose(Slice(Reshape(v, [-1, 2]))), [-1])`, as exporters turn paddings round, is
    `Gather(v, indices)`: which element goes where is found by sending numbers through. Vectors of
    up to 64 elements of known number, results of rank 0 or 1. Where v is a `Concat` of single
    elements and constants, these are put together in the new order, without a `Gather`. Values in
    between must have no other reader.
    """

    name: ClassVar[str] = "merge-rearrangements"
    roots: ClassVar[tuple[str, ...]] = _TYPES

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        previous = scene.sole(node.inputs[0], *_TYPES, "Concat")
        if previous is None or previous.graph is not node.graph:
            return False
        rank = scene.facts.rank(node.outputs[0])
        if rank is None or rank > 1:
            return False
        chain = _chain(node, scene)
        if chain is None:
            return False
        source = chain[0].inputs[0]
        sizes = scene.facts.sizes(source)
        if source is None or sizes is None:
            return False
        indices = _follow(chain, np.arange(sizes[0]), scene)
        if indices is None:
            return Skip("where its elements go is not known")
        parts = _parts(source, node, scene)
        if len(chain) == 1 and (parts is None or node.op_type != "Gather"):
            return False
        if indices.ndim == 1 and np.array_equal(indices, np.arange(sizes[0])):
            return bypass(scene, chain, source)
        tape = ir.tape.Tape()
        pieces = None if parts is None else _pieces(tape, parts, indices, node)
        if pieces is not None:
            result = tape.op("Concat", pieces, {"axis": 0})
            concat = source.producer()
            assert concat is not None  # `_parts` found it
            return scene.replace([concat, *chain], tape, {node.outputs[0]: result})
        if len(chain) == 1:
            return False
        array = ir.tensor(indices.astype(np.int64))
        index = tape.initializer(array, name=f"{node.outputs[0].name}.indices")
        result = tape.op("Gather", [source, index], {"axis": 0})
        return scene.replace(chain, tape, {node.outputs[0]: result})


def _chain(last: ir.Node, scene: Scene) -> list[ir.Node] | None:
    """The longest run of such nodes from a vector to `last`; None where there is none."""
    found, best = [last], None
    while len(found) <= _MOST_NODES:
        sizes = scene.facts.sizes(found[-1].inputs[0])
        if sizes is None or int(np.prod(sizes)) > _MOST_ELEMENTS:
            break
        if len(sizes) == 1:
            best = found[::-1]
        previous = scene.sole(found[-1].inputs[0], *_TYPES)
        if previous is None or previous.graph is not last.graph:
            break
        found.append(previous)
    return best


def _follow(chain: Sequence[ir.Node], numbers: Array, scene: Scene) -> Array | None:
    """What the chain makes of `numbers`; None where that is not known."""
    for node in chain:
        sizes = scene.facts.sizes(node.outputs[0])
        if sizes is None:
            return None
        if node.op_type == "Transpose":
            numbers = numbers.transpose(permutation(node, scene))
        elif node.op_type in _SAME_ORDER:
            numbers = numbers.reshape(sizes)
        else:
            found = (_gathered if node.op_type == "Gather" else _sliced)(node, numbers, scene)
            if found is None:
                return None
            numbers = found
        if numbers.shape != sizes:
            return None
    return numbers


def _gathered(node: ir.Node, numbers: Array, scene: Scene) -> Array | None:
    axis = node.attributes.get_int("axis", 0)
    places = integers(node.inputs[1], scene)
    sizes = scene.facts.sizes(node.inputs[1])
    size = numbers.shape[axis]
    if places is None or sizes is None or not all(-size <= place < size for place in places):
        return None
    return np.take(numbers, np.asarray(places, dtype=np.int64).reshape(sizes), axis=axis)


def _sliced(node: ir.Node, numbers: Array, scene: Scene) -> Array | None:
    cuts = cuts_of(node, scene)
    if cuts is None:
        return None
    index: list[slice] = [slice(None)] * numbers.ndim
    for cut in cuts:
        if not isinstance(cut.start, int) or not isinstance(cut.end, int):
            return None
        index[cut.axis] = slice(cut.start, cut.end, cut.step)
    return numbers[tuple(index)]


def _parts(source: ir.Value, node: ir.Node, scene: Scene) -> list[ir.Value | Array] | None:
    """By element, the input of the Concat that made `source`, or the constant, as an array."""
    concat = scene.sole(source, "Concat")
    if concat is None or concat.graph is not node.graph:
        return None
    found: list[ir.Value | Array] = []
    for value in concat.inputs:
        array = scene.facts.array(value)
        if value is None:
            return None
        if array is not None:
            found.extend(array[i : i + 1] for i in range(len(array)))
        elif scene.facts.sizes(value) == (1,):
            found.append(value)
        else:
            return None
    return found


def _pieces(
    tape: ir.tape.Tape, parts: Sequence[ir.Value | Array], indices: Array, node: ir.Node
) -> list[ir.Value] | None:
    """The inputs of a Concat that puts `parts` together in a new order; None for a scalar."""
    if indices.ndim != 1 or not indices.size:
        return None
    pieces: list[ir.Value] = []
    constants: list[Array] = []
    for part in [*(parts[index] for index in indices), None]:
        if part is not None and not isinstance(part, ir.Value):
            constants.append(part)
            continue
        if constants:
            array = ir.tensor(np.concatenate(constants))
            pieces.append(tape.initializer(array, name=f"{node.outputs[0].name}.constant"))
            constants = []
        if part is not None:
            pieces.append(part)
    return pieces
