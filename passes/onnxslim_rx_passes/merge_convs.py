"""Merge convolutions in a row into one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._conv_composition import Composition, composition, pads
from onnxslim_rx_passes._products import Product, product
from onnxslim_rx_passes._weights import Wide, cast, emit, fused_name

__all__ = ["MergeConvs"]

_MOST_PRODUCTS = 1 << 31  # multiply-adds that the merge itself may take, about a second
_LONGEST = 5  # convolutions in a row: pointwise, one for each of three axes, pointwise


@dataclasses.dataclass(frozen=True)
class MergeConvs(Rule):
    """Replace `Conv(Conv(X, W, b), V, c)` by one Conv where that takes fewer parameters.

    Two to five in a row of which, along each axis, one alone has a kernel of more than one
    position, a stride or padding: pointwise and k x k in any order, k x 1 and 1 x k, depthwise ones
    between pointwise ones. W (M, C, ...), V (N, M, ...), merged (N, C, ...): `V W` summed over M,
    the bias `V b + c` summed over the taps of V too. The multiply-adds per position of the result
    are the parameters at least, and those of the merged one at most, so fewer of these are fewer of
    those. Where V pads, b must be zero: padding puts zeros behind it. Computed in float64, stored
    in the type of W.

    Refused: weights with other readers or computed; a result inside that others read; more
    parameters than before (a factorised convolution is not multiplied out); what would not be
    finite.
    """

    name: ClassVar[str] = "merge-convs"
    roots: ClassVar[tuple[str, ...]] = ("Conv",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        last = product(node, scene)
        if last is None:
            return False
        row = [last]
        why: Skip | None = None
        while len(row) < _LONGEST:
            inner = scene.maker(row[0].x, "Conv")
            first = None if inner is None else product(inner, scene)
            if first is None:
                break
            row.insert(0, first)
            one = composition(row)
            if one is None:  # nor are longer rows
                break
            reason = _never(row, scene)
            if reason is not None:
                return why or Skip(reason)
            answer = _answer(one, scene)
            if answer is True:
                return True
            if isinstance(answer, Skip):
                why = answer
        return False if why is None else why


def _never(row: Sequence[Product], scene: Scene) -> str | None:
    """Why neither this row nor a longer one can be merged, as far as its first two tell."""
    first, second = row[:2]
    if scene.sole(second.x, "Conv") is None:
        return "the result of the first is read elsewhere too"
    if first.tensor is None or second.tensor is None:
        return "weights are computed, or may be overridden"
    if first.shared(scene) or second.shared(scene):
        return "the weight has other readers"
    return None


def _answer(one: Composition, scene: Scene) -> bool | Skip:
    if one.elements >= sum(math.prod(part.shape) for part in one.row):
        return Skip("the merged weight would not be smaller")
    if one.products > _MOST_PRODUCTS:
        return Skip("the merge would take long")
    rows: list[Wide | None] = []
    for part in one.row:
        row = part.bias_row(scene)
        if isinstance(row, Skip):
            return Skip("the bias is computed, or may be overridden")
        if pads(part) and any(before is not None and before.any() for before in rows):
            return Skip("the second pads with zeros behind the bias of the first")
        rows.append(row)
    return _merge(one, rows, scene)


def _merge(one: Composition, rows: Sequence[Wide | None], scene: Scene) -> bool | Skip:
    first, last = one.row[0], one.row[-1]
    with np.errstate(all="ignore"):  # what is not finite is refused
        weight = cast(np.ascontiguousarray(one.kernel()), first.dtype)
        total = one.bias(rows)
        bias = None if total is None else cast(total, first.dtype)
    if weight is None or (total is not None and bias is None):
        return Skip("the result would not be finite")
    tape = ir.tape.Tape()
    inputs = [first.x, emit(tape, weight, fused_name(last.weight, "weight"))]
    if bias is not None:
        named = next((part.bias for part in reversed(one.row) if part.bias is not None), None)
        inputs.append(emit(tape, bias, fused_name(named, "bias")))
    result = tape.op("Conv", inputs, one.attributes, name=last.node.name)
    old = [part.node for part in one.row]
    return scene.replace(old, tape, {last.node.outputs[0]: result})
