"""Statistics of what enters each layer, on disk, loaded when they are asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.files import (
    checksum_of,
    hold,
    read_checked,
    remove,
    write_checked,
)
from onnxslim_rx.layers import LayerStatistics
from onnxslim_rx.quant import Histogram

__all__ = ["INDEX", "Statistics", "write_index"]

Array = npt.NDArray[Any]
INDEX = "index"
"""Name of the file that says what else there is; without it nothing is."""

_RANKS = {
    "gram": 2, "sample": 2, "counts": 1, "mean": 1, "mean_abs": 1, "low": 1, "high": 1, "limits": 1,
}  # fmt: skip


class Statistics(Mapping[str, LayerStatistics]):
    """Statistics by layer name; large matrices stay on disk until they are used.

    Each access makes a new object whose arrays are memory-mapped and read-only, so that memory
    holds only what is in use.

    Args:
        folder: where `write_index` wrote.

    Attributes:
        reasons: why layers have no statistics, by name.

    Raises:
        OSError, ValueError: the folder is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        index = read_checked(folder / INDEX)
        self._folder = folder
        try:
            self.reasons: Mapping[str, str] = {str(k): str(v) for k, v in index["reasons"].items()}
            self._layers: dict[str, str] = {str(k): str(v) for k, v in index["layers"].items()}
            # what enters and what leaves, if asked for
            self._ends = {
                str(name): [None if key is None else str(key) for key in keys]
                for name, keys in index.get("ranges", {}).items()
            }
            ends = (key for keys in self._ends.values() for key in keys if key is not None)
            self._readings = {
                key: _plain_reading(key, index["readings"][key])
                for key in dict.fromkeys([*self._layers.values(), *ends])
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX} is no index: {error!r}") from error
        # as long as it is held, the folder is not cleaned away
        weakref.finalize(self, os.close, hold(folder / INDEX))

    def __getitem__(self, name: str) -> LayerStatistics:
        key = self._layers[name]
        reading = self._readings[key]
        arrays: dict[str, Any] = {one: self._load(key, one) for one in reading["checksums"]}
        entering, leaving = map(self._histogram, self._ends.get(name, (None, None)))
        return LayerStatistics(
            gram=arrays.pop("gram", None),
            counts=arrays.pop("counts", None),
            rows=reading["rows"],
            sample=arrays.pop("sample", None),
            shape=reading["shape"],
            positions=reading["positions"],
            patches=reading["patches"],
            entering=entering,
            leaving=leaving,
            **arrays,
        )

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def check(self) -> None:
        """Compare every file with its checksum and with what it should hold.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        for key, reading in self._readings.items():
            for array, checksum in reading["checksums"].items():
                path = self._folder / f"{key}.{array}.npy"
                if checksum_of(path) != checksum:
                    raise ValueError(f"{path} is damaged")
                try:
                    found = self._load(key, array)
                except (EOFError, SyntaxError) as error:  # of numpy, of empty files and headers
                    raise ValueError(f"{path} is no array: {error}") from error
                if found.ndim != _RANKS[array] or found.dtype.kind not in "fi":
                    raise ValueError(f"{path} holds something else")

    def tidy(self) -> None:
        """Delete the files in the folder that were of use only while it was filled."""
        needed = {
            f"{key}.{array}.npy"
            for key, reading in self._readings.items()
            for array in reading["checksums"]
        }
        for path in self._folder.iterdir():
            if path.name not in needed | {INDEX}:
                remove(path)

    def _histogram(self, key: str | None) -> Histogram | None:
        """None where there is none, or nothing was seen."""
        if key is None or not self._readings[key]["rows"]:
            return None
        reach, low, high = self._load(key, "limits").tolist()
        return Histogram(self._load(key, "counts"), reach, low, high)

    def _load(self, key: str, array: str) -> Array:
        return np.asarray(np.load(self._folder / f"{key}.{array}.npy", mmap_mode="r"))


def _plain_reading(key: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What an index says about a reading, in the types it should have."""
    checksums = {str(array): int(checksum) for array, checksum in found["checksums"].items()}
    if not key.isdigit() or not checksums.keys() <= _RANKS.keys():
        raise ValueError(f"{key!r} is no reading")
    shape = tuple(int(size) for size in found["shape"])
    rows, positions = int(found["rows"]), int(found["positions"])
    return {
        "rows": rows,
        "positions": positions,
        "patches": bool(found["patches"]),
        "shape": shape,
        "checksums": checksums,
    }


def write_index(
    folder: Path,
    layers: Mapping[str, str],
    reasons: Mapping[str, str],
    readings: Mapping[str, Mapping[str, Any]],
    ranges: Mapping[str, Sequence[str | None]],
) -> None:
    """Make a `Statistics` of the files in `folder`.

    Args:
        folder: holds `KEY.ARRAY.npy` for each array of each reading.
        layers: key of the reading of each layer by name; a key is a number.
        reasons: why layers have none.
        readings: `rows`, `positions`, `patches`, `shape` and, by array, `checksums` of each, by
            key.
        ranges: keys of the histograms of what enters and what leaves each layer, by name.
    """
    index = {"layers": layers, "reasons": reasons, "readings": readings, "ranges": ranges}
    write_checked(folder / INDEX, index)
