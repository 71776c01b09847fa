"""Reading .npy and .npz files without loading what is large."""

from __future__ import annotations

import dataclasses
import lzma
import math
import shutil
import struct
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError

__all__ = ["SUFFIXES", "read_arrays"]

Array = npt.NDArray[Any]

SUFFIXES = (".npz", ".npy")
_IN_MEMORY = 1 << 24  # arrays of at most this many bytes are read at once

# What zipfile and numpy raise on damaged, encrypted or strangely compressed files. SyntaxError
# and TokenError come from the header of an array, which is Python text.
_DAMAGE = (
    ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError,
    RuntimeError, SyntaxError, tokenize.TokenError, OverflowError, TypeError, struct.error,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name, or the one of an .npy file by the name "".

    Arrays above 16 MB are memory-mapped: in the file itself, or in a temporary one if they are
    compressed. Checksums of .npz files are checked.

    Raises:
        InputError: the file is missing, damaged, of another kind, or holds pickled objects.
    """
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        with path.open("rb") as file:
            layout = _layout(file, path.stat().st_size)
            return {"": layout.read(file) if layout.small else layout.map(path, layout.start)}
    except OSError as error:
        raise InputError(
            f"cannot read the calibration file {path}: {error.strerror or error}"
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"the calibration file {path} is damaged or no {path.suffix} file: {error}",
            advice="write it again with numpy.savez or numpy.save",
        ) from error


def _read_npz(path: Path) -> dict[str, Array]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                arrays[info.filename[: -len(".npy")]] = _read_member(path, archive, info)
    return arrays


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as member:
        layout = _layout(member, info.file_size)
        if layout.small:
            return layout.read(member)
        if info.compress_type == zipfile.ZIP_STORED:
            while member.read(1 << 20):
                pass  # to the end, where zipfile compares the checksum
            return layout.map(path, _start(path, info) + layout.start)
        with tempfile.TemporaryFile() as file:  # its bytes live as long as the map of them
            shutil.copyfileobj(member, file)
            file.flush()
            return layout.map(file, 0)


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member start."""
    with path.open("rb") as file:
        # the local header: 30 bytes, of which the last four are the lengths of two fields after it
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What the header of an array says, and where it ends."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    start: int
    size: int

    @property
    def small(self) -> bool:
        return self.size <= _IN_MEMORY

    def read(self, stream: IO[bytes]) -> Array:
        return np.frombuffer(stream.read(), self.dtype).reshape(self.shape, order=self.order)

    def map(self, file: Path | IO[bytes], offset: int) -> Array:
        return np.memmap(
            file, dtype=self.dtype, mode="r", offset=offset, shape=self.shape, order=self.order
        )


def _layout(stream: IO[bytes], size: int) -> _Layout:
    """The layout of the array in `stream`, which holds `size` bytes.

    Raises:
        ValueError: no array, one of Python objects, or one of another size.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the array format is not known")
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never read")
    start = stream.tell()
    promised = math.prod(shape) * dtype.itemsize
    if promised != size - start:
        raise ValueError(f"it holds {size - start} bytes where its header says {promised}")
    return _Layout(shape, "F" if fortran else "C", dtype, start, promised)
