"""What a measurement has done so far, on disk, so that another process can go on with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.files import checksum_of, read_checked, remove, write_checked
from onnxslim_rx.calibration.observers import Observer
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.spool import Spool
from onnxslim_rx.calibration.statistics import write_index

__all__ = ["Journal"]

Matrix = npt.NDArray[np.float64]

_NAME = "journal"


class Journal:
    """The files of a measurement in `folder`: finished readings, frontiers, and what is done.

    What an earlier process left there is taken over where it is whole, and deleted otherwise.

    Args:
        folder: exists; nobody else writes there.
        durable: keep what is needed to go on after this process was killed.

    Attributes:
        spool: the frontiers.
        done: steps that are finished.
        uncuttable: names of tensors that no frontier may cross.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._readings: dict[str, Any] = {}
        self._checksums: dict[str, int] = {}
        self._clear()
        self._plan = ""
        self.uncuttable: set[str] = set()
        try:
            self._take_over(read_checked(folder / _NAME))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._clear()
        self._tidy()

    def begin(self, plan: str) -> None:
        """Start afresh unless what is done belongs to `plan`, which says what the steps are."""
        if self._plan != plan:
            self._clear()
            self._tidy()
            self._plan = plan
            self._save()

    def restart(self, uncuttable: Iterable[str]) -> None:
        """Forget all that is done: the graph must be cut elsewhere."""
        self.uncuttable.update(uncuttable)
        self._clear()
        self._tidy()

    def finished(
        self,
        seen: Mapping[Reading, Observer],
        keys: Mapping[Reading, str],
        unneeded: Sequence[str],
    ) -> None:
        """One more step is done.

        Args:
            seen: what it measured.
            keys: the number under which each reading is kept.
            unneeded: names of tensors that no later step reads.
        """
        for reading, observer in seen.items():
            self._add(keys[reading], reading, observer)
        self.done += 1
        files = [self.spool.files.pop(name) for name in unneeded if name in self.spool]
        self._save()
        for file in files:
            (self._folder / file).unlink()

    def finish(
        self,
        layers: Mapping[str, str],
        reasons: Mapping[str, str],
        ranges: Mapping[str, Sequence[str | None]],
    ) -> None:
        """Make `Statistics` of the folder; `Statistics.tidy` deletes what they do not need.

        Args:
            layers: key of the reading of each layer by name.
            reasons: why layers have none.
            ranges: keys of the readings of what enters and what leaves each layer, by name.
        """
        readings = {}
        for key, found in self._readings.items():
            arrays = [*found["arrays"], *self._joined(key, found)]
            checksums = {name: checksum_of(self._folder / f"{key}.{name}.npy") for name in arrays}
            facts = {name: found[name] for name in ("rows", "positions", "patches", "shape")}
            readings[key] = facts | {"checksums": checksums}
        write_index(self._folder, layers, reasons, readings, ranges)

    def _add(self, key: str, reading: Reading, observer: Observer) -> None:
        entry = self._readings.setdefault(key, {"arrays": [], "parts": []})
        entry |= {
            "rows": observer.rows,
            "positions": observer.positions,
            "patches": reading.whole_patches,
            "shape": list(observer.shape),
        }
        for name, array in observer.arrays().items():
            if reading.band is not None and name == "gram":
                file = f"{key}.{name}.{reading.band[0]}.part"
                entry["parts"].append([name, reading.band[0], file])
            else:
                file = f"{key}.{name}.npy"
                entry["arrays"].append(name)
            with (self._folder / file).open("wb") as stream:
                np.save(stream, array, allow_pickle=False)

    def _joined(self, key: str, entry: Mapping[str, Any]) -> list[str]:
        """Write the matrices whose bands lie in several files; their names."""
        names = list(dict.fromkeys(name for name, _, _ in entry["parts"]))
        for whole in names:
            parts = sorted(
                (first, self._folder / file)
                for name, first, file in entry["parts"]
                if name == whole
            )
            path = self._folder / f"{key}.{whole}.npy"
            _write_joined(path, parts, symmetric=whole == "gram")
        return names

    def _take_over(self, found: dict[str, Any]) -> None:
        """Go on with what an earlier process noted.

        Raises:
            OSError, ValueError, KeyError, TypeError, AttributeError: it is not as it was.
        """
        self.done = int(found["done"])
        self._plan = str(found["plan"])
        self._readings = dict(found["readings"])
        self._checksums = {str(name): int(one) for name, one in found["checksums"].items()}
        self.spool = Spool(self._folder, found["frontiers"])
        for file in self._files():
            if Path(file).name != file or checksum_of(self._folder / file) != self._checksums[file]:
                raise ValueError(f"{file} is damaged")
        self.uncuttable = {str(name) for name in found["uncuttable"]}

    def _files(self) -> list[str]:
        """Names of the files that what is done consists of."""
        files = list(self.spool.files.values())
        for key, entry in self._readings.items():
            files += [f"{key}.{name}.npy" for name in entry["arrays"]]
            files += [file for _, _, file in entry["parts"]]
        return files

    def _clear(self) -> None:
        self.done = 0
        self._readings = {}
        self._checksums = {}
        self.spool = Spool(self._folder)

    def _tidy(self) -> None:
        """Delete all files that are not known."""
        known = {*self._files(), *([_NAME] if self.done else [])}
        for path in self._folder.iterdir():
            if path.name not in known:
                remove(path)

    def _save(self) -> None:
        if not self._durable:
            return
        # those of finished readings are known
        known = {file: self._checksums.get(file) for file in self._files()}
        self._checksums = {
            file: checksum_of(self._folder / file) if checksum is None else checksum
            for file, checksum in known.items()
        }
        write_checked(
            self._folder / _NAME,
            {
                "plan": self._plan,
                "done": self.done,
                "uncuttable": sorted(self.uncuttable),
                "readings": self._readings,
                "frontiers": self.spool.files,
                "checksums": self._checksums,
            },
        )


def _write_joined(path: Path, parts: Sequence[tuple[int, Path]], *, symmetric: bool) -> None:
    """Write a matrix whose rows come in parts.

    Args:
        path: where to, as an .npy file.
        parts: first row of each, and the file with the rows, read one at a time; of a symmetric
            matrix from the diagonal on.
        symmetric: whether the lower triangle is the mirror of the upper one.
    """
    height = sum(len(np.load(part, mmap_mode="r")) for _, part in parts)
    width = np.load(parts[0][1], mmap_mode="r").shape[1]
    with path.open("wb") as file:
        layout = {"descr": "<f8", "fortran_order": False, "shape": (height, width)}
        np.lib.format.write_array_header_1_0(file, layout)
        start = file.tell()

        def put(row: int, column: int, numbers: Matrix) -> None:
            file.seek(start + 8 * (row * width + column))
            file.write(np.ascontiguousarray(numbers, dtype="<f8").data)

        for first, source in parts:
            part = np.load(source)
            left = first if symmetric else 0
            last = first + len(part)
            for row, numbers in enumerate(part, first):
                begin = row if symmetric else 0
                put(row, begin, numbers[begin - left :])
            for row in range(first + 1, height if symmetric else first):
                # what the rows above hold in this column
                put(row, first, part[: min(row, last) - first, row - left])
