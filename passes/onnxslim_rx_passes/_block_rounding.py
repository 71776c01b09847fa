"""Weights rounded to blocks, as they will be stored; computed once and kept.

Candidates, probes and the model that is built ask for the same roundings: they are kept by the
contents of weight and statistics.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onnxslim_rx.passbase import Array
from onnxslim_rx.quant import (
    Blocks,
    awq_scales,
    correct,
    pack,
    pack_zeros,
    quantize_symmetric,
    restore,
    round_clipped,
    round_hqq,
    round_nearest,
    round_refined,
    unpack,
    unpack_zeros,
)
from onnxslim_rx_passes._block_options import BlockOptions
from onnxslim_rx_passes._memo import Memo, digest

__all__ = ["Factor", "Rounded", "rounded"]

Matrix = npt.NDArray[np.float64]

_KEPT = Memo(384 << 20)
# A second one takes as long, and lowers the error by 1% more (MiniLM, 4 bits).
_ROUNDS = 1
_NONE = np.empty(0)
_BYTE = 8


class Factor(NamedTuple):
    """A thin matrix in INT8, `values * scales`; empty where there is none."""

    values: Array
    scales: Array

    @classmethod
    def of(cls, array: Matrix, axis: int, dtype: npt.DTypeLike) -> Factor:
        """With a scale of type `dtype` for each index of `axis`."""
        half = np.dtype(dtype) == np.float16
        grid = quantize_symmetric(array, (axis,), _BYTE, np.float16 if half else np.float32)
        return cls(grid.values, grid.scales.astype(dtype))

    def dense(self) -> Matrix:
        """In float64."""
        return self.values * self.scales.astype(np.float64)


class Rounded(NamedTuple):
    """A weight (rows, K) as it is stored; what there is none of is empty.

    It stands for `(values - zeros) * scales * inputs + (first second)^T`.

    Args:
        values: (rows, blocks, bytes), see `quant.pack`.
        scales: (rows, blocks), in their own type.
        zeros: (rows, bytes), see `quant.pack_zeros`.
        inputs: (K,), what inputs are multiplied with.
        first: (K, rank) and `second`: (rank, rows), the low-rank correction.
    """

    values: Array
    scales: Array
    zeros: Array
    inputs: Array
    first: Factor
    second: Factor

    def blocks(self, k: int, options: BlockOptions, part: slice = slice(None)) -> Blocks:
        """The integers and scales of some rows."""
        form, zeros = options.block_format, None
        if not options.symmetric:
            zeros = unpack_zeros(self.zeros[part], form.count(k), form.bits)
        scales = self.scales[part].astype(np.float64)
        return Blocks(unpack(self.values[part], k, form), scales, zeros, form)

    def dense(
        self,
        k: int,
        options: BlockOptions,
        dtype: type[np.floating] = np.float64,
        part: slice = slice(None),
    ) -> npt.NDArray[np.floating]:
        """(rows, K), or some of the rows: what the weight is multiplied as."""
        found = restore(self.blocks(k, options, part), dtype)
        if self.inputs.size:
            found *= self.inputs
        if self.first.values.size:
            found += (self.first.dense() @ self.second.dense()[:, part]).T
        return found


def rounded(weight: Array, options: BlockOptions, gram: Matrix | None, rows: int) -> Rounded:
    """Round a weight as a stage says.

    Args:
        weight: (rows, K), in the type that the model has it in.
        options: of the stage.
        gram: (K, K), sum of the second moments of what is multiplied with it, or None.
        rows: how many were summed up.

    Raises:
        ValueError: NaN or infinity, an empty weight, or scales that overflow their type.
    """
    own = gram if options.uses_statistics or options.method == "clip" else None
    form = options.stage("").options
    spelt = tuple(value for key, value in form.items() if key != "form")
    key = digest([weight, *([] if own is None else [own])]), spelt, 0 if own is None else rows
    flat = _KEPT.get(key, lambda: _flat(_rounded(weight, options, own, rows)))
    values, scales, zeros, inputs = flat[:4]
    return Rounded(values, scales, zeros, inputs, Factor(*flat[4:6]), Factor(*flat[6:]))


def _flat(made: Rounded) -> list[Array]:
    return [made.values, made.scales, made.zeros, made.inputs, *made.first, *made.second]


def _rounded(weight: Array, options: BlockOptions, gram: Matrix | None, rows: int) -> Rounded:
    form, inputs = options.block_format, _NONE
    first = second = Factor(_NONE, _NONE)
    if options.rank:
        blocks, a, b = _corrected(weight, options, gram, rows)
        first, second = Factor.of(a.T, 1, weight.dtype), Factor.of(b.T, 0, weight.dtype)
    elif options.method == "awq":
        assert gram is not None  # callers have seen to it
        # zeros stay zeros whatever is done
        sizes = awq_scales(weight, form, gram, rows=rows) if weight.any() else np.ones(len(gram))
        inputs = (1.0 / sizes).astype(weight.dtype)
        given = inputs.astype(np.float64)
        blocks = round_clipped(weight / given, form, np.diagonal(gram) * given**2)
    else:
        blocks = _blocks(weight, options, gram, rows)
    zeros = _NONE if blocks.zeros is None else pack_zeros(blocks.zeros, form.bits)
    packed = pack(blocks.values, form, blocks.zeros)
    return Rounded(packed, blocks.scales.astype(form.scale_type), zeros, inputs, first, second)


def _corrected(
    weight: Array, options: BlockOptions, gram: Matrix | None, rows: int
) -> tuple[Blocks, Matrix, Matrix]:
    """Blocks, A (rank, K) and B (rows, rank)."""
    plain = dataclasses.replace(options, rank=0)
    n, k = weight.shape
    known = rounded(weight, plain, gram, rows).blocks(k, plain)
    if not weight.any():
        return known, np.zeros((options.rank, k)), np.zeros((n, options.rank))
    assert gram is not None  # callers have seen to it
    return correct(
        weight,
        options.block_format,
        gram,
        options.rank,
        rows=rows,
        rounding=lambda part: _blocks(part, plain, gram, rows),
        start=known,
        rounds=_ROUNDS,
    )


def _blocks(weight: Array, options: BlockOptions, gram: Matrix | None, rows: int) -> Blocks:
    form = options.block_format
    # zeros stay zeros whatever is done: layers are timed with them
    if options.method == "nearest" or not weight.any():
        return round_nearest(weight, form)
    if options.method == "hqq":
        return round_hqq(weight, form)
    if options.method == "gptq":
        assert gram is not None  # callers have seen to it
        return round_refined(weight, form, gram, rows=rows)
    return round_clipped(weight, form, None if gram is None else np.diagonal(gram))
