"""The state before each step of each sequence, on disk."""

from __future__ import annotations

import dataclasses
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["StateStore"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class _Record:
    """Where an array lies; with an axis, it is what grew since the step before."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axis: int | None


class StateStore:
    """Arrays by name for each step, in a temporary file that goes with this object.

    Of a state that only grows along one axis, such as the keys and values of attention, the file
    holds what each step added, so that it does not grow with the square of the steps.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="onnxslim-rx-")  # noqa: SIM115  closed below
        weakref.finalize(self, self._file.close)
        self._steps: list[dict[str, _Record]] = []
        self._last: tuple[int, Mapping[str, Array]] = (-1, {})  # a step, and its arrays

    def __len__(self) -> int:
        return len(self._steps)

    def append(self, state: Mapping[str, Array], *, first: bool) -> None:
        """Add the state before the next step; `first` of a sequence, or a later one."""
        before = {} if first else self.read(len(self) - 1)
        records = {}
        for name, array in state.items():
            axis = _grown(before[name], array) if name in before else None
            new = array if axis is None else _after(array, before[name].shape[axis], axis)
            self._file.seek(0, 2)
            records[name] = _Record(self._file.tell(), new.shape, new.dtype, axis)
            self._file.write(new.tobytes())
        self._steps.append(records)
        self._last = (len(self) - 1, dict(state))

    def read(self, step: int) -> Mapping[str, Array]:
        """The state before `step`; cheap for the same step again and for the one after it."""
        at, arrays = self._last
        start = at + 1
        if not 0 <= at <= step:
            start, arrays = self._whole(step), {}
        elif at < step and self._whole(step) > at:
            start = self._whole(step)
        for number in range(start, step + 1):
            arrays = {name: self._array(r, arrays.get(name)) for name, r in self._of(number)}
        self._last = (step, arrays)
        return arrays

    def _of(self, step: int) -> list[tuple[str, _Record]]:
        return list(self._steps[step].items())

    def _whole(self, step: int) -> int:
        """The last step up to `step` whose arrays lie there in whole."""
        while any(record.axis is not None for record in self._steps[step].values()):
            step -= 1
        return step

    def _array(self, record: _Record, before: Array | None) -> Array:
        self._file.seek(record.offset)
        size = int(np.prod(record.shape, dtype=np.int64)) * record.dtype.itemsize
        new = np.frombuffer(self._file.read(size), record.dtype).reshape(record.shape)
        if record.axis is None or before is None:
            return new
        return np.concatenate([before, new], axis=record.axis)


def _grown(old: Array, new: Array) -> int | None:
    """The axis along which `new` is `old` with more behind it, or None."""
    if old.dtype != new.dtype or old.ndim != new.ndim or not old.size:
        return None
    axes = [axis for axis in range(old.ndim) if old.shape[axis] != new.shape[axis]]
    if len(axes) != 1 or new.shape[axes[0]] < old.shape[axes[0]]:
        return None
    start = tuple(slice(0, size) for size in old.shape)
    # bits, not numbers: the zeros of both signs, and NaN, come back as they were
    same = new[start].tobytes() == old.tobytes()
    return axes[0] if same else None


def _after(array: Array, length: int, axis: int) -> Array:
    return array[(slice(None),) * axis + (slice(length, None),)]
