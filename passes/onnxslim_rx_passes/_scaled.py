"""What follows a normalisation moves into its operator: scale, bias, and Casts around it."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._match import BFLOAT16, FLOAT, FLOAT16, SHARED, commuted
from onnxslim_rx_passes._norms import constant_like, refitted

__all__ = ["scaled", "shifted", "widened"]


def scaled(node: ir.Node, scene: Scene, op_type: str) -> bool | Skip:
    """Let a normalisation whose scale is all ones multiply by what `node`, a Mul, does."""
    if node.op_type != "Mul":
        return False
    for value, factor in commuted(node):
        norm = scene.maker(value, op_type)
        if norm is None or not _is_plain(norm) or not scene.is_filled(norm.inputs[1], 1.0):
            continue
        return _absorb(node, norm, factor, scene)
    return False


def shifted(node: ir.Node, scene: Scene, op_type: str) -> bool | Skip:
    """Let a normalisation without bias add what `node`, an Add, does."""
    for value, term in commuted(node):
        norm = scene.maker(value, op_type)
        if norm is not None and _is_plain(norm):
            return _absorb(node, norm, term, scene)
    return False


def _absorb(node: ir.Node, norm: ir.Node, value: ir.Value, scene: Scene) -> bool | Skip:
    shape = scene.facts.sizes(norm.inputs[1])
    rank = scene.facts.rank(norm.inputs[0])
    if shape is None or rank is None or norm.graph is not node.graph:
        return False
    axis = norm.attributes.get_int("axis", -1)
    if len(shape) != rank - (axis + rank if axis < 0 else axis):
        return False
    tape = ir.tape.Tape()
    fitting = refitted(tape, scene, value, shape, rank)
    if fitting is None:
        return False
    if not scene.is_private(norm.outputs[0]):
        return Skip(SHARED)
    x, scale = norm.inputs[:2]
    inputs = [x, fitting] if node.op_type == "Mul" else [x, scale, fitting]
    result = tape.op(norm.op_type, inputs, norm.attributes)
    return scene.replace([norm, node], tape, {node.outputs[0]: result})


def _is_plain(norm: ir.Node) -> bool:
    """Whether it has no bias, and only its first output."""
    left_out = len(norm.inputs) < 3 or norm.inputs[2] is None
    return left_out and not any(value.name or value.uses() for value in norm.outputs[1:])


def widened(
    node: ir.Node, scene: Scene, op_type: str, types: Collection[ir.DataType]
) -> bool | Skip:
    """Drop the Casts around a normalisation in float whose scale is all ones.

    Args:
        node: the Cast behind it.
        scene: makes the change.
        op_type: the normalisation.
        types: that it takes.
    """
    norm = scene.maker(node.inputs[0], op_type)
    cast = None if norm is None else scene.maker(norm.inputs[0], "Cast")
    if norm is None or cast is None or not _is_plain(norm):
        return False
    source = cast.inputs[0]
    dtype = scene.facts.dtype(source)
    if dtype is None or dtype not in (FLOAT16, BFLOAT16) or dtype not in types:
        return False
    if node.attributes.get_int("to", 0) != dtype or cast.attributes.get_int("to", 0) != FLOAT:
        return False
    shape = scene.facts.sizes(norm.inputs[1])
    if shape is None or not scene.is_filled(norm.inputs[1], 1.0):
        return Skip("the scale is applied in float")
    if norm.attributes.get_int("stash_type", 1) != 1 or cast.graph is not node.graph:
        return False
    if not scene.is_private(norm.outputs[0]):
        return Skip(SHARED)
    tape = ir.tape.Tape()
    ones = constant_like(tape, 1.0, shape, dtype, f"{node.outputs[0].name}.scale")
    result = tape.op(op_type, [source, ones], norm.attributes)
    return scene.replace([cast, norm, node], tape, {node.outputs[0]: result}, keep=True)
