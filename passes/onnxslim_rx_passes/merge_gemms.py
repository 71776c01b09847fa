"""Merge two matrix products with constant weights in a row into one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._products import Product, product
from onnxslim_rx_passes._refold import Line, line
from onnxslim_rx_passes._weights import Wide, cast, emit, fused_name, made_by

__all__ = ["MergeGemms"]

_MOST_PRODUCTS = 1 << 31  # multiply-adds that the merge itself may take, about a second
_OPTIONAL_C = 11


@dataclasses.dataclass(frozen=True)
class MergeGemms(Rule):
    """Replace `(X W + b) V + c` by `X (W V) + (b V + c)` where that takes fewer parameters.

    W (K, M), V (M, N); fewer when `K N < K M + M N`, and so are the multiply-adds per row. Two
    MatMuls become a MatMul of any rank, with an Add behind where there was one between them; a Gemm
    among the two makes a Gemm; alpha, beta and transB become part of the weights. Computed in
    float64, stored in the type of W.

    Refused: weights with other readers or computed; a result between the two that others read;
    more parameters than before (so a factorised weight is not multiplied out); what would not be
    finite.
    """

    name: ClassVar[str] = "merge-gemms"
    roots: ClassVar[tuple[str, ...]] = ("Gemm", "MatMul")
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        inner = scene.maker(node.inputs[0], "Gemm", "MatMul", "Add")
        if inner is None:
            return False
        before, second = line(inner.outputs[0], scene), product(node, scene)
        if not isinstance(before, Line) or second is None or second.on_left:
            return False
        first = before.target
        if first.node.op_type not in self.roots or first.on_left:
            return False
        if first.tensor is None or second.tensor is None:
            return False
        why_not = _why_not(before, second, scene)
        return Skip(why_not) if why_not is not None else _merge(before, second, scene)


def _why_not(before: Line, second: Product, scene: Scene) -> str | None:
    first = before.target
    if scene.sole(second.x, before.nodes[-1].op_type) is None:
        return "the result of the first is read elsewhere too"
    if second.node.attributes.get_int("transA", 0):
        return "the activations are transposed"
    if first.shared(scene) or second.shared(scene):
        return "the weight has other readers"
    merged = first.channels_in * second.channels
    between = 0 if before.row is None else before.row.size
    if merged + (second.channels if between else 0) >= between + sum(
        math.prod(one.shape) for one in (first, second)
    ):
        return "the merged weight would not be smaller"
    if merged * first.channels > _MOST_PRODUCTS:
        return "the merge would take long"
    return None


def _merge(before: Line, second: Product, scene: Scene) -> bool | Skip:
    first = before.target
    row = first.bias_row(scene) if before.row is None else before.row
    after = second.bias_row(scene)
    if isinstance(row, Skip) or isinstance(after, Skip):
        return Skip("the bias is computed, or no row")
    w, v = _wide(first), _wide(second)
    bias = None
    with np.errstate(all="ignore"):  # what is not finite is refused
        weight = cast(w @ v, first.dtype)
        if row is not None or after is not None:
            through = np.broadcast_to(0.0 if row is None else row, (len(v),)) @ v
            bias = cast(through + (0.0 if after is None else after), first.dtype)
            if bias is None:
                return Skip("the result would not be finite")
    if weight is None:
        return Skip("the result would not be finite")
    if second.node.op_type == first.node.op_type == "MatMul":
        op_type = "MatMul"
    elif bias is None and scene.opset < _OPTIONAL_C:
        return Skip("Gemm of this version needs a third input")
    else:
        op_type = "Gemm"
    tape = ir.tape.Tape()
    inputs = [first.x, emit(tape, weight, fused_name(second.weight, "weight"))]
    if bias is not None:
        named = second.bias or first.bias or before.addend
        inputs.append(emit(tape, bias, fused_name(named, "bias")))
    result = _emit(tape, op_type, inputs, second.node.name)
    if first.node.attributes.get_int("transA", 0):
        made_by(result).attributes["transA"] = first.node.attributes["transA"]
    return scene.replace([*before.nodes, second.node], tape, {second.node.outputs[0]: result})


def _emit(
    tape: ir.tape.Tape, op_type: str, inputs: Sequence[ir.Value], name: str | None
) -> ir.Value:
    """The product; a MatMul with a third input adds that."""
    if op_type == "Gemm" or len(inputs) == 2:
        return tape.op(op_type, inputs, name=name)
    return tape.op("Add", [tape.op(op_type, inputs[:2], name=name), inputs[2]])


def _wide(one: Product) -> Wide:
    """The weight (in, out), alpha in it."""
    attributes = one.node.attributes
    assert one.tensor is not None  # the caller looked
    weight = one.tensor.numpy().astype(np.float64) * attributes.get_float("alpha", 1.0)
    return weight.T if attributes.get_int("transB", 0) else weight
