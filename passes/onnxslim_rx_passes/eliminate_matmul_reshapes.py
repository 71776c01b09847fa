"""Drop reshapes around a matrix product that only flatten and restore the leading axes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.passbase import Skip
from onnxslim_rx.rules import Rule, Scene
from onnxslim_rx_passes._weights import emit, fused_name, tensor_of

__all__ = ["EliminateMatmulReshapes"]


@dataclasses.dataclass(frozen=True)
class EliminateMatmulReshapes(Rule):
    """Replace `Reshape(MatMul(Reshape(X), W))` by `MatMul(X, W)`.

    X (..., K) and the result (..., N) have the same leading axes, W (K, N) is a matrix, and the
    first Reshape keeps the last axis: so rows stay rows, in order. The same for Gemm, which
    becomes MatMul and Add, where that takes fewer nodes: with alpha and beta 1, a row for C, and W
    a constant where it is transposed. Shapes may be symbolic, but must be proven equal.
    """

    name: ClassVar[str] = "eliminate-matmul-reshapes"
    roots: ClassVar[tuple[str, ...]] = ("Reshape",)
    phase: ClassVar[int] = 2

    def rewrite(self, node: ir.Node, scene: Scene) -> bool | Skip:
        """See `Rule.rewrite`."""
        product = scene.maker(node.inputs[0], "MatMul", "Gemm")
        flatten = None if product is None else scene.maker(product.inputs[0], "Flatten", "Reshape")
        if product is None or flatten is None or flatten.graph is not node.graph:
            return False
        if scene.sole(node.inputs[0], product.op_type) is None:
            return Skip("the product is read elsewhere too")
        x, weight = flatten.inputs[0], product.inputs[1]
        if x is None or weight is None:
            return False
        if not _keeps_rows(x, product, node, scene):
            return Skip("the leading axes are not proven to be the same")
        tape = ir.tape.Tape()
        if product.op_type == "MatMul":
            result = tape.op("MatMul", [x, weight], name=product.name)
        else:
            if scene.sole(product.inputs[0], flatten.op_type) is None:
                return Skip("others read the flattened matrix: there would be as many nodes")
            found = _unfold(x, product, scene, tape)
            if isinstance(found, Skip):
                return found
            result = found
        return scene.replace([flatten, product, node], tape, {node.outputs[0]: result}, keep=True)


def _keeps_rows(x: ir.Value, product: ir.Node, node: ir.Node, scene: Scene) -> bool:
    """Whether `node` gives the product of the rows of x, in the shape of x."""
    facts = scene.facts
    before, flat = facts.shape(x), facts.shape(product.inputs[0])
    made, after = facts.shape(product.outputs[0]), facts.shape(node.outputs[0])
    if not before or not flat or not made or not after or facts.rank(product.inputs[1]) != 2:
        return False
    return (
        len(before) == len(after)
        and flat[-1] == before[-1]
        and flat[-1] != 0
        and after[-1] == made[-1]
        and all(a == b for a, b in zip(before[:-1], after[:-1], strict=True))
    )


def _unfold(x: ir.Value, product: ir.Node, scene: Scene, tape: ir.tape.Tape) -> ir.Value | Skip:
    """A Gemm of matrices as MatMul and Add of whatever rank."""
    attributes, weight = product.attributes, product.inputs[1]
    ones = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
    if not ones or attributes.get_int("transA", 0) != 0:
        return Skip("alpha, beta or transA is not the default")
    bias = product.inputs[2] if len(product.inputs) > 2 else None
    if bias is not None:
        sizes, before = scene.facts.shape(bias), scene.facts.rank(x)
        if (
            sizes is None
            or before is None
            or len(sizes) > before
            or any(s != 1 for s in sizes[:-1])
        ):
            return Skip("the bias is no row")
    if attributes.get_int("transB", 0):
        tensor = tensor_of(weight, scene)
        if tensor is None or weight is None or not scene.is_private(weight):
            return Skip("the transposed weight is computed, or has other readers")
        weight = emit(tape, tensor.numpy().T.copy(), fused_name(weight, "weight"))
    if bias is None:
        return tape.op("MatMul", [x, weight], name=product.name)
    result = tape.op("MatMul", [x, weight])
    return tape.op("Add", [result, bias], name=product.name)
