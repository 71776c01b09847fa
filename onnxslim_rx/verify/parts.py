"""What a model gives, taken apart into named arrays that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.padding import masks_of, positions
from onnxslim_rx.runtime import Runner

__all__ = ["Run", "flatten", "without_extras", "without_padding"]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Any]]
"""Maps the inputs of one sample to outputs, both by name; a `runtime.Runner` is one."""


def flatten(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """`value` as named arrays: `name`, or `name[i]` for sequences and `name[key]` for maps.

    A list of maps with the same keys (one map for each row, as classifiers of scikit-learn give)
    becomes one array of shape (rows,) for each key. None (an empty optional) has no arrays.
    """
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(f"{name}[{key}]", item)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if value and all(isinstance(item, Mapping) for item in value):
            keys = dict.fromkeys(key for item in value for key in item)
            for key in keys:
                yield f"{name}[{key}]", np.asarray([item.get(key, np.nan) for item in value])
        else:
            for index, item in enumerate(value):
                yield from flatten(f"{name}[{index}]", item)
    else:
        yield name, np.asarray(value)


def without_padding(array: Array, sample: Mapping[str, Array]) -> Array:
    """`array` without the positions that a mask among the model's inputs switches off.

    Where the first axes are those of a mask, (batch, sequence, ...) or (batch * sequence, ...),
    the result has the positions left as its first axis; see `calibration.padding`.
    """
    masks = masks_of(sample)
    for axes in (2, 1):
        kept = positions(array.shape[:axes], masks) if masks and array.ndim >= axes else None
        if kept is not None and kept.any():
            return np.asarray(array[kept])
    return array


def without_extras(run: Run) -> Run:
    """`run`, but a `Runner` gets only its own inputs: samples may carry labels, too."""
    if not isinstance(run, Runner):
        return run
    runner, known = run, {**run.inputs, **run.overridable}
    return lambda sample: runner({name: sample[name] for name in known if name in sample})
