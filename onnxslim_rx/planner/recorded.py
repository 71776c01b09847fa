"""What a model gives on each sample, computed once; and models that get their own state back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import onnx_ir as ir

from onnxslim_rx.calibration import Dataset, Samples, Steps
from onnxslim_rx.calibration.samples import Sample
from onnxslim_rx.ir import Spool
from onnxslim_rx.verify import Run, without_extras

__all__ = ["Recorded", "own_state"]

_MEMORY_BYTES = 64 << 20  # of outputs; what is more waits in temporary files
_INDEX = "rx.index"


class Recorded:
    """A stand-in for a model that only knows the samples of `data`.

    Args:
        run: the model; run once on each sample when that is asked for first.
        data: the samples.

    Attributes:
        data: the samples, numbered: what `run` and models that are compared with it are given.
    """

    def __init__(self, run: Run, data: Dataset) -> None:
        self.data: Sequence[Sample] = _Numbered(data)
        self._run = without_extras(run)
        self._known: dict[int, Mapping[str, Any]] = {}
        self._left = _MEMORY_BYTES
        self._spool = Spool()

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs for a sample of `self.data`, by name."""
        index = int(sample[_INDEX])
        if index not in self._known:
            plain = {name: value for name, value in sample.items() if name != _INDEX}
            found = self._run(plain)
            self._known[index] = {name: self._kept(value) for name, value in found.items()}
        return self._known[index]

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            return value  # sequences, maps and text
        if value.nbytes <= self._left:
            self._left -= value.nbytes
            return value
        return self._spool.keep(ir.tensor(value)).numpy()


def own_state(run: Run, data: Dataset) -> Run:
    """A model as it is used: from step to step it gets the state that it gave itself.

    What rounding does to a state is fed back, and may grow; the state in the samples is the
    original's.

    Args:
        run: the model.
        data: what `Recorded` was made for; its samples are asked for in their order.
    """
    run = without_extras(run)
    steps = data.steps if isinstance(data, Samples) else None
    return run if steps is None else _Rollout(run, steps)


class _Rollout:
    def __init__(self, run: Run, steps: Steps) -> None:
        self._run, self._steps = run, steps
        self._next = 0
        self._state: dict[str, Any] = {}

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        index = int(sample[_INDEX])
        own = self._state if index == self._next and self._steps.follow[index] else {}
        found = self._run({**sample, **own})
        self._next = index + 1
        self._state = {name: found[output] for name, output in self._steps.state.items()}
        return found


class _Numbered(Sequence[Sample]):
    """Samples that know their number."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return {**self._data[index], _INDEX: np.asarray(range(len(self))[index])}
