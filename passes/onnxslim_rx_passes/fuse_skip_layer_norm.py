"""Let a layer normalisation of ONNX Runtime add the residual in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, SHARED, lacks_kernel

__all__ = ["FuseSkipLayerNorm"]

_MS = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class FuseSkipLayerNorm(Rule):
    """Replace a sum of two tensors and their layer normalisation by `SkipLayerNormalization`.

    Not among the defaults: other runtimes lack the operator of com.microsoft. ONNX Runtime does
    the same when it loads a model in float.

    Refused: sums that are read elsewhere; sizes that are not proven to be the same, other than
    three axes, of which the last is normalised; types other than float (in float16 the operator
    takes four times as long as what it replaces).
    """

    name: ClassVar[str] = "fuse-skip-layer-norm"
    roots: ClassVar[tuple[str, ...]] = ("LayerNormalization",)
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        add = scene.maker(node.inputs[0], "Add")
        if add is None or not scene.target.allows("ort"):
            return False
        x, skip = add.inputs
        refused = lacks_kernel(scene, x, "SkipLayerNormalization", (FLOAT,))
        if refused is not None:
            return refused
        shape = scene.facts.shape(x)
        if shape is None or len(shape) != 3 or scene.facts.shape(skip) != shape:
            return Skip("the sizes are not proven to be the same, on three axes")
        if node.attributes.get_int("axis", -1) not in (-1, 2):
            return Skip("more than the last axis is normalised")
        if scene.facts.shape(node.inputs[1]) != shape[2:]:
            return Skip("the scale is not as long as the last axis, or not known to be")
        if any(value.name or value.uses() for value in node.outputs[1:]):
            return Skip("mean or deviation are read")
        if add.graph is not node.graph or not scene.is_private(add.outputs[0]):
            return Skip(SHARED)
        tape = ir.tape.Tape()
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        inputs = [x, skip, *node.inputs[1:]]
        result = tape.op("SkipLayerNormalization", inputs, {"epsilon": epsilon}, domain=_MS)
        return scene.replace([add, node], tape, {node.outputs[0]: result})
