"""Pick few elements at once that several nodes move."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._slices import cuts_of
from onnxslim_rx_passes.merge_transposes import permutation

__all__ = ["MergeMoves"]

_TYPES = ("Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_FREE = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_MOST_ELEMENTS = 64
_MOST_NODES = 16


@dataclasses.dataclass(frozen=True)
class MergeMoves(Rule):
    """Replace nodes in a row that only move a few elements by one `Gather`.

    From a vector of up to 64 elements, through `Reshape`, `Slice`, `Transpose` and the like whose
    sizes are numbers: `Gather(x, i)` with the places in x of the elements of the result. Exporters
    turn the order of paddings that way. Two nodes or more of which no other is read elsewhere.
    """

    name: ClassVar[str] = "merge-moves"
    roots: ClassVar[tuple[str, ...]] = _TYPES

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        if scene.sole(node.inputs[0], *_TYPES) is None:
            return False
        sizes = scene.facts.sizes(node.outputs[0])
        if sizes is None or np.prod(sizes, dtype=float) > _MOST_ELEMENTS:
            return False
        chain: list[ir.Node] = []
        first: ir.Node | None = node
        start = 0
        while first is not None and first.graph is node.graph and len(chain) < _MOST_NODES:
            chain.append(first)
            source = scene.facts.sizes(first.inputs[0])
            if source is not None and len(source) == 1 and source[0] <= _MOST_ELEMENTS:
                start = len(chain)
            first = scene.sole(first.inputs[0], *_TYPES)
        chain = chain[:start][::-1]
        if len(chain) < 2 or all(one.op_type in _FREE for one in chain):
            return False
        vector = chain[0].inputs[0]
        length = scene.facts.sizes(vector)
        assert length is not None  # the loop ended the chain there
        places: npt.NDArray[Any] | None = np.arange(length[0], dtype=np.int64)
        for one in chain:
            places = None if places is None else _moved(places, one, scene)
        if places is None or places.shape != sizes:
            return False
        tape = ir.tape.Tape()
        index = tape.initializer(
            ir.tensor(np.ascontiguousarray(places)) if places.ndim else ir.tensor(places),
            name=f"{node.outputs[0].name}.places",
        )
        result = tape.op("Gather", [vector, index], {"axis": 0})
        return scene.replace(chain, tape, {node.outputs[0]: result})


def _moved(array: npt.NDArray[Any], node: ir.Node, scene: Scene) -> npt.NDArray[Any] | None:
    """What a node makes of an array, or None where that is not known."""
    if node.op_type in _FREE:
        sizes = scene.facts.sizes(node.outputs[0])
        fits = sizes is not None and np.prod(sizes, dtype=float) == array.size
        return array.reshape(sizes) if fits and sizes is not None else None
    if node.op_type == "Transpose":
        perm = permutation(node, scene)
        return None if perm is None else array.transpose(perm)
    if node.op_type == "Gather":
        index = scene.facts.array(node.inputs[1])
        axis = node.attributes.get_int("axis", 0)
        return None if index is None else np.take(array, index, axis=axis)
    cuts = cuts_of(node, scene)
    if cuts is None:
        return None
    taken: list[slice] = [slice(None)] * array.ndim
    for axis, start, end, step, _ in cuts:
        if not isinstance(start, int) or not isinstance(end, int):
            return None
        taken[axis] = slice(start, end, step)  # numpy cuts bounds off as ONNX does
    return array[tuple(taken)]
