"""Merge BatchNormalization into the convolution or matrix product in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import batchnorm, training
from onnxslim_rx_passes._products import PRODUCTS
from onnxslim_rx_passes._refold import refold

__all__ = ["FuseBatchnorm"]


@dataclasses.dataclass(frozen=True)
class FuseBatchnorm(Rule):
    """Replace BatchNormalization of a convolution or matrix product by the latter alone.

    `BN(X * W + b)` is `X * W' + b'`: with `s = scale / sqrt(var + epsilon)`, per output channel,
    `W' = W s`, `b' = (b - mean) s + B`.
    Shapes: W (M, C/g, ...) for Conv, (C, M/g, ...) for ConvTranspose, (K, M) or (M, K) for Gemm,
    (K, M) for MatMul of matrices, which becomes Gemm; s, b and all of the normalisation's (M,).
    Computed in float64, stored in the type of W.

    Refused: weights or statistics that are no constants or not finite, weights with other
    readers, Y with other readers, training mode.
    """

    name: ClassVar[str] = "fuse-batchnorm"
    roots: ClassVar[tuple[str, ...]] = ("BatchNormalization",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.maker(node.inputs[0], *PRODUCTS) is None:
            return Skip("no convolution or matrix product is in front of it")
        why_not = training(node, scene)
        if why_not is not None:
            return Skip(why_not)
        found = batchnorm(node, scene)
        if found is None:
            return Skip("weights or statistics are computed, or may be overridden")
        return refold(node, found, scene)
