"""Merge a scale or a shift in front of a convolution or matrix product into it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._affine import AFFINE, affine, ends_fusion
from onnxslim_rx_passes._products import PRODUCTS, Product, product
from onnxslim_rx_passes._refold import Line, line
from onnxslim_rx_passes._weights import Wide, made_by

__all__ = ["FuseInputScale"]

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseInputScale(Rule):
    """Replace a product of `s x + t`, s and t constant, by a product of x.

    `(s x + t) * W + b = x * (s W) + (b + t * W)`, s and t scalars or vectors along the channels of
    x: BatchNormalization, Mul, Div, Add, Sub in front of Conv, ConvTranspose, Gemm and MatMul, such
    as the normalisation of images. `t * W` sums over the input channels of the group and all taps;
    t must be zero where the product pads (padding puts zeros behind the shift, not in front of it),
    for ConvTranspose, whose borders see fewer taps, and for MatMul unless the Add of a constant row
    is behind it, or x is a matrix, which makes it a Gemm. Computed in float64, stored in the type
    of W.

    Refused: weights that are computed or have other readers; x with fewer channels than W, which
    the constants would broadcast; a shift in 16-bit types, which would be rounded coarsely after
    the sum; the last step of a normalisation or GELU that is spelt out, which ONNX Runtime fuses as
    a whole; what would not be finite.
    """

    name: ClassVar[str] = "fuse-input-scale"
    roots: ClassVar[tuple[str, ...]] = PRODUCTS
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if not any(scene.maker(value, *AFFINE) for value in node.inputs[:2]):
            return False
        target = product(node, scene)
        made = None if target is None else scene.maker(target.x, *AFFINE)
        found = None if made is None else affine(made, scene)
        if target is None or made is None or found is None:
            return False
        if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
            return Skip("the activations are transposed")
        if scene.sole(target.x, made.op_type) is None:
            return Skip(f"the result of {made.op_type} is read elsewhere too")
        fusion = ends_fusion(made, scene)
        if fusion is not None:
            return Skip(f"it ends {fusion}, which runtimes fuse")
        vectors = found.vectors(target.trailing, target.channels_in, _rank(target, found.x, scene))
        if vectors is None:
            return Skip("it varies along another axis than that of the channels")
        scale, shift = vectors
        if not found.by_channel and not _has_all_channels(target, found.x, vectors, scene):
            return Skip("it may make the activations larger")
        behind = None
        if shift is not None and shift.any():
            behind = _bias_behind(target, scene)
            why_not = _no_shift(target, behind, scene)
            if why_not is not None:
                return Skip(why_not)
        else:
            shift = None
        return _replace(made, found.x, behind or Line(target), scale, shift, scene)


def _rank(target: Product, x: ir.Value, scene: Scene) -> int | None:
    rank = scene.facts.rank(x)
    if rank is None and target.node.op_type == "Conv":
        made = scene.maker(target.x, "BatchNormalization")
        return None if made is None else len(target.shape)  # it keeps the rank
    return rank


def _has_all_channels(
    target: Product, x: ir.Value, vectors: tuple[Wide | None, Wide | None], scene: Scene
) -> bool:
    """Whether constants cannot broadcast x along the channels."""
    if all(array is None or array.ndim == 0 for array in vectors):
        return True
    shape = scene.facts.shape(x)
    if shape is None or len(shape) <= target.trailing:
        return False
    return bool(shape[len(shape) - 1 - target.trailing] == target.channels_in)


def _bias_behind(target: Product, scene: Scene) -> Line | None:
    """A MatMul with the Add of a constant row behind it, which can take the shift."""
    result = target.node.outputs[0]
    if target.node.op_type != "MatMul" or not scene.is_private(result):
        return None
    (use,) = result.uses()
    if (
        use.node.op_type != "Add"
        or use.node.domain != ""
        or use.node.graph is not target.node.graph
    ):
        return None
    found = line(use.node.outputs[0], scene)
    is_it = isinstance(found, Line) and found.add is use.node
    return found if is_it and isinstance(found, Line) else None


def _no_shift(target: Product, behind: Line | None, scene: Scene) -> str | None:
    """Why a shift cannot be moved through the product, or None."""
    node = target.node
    if node.op_type == "ConvTranspose":
        return "the borders of ConvTranspose see fewer taps"
    if node.op_type == "Conv":
        automatic = node.attributes.get_string("auto_pad", "NOTSET")
        pads = node.attributes.get_ints("pads", ())
        if any(pads) or automatic not in ("NOTSET", "VALID"):
            return "the product pads with zeros behind the shift"
    is_matrix = scene.facts.rank(target.x) == 2 and not target.on_left and scene.opset >= 7
    if node.op_type == "MatMul" and behind is None and not is_matrix:
        return "MatMul has no bias, and Gemm takes matrices only"
    if node.op_type == "Gemm" and scene.opset < 7:
        return "Gemm of this version does not broadcast the bias"
    if target.dtype in _HALVES:
        return "a shift behind the sum would be rounded to 16 bits"
    return None


def _replace(
    made: ir.Node,
    x: ir.Value,
    before: Line,
    scale: Wide | None,
    shift: Wide | None,
    scene: Scene,
) -> bool | Skip:
    tape, target = ir.tape.Tape(), before.target
    weight = target.refold(None if scale is None else target.by_input(scale), scene, tape)
    if isinstance(weight, Skip):
        return weight
    root = before.nodes[-1]
    if shift is None:
        result = target.again(tape, x=x, weight=weight, bias=target.bias)
        if "beta" in target.node.attributes:
            made_by(result).attributes["beta"] = target.node.attributes["beta"]
        return scene.replace([made, root], tape, {root.outputs[0]: result})
    total = _total(before, shift, scene)
    if isinstance(total, Skip):
        return total
    if before.add is None:
        bias = target.store_bias(total, tape)
        if isinstance(bias, Skip):
            return bias
        result = target.again(tape, x=x, weight=weight, bias=bias)
    else:
        added = before.biased(target.again(tape, x=x, weight=weight), total, tape)
        if isinstance(added, Skip):
            return added
        result = added
    return scene.replace([made, *before.nodes], tape, {root.outputs[0]: result})


def _total(before: Line, shift: Wide, scene: Scene) -> Wide | Skip:
    """The bias, and what the product makes of the shift: () or (channels,)."""
    row = before.target.bias_row(scene) if before.row is None else before.row
    if isinstance(row, Skip):
        return row
    through = before.target.response(shift, scene)
    if through is None:
        return Skip("weights or statistics are computed, or may be overridden")
    with np.errstate(all="ignore"):  # what is not finite is refused
        return through if row is None else row + through
