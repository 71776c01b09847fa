"""Single nodes in 16 bits of floating point: what enters is cast, what leaves is cast back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import constant
from onnxslim_rx_passes._halves import HALVES, to_half

__all__ = ["PRODUCTS", "fits", "floats_entering", "in_half", "is_safe"]

_MOVES = (
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Resize",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
_POINTS = (
    "Abs", "Add", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max",
    "Min", "Neg", "PRelu", "Relu", "Sigmoid", "Sub", "Tanh",
    "AveragePool", "GlobalMaxPool", "MaxPool",
)  # fmt: skip
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What they sum up, or the powers that they take, may be beyond the range of float16, or lose too
# many bits.
_SUMS = (
    "BatchNormalization", "Exp", "GlobalAveragePool", "LayerNormalization", "LogSoftmax", "Pow",
    "ReduceMean", "ReduceSum", "Softmax",
)  # fmt: skip
_SHIFTS = ("Add", "Mul", "Sub")
_BOUNDED = ("Clip", "Erf", "HardSigmoid", "Sigmoid", "Softmax", "Tanh")


def is_safe(node: ir.Node, *, sums: bool) -> bool:
    """Whether the operator loses no more in 16 bits than the rounding of what enters and leaves.

    Args:
        node: of any kind.
        sums: whether operators that sum, and exponentials, count as such.
    """
    if node.domain != "":
        return False
    if node.op_type == "Mul":
        # two activations that fit may have a product that does not
        return any(_is_bounded(value) for value in node.inputs)
    if node.op_type == "Div":
        divisor = constant(node.inputs[1])
        return divisor is not None and bool(np.all(np.abs(divisor.numpy()) >= 1))
    known = (*_MOVES, *_POINTS, *PRODUCTS, *(_SUMS if sums else ()))
    return node.op_type in known


def _is_bounded(value: ir.Value | None, depth: int = 4) -> bool:
    """Whether it is a constant, or of a size that does not depend on activations."""
    if constant(value) is not None:
        return True
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or not depth:
        return False
    if node.op_type == "Cast":  # float32 and half, back and forth
        return _is_bounded(node.inputs[0], depth - 1)
    if node.op_type in _SHIFTS:  # such as 1 + Erf(x)
        return all(_is_bounded(one, depth - 1) for one in node.inputs)
    return node.op_type in _BOUNDED


def floats_entering(node: ir.Node, facts: Facts) -> list[int]:
    """Which inputs are cast: those in float32, but for the factors of a Resize."""
    last = 1 if node.op_type == "Resize" else len(node.inputs)
    return [
        index
        for index, value in enumerate(node.inputs[:last])
        if value is not None and facts.dtype(value) == ir.DataType.FLOAT
    ]


def fits(node: ir.Node, indices: Sequence[int], name: str) -> bool:
    """Whether all constants among some inputs fit into the type called `name`."""
    tensors = [constant(node.inputs[index]) for index in indices]
    return all(to_half(t.numpy(), name) is not None for t in tensors if t is not None)


def in_half(
    node: ir.Node, indices: Sequence[int], name: str, tape: ir.tape.Tape
) -> Mapping[ir.Value, ir.Value]:
    """Emit the node in 16 bits.

    Args:
        node: all its outputs are float32.
        indices: of the inputs to cast; constants among them fit.
        name: "float16" or "bfloat16".
        tape: what is emitted goes there.

    Returns:
        What takes the place of each output.
    """
    dtype = HALVES[name]
    inputs = list(node.inputs)
    for index in indices:
        inputs[index] = _half(inputs[index], name, tape)
    made = tape.op_multi_out(
        node.op_type, inputs, dict(node.attributes), num_outputs=len(node.outputs)
    )
    back = {}
    for before, after in zip(node.outputs, made, strict=True):
        after.type, after.shape = ir.TensorType(dtype), before.shape
        back[before] = tape.op("Cast", [after], {"to": ir.DataType.FLOAT})
    return back


def _half(value: ir.Value | None, name: str, tape: ir.tape.Tape) -> ir.Value:
    assert value is not None  # only those that are there are cast
    tensor, dtype = constant(value), HALVES[name]
    if tensor is None:
        cast = tape.op("Cast", [value], {"to": dtype})
        cast.type, cast.shape = ir.TensorType(dtype), value.shape
        return cast
    rounded = to_half(tensor.numpy(), name)
    assert rounded is not None  # it was looked at before
    return tape.initializer(ir.tensor(rounded, dtype=dtype, name=f"{value.name}.{name}"))
