"""Floating point of 16 bits: arrays rounded to it, and what that loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Array, Factors, Layer
from onnxslim_rx_passes._factors import is_finite

__all__ = ["HALVES", "UNITS", "half_factors", "to_half", "too_large", "worst_slice"]

HALVES: Mapping[str, ir.DataType] = {
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
UNITS: Mapping[str, float] = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest relative error of a number within the normal range of the type."""

_BLOCK = 1 << 20  # entries that are treated at once


def to_half(array: Array, name: str) -> Array | None:
    """The array in a type of 16 bits, or None where an entry is beyond its range or not finite.

    Args:
        array: floating point.
        name: "float16" or "bfloat16".
    """
    with np.errstate(over="ignore"):  # what becomes infinite is looked for
        found = array.astype(HALVES[name].numpy())
    return found if is_finite(found) else None


def half_factors(layer: Layer, factors: Factors, name: str) -> Factors:
    """Each factor of a layer rounded to the type called `name`, in its own type.

    Raises:
        InputError: an entry does not fit.
    """
    found = []
    for factor in factors:
        rounded = to_half(factor, name)
        if rounded is None:
            raise InputError(f"{layer.name}: {too_large(name)}")
        found.append(rounded.astype(factor.dtype))
    return tuple(found)


def too_large(name: str) -> str:
    """Why a constant does not become half."""
    return f"a constant has NaN, infinity, or entries beyond the range of {name}"


def worst_slice(array: Array, found: Array, axes: Sequence[int]) -> float:
    """The largest relative error, `||X' - X||_F / ||X||_F`, that a slice of an array has.

    Args:
        array: any shape.
        found: what stands for it, in the same shape.
        axes: each index of these is a slice.

    Returns:
        At least 0, no unit; slices of zeros count nothing.
    """
    count = math.prod(array.shape[axis] for axis in axes)
    before, after = (
        np.moveaxis(one, axes, range(len(axes))).reshape(count, -1) for one in (array, found)
    )
    worst = 0.0
    rows = max(1, _BLOCK * count // max(array.size, 1))
    for start in range(0, count, rows):
        here = before[start : start + rows].astype(np.float64)
        norms = np.linalg.norm(here, axis=1)
        here -= after[start : start + rows]
        errors = np.linalg.norm(here, axis=1)
        worst = max(worst, float((errors / np.where(norms > 0, norms, 1.0)).max(initial=0.0)))
    return worst
