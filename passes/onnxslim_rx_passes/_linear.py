"""MatMul and Gemm with a constant matrix on either side, as layers `X W`, and as two products.

In whatever layout, a layer contracts one axis of its activation with the K rows of the weight as
it is applied. The first of two products leaves the activation in its own layout, with R in the
place of K, so that the second keeps all other attributes and the bias of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import constant, marked
from onnxslim_rx.passbase import Array, Layer

__all__ = [
    "as_applied",
    "as_stored",
    "contracts_last",
    "emit_first",
    "emit_second",
    "is_factor",
    "store",
    "stored_factors",
    "tensor_of",
    "unit_name",
    "weight_of",
]

_PREFIXES = ("factorize-", "tensorize-")


def is_factor(node: ir.Node) -> bool:
    """Whether a pass made the node in place of a factorized one; a second cut adds its error."""
    return (marked(node) or "").startswith(_PREFIXES)


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The constant behind the weight of a layer."""
    tensor = constant(value)
    assert tensor is not None  # layers are made of constants only
    return tensor


def weight_of(layer: Layer) -> Array:
    """The weight as applied, (..., K, N), in its own type: a view where memory allows."""
    return as_applied(layer, tensor_of(layer.weight).numpy())


def as_applied(layer: Layer, stored: Array) -> Array:
    """(..., K, N) such that the layer computes `X W` for rows X (..., K)."""
    return np.swapaxes(stored, -1, -2) if _is_transposed(layer) else stored


def as_stored(layer: Layer, applied: Array) -> Array:
    """The inverse of `as_applied`: the layout of the layer's own constant."""
    return as_applied(layer, applied)


def _is_transposed(layer: Layer) -> bool:
    left = layer.weight_index == 0
    if layer.op != "Gemm":
        return left
    flag = layer.node.attributes.get_int("transA" if left else "transB", 0)
    return bool(flag) != left


def contracts_last(layer: Layer) -> bool:
    """Whether the axis of the activation that is contracted is its last, not the one before."""
    left = layer.weight_index == 0
    if layer.op != "Gemm":
        return not left
    flag = layer.node.attributes.get_int("transB" if left else "transA", 0)
    return bool(flag) == left


def emit_first(layer: Layer, x: ir.Value, p: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """`X P`, the activation's other axes where they were; `p` as `stored_factors` has it."""
    return tape.op("MatMul", [x, p] if contracts_last(layer) else [p, x])


def emit_second(layer: Layer, middle: ir.Value, q: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """What the layer computes of the product's other half, with its scaling and bias."""
    left = layer.weight_index == 0
    pair = [q, middle] if left else [middle, q]
    node = layer.node
    result = tape.op(node.op_type, [*pair, *node.inputs[2:]])
    made = result.producer()
    assert made is not None
    flag = "transA" if left else "transB"
    made.attributes.update({k: a for k, a in node.attributes.items() if k != flag})
    return result


def stored_factors(layer: Layer, p: Array, q: Array) -> tuple[Array, Array]:
    """P (..., K, R) and Q (..., R, N) in the layouts that `emit_first` and `emit_second` read."""
    first = p if contracts_last(layer) else np.swapaxes(p, -1, -2)
    return first, np.swapaxes(q, -1, -2) if layer.weight_index == 0 else q


def store(
    tape: ir.tape.Tape, arrays: Sequence[Array], names: Sequence[str], dtype: ir.DataType
) -> list[ir.Value]:
    """Constants of type `dtype` on `tape`.

    Balanced factors are as large as roots of singular values: they fit where the weight did.
    """
    return [
        tape.initializer(
            ir.tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype, name=name)
        )
        for array, name in zip(arrays, names, strict=True)
    ]


def unit_name(layers: Sequence[Layer]) -> str:
    """Such as "q + k + v", or "w.0 + w.1 + 6 more"."""
    names = [layer.name for layer in layers]
    if len(names) > 4:
        names = [*names[:2], f"{len(names) - 2} more"]
    return " + ".join(names)
