"""Products with the bias behind them, and what becomes of them scaled and shifted."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._affine import Affine, affine
from onnxslim_rx_passes._products import PRODUCTS, Product, product
from onnxslim_rx_passes._weights import TRIFLE, Wide, cast, emit, fused_name

__all__ = ["LINES", "Line", "line", "refold"]

LINES = (*PRODUCTS, "Add")
"""Operators that a `Line` may end in."""

_FIRST_BROADCASTING_GEMM = 7


@dataclasses.dataclass(frozen=True)
class Line:
    """`X W + b` of which nobody else reads a part.

    Args:
        target: the product.
        add: the node that adds the bias to a MatMul, or None.
        row: what it adds, () or (channels,).
        addend: the constant that it reads.
    """

    target: Product
    add: ir.Node | None = None
    row: Wide | None = None
    addend: ir.Value | None = None

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes, in order."""
        return [self.target.node] if self.add is None else [self.target.node, self.add]

    def again(
        self, scale: Wide | None, shift: Wide | None, scene: Scene, tape: ir.tape.Tape
    ) -> ir.Value | Skip:
        """`scale * (x W + b) + shift = x (W scale) + (b scale + shift)` on `tape`.

        Args:
            scale: () or (channels,); None: 1.
            shift: likewise; None: 0.
            scene: where the line lies.
            tape: gets the new nodes.
        """
        target = self.target
        row = target.bias_row(scene) if self.row is None else self.row
        if isinstance(row, Skip):
            return row
        with np.errstate(all="ignore"):  # what is not finite is refused
            if row is not None and scale is not None:
                row = row * scale
            if shift is not None:
                row = shift if row is None else row + shift
        weight = target.refold(None if scale is None else target.by_output(scale), scene, tape)
        if isinstance(weight, Skip) or row is None:
            return weight if isinstance(weight, Skip) else target.again(tape, weight=weight)
        if self.add is not None:
            return self.biased(target.again(tape, weight=weight), row, tape)
        why_not = _no_bias(target, scene)
        if why_not is not None:
            return Skip(why_not)
        bias = target.store_bias(row, tape)
        return bias if isinstance(bias, Skip) else target.again(tape, weight=weight, bias=bias)

    def biased(self, result: ir.Value, row: Wide, tape: ir.tape.Tape) -> ir.Value | Skip:
        """What the Add of the line makes of `result`, with another row () or (channels,)."""
        assert self.add is not None
        assert self.row is not None  # the caller looked
        if row.size > max(self.row.size, TRIFLE):
            return Skip("the file would grow by the bias")
        stored = cast(row, self.target.dtype)
        if stored is None:
            return Skip("the result would not be finite")
        name = fused_name(self.addend, f"{self.add.name or self.add.op_type}.bias")
        return tape.op("Add", [result, emit(tape, stored, name)], name=self.add.name)


def _no_bias(target: Product, scene: Scene) -> str | None:
    if target.node.op_type == "MatMul" and (target.on_left or scene.facts.rank(target.x) != 2):
        return "MatMul has no bias, and Gemm takes matrices only"
    if target.node.op_type in ("MatMul", "Gemm") and scene.opset < _FIRST_BROADCASTING_GEMM:
        return "Gemm of this version does not broadcast the bias"
    return None


def line(value: ir.Value, scene: Scene) -> Line | Skip | None:
    """The product that makes `value`, its bias with it; None where there is none.

    Only the readers of `value` itself are not looked at.
    """
    made = scene.maker(value, *LINES)
    if made is None:
        return None
    if made.op_type != "Add":
        target = product(made, scene)
        if target is None:
            computed = made.op_type != "MatMul"
            return (
                Skip("weights or statistics are computed, or may be overridden")
                if computed
                else None
            )
        return Line(target)
    if not any(scene.maker(one, "MatMul") for one in made.inputs):
        return None
    found = affine(made, scene)
    inner = None if found is None else scene.maker(found.x, "MatMul")
    target = None if inner is None else product(inner, scene)
    if found is None or inner is None or target is None or target.on_left:
        return None
    if scene.sole(found.x, "MatMul") is None:
        return Skip("the result of MatMul is read elsewhere too")
    vectors = found.vectors(0, target.channels, target.rank(scene))
    if vectors is None or vectors[1] is None:
        return Skip("the bias is no row")
    addend = next(one for one in made.inputs if one is not found.x)
    return Line(target, made, vectors[1], addend)


def refold(node: ir.Node, found: Affine, scene: Scene) -> bool | Skip:
    """Merge `node`, which scales and shifts the result of a product, into the product.

    Args:
        node: goes.
        found: what it computes.
        scene: where it lies.
    """
    made = scene.maker(found.x, *LINES)
    if made is None:
        return False
    before = line(found.x, scene)
    if before is None or isinstance(before, Skip):
        return False if before is None else before
    if scene.sole(found.x, made.op_type) is None:
        if made.graph is not node.graph:
            return Skip(f"{made.op_type} lies in the graph around")
        return Skip(f"the result of {made.op_type} is read elsewhere too")
    target = before.target
    vectors = found.vectors(target.trailing, target.channels, target.rank(scene))
    if vectors is None:
        return Skip("it varies along another axis than that of the channels")
    tape = ir.tape.Tape()
    result = before.again(*vectors, scene, tape)
    if isinstance(result, Skip):
        return result
    return scene.replace([*before.nodes, node], tape, {node.outputs[0]: result})
