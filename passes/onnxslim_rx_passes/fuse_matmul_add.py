"""Merge the addition of a bias into the matrix product in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import FLOATS

__all__ = ["FuseMatmulAdd"]

_FIRST_BROADCASTING_GEMM = 7


@dataclasses.dataclass(frozen=True)
class FuseMatmulAdd(Rule):
    """Replace `Add(MatMul(X, W), b)` by `Gemm(X, W, b)`.

    Shapes: X (M, K), W (K, N), b (N,), (1, N), (1,) or (). X must be proven to have two
    dimensions: Gemm takes no more. Opset 7 is the first whose Gemm broadcasts b like Add does.
    """

    name: ClassVar[str] = "fuse-matmul-add"
    roots: ClassVar[tuple[str, ...]] = ("Add",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        if scene.opset < _FIRST_BROADCASTING_GEMM or len(node.inputs) != 2:
            return False
        for value, bias in (node.inputs, node.inputs[::-1]):
            product = scene.maker(value, "MatMul")
            if product is not None and scene.facts.array(bias) is not None:
                break
        else:
            return False
        if scene.sole(value, "MatMul") is None:
            if product.graph is not node.graph:
                return Skip("the product lies in the graph around")
            return Skip("the product is read elsewhere too")
        why_not = _why_not(product, bias, scene)
        if why_not is not None:
            return Skip(why_not)
        tape = ir.tape.Tape()
        result = tape.op("Gemm", [*product.inputs, bias], name=product.name)
        return scene.replace([product, node], tape, {node.outputs[0]: result})


def _why_not(product: ir.Node, bias: ir.Value | None, scene: Scene) -> str | None:
    facts = scene.facts
    if any(facts.rank(value) != 2 for value in product.inputs):
        return "not both factors are known to be matrices"
    if facts.dtype(bias) not in FLOATS:
        return "Gemm takes floating-point numbers"
    sizes, columns = facts.sizes(bias), (facts.shape(product.inputs[1]) or (None, None))[1]
    if sizes is None or sizes[:-1] not in ((), (1,)) or (sizes and sizes[-1] not in (1, columns)):
        return "the bias is no row"
    return None
