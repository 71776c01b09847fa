"""How the channels of a tensor are spread in two networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.readings import Reading

__all__ = ["ChannelMismatch", "ChannelMoments", "channel_bytes"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

_AT_ONCE = 1 << 16  # numbers of a tensor taken to float64 at once


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Of each channel of a tensor, T in the original network and T' in the compressed one.

    Args:
        wanted_mean: (C,), of T.
        mean: (C,), of T'.
        wanted_variance: (C,), of T.
        variance: (C,), of T'.
        covariance: (C,), of T and T'.
        rows: numbers of a channel that these are taken over.
    """

    wanted_mean: Matrix
    mean: Matrix
    wanted_variance: Matrix
    variance: Matrix
    covariance: Matrix
    rows: int


def channel_bytes(reading: Reading) -> int:
    """Bytes that a `ChannelMismatch` of `reading` holds at most."""
    return 8 * (5 * reading.size + 3 * max(_AT_ONCE, reading.size))


class ChannelMismatch:
    """Means, variances and covariance of the same channels of two tensors (N, C, ...).

    Samples are merged by their means (Chan, Golub & LeVeque, The American Statistician 37(3),
    1983), so that a mean far from zero does not drown the variance.

    Args:
        reading: of the kind "channels".

    Attributes:
        rows: numbers of a channel seen.
        positions: the same.
        shape: shape of the largest tensor so far.
        why: why the moments mean nothing, or "".
    """

    def __init__(self, reading: Reading) -> None:
        self.rows = self.positions = 0
        self.shape: tuple[int, ...] = ()
        self.why = ""
        self._size = reading.size
        self._mean = np.zeros((2, reading.size))
        self._spread = np.zeros((3, reading.size))  # of T, of T', of both

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in T and T' of one sample, the last two of `found`; see `Observer`.

        Like convolutions, what normalizes channels knows no padding.
        """
        wanted, now = found[-2:]
        due = wanted.ndim > 1 and wanted.shape[1] == self._size
        if self.why or not due or wanted.shape != now.shape:
            self.why = self.why or f"{wanted.shape} would enter and {now.shape} do on {where}"
            return
        if math.prod(now.shape) > math.prod(self.shape):
            self.shape = now.shape
        for one, other in zip(self._parts(wanted), self._parts(now), strict=True):
            with np.errstate(over="ignore", invalid="ignore"):  # `arrays` says so
                self._merge(one, other)

    def arrays(self) -> dict[str, Array]:
        """What was summed up, by the names of `ChannelMoments`; float64."""
        spread = self._spread / max(self.rows, 1)
        if not np.isfinite(spread).all():
            self.why = "NaN or infinity is computed there"
        names = ("wanted_mean", "mean", "wanted_variance", "variance", "covariance")
        return dict(zip(names, [*self._mean, *spread], strict=True))

    def moments(self) -> ChannelMoments:
        """All that was summed up."""
        return ChannelMoments(**self.arrays(), rows=self.rows)

    def _parts(self, tensor: Array) -> Iterator[Matrix]:
        """Some images, or some positions of one, at a time, (n, C, positions)."""
        flat = tensor.reshape(*tensor.shape[:2], math.prod(tensor.shape[2:]))
        count, channels, positions = flat.shape
        step = max(1, _AT_ONCE // max(channels * positions, 1))
        width = max(1, _AT_ONCE // channels)
        for start in range(0, count, step):
            for left in range(0, positions, width):
                yield flat[start : start + step, :, left : left + width].astype(np.float64)

    def _merge(self, wanted: Matrix, now: Matrix) -> None:
        count = wanted.shape[0] * wanted.shape[2]
        if not count:
            return
        means = np.stack([wanted.mean(axis=(0, 2)), now.mean(axis=(0, 2))])
        wanted -= means[0][:, None]
        now -= means[1][:, None]
        total = self.rows + count
        step = means - self._mean
        apart = np.stack([step[0] ** 2, step[1] ** 2, step[0] * step[1]])
        self._spread += apart * (self.rows * count / total)
        for sums, (x, y) in zip(
            self._spread, ((wanted, wanted), (now, now), (wanted, now)), strict=True
        ):
            sums += np.einsum("ncp,ncp->c", x, y)
        self._mean += step * (count / total)
        self.rows = self.positions = total
