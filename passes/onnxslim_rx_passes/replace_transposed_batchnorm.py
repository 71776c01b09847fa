"""Scale and shift where BatchNormalization wants the channels elsewhere."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import batchnorm
from onnxslim_rx_passes._weights import cast, emit, fused_name

__all__ = ["ReplaceTransposedBatchnorm"]


@dataclasses.dataclass(frozen=True)
class ReplaceTransposedBatchnorm(Rule):
    """Replace Transpose, BatchNormalization, Transpose back by `Mul(x, s)` and `Add(., t)`.

    BatchNormalization scales along axis 1; models of tokens (N, T, C) bring the channels there and
    back. `s = scale / sqrt(var + epsilon)`, `t = bias - mean s` lie along the axis of x that the
    first Transpose brings to place 1. Two passes over the memory in the place of three, and a
    product behind can take them in.

    Refused: statistics that are computed; training mode; values in between with other readers; a
    second Transpose that is not the inverse of the first.
    """

    name: ClassVar[str] = "replace-transposed-batchnorm"
    roots: ClassVar[tuple[str, ...]] = ("Transpose",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        norm = scene.maker(node.inputs[0], "BatchNormalization")
        before = None if norm is None else scene.maker(norm.inputs[0], "Transpose")
        if norm is None or before is None or scene.opset < 7:  # Mul broadcasts from there on
            return False
        there, back = (one.attributes.get_ints("perm", ()) for one in (before, node))
        if len(there) < 2 or [there[i] for i in back] != list(range(len(there))):
            return False
        if scene.sole(node.inputs[0], norm.op_type) is None:
            return Skip("the result of BatchNormalization is read elsewhere too")
        if scene.sole(norm.inputs[0], "Transpose") is None:
            return Skip("the result of Transpose is read elsewhere too")
        found, x = batchnorm(norm, scene), before.inputs[0]
        dtype = scene.facts.dtype(norm.inputs[1])
        if found is None or x is None or dtype is None:
            return Skip(
                "statistics are computed, or may be overridden, or it runs in training mode"
            )
        behind = len(there) - 1 - there[1]
        tape, result = ir.tape.Tape(), x
        for op_type, array, value in (
            ("Mul", found.scale, norm.inputs[1]),
            ("Add", found.shift, norm.inputs[2]),
        ):
            stored = None if array is None else cast(array.reshape(-1, *[1] * behind), dtype)
            if stored is None:
                return Skip("the result would not be finite")
            constant = emit(tape, stored, fused_name(value, "batchnorm"))
            result = tape.op(op_type, [result, constant])
        return scene.replace([before, norm, node], tape, {node.outputs[0]: result})
