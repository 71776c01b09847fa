"""Nodes of layers that compute on integers, each input and output with its grid."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._channel_axes import channel_axes
from onnxslim_rx_passes._linear import as_stored, tensor_of
from onnxslim_rx_passes._qdq_grids import Grid
from onnxslim_rx_passes._qdq_layers import bias_value
from onnxslim_rx_passes._qdq_weights import IntegerWeight, Vector, bias_scales, to_integers

__all__ = ["FLOAT", "INTEGER", "emit_layer", "emit_number", "emit_pair", "emit_rest"]

FLOAT = ".float"
"""Ends the name of what is computed in front of a pair; what comes out has the tensor's name."""

INTEGER = ".integer"
"""Ends the name of a number that stands on a grid."""


def emit_pair(value: ir.Value, grid: Grid, name: str, tape: ir.tape.Tape) -> ir.Value:
    """QuantizeLinear and DequantizeLinear behind `value`; what comes out is returned.

    Args:
        value: float32.
        grid: of the integers.
        name: of the tensor; new names begin with it.
        tape: takes the nodes.
    """
    scale, zero = _parameters(grid, name, tape)
    q = tape.op("QuantizeLinear", [value, scale, zero], name=f"{name}/QuantizeLinear")
    back = tape.op("DequantizeLinear", [q, scale, zero], name=f"{name}/DequantizeLinear")
    back.type, back.shape = value.type, value.shape
    return back


def emit_number(number: Array, dtype: ir.DataType, name: str, tape: ir.tape.Tape) -> ir.Value:
    """DequantizeLinear of a constant of one element, which comes out exactly.

    Args:
        number: of any shape, float32.
        dtype: of its integer.
        name: of the constant; new names begin with it.
        tape: takes node and constants.
    """
    sign = int(np.sign(number.item()))
    lowest = int(np.iinfo(dtype.numpy()).min)
    zero = lowest + 1
    scale, point = _parameters(Grid(abs(number.item()) or 1.0, zero, dtype), name, tape)
    stored = np.full(number.shape, zero + sign, dtype.numpy())
    q = tape.initializer(ir.tensor(stored, name=f"{name}{INTEGER}"))
    return tape.op("DequantizeLinear", [q, scale, point], name=f"{name}/DequantizeLinear")


def emit_layer(
    layer: Layer, entering: Grid, weight: IntegerWeight, bias: Vector | None, tape: ir.tape.Tape
) -> ir.Value:
    """The product with its input, weight and bias on grids; see `emit_rest`.

    Args:
        layer: Conv, Gemm or MatMul; alpha and beta of a Gemm are in weight and bias already.
        entering: grid of the input.
        weight: rounded.
        bias: (N,) or None; of a MatMul only what it has itself.
        tape: takes the nodes.
    """
    node, x = layer.node, layer.activation
    first = emit_pair(x, entering, str(x.name), tape)
    inputs = [first, _emit_weight(layer, weight, tape)]
    added = None if bias is None else _emit_bias(layer, entering, weight, bias, tape)
    if layer.op == "MatMul":
        product = tape.op("MatMul", inputs)
        # with shapes that are known, ONNX Runtime makes a Gemm of both, and then one on integers
        return product if added is None else tape.op("Add", [product, added])
    if added is not None:
        inputs.append(added)
    attributes = node.attributes
    if layer.op == "Gemm":
        kept = attributes.get("transB")
        return tape.op("Gemm", inputs, {} if kept is None else {"transB": kept})
    return tape.op(layer.op, inputs, attributes)


def emit_rest(layer: Layer, result: ir.Value, tape: ir.tape.Tape, *, bias_done: bool) -> ir.Value:
    """What is left of the layer behind its product: a Gemm's addend that is no bias; Relu, Clip.

    Args:
        layer: as `emit_layer`.
        result: of that.
        tape: takes the nodes.
        bias_done: whether its third input is in there.
    """
    node, name = layer.node, layer.weight.name
    addend = node.inputs[2] if len(node.inputs) > 2 and layer.op == "Gemm" else None
    beta = node.attributes.get_float("beta", 1.0)
    if addend is not None and not bias_done and beta != 0.0:
        if beta != 1.0:
            factor = tape.initializer(ir.tensor(np.float32(beta), name=f"{name}.beta"))
            addend = tape.op("Mul", [addend, factor])
        result = tape.op("Add", [result, addend])
    for behind in layer.nodes[1:] if layer.op == "Conv" else ():
        result = tape.op(behind.op_type, [result, *behind.inputs[1:]], behind.attributes)
    return result


def _emit_weight(layer: Layer, weight: IntegerWeight, tape: ir.tape.Tape) -> ir.Value:
    name, conv = layer.weight.name, layer.op == "Conv"
    shape = tensor_of(layer.weight).shape.numpy()
    values = weight.values.reshape(shape) if conv else as_stored(layer, weight.values.T)
    (axis,) = channel_axes(layer)
    inputs = [
        tape.initializer(ir.tensor(np.ascontiguousarray(values), name=f"{name}.int8")),
        tape.initializer(ir.tensor(weight.scales, name=f"{name}.scale")),
    ]
    if not conv:  # without zero points ONNX Runtime has no Gemm on integers
        zeros = np.zeros(len(weight.scales), np.int8)
        inputs.append(tape.initializer(ir.tensor(zeros, name=f"{name}.zero")))
    return tape.op("DequantizeLinear", inputs, {"axis": axis}, name=f"{name}/DequantizeLinear")


def _emit_bias(
    layer: Layer, entering: Grid, weight: IntegerWeight, bias: Vector, tape: ir.tape.Tape
) -> ir.Value:
    own = bias_value(layer)
    name = f"{layer.weight.name}.bias" if own is None else own.name
    scales = bias_scales(entering.scale, weight.scales)
    inputs = [
        tape.initializer(ir.tensor(to_integers(bias, scales), name=f"{name}.int32")),
        tape.initializer(ir.tensor(scales, name=f"{name}.scale")),
    ]
    return tape.op("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}/DequantizeLinear")


def _parameters(grid: Grid, name: str, tape: ir.tape.Tape) -> tuple[ir.Value, ir.Value]:
    scale = tape.initializer(ir.tensor(np.float32(grid.scale), name=f"{name}.scale"))
    stored = np.asarray(grid.zero, grid.dtype.numpy())
    return scale, tape.initializer(ir.tensor(stored, name=f"{name}.zero"))
