"""Let the second of two products in a row add the bias of both."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._conv_composition import pads
from onnxslim_rx_passes._products import Product
from onnxslim_rx_passes._refold import Line, line
from onnxslim_rx_passes._weights import Wide

__all__ = ["MoveBias"]

_MATRICES = ("Gemm", "MatMul")
_OPTIONAL_C = 11


@dataclasses.dataclass(frozen=True)
class MoveBias(Rule):
    """Replace `(X W + b) V + c` by `(X W) V + (b V + c)`.

    Factors of one layer then have one bias, at the end, as those that low-rank passes make. W and V
    are matrices of MatMul and Gemm, the biases of MatMul Adds of constant rows; or kernels of Conv,
    W also of ConvTranspose, and of V all taps are summed up. Only where `c` is there already, or is
    no longer than b.

    Refused: a V that pads with zeros, which come behind b; results between the two that others
    read; biases that are computed; what would not be finite.
    """

    name: ClassVar[str] = "move-bias"
    roots: ClassVar[tuple[str, ...]] = ("Add", "Conv", "Gemm", "MatMul")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        after = line(node.outputs[0], scene)
        if not isinstance(after, Line):
            return False
        before = line(after.target.x, scene)
        if not isinstance(before, Line) or not _are_a_row(before.target, after.target):
            return False
        row = _row(before, scene)
        if row is None or isinstance(row, Skip) or not row.any():
            return False
        why_not = _why_not(before, after, row, scene)
        return Skip(why_not) if why_not is not None else _move(before, after, row, scene)


def _row(one: Line, scene: Scene) -> Wide | Skip | None:
    return one.target.bias_row(scene) if one.row is None else one.row


def _are_a_row(first: Product, second: Product) -> bool:
    """Whether the second contracts the channels of the first."""
    one, other = first.node.op_type, second.node.op_type
    if other == "Conv":
        return one in ("Conv", "ConvTranspose")
    upright = second.node.attributes.get_int("transA", 0)
    sides = first.on_left or second.on_left or bool(upright)
    return one in _MATRICES and other in _MATRICES and not sides


def _why_not(before: Line, after: Line, row: Wide, scene: Scene) -> str | None:
    first, second = before.target, after.target
    if scene.sole(second.x, before.nodes[-1].op_type) is None:
        return "the result of the first is read elsewhere too"
    if second.node.op_type == "Conv" and pads(second):
        return "the second pads with zeros behind the bias of the first"
    own = _row(after, scene)
    if isinstance(own, Skip):
        return own.why
    if own is None and second.channels > max(row.size, 1):
        return "the file would grow by the bias"
    if first.node.op_type == "Gemm" and scene.opset < _OPTIONAL_C:
        return "Gemm of this version needs a third input"
    return None


def _move(before: Line, after: Line, row: Wide, scene: Scene) -> bool | Skip:
    with np.errstate(all="ignore"):  # what is not finite is refused
        shift = after.target.response(row, scene)
    if shift is None:
        return Skip("weights are computed, or may be overridden")
    tape = ir.tape.Tape()
    middle = before.target.again(tape)
    moved = dataclasses.replace(after, target=dataclasses.replace(after.target, x=middle))
    result = moved.again(None, shift, scene, tape)
    if isinstance(result, Skip):
        return result
    old = [*before.nodes, *after.nodes]
    return scene.replace(old, tape, {after.nodes[-1].outputs[0]: result})
