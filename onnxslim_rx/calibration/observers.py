"""What is summed up of a tensor, sample by sample, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.padding import positions
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.errors import InputError

__all__ = ["Observer", "memory_of", "observer"]

Array = npt.NDArray[Any]

_CHUNK = 512  # rows multiplied at once: their products are summed up in the activations' type
_PANEL = 1024  # columns multiplied at once
_SAMPLE = 256  # rows kept
_SAFE = 1e15  # the square of what is larger comes near the end of float32


class Observer(Protocol):
    """Sums up one reading.

    Attributes:
        rows: rows of X seen so far.
        shape: shape of the tensor in the largest sample so far.
    """

    rows: int
    shape: tuple[int, ...]

    def see(self, found: Array, masks: Sequence[Array], where: str) -> None:
        """Take in one sample.

        Args:
            found: the tensor; for convolutions its shape, followed by that of the output.
            masks: (batch, sequence), True where there is no padding; see `masks_of`.
            where: names the sample in messages.

        Raises:
            InputError: NaN or infinity.
        """
        ...

    def arrays(self) -> dict[str, Array]:
        """What was summed up, by the names of `LayerStatistics`."""
        ...


def observer(reading: Reading, seed: int) -> Observer:
    """What sums up `reading`."""
    if reading.kind == "conv":
        return _Shapes()
    if reading.kind == "embedding":
        return _Counts(reading.size)
    # the same seed for all: the rows drawn of two layers stem from the same positions
    return _Rows(reading, np.random.default_rng(seed))


def memory_of(reading: Reading) -> int:
    """Bytes that an observer of `reading` holds at most."""
    if reading.kind == "linear":
        return reading.size * (8 * reading.size + 4 * (_CHUNK + 2 * _SAMPLE))
    return 8 * reading.size


class _Shapes:
    """Rows and shape of a convolution: its rows are the positions of its output."""

    def __init__(self) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()

    def see(self, found: Array, masks: Sequence[Array], where: str) -> None:
        sizes = [int(size) for size in found]
        shape, (batch, _, *places) = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
        self.shape = max(self.shape, tuple(shape), key=_volume)
        self.rows += math.prod([batch, *places])

    def arrays(self) -> dict[str, Array]:
        return {}


class _Counts:
    """How often each row of an embedding is read."""

    def __init__(self, size: int) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()
        self._counts = np.zeros(size, dtype=np.int64)

    def see(self, found: Array, masks: Sequence[Array], where: str) -> None:
        self.shape = max(self.shape, found.shape, key=_volume)
        keep = positions(found.shape, masks)
        indices = (found if keep is None else found[keep]).ravel().astype(np.int64)
        size = len(self._counts)
        indices = np.where(indices < 0, indices + size, indices)
        self._counts += np.bincount(indices, minlength=size)[:size]
        self.rows += indices.size

    def arrays(self) -> dict[str, Array]:
        return {"counts": self._counts}


class _Rows:
    """The Gram matrix and some rows of what enters a linear layer."""

    def __init__(self, reading: Reading, rng: np.random.Generator) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()
        self._reading = reading
        self._rng = rng
        width = reading.size
        self._gram = np.zeros((width, width), dtype=np.float64)
        self._buffer: list[Array] = []
        self._buffered = 0
        self._sample = np.zeros((0, width), dtype=np.float32)
        self._keys = np.zeros(0, dtype=np.float64)

    def see(self, found: Array, masks: Sequence[Array], where: str) -> None:
        self.shape = max(self.shape, found.shape, key=_volume)
        rows = self._as_rows(found, masks)
        if rows.size and not np.isfinite(rows).all():
            raise InputError(
                f"the model computes NaN or infinity at {self._reading.value.name!r} on {where}",
                expected="finite activations on calibration data",
                advice="check how the data was preprocessed, and the original model on it",
            )
        self.rows += len(rows)
        self._draw(rows)
        for start in range(0, len(rows), _CHUNK):
            self._add(rows[start : start + _CHUNK])

    def arrays(self) -> dict[str, Array]:
        self._flush()
        for start in range(0, len(self._gram), _PANEL):
            stop = start + _PANEL
            corner = self._gram[start:stop, start:stop]
            corner[:] = (corner + corner.T) / 2
            self._gram[stop:, start:stop] = self._gram[start:stop, stop:].T
        return {"gram": self._gram, "sample": self._sample}

    def _as_rows(self, found: Array, masks: Sequence[Array]) -> Array:
        keep = positions(found.shape[:-1], masks)
        if self._reading.transposed and found.ndim > 1:
            found = np.swapaxes(found, -1, -2)
        elif keep is not None:
            found = found[keep]
        dtype = np.float64 if found.dtype == np.float64 else np.float32
        return found.reshape(-1, self._reading.size).astype(dtype, copy=False)

    def _draw(self, rows: Array) -> None:
        """Keep the rows with the smallest keys: a sample without replacement of all rows."""
        keys = self._rng.random(len(rows))
        if len(self._keys) == _SAMPLE:
            lucky = keys < self._keys.max()
            keys, rows = keys[lucky], rows[lucky]
        if len(keys):
            keys = np.concatenate([self._keys, keys])
            chosen = np.sort(np.argsort(keys, kind="stable")[:_SAMPLE])
            self._sample = np.concatenate([self._sample, rows])[chosen]
            self._keys = keys[chosen]

    def _add(self, rows: Array) -> None:
        if self._buffered + len(rows) > _CHUNK:
            self._flush()
        self._buffer.append(rows.copy())  # what came is a view of all of the sample's output
        self._buffered += len(rows)

    def _flush(self) -> None:
        if not self._buffered:
            return
        rows = np.concatenate(self._buffer)
        self._buffer, self._buffered = [], 0
        if np.abs(rows).max() > _SAFE:
            rows = rows.astype(np.float64)
        for start in range(0, len(self._gram), _PANEL):
            stop = start + _PANEL
            self._gram[start:stop, start:] += rows[:, start:stop].T @ rows[:, start:]


def _volume(shape: tuple[int, ...]) -> int:
    return math.prod(shape) if shape else -1
