"""Nodes of a product in INT8: `s t (Q_X - z) Q_W`, and what enters it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer
from onnxslim_rx_passes._dynamic_rounding import Floats, Product

__all__ = ["emit_product"]

Row = npt.NDArray[np.float64]


def emit_product(
    layer: Layer, product: Product, tape: ir.tape.Tape, shift: Row | None = None
) -> ir.Value:
    """Emit the integer product of a MatMul or Gemm, its scaling and its bias.

    Args:
        layer: what is replaced.
        product: what takes its place.
        tape: what is emitted goes there.
        shift: (N,), added to the bias; or None.
    """
    name = layer.weight.name
    alpha = layer.node.attributes.get_float("alpha", 1.0)
    scales = (product.grid.scales.reshape(-1) * alpha).astype(np.float32)
    integers = np.ascontiguousarray(product.grid.values)
    values = tape.initializer(ir.tensor(integers, name=f"{name}.int8"))
    by_column = tape.initializer(ir.tensor(scales, name=f"{name}.scale"))
    rounded, scale, zero = _entering(layer, product.inverse, tape)
    total = tape.op("MatMulInteger", [rounded, values, zero])
    single = tape.op("Cast", [total], {"to": ir.DataType.FLOAT})
    result = tape.op("Mul", [single, tape.op("Mul", [scale, by_column])])
    bias = _bias(layer, shift, tape)
    return result if bias is None else tape.op("Add", [result, bias])


def _bias(layer: Layer, shift: Row | None, tape: ir.tape.Tape) -> ir.Value | None:
    node, name = layer.node, layer.weight.name
    beta = node.attributes.get_float("beta", 1.0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if shift is not None:
        tensor = None if bias is None else constant(bias)
        row = shift if tensor is None else shift + beta * tensor.numpy().astype(np.float64)
        return tape.initializer(ir.tensor(row.astype(np.float32), name=f"{name}.bias"))
    if bias is None or beta == 0.0:
        return None
    if beta != 1.0:
        factor = tape.initializer(ir.tensor(np.float32(beta), name=f"{name}.beta"))
        bias = tape.op("Mul", [bias, factor])
    return bias


def _entering(layer: Layer, inverse: Floats | None, tape: ir.tape.Tape) -> tuple[ir.Value, ...]:
    """The rounded activation, its scale and its zero point: those of another layer, if any."""
    entering = layer.activation
    if inverse is None:
        return _rounded(entering, layer, tape)
    for use in entering.uses():
        if use.node.op_type == "Mul" and _before(use.node, layer.node):
            by = constant(use.node.inputs[1 - use.idx])
            if by is not None and np.array_equal(by.numpy(), inverse):
                return _rounded(use.node.outputs[0], layer, tape)
    by_channel = tape.initializer(ir.tensor(inverse, name=f"{entering.name}.smooth"))
    return _rounded(tape.op("Mul", [entering, by_channel]), layer, tape)


def _rounded(value: ir.Value, layer: Layer, tape: ir.tape.Tape) -> tuple[ir.Value, ...]:
    for use in value.uses():
        if use.node.op_type == "DynamicQuantizeLinear" and _before(use.node, layer.node):
            return tuple(use.node.outputs)
    made = tape.op_multi_out("DynamicQuantizeLinear", [value], num_outputs=3)
    return tuple(made)


def _before(one: ir.Node, other: ir.Node) -> bool:
    """Whether `one` comes first in the graph of both."""
    if one.graph is not other.graph or one.graph is None:
        return False
    return next(node is one for node in one.graph if node in (one, other))
