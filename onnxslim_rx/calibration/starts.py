"""What a step of a model with state leaves to be filled in: the first state, masks, positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.runtime import Runner, TensorSpec

__all__ = ["completed", "starts"]

Array = npt.NDArray[Any]

_BATCH = re.compile(r"batch|^(b|n|bs|bsz)$", re.IGNORECASE)


def starts(
    given: Mapping[str, Array], runner: Runner, state: Mapping[str, str]
) -> Iterator[dict[str, Array]]:
    """States of zeros before the first step, from the likeliest on.

    A size that an input of the step shares by its name is the same there; what is called a batch
    is that of the step. Other open sizes count steps, of which there were none, or else are that
    of the batch.
    """
    known: dict[str, int] = {}
    batch = 1
    for name, spec in reversed(runner.inputs.items()):
        array = given.get(name)
        if array is not None and array.ndim == len(spec.shape):
            sizes = zip(spec.shape, array.shape, strict=True)
            known |= {dim: size for dim, size in sizes if isinstance(dim, str)}
            if array.ndim and name not in state:
                batch = array.shape[0]
    seen = []
    for others in ((0, 0), (batch, 0), (batch, batch), (1, 0), (1, 1)):
        start = {
            name: _zeros(runner.inputs[name], known, batch, *others)
            for name in state
            if name not in given
        }
        shapes = {name: array.shape for name, array in start.items()}
        if shapes not in seen:
            seen.append(shapes)
            yield start


def _zeros(
    spec: TensorSpec, known: Mapping[str, int], batch: int, unnamed_first: int, other: int
) -> Array:
    sizes = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            sizes.append(dim)
        elif dim is not None and dim in known:
            sizes.append(known[dim])
        elif dim is not None and _BATCH.search(dim):
            sizes.append(batch)
        else:
            sizes.append(unnamed_first if axis == 0 else other)
    return np.zeros(sizes, spec.dtype)


def completed(
    sample: Mapping[str, Array], runner: Runner, state: Mapping[str, str]
) -> dict[str, Array]:
    """`sample` with a mask of ones, positions and the switch of the cache where they lack."""
    filled = dict(sample)
    missing = [name for name in runner.inputs if name not in filled]
    if not missing:
        return filled
    ids = next(
        (
            array
            for name, spec in runner.inputs.items()
            if name not in state
            and (array := sample.get(name)) is not None
            and array.ndim == len(spec.shape) >= 2
        ),
        None,
    )
    if ids is None:
        return filled
    batch, length = ids.shape[:2]
    past = _past(sample, runner, state)
    for name in missing:
        dtype, shape = runner.inputs[name].dtype, runner.inputs[name].shape
        if "mask" in name and "padding" not in name and len(shape) == 2:
            filled[name] = np.ones((batch, past + length), dtype)
        elif "position" in name and len(shape) in (1, 2):
            positions = np.arange(past, past + length, dtype=dtype)
            filled[name] = positions if len(shape) == 1 else np.tile(positions, (batch, 1))
        elif name.startswith("use_cache") and len(shape) <= 1:
            filled[name] = np.full((1,) * len(shape), past > 0, dtype)
    return filled


def _past(sample: Mapping[str, Array], runner: Runner, state: Mapping[str, str]) -> int:
    """Steps in the state: its size along the axis that grows."""
    for name, output in state.items():
        before, after = runner.inputs[name].shape, runner.outputs[output].shape
        array = sample.get(name)
        if array is None or array.ndim != len(before):
            continue
        open_axes = [axis for axis, dim in enumerate(before) if not isinstance(dim, int)]
        named = {dim for dim in before if isinstance(dim, str) and _BATCH.search(dim)}
        grows = [
            axis for axis in open_axes if before[axis] not in named and before[axis] != after[axis]
        ]
        if grows:
            return int(array.shape[grows[-1]])
    return 0
