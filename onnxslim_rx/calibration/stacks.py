"""Arrays that hold many samples each, cut into samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.feeds import check_names
from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import TensorSpec

__all__ = ["unstack"]

Array = npt.NDArray[Any]
Take = Callable[[int], Array]


def unstack(
    arrays: Mapping[str, Array], inputs: Mapping[str, TensorSpec], where: str
) -> tuple[int, Callable[[int], dict[str, Array]]]:
    """The number of samples in `arrays`, and a function that takes one out.

    Samples lie along axis 0. An array with one axis more than the input has one whole input a
    sample. An array with the axes of the input has one row a sample, or as many rows as the
    model's batch is fixed to; rows that do not fill a last batch are left out. Scalars and
    arrays of exactly one sample are shared by all samples. An array that is no input is cut in
    the same way if it has as many rows, and shared otherwise.

    Raises:
        InputError: an input has no array, an array has no samples, or the counts differ.
    """
    check_names(arrays, inputs, where)
    batch = max((_rows(arrays[name], spec) for name, spec in inputs.items()), default=1)
    cuts = {name: _cut(arrays[name], spec) for name, spec in inputs.items()}
    counts = {name: count for name, (count, _) in cuts.items()}
    if not all(counts.values()):
        name = next(name for name, count in counts.items() if not count)
        raise InputError(
            f"array {name!r} of {where} has shape {list(arrays[name].shape)}, not even one sample",
            expected=str(inputs[name]),
        )
    total = max(counts.values(), default=0)
    if set(counts.values()) - {1, total}:
        found = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise InputError(f"{where} has {found}", expected="the same number of samples of each")
    for name, array in arrays.items():
        if name not in inputs:
            cuts[name] = _cut_extra(array, total, batch)

    def take(number: int) -> dict[str, Array]:
        return {name: cut(number if count > 1 else 0) for name, (count, cut) in cuts.items()}

    return total, take


def _rows(array: Array, spec: TensorSpec) -> int:
    """Rows of `array` that make one sample."""
    leading = spec.shape[0] if spec.shape and array.ndim == len(spec.shape) else 1
    return max(1, leading) if isinstance(leading, int) else 1


def _cut(array: Array, spec: TensorSpec) -> tuple[int, Take]:
    if array.ndim == 0:
        return 1, lambda _: array
    if array.ndim == len(spec.shape) + 1:
        return len(array), lambda number: np.asarray(array[number])
    rows = _rows(array, spec)
    return len(array) // rows, _in_rows(array, rows)


def _cut_extra(array: Array, total: int, batch: int) -> tuple[int, Take]:
    for rows in (1, batch):
        if array.ndim and len(array) // rows == total:
            return total, _in_rows(array, rows)
    return 1, lambda _: array


def _in_rows(array: Array, rows: int) -> Take:
    return lambda number: array[number * rows : (number + 1) * rows]
