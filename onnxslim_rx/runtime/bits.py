"""Element types that numpy itself does not have (bfloat16, float8), in and out of onnxruntime.

onnxruntime takes and gives them only as `OrtValue`s; arrays here have the types of ml_dtypes.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

__all__ = ["needs_bits", "share", "to_numpy"]

Array = npt.NDArray[Any]


def needs_bits(dtype: np.dtype[Any]) -> bool:
    """Whether onnxruntime refuses plain arrays of this type."""
    return dtype.kind == "V" or dtype.num >= 256  # user types of numpy, those of ml_dtypes


def share(array: Array) -> onnxruntime.OrtValue:
    """`array`'s memory (C-contiguous, no strings) as a value; keep the array while it is used."""
    if not needs_bits(array.dtype):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    onnx_type = int(ir.DataType.from_numpy(array.dtype))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx_type)


def to_numpy(value: onnxruntime.OrtValue, dtype: np.dtype[Any]) -> Array:
    """A tensor on the CPU as an array of its own memory."""
    if not needs_bits(dtype):
        return np.asarray(value.numpy())
    shape: list[int] = value.shape()
    content = ctypes.string_at(value.data_ptr(), math.prod(shape) * dtype.itemsize)
    return np.frombuffer(bytearray(content), dtype).reshape(shape)
