"""Integers of a few bits in bytes, as ONNX Runtime's operators on blocks read them.

The integer that comes first lies in the lowest bits of its byte. `pack` has the layout of input B
of com.microsoft.MatMulNBits; the same bytes as (rows, bytes of a row) are the data of
com.microsoft.GatherBlockQuantized.
"""

from __future__ import annotations

import numpy as np

from onnxslim_rx.quant.blocks import BlockFormat, Integers, parts

__all__ = ["pack", "pack_zeros", "unpack", "unpack_zeros"]


def pack(values: Integers, block_format: BlockFormat, zeros: Integers | None = None) -> Integers:
    """Pack the integers of a weight.

    Args:
        values: (rows, K), each less than `2**bits`.
        block_format: their bits (2, 4 or 8) and groups.
        zeros: (rows, blocks), what a short last block is filled up with; None: the middle.

    Returns:
        (rows, blocks, bytes of a block): `width * bits / 8` bytes, rounded up.
    """
    rows, k = values.shape
    count, width = block_format.count(k), block_format.width(k)
    found = np.empty((rows, count, _bytes(width, block_format.bits)), np.uint8)
    for part in parts(values):
        here = values[part]
        padded = np.empty((len(here), count * width), np.uint8)
        padded[:, :k] = here
        padded[:, k:] = block_format.middle if zeros is None else zeros[part, -1:]
        found[part] = _pack(padded.reshape(-1, width), block_format.bits).reshape(found[part].shape)
    return found


def unpack(packed: Integers, k: int, block_format: BlockFormat) -> Integers:
    """(rows, K): the integers of a weight from what `pack` made of them."""
    rows = len(packed)
    width = block_format.width(k)
    found = np.empty((rows, k), np.uint8)
    for part in parts(found):
        blocks = packed[part].reshape(-1, packed.shape[-1])
        found[part] = _unpack(blocks, width, block_format.bits).reshape(len(packed[part]), -1)[
            :, :k
        ]
    return found


def pack_zeros(zeros: Integers, bits: int) -> Integers:
    """(rows, bytes): the zero points (rows, blocks) of each row; a rest of a byte is 0."""
    return _pack(zeros, bits)


def unpack_zeros(packed: Integers, count: int, bits: int) -> Integers:
    """(rows, count): the zero points from what `pack_zeros` made of them."""
    return _unpack(packed, count, bits)


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _pack(values: Integers, bits: int) -> Integers:
    """(n, bytes) of (n, count)."""
    each = 8 // bits
    size = _bytes(values.shape[1], bits)
    padded = np.zeros((len(values), size * each), np.uint8)
    padded[:, : values.shape[1]] = values
    found = np.zeros((len(values), size), np.uint8)
    for place in range(each):
        found |= padded[:, place::each] << np.uint8(place * bits)
    return found


def _unpack(packed: Integers, count: int, bits: int) -> Integers:
    """(n, count) of (n, bytes)."""
    each = 8 // bits
    found = np.empty((len(packed), packed.shape[1], each), np.uint8)
    for place in range(each):
        found[:, :, place] = (packed >> np.uint8(place * bits)) & np.uint8(2**bits - 1)
    return found.reshape(len(packed), -1)[:, :count]
