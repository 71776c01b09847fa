"""How often whole tensors, which enter and leave layers, have which values."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.analysis import activated
from onnxslim_rx.calibration.complaints import not_finite
from onnxslim_rx.calibration.padding import positions
from onnxslim_rx.calibration.patches import Patches
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.layers import Layer
from onnxslim_rx.quant import Tally

__all__ = ["Values", "value_readings"]

Array = npt.NDArray[Any]
Ends = tuple[Reading, Reading | None]

# Values of a sample that are counted. Of 512 images these are 8 million: one of 10,000 is found
# 800 times. To count one takes 10 times as long as to look whether it is an extreme.
_MOST = 1 << 14


def value_readings(layers: Iterable[Layer], found: Mapping[str, Reading]) -> dict[str, Ends]:
    """The readings of what enters and what leaves each layer, by name.

    Args:
        layers: units of a model.
        found: what else is measured of them, by name; those without get nothing here, nor do
            others than linear layers and convolutions. What leaves a layer in a branch of an If
            is not seen from outside.
    """
    ends: dict[str, Ends] = {}
    for layer in layers:
        main = found.get(layer.name)
        if main is None or layer.kind not in ("linear", "conv"):
            continue
        rank = 0 if main.patches is None else len(main.patches.kernel)
        # a mask says nothing about images
        patches = Patches.pointwise(rank) if rank else None
        entering = Reading("histogram", layer.activation, False, 0, patches=patches)
        leaving = Reading("histogram", activated(layer.output), False, 0, patches=patches)
        gated = dataclasses.replace(entering, gates=main.gates)
        ends[layer.name] = (gated, None if main.gates else leaving)
    return ends


class Values:
    """Counts the values of a tensor; of large ones those at places that are drawn for each sample.

    `rows` are the values counted, `positions` all.
    """

    def __init__(self, reading: Reading, seed: int) -> None:
        self.rows = self.positions = 0
        self.shape: tuple[int, ...] = ()
        self._reading = reading
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._tally = Tally()

    def see(self, found: Sequence[Array], masks: Sequence[Array], where: str) -> None:
        """Take in one sample; see `Observer`."""
        (tensor,) = found
        if math.prod(tensor.shape) > math.prod(self.shape) or not self.shape:
            self.shape = tensor.shape
        if self._reading.patches is None:
            keep = positions(tensor.shape[:-1], masks)
            tensor = tensor if keep is None else tensor[keep]
        flat = tensor.reshape(-1)
        counted = self._some(flat)
        try:
            self._tally.add(flat, counted)
        except ValueError as error:
            raise not_finite(self._reading.value, where) from error
        self.rows += counted.size
        self.positions += flat.size

    def arrays(self) -> dict[str, Array]:
        """`counts` (N,), and `limits` (3,): reach, low and high of a `Histogram`."""
        found = self._tally.histogram()
        return {
            "counts": found.counts,
            "limits": np.array([found.reach, found.low, found.high], np.float64),
        }

    def _some(self, flat: Array) -> Array:
        if flat.size <= _MOST:
            return flat
        shift = int(self._rng.integers(flat.size))
        return np.take(flat, _spread(flat.size, self._seed) + shift, mode="wrap")


@functools.lru_cache(maxsize=32)
def _spread(count: int, seed: int) -> npt.NDArray[np.int64]:
    """One of `count` places in each of equally many parts, drawn: no stride meets a pattern."""
    drawn = np.arange(_MOST) + np.random.default_rng(seed).random(_MOST)
    return np.minimum((drawn * (count / _MOST)).astype(np.int64), count - 1)
