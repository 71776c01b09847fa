"""Operands of kernels in cases: drawn numbers, unwritten outputs, and what must be stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.kernel_case import Array
from tools.kernel_families import Values
from tools.kernel_reference import activation, half_or_float, sum_bound

__all__ = ["CLIP", "draw", "epilogue_terms", "finished", "real", "scalars", "unwritten"]

CLIP = (-0.5, 1.5)
real = half_or_float


def draw(
    generator: np.random.Generator, shape: tuple[int, ...], kind: type[np.floating[Any]]
) -> Array:
    """Normally distributed numbers of type `kind`."""
    return generator.standard_normal(shape).astype(kind)


def unwritten(shape: tuple[int, ...], kind: type[np.floating[Any]]) -> Array:
    """An output before the launch: NaN."""
    return np.full(shape, np.nan, kind)


def scalars(*given: int) -> tuple[np.generic, ...]:
    """The sizes and the limits of Clip, as every kernel takes them first."""
    return (*(np.int32(one) for one in given), np.float32(CLIP[0]), np.float32(CLIP[1]))


def epilogue_terms(values: Values, bias: Array, residual: Array) -> tuple[Array, ...]:
    """Those of `bias` and `residual` that the options add, in float64."""
    chosen = [bias] * values["BIAS"] + [residual] * values["RESIDUAL"]
    return tuple(one.astype(np.float64) for one in chosen)


def finished(
    values: Values, total: Array, absolute: Array, roundings: int, added: tuple[Array, ...] = ()
) -> tuple[Array, Array]:
    """What a kernel must store for an exact sum, and how far it may be off.

    Args:
        values: options: ACT and REAL_BITS are read.
        total: the exact sums.
        absolute: the sums of the absolute values of their terms.
        roundings: most of them on the way from a term to the sum.
        added: bias and residual, as far as they are added, of a shape that fits.

    Returns:
        value and bound, as `Case.expected` gives them.
    """
    with np.errstate(all="ignore"):
        for one in added:
            total, absolute = total + one, absolute + np.abs(one)
        error = sum_bound(roundings + len(added)) * absolute
        value, bound = activation(values, total, error, *CLIP)
    return value, bound + 2.0**-126  # below the least normal float, u says nothing
