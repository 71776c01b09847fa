"""The bytes of tensors, a part at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from onnxslim_rx.ir.mapped import MappedTensor

__all__ = ["chunks"]

_CHUNK = 8 << 20


def chunks(tensor: onnx_ir.TensorProtocol) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of `tensor` as ONNX stores them, in parts of about 8 MB, (n,) uint8 each.

    What lies in one piece in memory, or in a mapped file, is not copied.

    Args:
        tensor: of any type but strings, which have no bytes.
    """
    array = _stored(tensor)
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, len(flat), _CHUNK):
            yield flat[start : start + _CHUNK]
        return
    rows = max(1, _CHUNK // max(array[:1].nbytes, 1))
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8)


def _stored(tensor: onnx_ir.TensorProtocol) -> npt.NDArray[Any]:
    """An array with the bytes of `tensor`, at least one axis, a view where that is possible."""
    if isinstance(tensor, MappedTensor):
        return tensor.content
    # of types below 8 bits numpy holds one element a byte, ONNX two or more
    if tensor.dtype.bitwidth < 8 or sys.byteorder != "little":
        return np.frombuffer(tensor.tobytes(), np.uint8)
    return np.atleast_1d(tensor.numpy())
