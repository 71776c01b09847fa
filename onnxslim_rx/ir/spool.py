"""Tensors of large models, kept in temporary files and mapped, so that they take no memory.

A model as it comes from a file with external data is mapped, and takes memory only while it is
read. What passes make anew would not be: so tensors of large models are written to a temporary
folder as soon as they are made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir

from onnxslim_rx.ir.content import chunks
from onnxslim_rx.ir.mapped import Array, Bytes, map_file
from onnxslim_rx.ir.temporary import TemporaryFolder
from onnxslim_rx.ir.walk import SPOOL, tensors

__all__ = ["LARGE_BYTES", "Spool", "SpooledTensor", "is_large", "spooled", "weight_bytes"]

LARGE_BYTES = 1 << 29
"""Models with at least as many bytes of weights are large: they are not copied in memory."""

SPOOLED_BYTES = 1 << 20
"""Tensors of large models with at least as many bytes are kept in files."""

_SEGMENT = 1 << 28  # bytes of a file; each takes a descriptor, and goes when all in it is unused
_PAGE = 4096


class SpooledTensor(onnx_ir.Tensor[Array]):
    """A tensor whose array is a map of a part of a temporary file.

    The file is deleted when no such tensor in it is left. To all others this is a tensor in
    memory: it can be saved by whatever saves such.

    Args:
        like: what is in the file.
        segment: the file.
        offset: where in the file, bytes.
    """

    __slots__ = ("_segment", "offset")

    def __init__(self, like: onnx_ir.TensorProtocol, segment: _Segment, offset: int) -> None:
        shape = like.shape.numpy()
        data: Array = segment.data[offset : offset + like.nbytes]
        if like.dtype.bitwidth >= 8:
            data = data.view(np.dtype(like.dtype.numpy()).newbyteorder("<")).reshape(shape)
        super().__init__(
            data,
            like.dtype,
            shape=onnx_ir.Shape(shape),
            name=like.name,
            doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
        )
        self._segment = segment
        self.offset = offset

    @property
    def path(self) -> Path:
        """The file, which is there as long as the tensor."""
        return self._segment.path

    @property
    def _packed(self) -> Bytes:
        return self.raw.view(np.uint8)  # the base class takes bytes for numbers of its type

    def numpy(self) -> Array:
        """The values, read-only; those of types below 8 bits are unpacked into a new array."""
        if self.dtype.bitwidth < 8:
            return onnx_ir.PackedTensor(self._packed, self.dtype, shape=self.shape).numpy()
        return super().numpy()

    def __array__(self, dtype: Any = None) -> Array:
        return self.numpy().__array__(dtype)

    def tobytes(self) -> bytes:
        """The bytes as stored (a copy)."""
        return self._packed.tobytes() if self.dtype.bitwidth < 8 else super().tobytes()

    def tofile(self, file: Any) -> None:
        """Write the bytes as stored."""
        if self.dtype.bitwidth < 8:
            file.write(self._packed.data)
        else:
            super().tofile(file)


class Spool:
    """A temporary folder for tensors, deleted with the last of them, or when the process ends.

    It is made when it is needed first. `TMPDIR` says where; a folder in memory (tmpfs) saves no
    memory.
    """

    def __init__(self) -> None:
        self._folder: TemporaryFolder | None = None
        self._segment: _Segment | None = None

    def keep(self, tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
        """`tensor` in a file; the very tensor where it is small, there, or no disk is left.

        Small are tensors below 1 MiB.
        """
        own = isinstance(tensor, (SpooledTensor, onnx_ir.ExternalTensor))
        if own or tensor.dtype == onnx_ir.DataType.STRING or tensor.nbytes < SPOOLED_BYTES:
            return tensor
        return self.put(tensor, chunks(tensor)) or tensor  # memory may still suffice

    def put(
        self, like: onnx_ir.TensorProtocol, parts: Iterable[npt.NDArray[np.uint8]]
    ) -> SpooledTensor | None:
        """A new tensor in a file; None where no disk is left.

        Args:
            like: says what it is; its data is not looked at.
            parts: its bytes, in order.

        Raises:
            ValueError: there are more or fewer bytes than `like` has.
        """
        try:
            if self._segment is None or not self._segment.fits(like.nbytes):
                self._folder = self._folder or TemporaryFolder()
                self._segment = _Segment(self._folder, max(like.nbytes, _SEGMENT))
            return self._segment.add(like, parts)
        except OSError:
            self._segment = None
            return None


class _Segment:
    """A file that tensors are written to one after the other, mapped as a whole.

    One file a tensor would need as many descriptors.
    """

    def __init__(self, folder: TemporaryFolder, size: int) -> None:
        self.path = folder.path / f"{secrets.token_hex(4)}.bin"
        self._folder = folder  # which stays as long as its files
        self._file = self.path.open("xb", buffering=0)
        weakref.finalize(self, _remove_file, self.path, self._file, os.getpid())
        self._file.truncate(size)
        self._end = 0
        self.data: Bytes = map_file(self.path)

    def fits(self, size: int) -> bool:
        return self._end + size <= len(self.data)

    def add(
        self, like: onnx_ir.TensorProtocol, parts: Iterable[npt.NDArray[np.uint8]]
    ) -> SpooledTensor:
        end = self._end + like.nbytes
        self._file.seek(self._end)
        for part in parts:
            if self._file.tell() + len(part) > end:
                raise ValueError(f"more than the {like.nbytes} bytes of {like.name!r}")
            rest = part.data
            while rest:  # a write of an unbuffered file may be partial
                rest = rest[self._file.write(rest) :]
        if self._file.tell() != end:
            raise ValueError(f"fewer than the {like.nbytes} bytes of {like.name!r}")
        found = SpooledTensor(like, self, self._end)
        self._end = -(-end // _PAGE) * _PAGE
        return found


def weight_bytes(model: onnx_ir.Model) -> int:
    """Bytes of all stored tensors; one that several values share counts once."""
    return sum({id(tensor): tensor.nbytes for tensor in tensors(model)}.values())


def is_large(model: onnx_ir.Model) -> bool:
    """Whether `model`, or the one that it was made from, is too large to be copied in memory."""
    return SPOOL in model.meta or weight_bytes(model) >= LARGE_BYTES


def spooled(model: onnx_ir.Model, tensor: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
    """What `model` should hold for `tensor`: the same, in a file where the model is large."""
    spool: Spool | None = model.meta.get(SPOOL)
    return tensor if spool is None else spool.keep(tensor)


def _remove_file(path: Path, file: BinaryIO, owner: int) -> None:
    file.close()
    if os.getpid() == owner:
        with contextlib.suppress(OSError):  # Windows keeps what is mapped; the folder goes later
            path.unlink(missing_ok=True)
