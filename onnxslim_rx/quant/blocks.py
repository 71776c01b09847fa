"""Weights in blocks: integers of a few bits, and a scale for each block of neighbours.

A weight is (rows, K): a row is one output channel, or one row of an embedding. Blocks of `group`
neighbours lie along the last axis; the last block of a row may be short.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BlockFormat", "Blocks", "restore", "round_to", "stored_bytes"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]
Integers = npt.NDArray[np.uint8]

_PART = 1 << 18  # entries that are treated at once
_GROUPS = (0, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class BlockFormat:
    """How a weight is stored.

    Args:
        bits: 2 to 8; what is packed has 2, 4 or 8.
        group: neighbours that share a scale: a power of two, 16 to 256; 0: the whole row.
        symmetric: the zero point is `2**(bits - 1)` everywhere and is not stored.
        scale_type: the type that scales are stored in, float16 or float32.
        signed: scales of a symmetric format may be negative. The range of integers has one more
            below the zero point than above; a negative scale gives that one to a peak above 0, as
            ONNX Runtime's own quantizer does. Without it all scales are above 0.

    Raises:
        ValueError: something outside its range.
    """

    bits: int = 4
    group: int = 32
    symmetric: bool = True
    scale_type: type[np.floating[Any]] = np.float16
    signed: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"found {self.bits} bits; expected 2 to 8")
        if self.group not in _GROUPS:
            raise ValueError(f"found groups of {self.group}; expected one of {_GROUPS}")
        if self.scale_type not in (np.float16, np.float32):
            raise ValueError(f"found scales of {self.scale_type}; expected float16 or float32")

    @property
    def largest(self) -> int:
        """The largest integer; the least is 0."""
        return int(2**self.bits - 1)

    @property
    def middle(self) -> int:
        """The zero point of a symmetric format."""
        return int(2 ** (self.bits - 1))

    def width(self, k: int) -> int:
        """Neighbours that share a scale in rows of `k` entries."""
        return self.group or k

    def count(self, k: int) -> int:
        """Blocks in a row of `k` entries."""
        return -(-k // self.width(k))

    def stored(self, scales: Array) -> Matrix:
        """Scales as they are stored; the least that is not 0 stands for smaller ones, 1 for 0.

        Raises:
            ValueError: a scale that is not finite, or too large for the type.
        """
        largest = float(np.finfo(self.scale_type).max)
        if not np.abs(scales).max(initial=0.0) <= largest:
            hint = "; float32 holds larger ones" if self.scale_type == np.float16 else ""
            raise ValueError(f"scales overflow {self.scale_type.__name__}{hint}")
        least = float(np.finfo(self.scale_type).smallest_subnormal)
        found = scales.astype(self.scale_type).astype(np.float64)
        found = np.where(found == 0, np.copysign(least, scales), found)
        return np.where(scales == 0, 1.0, found)


class Blocks(NamedTuple):
    """A weight in blocks: `(values - zeros) * scales`, zeros and scales of each entry's block.

    `values` is (rows, K), from 0 to `format.largest`. `scales` is (rows, blocks), float64, finite,
    not 0, already rounded to `format.scale_type`, in the units of the weight. `zeros` is
    (rows, blocks), or None where the format is symmetric.
    """

    values: Integers
    scales: Matrix
    zeros: Integers | None
    format: BlockFormat


def restore(
    blocks: Blocks, dtype: type[np.floating[Any]] = np.float64
) -> npt.NDArray[np.floating[Any]]:
    """(rows, K): the numbers that the integers stand for; each is rounded to `dtype` once."""
    found = np.empty(blocks.values.shape, dtype)
    k = found.shape[1]
    for part in parts(found):
        step = blocks.values[part] - offsets(blocks, part)
        found[part] = step * spread(blocks.scales[part], k, blocks.format)
    return found


def round_to(
    weight: Array, scales: Matrix, zeros: Integers | None, block_format: BlockFormat
) -> Blocks:
    """The integers that are nearest to a weight on a given grid.

    Args:
        weight: (rows, K), finite.
        scales: (rows, blocks), as `Blocks` has them.
        zeros: (rows, blocks), or None for a symmetric format.
        block_format: of the result.
    """
    found = Blocks(np.empty(weight.shape, np.uint8), scales, zeros, block_format)
    k = weight.shape[1]
    for part in parts(weight):
        scaled = weight[part] / spread(scales[part], k, block_format)
        np.rint(scaled, out=scaled)
        scaled += offsets(found, part)
        found.values[part] = np.clip(scaled, 0, block_format.largest, out=scaled)
    return found


def stored_bytes(rows: int, k: int, block_format: BlockFormat) -> int:
    """Bytes of a packed weight: integers (the last block is padded), scales and zero points."""
    count = block_format.count(k)
    width = block_format.width(k)
    integers = rows * count * (-(-width * block_format.bits // 8))
    scales = rows * count * np.dtype(block_format.scale_type).itemsize
    zeros = 0 if block_format.symmetric else rows * (-(-count * block_format.bits // 8))
    return int(integers + scales + zeros)


def check_weight(weight: Array) -> Array:
    """A weight (rows, K) that can be rounded.

    Raises:
        ValueError: not a matrix, empty, or an entry that is not finite.
    """
    w = np.asarray(weight)
    if w.ndim != 2 or w.size == 0:
        raise ValueError(f"found a weight of shape {w.shape}; expected a matrix that is not empty")
    if not all(np.isfinite(w[part]).all() for part in parts(w)):
        raise ValueError(f"found a weight of shape {w.shape} with NaN or infinity")
    return w


def parts(array: Array, entries: int | None = None) -> Iterator[slice]:
    """Rows of a matrix, some (of `entries` in all) at a time: copies in float64 stay small."""
    rows = max(1, (entries or _PART) // max(array.shape[1], 1))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def some(blocks: Blocks, part: slice) -> Blocks:
    """Some rows of a weight in blocks."""
    zeros = None if blocks.zeros is None else blocks.zeros[part]
    return Blocks(blocks.values[part], blocks.scales[part], zeros, blocks.format)


def spread(by_block: Array, k: int, block_format: BlockFormat) -> Array:
    """(rows, k): of each entry what its block has in (rows, blocks)."""
    return np.repeat(by_block, block_format.width(k), axis=1)[:, :k]


def offsets(blocks: Blocks, part: slice) -> Array:
    """The zero points of some rows, in float64, in a shape that goes with their integers."""
    if blocks.zeros is None:
        return np.full((1, 1), float(blocks.format.middle))
    return spread(blocks.zeros[part].astype(np.float64), blocks.values.shape[1], blocks.format)
