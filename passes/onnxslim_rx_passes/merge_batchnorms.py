"""Merge BatchNormalization with scales and shifts around it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import AFFINE, Affine, affine
from onnxslim_rx_passes._products import PRODUCTS
from onnxslim_rx_passes._weights import TRIFLE, Wide, cast, emit, fused_name, made_by, trifling

__all__ = ["MergeBatchnorms"]


@dataclasses.dataclass(frozen=True)
class MergeBatchnorms(Rule):
    """Replace two of BatchNormalization, Mul, Div, Add and Sub in a row by one BatchNormalization.

    One of the two is a BatchNormalization, the constants of the other are scalars or vectors along
    axis 1 (C). `BN(x) s + t` has the scale `scale s` and the bias `bias s + t`; `BN(s x + t)` the
    scale `scale s` and the bias `bias + f (t + (s - 1) mean)`, `f = scale / sqrt(var + epsilon)`.
    Mean and variance stay. The pair behind a product is left to FuseBatchnorm and FuseOutputScale.

    Refused: constants along another axis or that make the result larger; a first node with other
    readers; training mode; what would not be finite.
    """

    name: ClassVar[str] = "merge-batchnorms"
    roots: ClassVar[tuple[str, ...]] = AFFINE
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if node.op_type == "BatchNormalization":
            made = scene.maker(node.inputs[0], *AFFINE)
        else:
            makers = (scene.maker(value, "BatchNormalization") for value in node.inputs)
            made = next((maker for maker in makers if maker is not None), None)
        if made is None:
            return False
        outer, inner = affine(node, scene), affine(made, scene)
        if outer is None or inner is None or outer.x is not made.outputs[0]:
            return False
        if scene.maker(inner.x, *PRODUCTS) is not None and made.op_type != "BatchNormalization":
            return False
        if scene.sole(outer.x, made.op_type) is None:
            return Skip(f"the result of {made.op_type} is read elsewhere too")
        return _merge(made, node, inner, outer, scene)


def _merge(
    first: ir.Node, second: ir.Node, inner: Affine, outer: Affine, scene: Scene
) -> bool | Skip:
    kept = first if first.op_type == "BatchNormalization" else second
    parts = [trifling(scene, value) for value in kept.inputs[1:5]]
    scale, bias, mean, var = (part for part in parts if part is not None)
    other = outer if kept is first else inner
    rank = scene.facts.rank(inner.x)
    if other.by_channel:
        vectors: tuple[Wide | None, Wide | None] | None = (other.scale, other.shift)
    elif rank is None or rank < 2:
        return Skip("the number of axes is not known")
    else:
        vectors = other.vectors(rank - 2, len(scale), rank)
    if vectors is None:
        return Skip("it varies along another axis than that of the channels")
    if kept is second and not other.by_channel and not _has_channels(inner.x, len(scale), scene):
        return Skip("it may make the activations larger")
    s = np.ones(()) if vectors[0] is None else vectors[0]
    t = np.zeros(()) if vectors[1] is None else vectors[1]
    with np.errstate(all="ignore"):  # what is not finite is refused
        if kept is first:
            new_scale, new_bias = scale * s, bias * s + t
        else:
            factor = scale / np.sqrt(var + kept.attributes.get_float("epsilon", 1e-5))
            new_scale, new_bias = scale * s, bias + factor * (t + (s - 1) * mean)
    if len(scale) > TRIFLE:
        return Skip("the vectors are too long")
    tape = ir.tape.Tape()
    inputs: list[ir.Value | None] = [inner.x]
    for value, array in zip(kept.inputs[1:3], (new_scale, new_bias), strict=True):
        dtype = scene.facts.dtype(value)
        stored = None if dtype is None else cast(array, dtype)
        if stored is None:
            return Skip("the result would not be finite")
        inputs.append(emit(tape, stored, fused_name(value, "batchnorm")))
    result = tape.op("BatchNormalization", [*inputs, *kept.inputs[3:5]], name=kept.name)
    made_by(result).attributes.update(kept.attributes)
    return scene.replace([first, second], tape, {second.outputs[0]: result})


def _has_channels(x: ir.Value, channels: int, scene: Scene) -> bool:
    shape = scene.facts.shape(x)
    return shape is not None and len(shape) >= 2 and bool(shape[1] == channels)
