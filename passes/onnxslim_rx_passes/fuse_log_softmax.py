"""Take the logarithm of a Softmax in one step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["FuseLogSoftmax"]


@dataclasses.dataclass(frozen=True)
class FuseLogSoftmax(Rule):
    """Replace `Log(Softmax(x))` by `LogSoftmax(x)`.

    The logarithm stays finite where a probability is too small for its type, and `Log` would
    give minus infinity.
    """

    name: ClassVar[str] = "fuse-log-softmax"
    roots: ClassVar[tuple[str, ...]] = ("Log",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        softmax = scene.maker(node.inputs[0], "Softmax")
        if softmax is None or softmax.graph is not node.graph:
            return False
        if not scene.is_private(softmax.outputs[0]):
            return Skip("the probabilities are read elsewhere too")
        tape = ir.tape.Tape()
        result = tape.op("LogSoftmax", softmax.inputs, softmax.attributes)
        return scene.replace([softmax, node], tape, {node.outputs[0]: result})
