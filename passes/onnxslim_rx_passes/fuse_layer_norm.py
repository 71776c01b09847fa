"""Recognise layer normalisation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import BFLOAT16, FLOAT, FLOAT16, lacks_kernel
from onnxslim_rx_passes._norms import deviation, normalise, quotient
from onnxslim_rx_passes._scaled import scaled, shifted, widened

__all__ = ["FuseLayerNorm"]

_OPSET = 17
_TYPES = (FLOAT, FLOAT16, BFLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseLayerNorm(Rule):
    """Replace layer normalisation spelt out by `LayerNormalization` (opset 17).

    `d / sqrt(mean(d^2) + epsilon)` with `d = x - mean(x)` over the last axes (Ba, Kiros and
    Hinton, 2016), as quotient or as product with the inverse root, powers or products, also where
    `d` is computed twice. Step by step, a product with it becomes the scale, a sum the bias, and
    Casts of half precision around it go, since the operator computes in float anyway.

    Refused: sizes of the normalised axes that are not known, or one element in all, which ONNX
    Runtime does not take; double, which the operator would compute in float; intermediate results
    that are read elsewhere.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    roots: ClassVar[tuple[str, ...]] = ("Add", "Cast", "Div", "Mul")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        if node.op_type == "Add":
            return shifted(node, scene, "LayerNormalization")
        if node.op_type == "Cast":
            return widened(node, scene, "LayerNormalization", _TYPES)
        return scaled(node, scene, "LayerNormalization") or _recognise(node, scene)


def _recognise(node: ir.Node, scene: Scene) -> bool | Skip:
    found = quotient(node, scene)
    if found is None:
        return False
    top = deviation(found.top, found.axes, scene)
    base = top if found.base is found.top else deviation(found.base, found.axes, scene)
    if top is None or base is None or top.x is not base.x:
        return False
    x = top.x
    refused = lacks_kernel(scene, x, "LayerNormalization in its own precision", _TYPES)
    if refused is not None:
        return refused
    pattern = {*found.nodes, *top.nodes, *base.nodes}
    return normalise("LayerNormalization", x, found, pattern, node, scene)
