"""Tensors on disk between two steps, one file a tensor, samples one after the other.

A record is the type and the number of axes, the axes, and the data. (numpy's own format takes four
times as long for the small tensors of short samples, most of it for the text of the header.)
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FrontierError", "Spool"]

Array = npt.NDArray[Any]

_HEAD = struct.Struct("<7sB")  # type as numpy writes it, axes


class FrontierError(Exception):
    """The graph must be cut elsewhere.

    Args:
        names: tensors that no frontier may cross.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        super().__init__(", ".join(self.names))


class Spool:
    """Keeps tensors of every sample in `folder`, which its owner deletes.

    Args:
        folder: where the files are.
        files: file of each tensor by name, as an earlier spool left them.

    Attributes:
        files: file of each tensor by name.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self.files = dict(files or {})
        self._next = 1 + max((int(Path(file).stem) for file in self.files.values()), default=-1)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def writer(
        self, names: Iterable[str], stack: contextlib.ExitStack
    ) -> Callable[[dict[str, Any]], None]:
        """Open a file for each name; the function appends one sample of each.

        The function raises `FrontierError` for what is no plain array: sequences, strings.
        """
        files = {}
        for name in names:
            self.files[name] = f"{self._next}.frontier"
            self._next += 1
            files[name] = stack.enter_context((self._folder / self.files[name]).open("wb"))

        def write(values: dict[str, Any]) -> None:
            for name, file in files.items():
                value = values[name]
                # extension types such as bfloat16 are of the kind V; numpy forgets their names
                if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
                    raise FrontierError([name])
                _put(file, value)

        return write

    def reader(
        self, names: Iterable[str], stack: contextlib.ExitStack
    ) -> Callable[[], dict[str, Array]]:
        """Open the file of each name; the function reads the next sample of each."""
        files = {
            name: stack.enter_context((self._folder / self.files[name]).open("rb"))
            for name in names
        }

        def read() -> dict[str, Array]:
            return {name: _get(file) for name, file in files.items()}

        return read


def _put(file: io.BufferedWriter, array: Array) -> None:
    kind = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    file.write(_HEAD.pack(kind.str.encode(), array.ndim))
    file.write(struct.pack(f"<{array.ndim}q", *array.shape))
    file.write(_bytes(np.ascontiguousarray(array, kind)))


def _get(file: io.BufferedReader) -> Array:
    """The next array.

    Raises:
        EOFError: there is none, or only a part of it.
    """
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError(f"{file.name} ends too early")
    kind, axes = _HEAD.unpack(head)
    shape = struct.unpack(f"<{axes}q", file.read(8 * axes))
    array = np.empty(shape, np.dtype(kind.rstrip(b"\0").decode()))
    if file.readinto(_bytes(array)) < math.prod(shape) * array.itemsize:
        raise EOFError(f"{file.name} ends too early")
    return array


def _bytes(array: Array) -> memoryview:
    """The memory of a contiguous array."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # mypy's numpy
