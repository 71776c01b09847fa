"""Recognise root mean square normalisation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, FLOAT16, lacks_kernel
from onnxslim_rx_passes._norms import normalise, quotient
from onnxslim_rx_passes._scaled import scaled, widened

__all__ = ["FuseRmsNorm"]

_OPSET = 23
_TYPES = (FLOAT, FLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseRmsNorm(Rule):
    """Replace root mean square normalisation spelt out by `RMSNormalization` (opset 23).

    `x / sqrt(mean(x^2) + epsilon)` over the last axes (Zhang and Sennrich, 2019), as quotient or
    as product with the inverse root. Step by step, a product with it becomes the scale, and Casts
    of half precision around it go, since the operator computes in float anyway.

    Refused: sizes of the normalised axes that are not known; double, which the operator would
    compute in float; intermediate results that are read elsewhere. Runs after `fuse-layer-norm`,
    whose pattern holds this one.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    roots: ClassVar[tuple[str, ...]] = ("Cast", "Div", "Mul")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _OPSET:
            return False
        if node.op_type == "Cast":
            return widened(node, scene, "RMSNormalization", _TYPES)
        return scaled(node, scene, "RMSNormalization") or _recognise(node, scene)


def _recognise(node: ir.Node, scene: Scene) -> bool | Skip:
    found = quotient(node, scene)
    if found is None or found.base is not found.top:
        return False
    x = found.top
    refused = lacks_kernel(scene, x, "RMSNormalization in its own precision", _TYPES)
    if refused is not None:
        return refused
    return normalise("RMSNormalization", x, found, found.nodes, node, scene)
