"""Weights in blocks as kernels read them: drawn integers, scales, zero points, and their bytes."""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxslim_rx.quant.blocks import BlockFormat
from onnxslim_rx.quant.packing import pack, pack_zeros
from tools.kernel_case import Array

__all__ = ["Stored", "drawn", "stored_plainly"]


@dataclasses.dataclass(frozen=True)
class Stored:
    """A weight and the buffers that hold it.

    Args:
        weight: (rows, k), float64.
        data: uint8 (rows, blocks, bytes of a block), or the numbers themselves.
        scales: (rows, blocks); one element where there are none.
        zeros: uint8 (rows, bytes of a row); one element where there are none.
    """

    weight: Array
    data: Array
    scales: Array
    zeros: Array

    @property
    def nbytes(self) -> int:
        """Of the buffers that a kernel must read."""
        used = (one.nbytes for one in (self.scales, self.zeros) if one.size > 1)
        return self.data.nbytes + sum(used)


def drawn(
    rng: np.random.Generator,
    shape: tuple[int, int],
    form: tuple[int, int],
    scale_bits: int,
    stored_zeros: bool,
) -> Stored:
    """Random integers with scales of both signs, in bytes.

    Args:
        rng: drawn from.
        shape: (rows, k).
        form: (bits, block).
        scale_bits: 16 or 32, of a scale.
        stored_zeros: there are zero points; else they are the middle.
    """
    (rows, k), (bits, block) = shape, form
    blocks = -(-k // block)
    whole = BlockFormat(bits, 0)  # blocks of any width, one at a time
    values = rng.integers(0, 2**bits, (rows, blocks * block), dtype=np.uint8)
    zeros = np.full((rows, blocks), whole.middle, np.uint8)
    if stored_zeros:
        zeros[:] = rng.integers(0, 2**bits, zeros.shape)
    scales = rng.uniform(0.5, 1.5, zeros.shape) * rng.choice([-1, 1], zeros.shape) / 2**bits
    scales = scales.astype(np.float16 if scale_bits == 16 else np.float32)
    steps = values.astype(np.float64) - np.repeat(zeros, block, axis=1)
    data = pack(values.reshape(-1, block), whole).reshape(rows, blocks, block * bits // 8)
    return Stored(
        (steps * np.repeat(scales.astype(np.float64), block, axis=1))[:, :k],
        data,
        scales,
        pack_zeros(zeros, bits) if stored_zeros else np.zeros(1, np.uint8),
    )


def stored_plainly(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> Stored:
    """Normal numbers, stored in 16 or 32 bits."""
    data = rng.standard_normal(shape).astype(np.float16 if bits == 16 else np.float32)
    nothing = np.zeros(1, np.float32)
    return Stored(data.astype(np.float64), data, nothing, np.zeros(1, np.uint8))
