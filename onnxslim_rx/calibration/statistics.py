"""Statistics of what enters each layer, on disk, loaded when they are asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.observers import Observer
from onnxslim_rx.passbase import LayerStatistics

__all__ = ["Statistics", "StatisticsWriter"]

Array = npt.NDArray[Any]
_INDEX = "index"  # a checksum and JSON
_ARRAYS = ("gram", "counts", "sample")


class Statistics(Mapping[str, LayerStatistics]):
    """Statistics by layer name; large matrices stay on disk until they are used.

    Each access makes a new object whose arrays are memory-mapped and read-only, so that memory
    holds only what is in use.

    Args:
        folder: where a `StatisticsWriter` wrote.

    Attributes:
        reasons: why layers have no statistics, by name.

    Raises:
        OSError, ValueError: the folder is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        checksum, text = (folder / _INDEX).read_text(encoding="utf-8").split(maxsplit=1)
        if int(checksum) != zlib.crc32(text.encode()):
            raise ValueError(f"{_INDEX} is damaged")
        index = json.loads(text)
        self.reasons: Mapping[str, str] = dict(index["reasons"])
        self._layers: dict[str, str] = dict(index["layers"])
        self._readings: dict[str, dict[str, Any]] = {
            key: index["readings"][key] for key in set(self._layers.values())
        }
        self._folder = folder

    def __getitem__(self, name: str) -> LayerStatistics:
        key = self._layers[name]
        reading = self._readings[key]
        arrays = {
            array: np.asarray(np.load(self._folder / f"{key}.{array}.npy", mmap_mode="r"))
            for array in reading["checksums"]
        }
        return LayerStatistics(
            gram=arrays.get("gram"),
            counts=arrays.get("counts"),
            rows=int(reading["rows"]),
            sample=arrays.get("sample"),
            shape=tuple(reading["shape"]),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def check(self) -> None:
        """Compare every file with its checksum.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        for key, reading in self._readings.items():
            for array, checksum in reading["checksums"].items():
                if _checksum(self._folder / f"{key}.{array}.npy") != checksum:
                    raise ValueError(f"{key}.{array}.npy is damaged")


class StatisticsWriter:
    """Writes what `Statistics` reads into `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readings: dict[str, dict[str, Any]] = {}

    def add(self, key: str, observer: Observer) -> None:
        """Write what `observer` summed up under `key`, a file name."""
        checksums = {}
        for name, array in observer.arrays().items():
            path = self._folder / f"{key}.{name}.npy"
            np.save(path, array, allow_pickle=False)
            checksums[name] = _checksum(path)
        self._readings[key] = {
            "rows": observer.rows,
            "shape": list(observer.shape),
            "checksums": checksums,
        }

    def finish(self, layers: Mapping[str, str], reasons: Mapping[str, str]) -> None:
        """Write the index: the key of each layer by name, and the reasons of those without."""
        index = {"layers": layers, "reasons": reasons, "readings": self._readings}
        text = json.dumps(index)
        checked = f"{zlib.crc32(text.encode())} {text}"
        (self._folder / _INDEX).write_text(checked, encoding="utf-8")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
