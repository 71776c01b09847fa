"""Weights rounded to blocks, as they will be stored; computed once and kept.

Candidates, probes and the model that is built ask for the same roundings: they are kept by the
contents of weight and statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array
from onnxslim_rx.quant import (
    Blocks,
    pack,
    pack_zeros,
    restore,
    round_clipped,
    round_nearest,
    unpack,
    unpack_zeros,
)
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["Rounded", "rounded"]

Matrix = npt.NDArray[np.float64]

_KEPT = Memo(384 << 20)
_PART = 1 << 20  # entries that are in memory in float64 at a time
_NONE = np.empty(0)


class Rounded(NamedTuple):
    """A weight (rows, K) as it is stored; what there is none of is empty.

    Args:
        values: (rows, blocks, bytes), see `quant.pack`.
        scales: (rows, blocks), in their own type.
        zeros: (rows, bytes), see `quant.pack_zeros`.
    """

    values: Array
    scales: Array
    zeros: Array

    def dense(
        self, k: int, options: BlockOptions, dtype: type[np.floating] = np.float64
    ) -> npt.NDArray[np.floating]:
        """(rows, K): what the weight is multiplied as."""
        return restore(self._blocks(k, options), dtype)

    def integers(self, k: int, options: BlockOptions) -> tuple[Array, Array | None]:
        """(rows, K) and the zero points (rows, blocks)."""
        blocks = self._blocks(k, options)
        return blocks.values, blocks.zeros

    def parts(self, k: int, options: BlockOptions) -> Iterator[tuple[slice, Matrix]]:
        """The dense weight, some rows at a time, and which."""
        step = max(1, _PART // k)
        for start in range(0, len(self.values), step):
            part = slice(start, start + step)
            zeros = self.zeros[part] if self.zeros.size else self.zeros
            some = self._replace(values=self.values[part], scales=self.scales[part], zeros=zeros)
            yield part, some.dense(k, options).astype(np.float64, copy=False)

    def _blocks(self, k: int, options: BlockOptions) -> Blocks:
        form = options.block_format
        zeros = None if options.symmetric else unpack_zeros(self.zeros, form.count(k), form.bits)
        scales = self.scales.astype(np.float64)
        return Blocks(unpack(self.values, k, form), scales, zeros, form)


def rounded(weight: Array, options: BlockOptions, gram: Matrix | None) -> Rounded:
    """Round a weight as a stage says.

    Args:
        weight: (rows, K), in the type that the model has it in.
        options: of the stage.
        gram: (K, K) second moments of what is multiplied with it, or None.

    Raises:
        ValueError: NaN or infinity, an empty weight, or scales that overflow their type.
    """
    own = gram if options.uses_statistics or options.method == "clip" else None
    spelt = (*options.stage("").options.items(),)
    key = digest([weight, *([] if own is None else [own])]), spelt
    return Rounded(*_KEPT.get(key, lambda: _stored(weight, options, own)))


def _stored(weight: Array, options: BlockOptions, gram: Matrix | None) -> Sequence[Array]:
    blocks = _blocks(weight, options, gram)
    form = options.block_format
    zeros = _NONE if blocks.zeros is None else pack_zeros(blocks.zeros, form.bits)
    scales = blocks.scales.astype(form.scale_type)
    return Rounded(pack(blocks.values, form, blocks.zeros), scales, zeros)


def _blocks(weight: Array, options: BlockOptions, gram: Matrix | None) -> Blocks:
    form = options.block_format
    if options.method == "nearest":
        return round_nearest(weight, form)
    return round_clipped(weight, form, None if gram is None else np.diagonal(gram))
