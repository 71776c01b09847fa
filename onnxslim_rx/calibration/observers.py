"""What is summed up of a tensor, sample by sample, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.complaints import not_finite, too_large
from onnxslim_rx.calibration.mismatch import Mismatch, mismatch_bytes
from onnxslim_rx.calibration.moments import CHUNK, Channels, GramBand, GramMatrix, Moment
from onnxslim_rx.calibration.padding import positions
from onnxslim_rx.calibration.patches import Draw
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.rows import Chunks, RowSample, as_rows
from onnxslim_rx.calibration.values import Values
from onnxslim_rx.quant import BINS

__all__ = ["Observer", "height_within", "memory_of", "observer"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

_SAMPLE = 256  # rows kept
_LEAST_HEIGHT = 512  # rows of a matrix summed up in one go, however little memory there is


class Observer(Protocol):
    """Sums up one reading.

    Attributes:
        rows: rows of X seen so far.
        positions: as many as would have been seen had nothing been left out.
        shape: shape of the tensor in the largest sample so far.
    """

    rows: int
    positions: int
    shape: tuple[int, ...]

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in one sample.

        Args:
            found: the tensor, and the others where there are any; of the kind "shape" its shape.
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
    if reading.kind == "shape":
        return _Shapes(reading)
    if reading.kind == "embedding":
        return _Counts(reading.size)
    if reading.kind == "tandem":
        return Mismatch(reading, seed)
    if reading.kind == "histogram":
        return Values(reading, seed)
    return _Rows(reading, seed)


def memory_of(reading: Reading) -> int:
    """Bytes that an observer of `reading` holds at most."""
    if reading.kind == "tandem":
        return mismatch_bytes(reading)
    if reading.kind == "columns":
        return _buffers(reading)
    if reading.kind != "linear":
        return 8 * (BINS if reading.kind == "histogram" else reading.size)
    first, last = reading.band or (0, reading.size)
    return 8 * (last - first) * (reading.size - first) + _buffers(reading)


def height_within(reading: Reading, memory_bytes: int) -> int:
    """How many rows of its matrix can be summed up in one go within `memory_bytes`."""
    if reading.kind != "linear":
        return reading.size
    height = (memory_bytes - _buffers(reading)) // (8 * max(reading.size, 1))
    return max(_LEAST_HEIGHT, height)


def _buffers(reading: Reading) -> int:
    """Bytes of a chunk of rows as they come and in float64, and of the sampled rows."""
    return (12 * CHUNK + 8 * _SAMPLE) * reading.size


class _Shapes:
    """Rows and shape of a convolution: its rows are the positions of its patches."""

    def __init__(self, reading: Reading) -> None:
        self.rows = self.positions = 0
        self.shape: tuple[int, ...] = ()
        self._patches = reading.patches

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        shape = tuple(int(size) for size in found[0])
        self.shape = max(self.shape, shape, key=_volume)
        assert self._patches is not None  # all shapes are those of convolutions
        self.rows += math.prod(self._patches.positions(shape))
        self.positions = self.rows

    def arrays(self) -> dict[str, Array]:
        return {}


class _Counts:
    """How often each row of an embedding is read."""

    def __init__(self, size: int) -> None:
        self.rows = self.positions = 0
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
        self.positions = self.rows

    def arrays(self) -> dict[str, Array]:
        return {"counts": self._counts}


class _Rows:
    """Moments of what enters a linear layer, of each column and of pairs, and some rows."""

    def __init__(self, reading: Reading, seed: int) -> None:
        self.rows = self.positions = 0
        self.shape: tuple[int, ...] = ()
        self._reading = reading
        first, _ = reading.band or (0, reading.size)
        self._moment = _moment(reading)
        # the other bands of a matrix need not tell again
        tells = first == 0
        self._channels = Channels(reading.size) if tells else None
        # the same seed for all: the rows drawn of two layers stem from the same positions
        self._sample = RowSample(reading.size, _SAMPLE, seed) if tells else None
        self._chunks = Chunks(reading.size)
        self._draw = Draw(reading.most, seed)

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        self.shape = max(self.shape, found[0].shape, key=_volume)
        for x in self._rows(found[0], masks):
            if x.size and not np.isfinite(x).all():
                raise not_finite(self._reading.value, where)
            self.rows += len(x)
            if self._sample is not None:
                self._sample.see(x)
            for (chunk,) in self._chunks.add(x):
                self._take(chunk)

    def arrays(self) -> dict[str, Array]:
        for (chunk,) in self._chunks.rest():
            self._take(chunk)
        arrays = {} if self._moment is None else {"gram": self._finite(self._moment.total())}
        if self._sample is not None and self._channels is not None:
            arrays |= {"sample": self._sample.rows} | self._channels.arrays()
        return arrays

    def _rows(self, found: Array, masks: Sequence[Array]) -> Iterator[Array]:
        """The rows of one sample that are summed up, some at a time."""
        reading, patches = self._reading, self._reading.patches
        if patches is None:
            x = as_rows(found, reading.size, transposed=reading.transposed, masks=masks)
            self.positions += len(x)
            yield x
            return
        count = math.prod(patches.positions(found.shape))
        self.positions += count
        for part in patches.parts(self._draw.of(count)):
            read = patches.read(found, part)
            yield as_rows(read, reading.size, transposed=reading.transposed, masks=())

    def _finite(self, total: Matrix) -> Matrix:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(total.sum(axis=0)).all()
        if not finite:
            raise too_large(self._reading.value)
        return total

    def _take(self, x: Matrix) -> None:
        if self._moment is not None:
            self._moment.add(x, x)
        if self._channels is not None:
            self._channels.add(x)


def _moment(reading: Reading) -> Moment | None:
    if reading.kind == "columns":
        return None
    if reading.band is None:
        return GramMatrix(reading.size)
    return GramBand(reading.size, *reading.band)


def _volume(shape: tuple[int, ...]) -> int:
    return math.prod(shape) if shape else -1
