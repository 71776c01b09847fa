"""Merge the addition of a bias into the matrix product in front of it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx_passes._graph import Proofs, label, opset

__all__ = ["FuseMatmulAdd"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class FuseMatmulAdd(RewritePass):
    """Replace `Add(MatMul(X, W), b)` by `Gemm(X, W, b)`.

    Shapes: X (M, K), W (K, N), b (N,), (1, N), (1,) or (). X must be proven to have two
    dimensions: Gemm takes no more. Opset 7 is the first whose Gemm broadcasts b like Add does.
    Functions are left alone.
    """

    name: ClassVar[str] = "fuse-matmul-add"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = [pair for node in model.graph.all_nodes() if (pair := _pair(node)) is not None]
        if not found or opset(model) < 7:
            return PassResult(model, modified=False)
        proofs, editor = Proofs(model), Editor(model)
        fused, skipped = 0, []
        for product, add, bias in found:
            why_not = _why_not(product, add, bias, proofs)
            if why_not is not None:
                skipped.append(Skipped(label(add), why_not))
                continue
            tape = ir.tape.Tape()
            result = tape.op("Gemm", [*product.inputs, bias], name=product.name)
            editor.replace([product, add], tape, {add.outputs[0]: result}, by=self.name)
            fused += 1
        return PassResult(model, fused > 0, fused, tuple(skipped))


def _pair(add: ir.Node) -> tuple[ir.Node, ir.Node, ir.Value] | None:
    """The product, the addition and the constant bias, where `add` is such an addition."""
    if add.op_type != "Add" or add.domain or len(add.inputs) != 2:
        return None
    for value, bias in (add.inputs, reversed(add.inputs)):
        product = value.producer() if value is not None else None
        if product is None or product.op_type != "MatMul" or product.domain:
            continue
        if bias is not None and constant(bias) is not None:
            return product, add, bias
    return None


def _why_not(product: ir.Node, add: ir.Node, bias: ir.Value, proofs: Proofs) -> str | None:
    if len(product.outputs[0].uses()) > 1 or product.outputs[0].is_graph_output():
        return "the product is read elsewhere too"
    if product.graph is not add.graph:
        return "the product lies in the graph around"
    if any(proofs.rank(value) != 2 for value in product.inputs):
        return "not both factors are known to be matrices"
    if proofs.dtype(bias) not in _FLOATS:
        return "Gemm takes floating-point numbers"
    sizes, columns = proofs.sizes(bias), (proofs.shape(product.inputs[1]) or (None, None))[1]
    if sizes is None or sizes[:-1] not in ((), (1,)) or (sizes and sizes[-1] not in (1, columns)):
        return "the bias is no row"
    return None
