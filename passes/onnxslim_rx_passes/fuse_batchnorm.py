"""Merge BatchNormalization into the convolution or matrix product in front of it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skip, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx_passes._graph import has_reference, label, opset

__all__ = ["FuseBatchnorm"]

Matrices = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FuseBatchnorm(RewritePass):
    """Replace `BatchNormalization(Y)`, `Y = X * W + b` a Conv, ConvTranspose or Gemm, by one node.

    With `s = scale / sqrt(var + epsilon)`: `W' = W s`, `b' = (b - mean) s + B`, per output channel.
    Shapes: W (M, C/g, ...) for Conv, (C, M/g, ...) for ConvTranspose, (K, M) or (M, K) for Gemm;
    s, b and all of the normalisation's (M,). Computed in float64, stored in the type of W.

    Refused: weights or statistics that are no constants or not finite, weights with other
    readers, Y with other readers, training mode. Functions are left alone.
    """

    name: ClassVar[str] = "fuse-batchnorm"

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        found = [node for node in model.graph.all_nodes() if node.op_type == "BatchNormalization"]
        if not found:
            return PassResult(model, modified=False)
        editor, fused, skipped = Editor(model), 0, []
        for node in found:
            why_not = _fuse(node, editor, self.name)
            if why_not is None:
                fused += 1
            else:
                skipped.append(Skipped(label(node), why_not.why))
        return PassResult(model, fused > 0, fused, tuple(skipped))


def _fuse(node: ir.Node, editor: Editor, by: str) -> Skip | None:
    """Fuse one normalisation, or say why not."""
    product = node.inputs[0].producer() if node.inputs[0] is not None else None
    if product is None or product.domain or product.op_type not in _CHANNELS:
        return Skip("no Conv, ConvTranspose or Gemm is in front of it")
    why_not = _why_not(node, product, opset(editor.model))
    if why_not is not None:
        return Skip(why_not)
    scale, beta, mean, var = (_array(value) for value in node.inputs[1:5])
    weight, bias = _array(product.inputs[1]), _array(_bias(product))
    if weight is None or scale is None or beta is None or mean is None or var is None:
        return Skip("weights or statistics are computed, or may be overridden")
    if bias is None and _bias(product) is not None:
        return Skip("the bias is computed, or may be overridden")
    with np.errstate(all="ignore"):  # what overflows is refused below
        factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        factor_of_bias = product.attributes.get_float("beta", 1.0)  # of Gemm alone
        shift = (0.0 if bias is None else bias * factor_of_bias) - mean
        new_weight = weight * _CHANNELS[product.op_type](factor, weight.shape, product)
        new_bias = shift * factor + beta
        new_weight, new_bias = (_stored(a, product) for a in (new_weight, new_bias))
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return Skip("the result would not be finite")
    _replace(product, node, new_weight, new_bias, editor, by)
    return None


def _why_not(node: ir.Node, product: ir.Node, version: int) -> str | None:
    between = product.outputs[0]
    if has_reference(node) or has_reference(product):
        return "attributes are those of a function"
    if len(between.uses()) > 1 or between.is_graph_output():
        return f"the result of {product.op_type} is read elsewhere too"
    trained = node.attributes.get_int("training_mode", 0)
    if version < 7:
        trained = not node.attributes.get_int("is_test", 0)
    if trained or any(value.name for value in node.outputs[1:]):
        return "it runs in training mode"
    if node.graph is not product.graph:
        return f"{product.op_type} lies in the graph around"
    if version < 9 and not node.attributes.get_int("spatial", 1):
        return "it has statistics of each element"
    weight = product.inputs[1]
    if weight is not None and len(weight.uses()) > 1:
        return "the weight has other readers"
    return None


def _stored(array: Matrices, product: ir.Node) -> npt.NDArray[Any]:
    """`array` in the type of the product's weight."""
    tensor = constant(product.inputs[1])
    assert tensor is not None  # it was read before
    return array.astype(tensor.numpy().dtype)


def _bias(product: ir.Node) -> ir.Value | None:
    return product.inputs[2] if len(product.inputs) > 2 else None


def _array(value: ir.Value | None) -> Matrices | None:
    tensor = constant(value)
    return None if tensor is None else tensor.numpy().astype(np.float64)


def _along(axis: int, factor: Matrices, shape: tuple[int, ...]) -> Matrices:
    return factor.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _conv(factor: Matrices, shape: tuple[int, ...], product: ir.Node) -> Matrices:
    return _along(0, factor, shape)


def _conv_transpose(factor: Matrices, shape: tuple[int, ...], product: ir.Node) -> Matrices:
    """(M,) -> (C, M/g, 1, ...): the channels of group i belong to the i-th part of the rows."""
    groups = product.attributes.get_int("group", 1)
    rows = np.repeat(factor.reshape(groups, -1), shape[0] // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (len(shape) - 2))


def _gemm(factor: Matrices, shape: tuple[int, ...], product: ir.Node) -> Matrices:
    return _along(0 if product.attributes.get_int("transB", 0) else 1, factor, shape)


_CHANNELS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm}


def _replace(
    product: ir.Node,
    node: ir.Node,
    weight: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    editor: Editor,
    by: str,
) -> None:
    old = product.inputs[1], _bias(product)
    unused = [*old, *node.inputs[1:]]
    tape = ir.tape.Tape()
    names = [
        value.name if value is not None and value.name else f"{label(product)}.bias"
        for value in old
    ]
    new = [
        tape.initializer(ir.tensor(array), name=f"{name}.fused")
        for array, name in zip((weight, bias), names, strict=True)
    ]
    result = tape.op(product.op_type, [product.inputs[0], *new], name=product.name)
    emitted = result.producer()
    assert emitted is not None  # the tape made it
    emitted.attributes.update({k: a for k, a in product.attributes.items() if k != "beta"})
    editor.replace([product, node], tape, {node.outputs[0]: result}, by=by)
    editor.remove_unused(unused)
