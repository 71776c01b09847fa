"""Remove quantization of what has just been dequantized the same way."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT
from onnxslim_rx_passes._quantized import parameters

__all__ = ["CancelDequantizeQuantize"]

_LARGEST = {FLOAT: 1 << 16, ir.DataType.FLOAT16: 1 << 8}
"""Differences from the zero point, at most, that survive a product and a quotient in this type:
two roundings, each by half a unit in the last place, move them by less than a quarter."""


@dataclasses.dataclass(frozen=True)
class CancelDequantizeQuantize(Rule):
    """Remove `QuantizeLinear(DequantizeLinear(q, s, z), s, z)`, which is `q`.

    Exact: with `|q - z|` below 2^16, `round((q - z) s / s)` is `q - z` in float; in float16 up to
    2^8. Quantization behind dequantization cancels, not the other way round: that rounds.

    Refused: scales or zero points that differ or are no constants; scales that are not positive
    and normal, or so large that a product overflows; types other than integers of 4, 8 or 16 bits.
    """

    name: ClassVar[str] = "cancel-dequantize-quantize"
    roots: ClassVar[tuple[str, ...]] = ("QuantizeLinear",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        first = scene.maker(node.inputs[0], "DequantizeLinear")
        if first is None or first.inputs[0] is None:
            return False
        before, after = parameters(first, scene), parameters(node, scene)
        if before is None or after is None:
            return Skip("a scale or zero point is no constant")
        q = first.inputs[0]
        if before.dtype != after.dtype or scene.facts.dtype(q) != after.dtype:
            return Skip("the types of the quantized numbers differ")
        same = before.axis == after.axis and before.block == after.block
        if not same or not _equal(before.scale, after.scale) or not _equal(before.zero, after.zero):
            return Skip("scales or zero points differ")
        inner = scene.facts.dtype(node.inputs[0])
        if not inner == before.precision == after.precision or after.precision not in _LARGEST:
            return Skip("the scale is of another type than float or float16")
        spread = after.highest - after.lowest
        if spread > _LARGEST[after.precision]:
            return Skip("float16 does not keep numbers of 16 bits apart")
        limits = np.finfo(after.scale.dtype)
        with np.errstate(all="ignore"):
            products = after.scale * after.scale.dtype.type(spread)
        if not ((after.scale >= limits.tiny) & np.isfinite(products)).all():
            return Skip("a scale is not positive, or out of the range of its type")
        if not scene.can_forward(node.outputs[0], q):
            return Skip("the graph returns it under a name of its own")
        return scene.replace([first, node], ir.tape.Tape(), {node.outputs[0]: q}, keep=True)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.size == b.size and bool((a.reshape(-1) == b.reshape(-1)).all())
