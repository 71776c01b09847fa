"""Read the file of a model, or say what it is instead."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import spool
from onnxslim_rx.ir.lean import without_data
from onnxslim_rx.ir.mapped import map_file

__all__ = ["PROTOBUF_LIMIT", "read_proto"]

PROTOBUF_LIMIT = (1 << 31) - 1
"""Protobuf refuses messages above this, bytes."""

# how files start that are mistaken for models; (offset, bytes, what it is, what to do)
_OTHER_FORMATS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file: git lfs pull"),
    (0, b"PK\x03\x04", "a zip archive (such as a PyTorch checkpoint)", "unpack or export it"),
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it: gunzip"),
    (0, b"\x80\x02", "a Python pickle (such as an old PyTorch checkpoint)", "export it to ONNX"),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\x89HDF", "an HDF5 file (such as a Keras model)", "export it to ONNX"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself"),
    (0, b"<html", "a web page", "download the file itself"),
    (4, b"ORTM", "in the ORT format", "use the ONNX file that it was made from"),
    (4, b"TFL3", "in the TensorFlow Lite format", "convert it to ONNX"),
)


def read_proto(path: Path) -> onnx.ModelProto:
    """The protobuf in the file `path`, parsed and not checked any further.

    Of a large file the raw data of initializers is not read: they become external data in the
    file itself.

    Raises:
        InputError: there is no such file, or it holds no protobuf of a model.
    """
    if "\0" in str(path) or not path.exists():
        raise InputError(f"there is no file {str(path)!r}", advice="check the path of the model")
    if not path.is_file():
        raise InputError(f"{path} is not a file", expected="the path of an ONNX file")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path} is empty", expected="an ONNX model")
    if size > PROTOBUF_LIMIT:
        raise InputError(
            f"{path} has {size / 1e9:.1f} GB",
            expected="at most 2 GB, all that one protobuf can hold",
            advice="export the model with external data",
        )
    content = map_file(path)
    head = content[:64].tobytes()
    for offset, magic, what, advice in _OTHER_FORMATS:
        if head[offset:].startswith(magic):
            raise InputError(f"{path} is {what}", expected="an ONNX model", advice=advice)
    lean = (
        without_data(content.data, spool.SPOOLED_BYTES, path.name)
        if size >= spool.LARGE_BYTES
        else None
    )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content.data if lean is None else lean)
    except DecodeError as error:
        raise InputError(
            f"{path} cannot be parsed",
            expected="an ONNX model",
            advice="the file is truncated, damaged or of another format: get it again",
        ) from error
    return proto
