"""Look for the largest logit, not for the largest probability."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene

__all__ = ["EliminateSoftmaxArgmax"]


@dataclasses.dataclass(frozen=True)
class EliminateSoftmaxArgmax(Rule):
    """Replace `ArgMax(Softmax(x))` along the same axis by `ArgMax(x)`.

    `exp` grows strictly, so the largest element is the same. Logits so close that their
    probabilities round to the same number make a tie after the Softmax; then the place of the
    larger logit is found, which may be another than that of the first: a difference by rounding.
    `LogSoftmax` likewise; `Sigmoid` is 1 for all large numbers, and stays.
    """

    name: ClassVar[str] = "eliminate-softmax-argmax"
    roots: ClassVar[tuple[str, ...]] = ("ArgMax",)

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule`."""
        softmax = scene.maker(node.inputs[0], "Softmax", "LogSoftmax")
        if softmax is None or softmax.graph is not node.graph:
            return False
        if not scene.is_private(softmax.outputs[0]):
            return Skip("the probabilities are read elsewhere too")
        rank = scene.facts.rank(softmax.inputs[0])
        if not rank:
            return Skip("the number of dimensions is not known")
        default = -1 if scene.opset >= 13 else 1
        axis = softmax.attributes.get_int("axis", default) % rank
        if scene.opset < 13 and axis != rank - 1:
            return Skip("the Softmax takes several axes together")
        if axis != node.attributes.get_int("axis", 0) % rank:
            return Skip("the axes differ")
        tape = ir.tape.Tape()
        result = tape.op("ArgMax", [softmax.inputs[0]], node.attributes)
        return scene.replace([softmax, node], tape, {node.outputs[0]: result})
