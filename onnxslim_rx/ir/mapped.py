"""Tensors in external data files, mapped into memory once a file and never read whole."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

__all__ = ["Bytes", "MappedTensor", "map_file", "release"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


def map_file(path: Path) -> Bytes:
    """The bytes of a file as a read-only array (n,) uint8 that the system pages in on access."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # which mmap refuses
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def release(data: Bytes) -> None:
    """Let the system take back the memory of a part of a mapped file; it can be read again."""
    base: object = data
    while isinstance(base, np.ndarray):
        base = base.base
    source = base.obj if isinstance(base, memoryview) else base
    if not isinstance(source, mmap.mmap) or not hasattr(source, "madvise") or not len(data):
        return  # an empty file, or a system without the call
    whole = np.frombuffer(source, np.uint8)
    first = data.ctypes.data - whole.ctypes.data
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    source.madvise(mmap.MADV_DONTNEED, start, first + len(data) - start)


class MappedTensor(onnx_ir.ExternalTensor):
    """An external tensor that shares one map with the other tensors of its file.

    The base class maps the file, and so holds a file descriptor, once a tensor: a model with
    thousands of experts runs out of descriptors.

    Args:
        external: where the tensor lies, checked by the caller to be inside the file.
        path: the file, without links.
        data: what `map_file` gave for it, (n,) uint8.
    """

    __slots__ = ("_data",)

    def __init__(self, external: onnx_ir.ExternalTensor, path: Path, data: Bytes) -> None:
        super().__init__(
            path.name,
            external.offset,
            external.length,
            external.dtype,
            shape=onnx_ir.Shape(external.shape),
            name=external.name,
            doc_string=external.doc_string,
            metadata_props=dict(external.metadata_props),
            base_dir=path.parent,
        )
        self._data = data

    @property
    def content(self) -> Bytes:
        """The bytes as stored, in the map."""
        start = self.offset or 0
        return self._data[start : start + self.nbytes]

    def numpy(self) -> Array:
        """The values, read-only.

        They are not copied, unless they are packed (types below 8 bits), or lie where no array
        of their type may lie.
        """
        if self.dtype.bitwidth < 8:
            return onnx_ir.PackedTensor(self.content, self.dtype, shape=self.shape).numpy()
        little_endian = np.dtype(self.dtype.numpy()).newbyteorder("<")
        values: Array = self.content.view(little_endian).reshape(self.shape.numpy())
        return np.require(values, requirements="A")

    def __array__(self, dtype: Any = None) -> Array:
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        """The bytes as stored (a copy)."""
        return self.content.tobytes()

    def release(self) -> None:
        """Do nothing: the map is shared, and closed with its last user."""
