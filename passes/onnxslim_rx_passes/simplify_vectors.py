"""Put a small vector together from what it is made of in the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._patterns import RETURNED, integers
from onnxslim_rx_passes._slices import cuts_of

__all__ = ["SimplifyVectors"]

_MOST_ELEMENTS = 64

_Element = int | tuple[ir.Value, int]
"""A number, or a place in another vector."""


@dataclasses.dataclass(frozen=True)
class SimplifyVectors(Rule):
    """Put a vector of integers together from what it is made of in the end.

    `Gather(Concat(a, b, c), [2, 0])` is `Concat(c, a)`; likewise `Slice`, and `Where` with a
    constant condition. For vectors of up to 64 elements, which shapes and paddings are; the parts
    must be taken whole, but for constants. The `Concat` must have no other reader, unless one
    part is all that is left.
    """

    name: ClassVar[str] = "simplify-vectors"
    roots: ClassVar[tuple[str, ...]] = ("Gather", "Slice", "Where")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        sources = node.inputs[1:] if node.op_type == "Where" else node.inputs[:1]
        makers = [scene.maker(value, "Concat") for value in sources]
        if not any(makers) or scene.facts.rank(node.outputs[0]) != 1:
            return False
        dtype = scene.facts.dtype(node.outputs[0])
        if dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return False
        found = [_elements(value, scene) for value in sources]
        chosen = _chosen(node, [one for one in found if one is not None], scene)
        if chosen is None or None in found:
            return False
        tape = ir.tape.Tape()
        parts = _parts(tape, chosen, node, scene)
        if parts is None:
            return Skip("parts of the vector are not taken whole")
        if len(parts) == 1 and parts[0] not in tape.initializers:
            return scene.forward(node, node.outputs[0], parts[0])
        own = [one for one in makers if one is not None]
        if any(not scene.is_private(one.outputs[0]) or one.graph is not node.graph for one in own):
            return False
        if len(parts) == 1 and node.outputs[0].is_graph_output():
            return Skip(RETURNED)
        result = parts[0] if len(parts) == 1 else tape.op("Concat", parts, {"axis": 0})
        return scene.replace([*own, node], tape, {node.outputs[0]: result})


def _elements(value: ir.Value | None, scene: Scene) -> list[_Element] | None:
    """What a vector consists of; None for what is none, or is long."""
    numbers = integers(value, scene)
    if numbers is not None and scene.facts.rank(value) == 1:
        return list(numbers) if len(numbers) <= _MOST_ELEMENTS else None
    sizes = scene.facts.sizes(value)
    if value is None or sizes is None or len(sizes) != 1 or sizes[0] > _MOST_ELEMENTS:
        return None
    concat = scene.maker(value, "Concat")
    if concat is None:
        return [(value, place) for place in range(sizes[0])]
    found: list[_Element] = []
    for part in concat.inputs:
        inner = scene.facts.sizes(part)
        number = integers(part, scene)
        if part is None or inner is None:
            return None
        found.extend(number or [(part, place) for place in range(inner[0])])
    return found


def _chosen(
    node: ir.Node, sources: Sequence[list[_Element]], scene: Scene
) -> list[_Element] | None:
    """The elements of the result of `node`."""
    if node.op_type == "Where":
        condition = scene.facts.array(node.inputs[0])
        if condition is None or condition.ndim != 1 or len(sources) != 2:
            return None
        if not len(condition) == len(sources[0]) == len(sources[1]):
            return None
        return [a if c else b for c, a, b in zip(condition, *sources, strict=True)]
    if len(sources) != 1:
        return None
    (elements,) = sources
    if node.op_type == "Gather":
        places = integers(node.inputs[1], scene)
        if places is None or any(not -len(elements) <= place < len(elements) for place in places):
            return None
        return [elements[place] for place in places]
    cuts = cuts_of(node, scene)
    if cuts is None or len(cuts) != 1:
        return None
    ((_, start, end, step, _),) = cuts
    if step < 1 or not isinstance(start, int) or not isinstance(end, int):
        return None
    return elements[start:end:step]


def _parts(
    tape: ir.tape.Tape, elements: Sequence[_Element], node: ir.Node, scene: Scene
) -> list[ir.Value] | None:
    """Vectors that give these elements one after the other; None if one would be cut."""
    parts: list[ir.Value] = []
    for is_number, run in itertools.groupby(elements, lambda one: isinstance(one, int)):
        group = list(run)
        if is_number:
            numbers = np.asarray(group, dtype=np.int64)
            result = node.outputs[0]
            if scene.facts.dtype(result) == ir.DataType.INT32:
                numbers = numbers.astype(np.int32)
            parts.append(tape.initializer(ir.tensor(numbers), name=f"{result.name}.part"))
            continue
        todo = [one for one in group if not isinstance(one, int)]
        while todo:
            value, _ = todo[0]
            sizes = scene.facts.sizes(value)
            taken = todo[: sizes[0] if sizes else 0]
            if not taken or taken != [(value, place) for place in range(len(taken))]:
                return None
            parts.append(value)
            del todo[: len(taken)]
    return parts or None
