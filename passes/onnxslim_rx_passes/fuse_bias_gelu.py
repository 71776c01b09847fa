"""Let a GELU of ONNX Runtime add the bias in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, SHARED, commuted, lacks_kernel

__all__ = ["FuseBiasGelu"]

_MS = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class FuseBiasGelu(Rule):
    """Replace a sum with a vector and a GELU by `BiasGelu` or `FastGelu` of com.microsoft.

    Not among the defaults: other runtimes lack the operators.

    Refused: vectors that are not as long as the last axis, or not proven to be; sums that are read
    elsewhere; types other than float.
    """

    name: ClassVar[str] = "fuse-bias-gelu"
    roots: ClassVar[tuple[str, ...]] = ("Gelu", f"{_MS}::Gelu", f"{_MS}::FastGelu")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        add = scene.maker(node.inputs[0], "Add")
        if add is None or not scene.target.allows("ort") or any(node.inputs[1:]):
            return False
        for x, bias in commuted(add):
            length, shape = scene.facts.sizes(bias), scene.facts.shape(x)
            if length is None or len(length) != 1 or not shape or shape[-1:] != length:
                continue
            tanh = node.attributes.get_string("approximate", "none") == "tanh"
            op_type = "FastGelu" if tanh or node.op_type == "FastGelu" else "BiasGelu"
            refused = lacks_kernel(scene, x, op_type, (FLOAT,))
            if refused is not None:
                return refused
            if add.graph is not node.graph or not scene.is_private(add.outputs[0]):
                return Skip(SHARED)
            tape = ir.tape.Tape()
            result = tape.op(op_type, [x, bias], domain=_MS)
            return scene.replace([add, node], tape, {node.outputs[0]: result})
        return Skip("what is added is no vector as long as the last axis")
