"""Recognise group normalisation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, FLOAT16, SHARED, closed, commuted, lacks_kernel

__all__ = ["FuseGroupNorm"]

_OPSET = 21  # before, the scale had one element for each group


@dataclasses.dataclass(frozen=True)
class FuseGroupNorm(Rule):
    """Replace Reshape-InstanceNormalization-Reshape-Mul-Add by `GroupNormalization` (opset 21).

    (N, C, ...) with the channels in groups (N, G, ...) that are normalised each over all its
    elements (Wu and He, 2018), then scaled and shifted by channel.

    Refused: sizes that are not proven; intermediate results that are read elsewhere; targets that
    run ONNX Runtime on the CPU, which has no kernel for the operator (version 1.31) and makes 29
    operators of it that take twice the time.
    """

    name: ClassVar[str] = "fuse-group-norm"
    roots: ClassVar[tuple[str, ...]] = ("Add",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        for value, shift in commuted(node):
            mul = scene.maker(value, "Mul")
            for inner, scale in commuted(mul):
                back = scene.maker(inner, "Reshape")
                norm = (
                    None if back is None else scene.maker(back.inputs[0], "InstanceNormalization")
                )
                if mul is not None and back is not None and norm is not None:
                    return _fuse([norm, back, mul, node], scale, shift, scene)
        return False


def _fuse(nodes: list[ir.Node], scale: ir.Value, shift: ir.Value, scene: Scene) -> bool | Skip:
    norm, back, _, node = nodes
    first = scene.maker(norm.inputs[0], "Reshape")
    x = None if first is None else first.inputs[0]
    if first is None or x is None:
        return False
    if not (scene.is_filled(norm.inputs[1], 1.0) and scene.is_filled(norm.inputs[2], 0.0)):
        return Skip("each group has a scale or shift of its own")
    if scene.target.allows("ort"):
        return Skip("ONNX Runtime has no kernel for GroupNormalization on the CPU")
    refused = lacks_kernel(scene, x, "GroupNormalization", (FLOAT, FLOAT16))
    if refused is not None:
        return refused
    shape, grouped = scene.facts.shape(x), scene.facts.shape(first.outputs[0])
    if shape is None or grouped is None or scene.facts.shape(back.outputs[0]) != shape:
        return Skip("the sizes are not known")
    if len(shape) < 3 or len(grouped) < 3 or shape[0] != grouped[0]:
        return Skip("the sizes are not those of groups, or not known")
    channels, groups = shape[1], grouped[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return Skip("the sizes are not those of groups, or not known")
    old = closed(node, {first, *nodes})
    if old is None:
        return Skip(SHARED)
    tape = ir.tape.Tape()
    vectors = [_by_channel(tape, one, channels, len(shape), scene) for one in (scale, shift)]
    if None in vectors:
        return Skip("scale and shift are no constants, one element for each channel")
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    result = tape.op(
        "GroupNormalization", [x, *vectors], {"num_groups": groups, "epsilon": epsilon}
    )
    return scene.replace(old, tape, {node.outputs[0]: result})


def _by_channel(
    tape: ir.tape.Tape, value: ir.Value, channels: int, rank: int, scene: Scene
) -> ir.Value | None:
    """A constant that broadcasts along the second axis, as a vector."""
    array = scene.facts.array(value)
    if array is None or array.ndim > rank or array.size not in (1, channels):
        return None
    if array.size > 1 and (array.ndim < rank - 1 or array.shape[1 - rank] != channels):
        return None
    dtype = scene.facts.dtype(value)
    flat = array.reshape(-1).repeat(channels // array.size)
    return tape.initializer(ir.tensor(flat, dtype=dtype), name=f"{value.name}_row")
