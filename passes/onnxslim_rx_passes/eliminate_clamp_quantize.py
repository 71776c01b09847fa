"""Remove clamps that quantization repeats."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import SHARED, clamp
from onnxslim_rx_passes._quantized import parameters

__all__ = ["EliminateClampQuantize"]


@dataclasses.dataclass(frozen=True)
class EliminateClampQuantize(Rule):
    """Remove Relu or Clip in front of a QuantizeLinear that saturates no later.

    `clip(x, low, high)` changes nothing if `low` is quantized to the least number and `high` to
    the largest, since quantization is monotonic: so for Relu where the zero point is the least.

    Refused: clamps that other nodes read; bounds inside the range of the quantized numbers; scales
    or zero points that are not constant, scales that are not positive.
    """

    name: ClassVar[str] = "eliminate-clamp-quantize"
    roots: ClassVar[tuple[str, ...]] = ("QuantizeLinear",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        found = clamp(scene, node.inputs[0])
        if found is None or any(one.graph is not node.graph for one in found.nodes):
            return False
        known = parameters(node, scene)
        if known is None or not ((known.scale > 0) & np.isfinite(known.scale)).all():
            return Skip("scale and zero point are no constants, or the scale is not positive")
        with np.errstate(all="ignore"):
            scale = known.scale.astype(np.float64)
            low = np.rint(found.low / scale) + known.zero
            high = np.rint(found.high / scale) + known.zero
        if not ((low <= known.lowest) & (high >= known.highest)).all():
            return Skip("the clamp is tighter than the range of the quantized numbers")
        if not scene.is_private(found.nodes[-1].outputs[0]):
            return Skip(SHARED)
        if scene.facts.rank(found.x) is None:
            return Skip("the number of axes is not known")
        tape = ir.tape.Tape()
        result = tape.op("QuantizeLinear", [found.x, *node.inputs[1:]], node.attributes)
        return scene.replace([*found.nodes, node], tape, {node.outputs[0]: result})
