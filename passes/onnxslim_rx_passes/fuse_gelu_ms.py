"""Recognise GELU in models of old opsets, as operators of ONNX Runtime."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._match import FLOAT, SHARED, closed, lacks_kernel
from onnxslim_rx_passes.fuse_gelu import GELU_OPSET, match_gelu

__all__ = ["FuseGeluMs"]


@dataclasses.dataclass(frozen=True)
class FuseGeluMs(Rule):
    """Replace GELU spelt out by `Gelu` or `FastGelu` of com.microsoft, below opset 20.

    Patterns and constants as in `fuse-gelu`. Not among the defaults: other runtimes lack the
    operators. ONNX Runtime finds the exact form by itself, but not the one by tanh as powers.

    Refused: intermediate results that are read elsewhere; types other than float.
    """

    name: ClassVar[str] = "fuse-gelu-ms"
    roots: ClassVar[tuple[str, ...]] = ("Mul", "Div")
    phase: ClassVar[int] = 1

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset >= GELU_OPSET or not scene.target.allows("ort"):
            return False
        found = match_gelu(node, scene)
        if found is None:
            return False
        op_type = "FastGelu" if found.tanh else "Gelu"
        refused = lacks_kernel(scene, found.x, op_type, (FLOAT,))
        if refused is not None:
            return refused
        old = closed(node, found.nodes)
        if old is None:
            return Skip(SHARED)
        tape = ir.tape.Tape()
        result = tape.op(op_type, [found.x], domain="com.microsoft")
        return scene.replace(old, tape, {node.outputs[0]: result})
