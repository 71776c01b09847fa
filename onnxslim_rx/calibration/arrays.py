"""Reading .npy and .npz files without loading what is large."""

from __future__ import annotations

import lzma
import math
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError

__all__ = ["SUFFIXES", "read_arrays"]

Array = npt.NDArray[Any]
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]

SUFFIXES = (".npz", ".npy")
_IN_MEMORY = 1 << 24  # arrays of at most this many bytes are read at once

# What zipfile and numpy raise on damaged, encrypted or strangely compressed files. SyntaxError
# and TokenError come from the header of an array, which is Python text.
_DAMAGE = (
    ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError,
    RuntimeError, SyntaxError, tokenize.TokenError, OverflowError, TypeError,
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
            size = path.stat().st_size
            return {"": _read(file, size, lambda start: _Place(path, start))}
    except OSError as error:
        raise InputError(
            f"cannot read the calibration file {path}: {error.strerror or error}"
        ) from error
    except _DAMAGE as error:
        raise InputError(
            f"the calibration file {path} is damaged or no {path.suffix} file: {error}",
            advice="write it again with numpy.savez or numpy.save",
        ) from error


class _Place:
    """Where the bytes of an array start: in a named file, or in a temporary one."""

    def __init__(self, file: Path | IO[bytes], offset: int) -> None:
        self.file = file
        self.offset = offset


def _read_npz(path: Path) -> dict[str, Array]:
    arrays = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            place = _stored(path, raw, info) or _unpacked(archive, info)
            with archive.open(info) as member:
                name = info.filename[: -len(".npy")]
                arrays[name] = _read(member, info.file_size, place)
    return arrays


def _stored(path: Path, raw: IO[bytes], info: zipfile.ZipInfo) -> Callable[[int], _Place] | None:
    """Where an uncompressed member lies in the archive itself; None for a compressed one."""
    if info.compress_type != zipfile.ZIP_STORED:
        return None
    # the local header: 30 bytes, of which the last four are the lengths of name and extra field
    raw.seek(info.header_offset + 26)
    lengths = raw.read(4)
    start = (
        info.header_offset
        + 30
        + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    )
    return lambda offset: _Place(path, start + offset)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[int], _Place]:
    def unpack(offset: int) -> _Place:
        file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the array mapped from it
        with archive.open(info) as member:
            shutil.copyfileobj(member, file)
        file.flush()
        return _Place(file, offset)

    return unpack


def _read(stream: IO[bytes], size: int, place: Callable[[int], _Place]) -> Array:
    """The array in `stream`, which holds `size` bytes; mapped at `place(start)` if it is large."""
    shape, fortran, dtype = _header(stream)
    start = stream.tell()
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never read")
    promised = math.prod(shape) * dtype.itemsize
    if promised != size - start:
        raise ValueError(f"it holds {size - start} bytes where its header says {promised}")
    order: Any = "F" if fortran else "C"
    if promised <= _IN_MEMORY:
        return np.frombuffer(stream.read(), dtype=dtype).reshape(shape, order=order)
    while stream.read(1 << 20):
        pass  # to the end, where zipfile compares the checksum
    where = place(start)
    return np.memmap(
        where.file, dtype=dtype, mode="r", offset=where.offset, shape=shape, order=order
    )


def _header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the array format is not known")
