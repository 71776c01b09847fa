"""Whether readers of a tensor need it in its full shape, or broadcast it anyway."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxslim_rx.analysis.facts.rules.elementwise import broadcast_shapes
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._patterns import equal
from onnxslim_rx_passes._regions import BROADCASTING, UNARY, is_pointwise

if TYPE_CHECKING:
    from onnxslim_rx.analysis.facts import Dim

__all__ = ["is_elementwise", "narrow", "narrowed", "readers_keep_shape"]

_MOST_NODES = 4
"""In a chain of elementwise operators that is computed on a smaller tensor."""

_BROADCASTS_FROM = 8
"""The opset from which all elementwise operators broadcast like NumPy."""


def is_elementwise(node: ir.Node) -> bool:
    """Whether `narrowed` may know the operator."""
    return node.domain == "" and (node.op_type in UNARY or node.op_type in BROADCASTING)


def narrowed(
    node: ir.Node, shapes: Mapping[ir.Value, Sequence[Dim]], scene: Scene
) -> tuple[Dim, ...] | None:
    """The shape of the result of an elementwise operator if some inputs had other shapes.

    Args:
        node: reads some of `shapes`.
        shapes: of inputs.
        scene: knows all other shapes.

    Returns:
        None where `node` is no such operator, or its shape is not known.
    """
    if node.domain != "" or scene.opset < _BROADCASTS_FROM or not is_pointwise(node, scene):
        return None
    if node.op_type in UNARY:
        first = node.inputs[0]
        return tuple(shapes[first]) if first is not None and first in shapes else None
    if node.op_type not in BROADCASTING or node.op_type == "PRelu":
        return None
    result: tuple[Dim, ...] | None = ()
    for value in node.inputs:
        shape = None if value is None else shapes.get(value) or scene.facts.shape(value)
        if shape is None or result is None:
            return None
        try:
            result = broadcast_shapes(result, tuple(shape))
        except ValueError:  # they do not fit
            return None
    return result


def readers_keep_shape(value: ir.Value, shape: Sequence[Dim], scene: Scene) -> bool:
    """Whether the results of all readers of `value` keep their shapes if it has only `shape`."""
    if equal(shape, scene.facts.shape(value)):
        return True
    if value.is_graph_output():
        return False
    return all(
        use.node.graph is not None
        and equal(narrowed(use.node, {value: shape}, scene), scene.facts.shape(use.node.outputs[0]))
        for use in value.uses()
    )


def narrow(node: ir.Node, kept: ir.Value, scene: Scene) -> bool | Skip:
    """Let the chain of readers of `node` read `kept`, as far as shapes change.

    Args:
        node: its only output is `kept`, broadcast.
        kept: a value that `node` reads.
        scene: makes the change.

    Returns:
        Why not, where somebody needs the longer tensor.
    """
    chain, shape = [node], scene.facts.shape(kept)
    while shape is not None and not readers_keep_shape(chain[-1].outputs[0], shape, scene):
        last = chain[-1].outputs[0]
        readers = {use.node for use in last.uses()}
        reader = readers.pop() if len(readers) == 1 else None
        if (
            reader is None
            or reader.graph is not node.graph
            or last.is_graph_output()
            or len(chain) > _MOST_NODES
        ):
            return Skip("somebody needs it in its full shape")
        shape = narrowed(reader, {last: shape}, scene)
        chain.append(reader)
    if shape is None:
        return Skip("a shape is not known")
    tape, value = ir.tape.Tape(), kept
    for before, one in itertools.pairwise(chain):
        inputs = [value if i is before.outputs[0] else i for i in one.inputs]
        value = tape.op(one.op_type, inputs, one.attributes)
    result = chain[-1].outputs[0]
    if value is kept and not scene.can_forward(result, kept):
        return Skip("the graph returns it")
    result.shape = None  # what takes its place is narrower
    return scene.replace(chain, tape, {result: value})
