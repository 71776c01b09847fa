"""Weights that a graph keeps as integers, packed as our own operators read them.

Rows of integers in blocks along K, see `quant.packing`; a row with one scale is one block, as long
as the row, rounded up to whole bytes of eight integers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.stored import Stored, of_dequantize, of_product
from onnxslim_rx.passbase import Array, Skip
from onnxslim_rx.quant import BlockFormat, pack, pack_zeros
from onnxslim_rx_passes._native_domain import TYPES

__all__ = ["Packed", "packed", "stored_weight", "wrappers"]

_SHARED = "its weight is read elsewhere too"
_BITS = {
    ir.DataType.INT8: (8, True), ir.DataType.UINT8: (8, False),
    ir.DataType.INT4: (4, True), ir.DataType.UINT4: (4, False),
    ir.DataType.INT2: (2, True), ir.DataType.UINT2: (2, False),
}  # fmt: skip
"""Bits of a type of integers, and whether it is signed."""
_EIGHT = 8


@dataclasses.dataclass(frozen=True)
class Packed:
    """A weight (rows, K) as our operators read it.

    Args:
        name: of the constant that it was.
        values: uint8, (rows, blocks, bytes of a block).
        scales: (rows, blocks), of the type of the network.
        zeros: uint8, (rows, bytes of a row of zero points), or None.
        bits: 2, 4 or 8.
        block: neighbours that share a scale.
        shape: rows and K.
    """

    name: str
    values: Array
    scales: Array
    zeros: Array | None
    bits: int
    block: int
    shape: tuple[int, int]

    def emit(self, tape: ir.tape.Tape, *, flat: bool = False) -> list[ir.Value | None]:
        """Integers, scales and zero points (None where there are none) as constants on `tape`.

        `flat`: integers as (rows, bytes of a row), as tables have them; a short last block is not
        filled up then.
        """
        values = self.values
        if flat:
            size = -(-self.shape[1] * self.bits // _EIGHT)
            values = np.ascontiguousarray(values.reshape(len(values), -1)[:, :size])
        made: list[ir.Value | None] = [
            tape.initializer(ir.tensor(values, name=f"{self.name}.q{self.bits}")),
            self._scales(tape),
        ]
        zeros = self.zeros
        named = f"{self.name}.zero"
        made.append(None if zeros is None else tape.initializer(ir.tensor(zeros, name=named)))
        return made

    def _scales(self, tape: ir.tape.Tape) -> ir.Value:
        """Scales that 16 bits hold exactly are stored so, and pass a Cast that folds at load."""
        name = f"{self.name}.scales"
        with np.errstate(over="ignore"):
            half = self.scales.astype(np.float16)
        if self.scales.dtype == np.float16 or not np.array_equal(half, self.scales):
            return tape.initializer(ir.tensor(self.scales, name=name))
        stored = tape.initializer(ir.tensor(half, name=name))
        return tape.op("Cast", [stored], {"to": ir.DataType.FLOAT})


def stored_weight(value: ir.Value | None, folded: bool = True) -> Stored | Skip | None:
    """The integers behind a weight; None where it is none that is kept so.

    Refused: a weight with other readers, which would be stored twice.

    Args:
        value: the weight.
        folded: see `NativeRule`.
    """
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain != "":
        return None
    if node.op_type == "DequantizeLinear":
        found: Stored | str | None = of_dequantize(node)
    else:
        found = of_product(node) if folded and node.op_type == "Mul" else None
    if found is None or isinstance(found, str):
        return None  # activations, say
    if len(value.uses()) != 1 or value.is_graph_output() or len(found.root.uses()) != 1:
        return Skip(_SHARED)
    (use,) = value.uses()
    if use.node.graph is not node.graph:
        return Skip("its weight lies in another graph")
    if found.dtype not in TYPES:
        return Skip(f"{found.dtype.name.lower()} is not computed with")
    return found


def wrappers(value: ir.Value, reader: ir.Node) -> list[ir.Node]:
    """The nodes between a constant and `value`, first to last; some may have other readers.

    Those in the graph of `reader` alone: others are in use as long as inner graphs may read them.
    """
    found: dict[ir.Node, None] = {}
    todo = [value]
    while todo:
        node = todo.pop().producer()
        if node is None or node.op_type == "Constant" or node.graph is not reader.graph:
            continue
        found.pop(node, None)
        found[node] = None
        todo.extend(one for one in node.inputs if one is not None)
    return list(reversed(found))


def packed(weight: Stored, *, rows_axis: int) -> Packed | Skip:
    """A weight as rows in blocks.

    Args:
        weight: the integers; rows lie along `rows_axis`, all other axes are one row in their order.
        rows_axis: 0, or 1 of a matrix.
    """
    kind = _BITS.get(weight.tensor.dtype)
    if kind is None or weight.bits:
        return Skip(f"integers of type {weight.tensor.dtype.name.lower()} are not read")
    bits, signed = kind
    values = np.moveaxis(weight.tensor.numpy().reshape(weight.shape), rows_axis, 0)
    rows, k = len(values), int(np.prod(values.shape[1:]))
    if rows == 0 or k == 0:
        return Skip("it is empty")
    block, why = _block(weight, rows_axis, k)
    if why:
        return Skip(why)
    count = -(-k // block)
    scales = _by_row(weight.scales, rows_axis, rows, count)
    offset = 2 ** (bits - 1) if signed else 0
    zeros = np.zeros((1, 1)) if weight.zeros is None else weight.zeros
    points = _by_row(zeros, rows_axis, rows, count)
    if scales is None or points is None:
        return Skip("scales do not lie along rows, or blocks of them")
    points = points + offset
    if not np.array_equal(points, np.clip(np.rint(points), 0, 2**bits - 1)):
        return Skip("its zero points are no integers of as many bits")
    whole = (values.reshape(rows, k).astype(np.int16) + offset).astype(np.uint8)
    own = points.astype(np.uint8)
    middle = bool((own == 2 ** (bits - 1)).all())
    return Packed(
        str(weight.root.name),
        _pack(whole, own, bits, block),
        np.ascontiguousarray(scales.astype(weight.dtype.numpy())),
        None if middle else pack_zeros(own, bits),
        bits,
        block,
        (rows, k),
    )


def _block(weight: Stored, rows_axis: int, k: int) -> tuple[int, str]:
    """Neighbours that share a scale, or why they cannot be kept."""
    if weight.block is None:
        return -(-k // _EIGHT) * _EIGHT, ""
    axis, block = weight.block
    if axis == rows_axis or len(weight.shape) != 2:
        return 0, "its blocks do not lie along rows"
    if block % _EIGHT:
        return 0, f"blocks of {block} are no multiple of {_EIGHT}"
    return block, ""


def _by_row(array: Array, rows_axis: int, rows: int, count: int) -> Array | None:
    """(rows, count) of scales that have an axis for each of the weight's; None: they do not fit."""
    turned = np.moveaxis(array, rows_axis, 0) if array.ndim > 1 else array.reshape(-1, 1)
    if len(turned) not in (1, rows):
        return None
    flat = turned.reshape(len(turned), -1)
    return np.broadcast_to(flat, (rows, count)) if flat.shape[1] in (1, count) else None


def _pack(values: Array, zeros: Array, bits: int, block: int) -> Array:
    """(rows, blocks, bytes of a block); the last block is filled up with its zero point."""
    rows, k = values.shape
    count = zeros.shape[1]
    padded = np.empty((rows, count * block), np.uint8)
    padded[:, :k] = values
    padded[:, k:] = zeros[:, -1:]
    by_block = padded.reshape(rows * count, block)
    return pack(by_block, BlockFormat(bits=bits, group=0)).reshape(rows, count, -1)
