"""Merge two convolutions, one of them pointwise, into one."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._products import Product, product
from onnxslim_rx_passes._weights import Wide, cast, emit, fused_name, made_by

__all__ = ["MergeConvs"]

_MOST_PRODUCTS = 1 << 31  # multiply-adds that the merge itself may take, about a second


@dataclasses.dataclass(frozen=True)
class MergeConvs(Rule):
    """Replace `Conv(Conv(X, W, b), V, c)` by one Conv where that takes fewer parameters.

    One of the two is pointwise: kernel 1, stride 1, no padding. W (M, C, ...), V (N, M, ...),
    merged (N, C, ...): `V W` summed over M, the bias `V b + c` summed over the taps of V too. The
    multiply-adds per position of the result are the parameters, so fewer of these are fewer of
    those. Where V pads, b must be zero: padding puts zeros behind it. Computed in float64, stored
    in the type of W.

    Refused: groups; weights with other readers or computed; a result between the two that others
    read; more parameters than before (a factorised convolution is not multiplied out); what would
    not be finite.
    """

    name: ClassVar[str] = "merge-convs"
    roots: ClassVar[tuple[str, ...]] = ("Conv",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        inner = scene.maker(node.inputs[0], "Conv")
        if inner is None:
            return False
        first, second = product(inner, scene), product(node, scene)
        if first is None or second is None:
            return False
        if not (_is_pointwise(first) or _is_pointwise(second)):
            return False
        why_not = _why_not(first, second, scene)
        return Skip(why_not) if why_not is not None else _merge(first, second, scene)


def _is_pointwise(conv: Product) -> bool:
    attributes = conv.node.attributes
    return (
        all(size == 1 for size in conv.shape[2:])
        and all(step == 1 for step in attributes.get_ints("strides", ()))
        and not any(attributes.get_ints("pads", ()))
    )


def _why_not(first: Product, second: Product, scene: Scene) -> str | None:
    if scene.sole(second.x, "Conv") is None:
        return "the result of the first is read elsewhere too"
    if first.groups != 1 or second.groups != 1:
        return "it has groups"
    if first.tensor is None or second.tensor is None:
        return "weights are computed, or may be overridden"
    if first.shared(scene) or second.shared(scene):
        return "the weight has other readers"
    taps = math.prod(first.shape[2:]) * math.prod(second.shape[2:])
    merged = second.channels * first.channels_in * taps
    if merged >= math.prod(first.shape) + math.prod(second.shape):
        return "the merged weight would not be smaller"
    if merged * first.channels > _MOST_PRODUCTS:
        return "the merge would take long"
    return None


def _merge(first: Product, second: Product, scene: Scene) -> bool | Skip:
    before, after = first.bias_row(scene), second.bias_row(scene)
    if isinstance(before, Skip) or isinstance(after, Skip):
        return Skip("the bias is computed, or may be overridden")
    outer = second if not _is_pointwise(second) else first  # whose window the merged one has
    if outer is second and before is not None and before.any() and _pads(second.node):
        return Skip("the second pads with zeros behind the bias of the first")
    w, v = _wide(first), _wide(second)
    with np.errstate(all="ignore"):  # what is not finite is refused
        if outer is first:
            merged = np.tensordot(v.reshape(v.shape[:2]), w, 1)
        else:
            merged = np.moveaxis(np.tensordot(v, w.reshape(w.shape[:2]), (1, 0)), -1, 1)
        weight = cast(np.ascontiguousarray(merged), first.dtype)
        bias = None
        if before is not None or after is not None:
            taps = v.reshape(*v.shape[:2], -1).sum(2)
            through = taps @ np.broadcast_to(0.0 if before is None else before, (v.shape[1],))
            bias = cast(through + (0.0 if after is None else after), first.dtype)
            if bias is None:
                return Skip("the result would not be finite")
    if weight is None:
        return Skip("the result would not be finite")
    tape = ir.tape.Tape()
    inputs = [first.x, emit(tape, weight, fused_name(second.weight, "weight"))]
    if bias is not None:
        inputs.append(emit(tape, bias, fused_name(second.bias or first.bias, "bias")))
    result = tape.op("Conv", inputs, name=second.node.name)
    made_by(result).attributes.update(outer.node.attributes)
    return scene.replace([first.node, second.node], tape, {second.node.outputs[0]: result})


def _pads(node: ir.Node) -> bool:
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    return any(node.attributes.get_ints("pads", ())) or automatic.startswith("SAME")


def _wide(conv: Product) -> Wide:
    assert conv.tensor is not None  # the caller looked
    return conv.tensor.numpy().astype(np.float64)
