"""Drop a bias that is zero."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import made_by

__all__ = ["EliminateZeroBias"]

_OPTIONAL_C = 11
"""From this version on Gemm may have two inputs."""


@dataclasses.dataclass(frozen=True)
class EliminateZeroBias(Rule):
    """Replace `Conv(X, W, 0)` by `Conv(X, W)`; ConvTranspose and, from opset 11 on, Gemm likewise.

    Exact, but for the sign of a zero. Gemm whose C has a size that the product does not have, so
    that C is wrong or the product broadcast, does not run either way.
    """

    name: ClassVar[str] = "eliminate-zero-bias"
    roots: ClassVar[tuple[str, ...]] = ("Conv", "ConvTranspose", "Gemm")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return False
        if not scene.is_filled(node.inputs[2], 0.0):
            return False
        if node.op_type == "Gemm" and scene.opset < _OPTIONAL_C:
            return Skip("Gemm of this version needs a third input")
        tape = ir.tape.Tape()
        result = tape.op(node.op_type, node.inputs[:2], name=node.name)
        made_by(result).attributes.update({k: a for k, a in node.attributes.items() if k != "beta"})
        return scene.replace([node], tape, {node.outputs[0]: result})
