"""A convolution as two: fewer channels first, then a pointwise one that gives all filters.

Of a kernel of one position the layer is a matrix product at each position: W (C, M), channels to
filters. The first convolution carries strides and padding, the second the bias: where padding is
read, the first gives zeros and the second the bias alone, as the one did.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim_rx.passbase import Array, Layer
from onnxslim_rx_passes._linear import tensor_of

__all__ = ["emit", "matrix_of", "stored", "stored_factors", "why_not"]

_PLACES = ("auto_pad", "pads", "strides")


def why_not(layer: Layer) -> str | None:
    """Why the convolution cannot be cut along its channels, or None."""
    groups = layer.node.attributes.get_int("group", 1)
    if groups != 1:
        return f"{groups} groups"
    kernel = tensor_of(layer.weight).shape.numpy()[2:]
    if any(size != 1 for size in kernel):
        return f"kernel of {' x '.join(map(str, kernel))}: only pointwise ones are cut"
    return None


def matrix_of(kernel: Array) -> Array:
    """(C, M), of a kernel (M, C, 1, ...)."""
    matrix: Array = kernel.reshape(kernel.shape[:2]).T
    return matrix


def stored(layer: Layer, product: Array) -> Array:
    """(M, C, 1, ...), the kernel that a matrix (C, M) stands for."""
    ones = [1] * (len(tensor_of(layer.weight).shape) - 2)
    kernel: Array = product.T.reshape(*product.T.shape, *ones)
    return kernel


def stored_factors(layer: Layer, p: Array, q: Array) -> tuple[Array, Array]:
    """The kernels (R, C, 1, ...) and (M, R, 1, ...) of P (C, R) and Q (R, M)."""
    return stored(layer, np.asarray(p)), stored(layer, np.asarray(q))


def emit(layer: Layer, first: ir.Value, second: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """Both convolutions, of kernels as `stored_factors` has them."""
    node = layer.node
    kernel = {"kernel_shape": [1] * (len(tensor_of(layer.weight).shape) - 2)}
    middle = tape.op("Conv", [layer.activation, first], kernel)
    made = middle.producer()
    assert made is not None
    made.attributes.update({k: a for k, a in node.attributes.items() if k in _PLACES})
    return tape.op("Conv", [middle, second, *node.inputs[2:]], kernel)
