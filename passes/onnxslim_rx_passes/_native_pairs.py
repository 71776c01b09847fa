"""Two products with thin constants become `LowRankMatMul`, whose middle never leaves the device."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers
from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._native_domain import DOMAIN, TYPES, NativeRule, folds
from onnxslim_rx_passes._native_products import plain_gemm
from onnxslim_rx_passes._native_weights import wrappers

__all__ = ["NativePair"]


@dataclasses.dataclass(frozen=True)
class NativePair(NativeRule):
    """`(X P) Q`, as `factorize-gemm` emits it, becomes `LowRankMatMul`.

    P (K, R) and Q (R, N) are constant matrices; R is so small that the pair takes fewer
    multiply-adds than one product would.
    """

    roots: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        middle, q = node.inputs[0], node.inputs[1]
        first = scene.maker(middle, "MatMul", "Gemm")
        second = scene.facts.sizes(q)
        if first is None or middle is None or second is None or len(second) != 2 or not folds(q):
            return False
        x, p = first.inputs[0], first.inputs[1]
        shape = scene.facts.sizes(p)
        if shape is None or len(shape) != 2 or not folds(p) or len(first.inputs) > 2:
            return False
        tape = ir.tape.Tape()
        outer, inner = (
            plain_gemm(node, scene, second, tape),
            plain_gemm(first, scene, shape, tape),
        )
        if isinstance(outer, Skip) or isinstance(inner, Skip):
            return outer if isinstance(outer, Skip) else inner if isinstance(inner, Skip) else False
        k, rank = reversed(shape) if inner[0] else shape
        columns = second[0] if outer[0] else second[1]
        if scene.facts.dtype(x) not in TYPES or scene.facts.dtype(q) != scene.facts.dtype(x):
            return Skip("its type is not known, or not computed with")
        if rank * (k + columns) >= k * columns:
            return Skip("one product would take fewer multiply-adds")
        if first.graph is not node.graph or not scene.is_private(middle):
            return Skip("the product in the middle is read elsewhere too")
        factors = [_upright(p, inner[0], tape), _upright(q, outer[0], tape)]
        old = [*_turned_away(first, inner[0]), *_turned_away(node, outer[0]), first, node]
        given = [x, *factors, *([] if outer[1] is None else [outer[1]])]
        result = tape.op("LowRankMatMul", given, domain=DOMAIN)
        return scene.replace(old, tape, {node.outputs[0]: result}, keep=True)


def _upright(factor: ir.Value | None, turned: bool, tape: ir.tape.Tape) -> ir.Value | None:
    """A factor as `X` is multiplied with it."""
    array = numbers(factor) if turned else None
    if factor is None or array is None:
        return factor
    stored = ir.tensor(np.ascontiguousarray(array.T), name=f"{factor.name}.turned")
    return tape.initializer(stored)


def _turned_away(product: ir.Node, turned: bool) -> list[ir.Node]:
    """Nodes around a factor that nobody reads when it has been turned."""
    factor = product.inputs[1]
    return wrappers(factor, product) if turned and factor is not None else []
