"""What is summed up of a tensor, sample by sample, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.moments import (
    CHUNK,
    Channels,
    CrossMoment,
    GramBand,
    GramMatrix,
    Moment,
)
from onnxslim_rx.calibration.padding import positions
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.rows import RowSample, as_rows, positions_as_rows
from onnxslim_rx.errors import InputError

__all__ = ["Observer", "height_within", "memory_of", "observer"]

Array = npt.NDArray[Any]

_SAMPLE = 256  # rows kept
_LEAST_HEIGHT = 512  # rows of a matrix summed up in one go, however little memory there is


class Observer(Protocol):
    """Sums up one reading.

    Attributes:
        rows: rows of X seen so far.
        shape: shape of the tensor in the largest sample so far.
    """

    rows: int
    shape: tuple[int, ...]

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in one sample.

        Args:
            found: the tensor, and the other one where there is one; for convolutions the shapes
                of what enters and what leaves.
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
    return _Rows(reading, seed)


def memory_of(reading: Reading) -> int:
    """Bytes that an observer of `reading` holds at most."""
    if reading.kind not in ("linear", "cross"):
        return 8 * reading.size
    first, last = reading.band or (0, reading.size)
    return 8 * (last - first) * _columns(reading, first) + _buffers(reading)


def height_within(reading: Reading, memory_bytes: int) -> int:
    """How many rows of its matrix can be summed up in one go within `memory_bytes`."""
    if reading.kind not in ("linear", "cross"):
        return reading.size
    height = (memory_bytes - _buffers(reading)) // (8 * max(_columns(reading, 0), 1))
    return max(_LEAST_HEIGHT, height)


def _columns(reading: Reading, first: int) -> int:
    return reading.other_size if reading.kind == "cross" else reading.size - first


def _buffers(reading: Reading) -> int:
    """Bytes of a chunk of rows as they come and in float64, and of the sampled rows."""
    return (12 * CHUNK + 8 * _SAMPLE) * (reading.size + reading.other_size)


class _Shapes:
    """Rows and shape of a convolution: its rows are the positions of its output."""

    def __init__(self) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        shape, (batch, _, *places) = ([int(size) for size in sizes] for sizes in found)
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

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        (read,) = found
        self.shape = max(self.shape, read.shape, key=_volume)
        keep = positions(read.shape, masks)
        indices = (read if keep is None else read[keep]).ravel().astype(np.int64)
        size = len(self._counts)
        indices = np.where(indices < 0, indices + size, indices)
        self._counts += np.bincount(indices, minlength=size)[:size]
        self.rows += indices.size

    def arrays(self) -> dict[str, Array]:
        return {"counts": self._counts}


class _Rows:
    """Moments of what enters a linear layer, of each channel and of pairs, and some rows."""

    def __init__(self, reading: Reading, seed: int) -> None:
        self.rows = 0
        self.shape: tuple[int, ...] = ()
        self._reading = reading
        first, last = reading.band or (0, reading.size)
        self._name, self._moment = _moment(reading, first, last)
        # the other bands of a matrix need not tell again
        tells = reading.kind == "linear" and first == 0
        self._channels = Channels(reading.size) if tells else None
        # the same seed for all: the rows drawn of two layers stem from the same positions
        self._sample = RowSample(reading.size, _SAMPLE, seed) if tells else None
        self._x = np.zeros((CHUNK, reading.size))
        self._z = np.zeros((CHUNK, reading.other_size))
        self._filled = 0

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        self.shape = max(self.shape, found[0].shape, key=_volume)
        reading = self._reading
        if reading.strides is not None:
            found, masks = [positions_as_rows(one, reading.strides) for one in found], ()
        x = self._as_rows(found[0], reading.size, reading.transposed, masks, where)
        z = np.zeros((len(x), 0), dtype=np.float32)
        if len(found) > 1:
            size, flipped = reading.other_size, reading.other_transposed
            z = self._as_rows(found[1], size, flipped, masks, where)
            if len(z) != len(x):
                raise InputError(
                    f"the inputs of the two layers at {reading.value.name!r} have {len(x)} and"
                    f" {len(z)} rows on {where}",
                    expected="as many rows",
                    advice="compare layers that stand in the same place of both models",
                )
        self.rows += len(x)
        if self._sample is not None:
            self._sample.see(x)
        start = 0
        while start < len(x):
            taken = min(CHUNK - self._filled, len(x) - start)
            here, there = slice(self._filled, self._filled + taken), slice(start, start + taken)
            self._x[here], self._z[here] = x[there], z[there]
            self._filled += taken
            start += taken
            if self._filled == CHUNK:
                self._flush()

    def arrays(self) -> dict[str, Array]:
        self._flush()
        total = self._moment.total()
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(total.sum(axis=0)).all()
        if not finite:
            raise InputError(
                f"the activations at {self._reading.value.name!r} are too large to be squared",
                expected="activations below 1e150",
            )
        arrays: dict[str, Array] = {self._name: total}
        if self._sample is not None and self._channels is not None:
            arrays |= {"sample": self._sample.rows} | self._channels.arrays()
        return arrays

    def _as_rows(
        self, found: Array, size: int, transposed: bool, masks: Sequence[Array], where: str
    ) -> Array:
        rows = as_rows(found, size, transposed=transposed, masks=masks)
        if rows.size and not np.isfinite(rows).all():
            raise InputError(
                f"the model computes NaN or infinity at {self._reading.value.name!r} on {where}",
                expected="finite activations on calibration data",
                advice="check how the data was preprocessed, and the original model on it",
            )
        return rows

    def _flush(self) -> None:
        if not self._filled:
            return
        x, z = self._x[: self._filled], self._z[: self._filled]
        self._filled = 0
        self._moment.add(x, z)
        if self._channels is not None:
            self._channels.add(x)


def _moment(reading: Reading, first: int, last: int) -> tuple[str, Moment]:
    """The name of the matrix that is summed up, and what does so."""
    if reading.kind == "cross":
        return "cross", CrossMoment(first, last, reading.other_size)
    if reading.band is None:
        return "gram", GramMatrix(reading.size)
    return "gram", GramBand(reading.size, first, last)


def _volume(shape: tuple[int, ...]) -> int:
    return math.prod(shape) if shape else -1
