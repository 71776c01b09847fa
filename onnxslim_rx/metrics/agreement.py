"""How often a model decides as the original does: a metric that needs no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from onnxslim_rx.metrics.base import Data
from onnxslim_rx.metrics.samples import floats
from onnxslim_rx.verify import Run, without_extras

__all__ = ["as_original", "decided_alike"]

Array = npt.NDArray[Any]
_DECIDED = "rx.decided"
_NONE = np.iinfo(np.int64).min
_PIXELS = 4  # dimensions of (rows, classes, height, width)


def as_original(run: Run, data: Data) -> Data:
    """The samples, each with what the original decides.

    Args:
        run: the original.
        data: inputs.
    """
    run = without_extras(run)
    return _Decided(data, [_decision(run(data[i])) for i in range(len(data))])


def decided_alike(run: Run, data: Data) -> npt.NDArray[np.float64]:
    """(rows,) share of the places at which a model has the same highest score as the original.

    Of scores (rows, classes, height, width) the classes lie along the second axis, of all others
    along the last. A model without scores gives its classes. What is not finite is never alike.
    """
    found = []
    for sample in (data[i] for i in range(len(data))):
        wanted, made = sample[_DECIDED], _decision(run(sample))
        if made.shape != wanted.shape:
            return np.zeros(sum(len(np.atleast_1d(s[_DECIDED])) for s in data))
        alike = np.atleast_1d((made == wanted) & (made != _NONE))
        found.append(alike.reshape(len(alike), -1).mean(1))
    return np.concatenate(found)


def _decision(outputs: Mapping[str, Any]) -> Array:
    """The class of each place; `_NONE` where no score is finite."""
    arrays = [value for value in outputs.values() if isinstance(value, np.ndarray)]
    if not any("float" in array.dtype.name for array in arrays):
        whole = next((array for array in arrays if array.dtype.kind in "iub"), None)
        if whole is not None:
            return whole
    scores = floats(outputs)
    axis = 1 if scores.ndim >= _PIXELS else -1
    decided: Array = np.where(np.isneginf(scores.max(axis)), _NONE, scores.argmax(axis))
    return decided


class _Decided(Sequence[Mapping[str, Array]]):
    """Samples with one more array each, put together when they are asked for."""

    def __init__(self, data: Data, decided: Sequence[Array]) -> None:
        self._data, self._decided = data, decided

    def __len__(self) -> int:
        return len(self._decided)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Array]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> Mapping[str, Array] | Sequence[Mapping[str, Array]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {**self._data[index], _DECIDED: self._decided[index]}
