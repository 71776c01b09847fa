"""Weights that a model stores as integers, read as the floating-point numbers they stand for.

All forms mean `(values - zeros) * scales`: what differs is how the integers are packed and which of
them share a scale.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.constants import numbers, root_of
from onnxslim_rx.analysis.weights import weight_uses
from onnxslim_rx.ir import constant
from onnxslim_rx.quant import unpack_zeros

__all__ = [
    "Stored",
    "count_quantized",
    "of_blocks",
    "of_dequantize",
    "of_product",
    "stored",
]

Array = npt.NDArray[Any]

_PART = 1 << 18  # entries that are in memory in float64 at a time
_MOST_BITS = 16  # wider integers in a product are arithmetic, and no weight that was rounded
_SMALL_FLOAT = 8  # bits: what takes no more is stored with a scale as integers are
_NO_CONSTANT = "a scale or zero point is no constant"


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A constant that stands for `(values - zeros) * scales`.

    Args:
        root: the initializer, or output of a Constant node, that holds the integers.
        tensor: what it holds.
        shape: of the weight.
        scales: float64; as many axes as the weight, and along each its size, or 1, or, along the
            axis of `block`, the number of blocks.
        zeros: the same for the zero points; None: 0 everywhere.
        dtype: type of the weight where it is used.
        block: (axis, neighbours along it that share a scale); None: no blocks.
        bits: integers of so many bits lie in bytes along the last axis, the first in the lowest
            bits; 0: `tensor` says what they are.
    """

    root: ir.Value
    tensor: ir.TensorProtocol
    shape: tuple[int, ...]
    scales: Array
    zeros: Array | None
    dtype: ir.DataType
    block: tuple[int, int] | None = None
    bits: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for weights that are the same numbers of the same constant."""
        content = hashlib.blake2b(self.scales.tobytes())
        if self.zeros is not None:
            content.update(self.zeros.tobytes())
        return self.root, self.shape, self.dtype, self.block, self.bits, content.digest()

    def read(self, dtype: ir.DataType | None = None) -> Array:
        """The weight; each number is rounded once, to `dtype` (None: the weight's own)."""
        found = np.empty(self.shape or (1,), (dtype or self.dtype).numpy())
        for part, block in self.parts():
            with np.errstate(over="ignore"):
                found[part] = block
        return found.reshape(self.shape)

    def parts(self) -> Iterator[tuple[slice, Array]]:
        """The weight in float64, some of its first axis at a time, and which."""
        shape = self.shape or (1,)
        step = max(1, _PART // max(1, int(np.prod(shape[1:]))))
        array = self.tensor.numpy()
        for start in range(0, shape[0], step):
            part = slice(start, min(start + step, shape[0]))
            values = self._values(array, part).astype(np.float64)
            if self.zeros is not None:
                values -= self._spread(self.zeros, part)
            yield part, values * self._spread(self.scales, part)

    def _values(self, array: Array, part: slice) -> Array:
        if not self.bits:
            return array.reshape(self.shape or (1,))[part]
        packed = array.reshape(self.shape[0], -1).view(np.uint8)
        return unpack_zeros(packed[part], self.shape[1], self.bits)

    def _spread(self, array: Array, part: slice) -> Array:
        """What entries of `part` have in an array of scales or zero points."""
        array = array.reshape(array.shape or (1,))
        if self.block is None or self.block[0] > 0:
            array = array[part] if len(array) > 1 else array
        if self.block is None:
            return array
        axis, size = self.block
        if axis == 0:
            return array.take(np.arange(part.start, part.stop) // size, axis=0)
        whole = tuple(slice(n) for n in (len(array), *self.shape[1:]))
        return array.repeat(size, axis)[whole]


def stored(
    values: ir.Value | None,
    scales: Array | None,
    zeros: Array | None,
    dtype: ir.DataType,
    *,
    axis: int | None = None,
    block: int = 0,
) -> Stored | str:
    """A constant of plain integers with a scale for all, for each slice, or for each block.

    Args:
        values: the integers.
        scales: one; one for each index of `axis`; as many axes as the integers have.
        zeros: as many as scales, or one; None: 0.
        dtype: type of the weight.
        axis: of scales in a row; negative counts from the last.
        block: neighbours along `axis` that share a scale; 0: no blocks.

    Returns:
        Or why it cannot be read, one clause.
    """
    root = root_of(values)
    if root is None:
        return "it is no constant"
    tensor = constant(root)
    assert tensor is not None  # that is what a root is
    small = tensor.dtype.is_floating_point() and tensor.dtype.bitwidth <= _SMALL_FLOAT
    if not (tensor.dtype.is_integer() or small):
        return f"it is of type {tensor.dtype.name}"
    shape = tuple(tensor.shape.numpy())
    if scales is None:
        return _NO_CONSTANT
    if axis is not None and axis < 0:
        axis += len(shape)
    found = _aligned(scales, shape, axis, block)
    offsets = None if zeros is None else _aligned(zeros, shape, axis, block)
    if found is None or (zeros is not None and offsets is None):
        return "scales or zero points do not fit its shape"
    blocks = (axis, block) if block and axis is not None and found.ndim == len(shape) else None
    return Stored(root, tensor, shape, found, offsets, dtype, blocks)


def _aligned(array: Array, shape: tuple[int, ...], axis: int | None, block: int) -> Array | None:
    """The array in float64, with as many axes as `shape`; None where it does not fit."""
    wide: Array = array.astype(np.float64)
    if wide.size == 1 and not block:
        return wide.reshape((1,) * len(shape))
    if wide.ndim == 1 and axis is not None and not block:
        fits = axis < len(shape) and wide.size == shape[axis]
        return wide.reshape([-1 if i == axis else 1 for i in range(len(shape))]) if fits else None
    if block and axis is not None:
        wanted = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        return wide if wide.shape == wanted else None
    if wide.ndim > len(shape):
        return None
    wide = wide.reshape((1,) * (len(shape) - wide.ndim) + wide.shape)
    return wide if all(wide.shape[i] in (1, n) for i, n in enumerate(shape)) else None


def of_dequantize(node: ir.Node) -> Stored | str:
    """The weight that a DequantizeLinear, also that of com.microsoft, makes of a constant."""
    values, scale, zero = (*node.inputs, None)[:3]
    scales, zeros = numbers(scale), numbers(zero)
    if scales is None or (zero is not None and zeros is None):
        return _NO_CONSTANT
    given = node.attributes.get_int("output_dtype", 0)
    return stored(
        values,
        scales,
        zeros,
        ir.DataType(given) if given else ir.DataType.from_numpy(scales.dtype),
        axis=node.attributes.get_int("axis", 1) if scales.ndim else None,
        block=node.attributes.get_int("block_size", 0),
    )


def of_product(node: ir.Node) -> Stored | str | None:
    """The weight that `Mul(Cast(q), s)` or `Mul(Sub(Cast(q), z), s)` makes; None: no such form."""
    for value, scale in (node.inputs, node.inputs[::-1]):
        maker = None if value is None else value.producer()
        zeros = None
        if maker is not None and maker.op_type == "Sub" and maker.domain == "":
            zeros = numbers(maker.inputs[1])
            maker = None if zeros is None or maker.inputs[0] is None else maker.inputs[0].producer()
        if maker is None or maker.op_type != "Cast" or maker.domain != "":
            continue
        tensor = constant(root_of(maker.inputs[0]))
        dtype = ir.DataType(maker.attributes.get_int("to", 0))
        if tensor is None or not tensor.dtype.is_integer() or tensor.dtype.bitwidth > _MOST_BITS:
            continue
        if not dtype.is_floating_point():
            continue
        return stored(maker.inputs[0], numbers(scale), zeros, dtype)
    return None


def of_blocks(node: ir.Node) -> Stored | str:
    """The weight of a MatMulNBits, (N, K), or the table of a GatherBlockQuantized, (V, K)."""
    nbits = node.op_type == "MatMulNBits"
    values, scale = node.inputs[1 if nbits else 0], node.inputs[2]
    zero = node.inputs[3] if len(node.inputs) > 3 else None
    root, scales = root_of(values), numbers(scale)
    tensor = constant(root)
    if root is None or tensor is None:
        return "it is no constant"
    if scales is None or (zero is not None and numbers(zero) is None):
        return _NO_CONSTANT
    dtype = ir.DataType.from_numpy(scales.dtype)
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 128)
    if nbits:
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            return "its columns are in another order (g_idx)"
        shape = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    else:
        axis, rank = node.attributes.get_int("quantize_axis", 1), len(tensor.shape)
        if tensor.dtype != ir.DataType.UINT8:
            return stored(values, scales, numbers(zero), dtype, axis=axis, block=block)
        if rank != 2 or axis % rank != 1:
            return "only matrices with blocks along their rows are read"
        rows, width = tensor.shape.numpy()
        shape = rows, width * 8 // bits
    return _in_bytes(root, tensor, shape, scales, numbers(zero), dtype, block, bits)


def _in_bytes(
    root: ir.Value,
    tensor: ir.TensorProtocol,
    shape: tuple[int, int],
    scales: Array,
    zeros: Array | None,
    dtype: ir.DataType,
    block: int,
    bits: int,
) -> Stored | str:
    """A matrix of packed integers with blocks along its rows."""
    if bits not in (2, 4, 8) or block < 1:
        return f"blocks of {block} integers of {bits} bits are not known"
    rows, count = shape[0], -(-shape[1] // block)
    sizes = (rows * count * block * bits // 8, rows * (shape[1] * bits // 8))
    packed = zeros is not None and zeros.dtype == np.uint8
    points = rows * (-(-count * bits // 8) if packed else count)
    fits = tensor.nbytes in sizes and scales.size == rows * count
    if not fits or (zeros is not None and zeros.size != points):
        return "integers, scales or zero points do not fit its shape"
    if zeros is None:
        offsets: Array = np.full((1, count), 2.0 ** (bits - 1))
    elif packed:
        offsets = unpack_zeros(zeros.reshape(rows, -1), count, bits).astype(np.float64)
    else:
        offsets = zeros.reshape(rows, count).astype(np.float64)
    wide = scales.reshape(rows, count).astype(np.float64)
    return Stored(root, tensor, shape, wide, offsets, dtype, (1, block), bits)


def count_quantized(model: ir.Model) -> int:
    """How many weights the model stores as integers; one that several nodes read counts once."""
    found = {
        id(use.tensor): use
        for use in weight_uses(model, min_elements=1)
        if use.kind != "other" and use.why_not == "already quantized"
    }
    return len(found)
