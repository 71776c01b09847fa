"""Merge a scale or a shift behind a convolution or matrix product into it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import affine
from onnxslim_rx_passes._refold import LINES, refold

__all__ = ["FuseOutputScale"]


@dataclasses.dataclass(frozen=True)
class FuseOutputScale(Rule):
    """Replace Mul, Div, Add or Sub of a product's result and constants by the product alone.

    `(X * W + b) s + t = X * (W s) + (b s + t)`, per output channel: s and t are scalars or vectors
    along the channels, in any shape that broadcasts so. W is that of Conv, ConvTranspose (any
    number of axes), Gemm or MatMul, on either side of MatMul. `MatMul(X, W) + b` with a constant
    row b is scaled as a whole; the shift of a MatMul is FuseMatmulAdd's. Computed in float64,
    stored in the type of W.

    Refused: constants that vary along another axis or make the result larger; weights that are
    computed or have other readers; results with other readers; what would not be finite.
    """

    name: ClassVar[str] = "fuse-output-scale"
    roots: ClassVar[tuple[str, ...]] = ("Add", "Div", "Mul", "Sub")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if not any(scene.maker(value, *LINES) for value in node.inputs):
            return False
        found = affine(node, scene)
        if found is None or (found.shift is not None and scene.maker(found.x, "MatMul", "Add")):
            return False
        return refold(node, found, scene)
