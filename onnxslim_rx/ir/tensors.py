"""Checks of stored tensors: whether type, shape and data fit, and where external data lies."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.invalid import DAMAGED

__all__ = ["check_tensors", "data_bytes", "find_data", "tensor_protos"]

# where TensorProto holds values that are not raw bytes; "int32_data" for all other types
_FIELDS = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}


def tensor_protos(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """All tensors stored in a graph, its subgraphs, and the attributes of their nodes."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensor_protos(attribute.g)
            for body in attribute.graphs:
                yield from tensor_protos(body)


def check_tensors(model: onnx.ModelProto, path: Path | None) -> None:
    """Check that every stored tensor has a known type, a legal shape, and as much data.

    Args:
        model: the model as parsed.
        path: the file that it came from; None: from memory, external data cannot be found then.

    Raises:
        InputError: a tensor is not valid, or its external data is missing, too short, or lies
            outside the folder of the model.
    """
    sizes: dict[str, int] = {}
    for part in (model.graph, *model.functions):
        for tensor in tensor_protos(part):
            size = data_bytes(tensor)
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                _check_inside(tensor, size)
            elif path is None:
                raise InputError(
                    f"tensor {tensor.name!r} refers to external data, and a model in memory has "
                    "no folder to look for it",
                    advice="give the path of the model, or load the external data into it",
                )
            else:
                _check_external(tensor, size, path, sizes)


def _shape(tensor: onnx.TensorProto) -> str:
    return "x".join(map(str, tensor.dims)) or "scalar"


def data_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of data that type and shape ask for; the number of elements for strings."""
    try:
        dtype = onnx_ir.DataType(tensor.data_type)
    except ValueError:
        dtype = onnx_ir.DataType.UNDEFINED
    if dtype == onnx_ir.DataType.UNDEFINED:
        raise InputError(
            f"tensor {tensor.name!r} has the element type {tensor.data_type}",
            expected="one that ONNX defines",
            advice=DAMAGED,
        )
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(
            f"tensor {tensor.name!r} has the shape {_shape(tensor)}",
            expected="no negative dimension",
            advice=DAMAGED,
        )
    elements = int(math.prod(tensor.dims))
    if dtype == onnx_ir.DataType.STRING:
        return elements
    return -(-elements * dtype.bitwidth // 8)


def _check_inside(tensor: onnx.TensorProto, size: int) -> None:
    dtype = onnx_ir.DataType(tensor.data_type)
    if tensor.HasField("raw_data") and dtype != onnx_ir.DataType.STRING:
        found, expected, unit = len(tensor.raw_data), size, "bytes"
    else:
        field = _FIELDS.get(dtype.name, "int32_data")
        found, expected, unit = len(getattr(tensor, field)), _entries(dtype, tensor, size), "values"
    if found != expected:
        raise InputError(
            f"tensor {tensor.name!r} of type {dtype.name} and shape {_shape(tensor)} holds "
            f"{found} {unit}",
            expected=f"{expected} {unit}",
            advice=DAMAGED,
        )


def _entries(dtype: onnx_ir.DataType, tensor: onnx.TensorProto, size: int) -> int:
    """How many entries the typed field (`float_data` and so on) must have."""
    if dtype.name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"):
        return size  # packed into bytes even there, one byte an entry
    elements = int(math.prod(tensor.dims))
    return 2 * elements if dtype.name.startswith("COMPLEX") else elements


def _check_external(tensor: onnx.TensorProto, size: int, path: Path, sizes: dict[str, int]) -> None:
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    if location not in sizes:
        sizes[location] = find_data(location, path).stat().st_size
    offset, length = (_number(tensor, info, key) for key in ("offset", "length"))
    if length not in (None, size) or tensor.data_type == onnx.TensorProto.STRING:
        raise InputError(
            f"tensor {tensor.name!r} of shape {_shape(tensor)} has {length} bytes of external data",
            expected=f"{size} bytes of a numeric type",
            advice=DAMAGED,
        )
    if (offset or 0) + size > sizes[location]:
        raise InputError(
            f"tensor {tensor.name!r} ends at byte {(offset or 0) + size} of {location}, which has "
            f"{sizes[location]} bytes",
            expected="a complete external data file",
            advice="get the file again, it is truncated or belongs to another model",
        )


def _number(tensor: onnx.TensorProto, info: dict[str, str], key: str) -> int | None:
    text = info.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InputError(
            f"tensor {tensor.name!r} has the external data {key} {text!r}",
            expected="a whole number of bytes",
            advice=DAMAGED,
        )
    return int(text)


def find_data(location: str, path: Path) -> Path:
    """The external data file `location` of the model at `path`, links resolved.

    It must lie in the folder of the model: that of the path, or of the file that a link there
    leads to (caches of downloads keep model and data as links into one folder of blobs).

    Raises:
        InputError: it is missing, or lies elsewhere.
    """
    parts = PureWindowsPath(location)  # reads both kinds of separators, on every system
    leaves = parts.is_absolute() or parts.drive or location.startswith(("/", "\\"))
    if not location or "\0" in location or leaves or ".." in parts.parts:
        raise InputError(
            f"the model wants external data from {location!r}",
            expected="a file in the folder of the model",
            advice="do not trust this file, or export it anew",
        )
    real = Path(os.path.realpath(path.parent / location))
    folders = {os.path.realpath(path.parent), str(Path(os.path.realpath(path)).parent)}
    if not any(real.is_relative_to(folder) for folder in folders):
        raise InputError(
            f"the external data {location!r} is a link that leads to {real}",
            expected="a file in the folder of the model",
            advice="copy the data beside the model if you trust it",
        )
    if not real.is_file():
        raise InputError(
            f"the external data file {path.parent / location} is missing",
            expected="it beside the model",
            advice="copy or download it too",
        )
    return real
