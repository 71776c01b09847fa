"""A model in memory for onnxruntime: its graph serialised, its large weights where they are."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import MappedTensor, SpooledTensor, clone, tensors
from onnxslim_rx.ir.held import restore_types
from onnxslim_rx.ir.walk import replace_tensors
from onnxslim_rx.runtime.environment import version

__all__ = ["Detached", "detach"]

Array = npt.NDArray[Any]

_LARGE_BYTES = 1 << 16  # smaller tensors stay inside: inference must see shapes and axes
_PROTOBUF_BYTES = 2**31 - 2**24  # its limit of 2 GiB, less some space for the graph
_FOLDERS_SINCE = (1, 21)  # before, models from memory had no folder for external data


@dataclasses.dataclass(frozen=True)
class Detached:
    """A model without its large weights.

    Args:
        content: the rest, serialised.
        shared: weights that are in memory, C-contiguous, by name.
        folder: that all files lie in or below which hold other weights, or "".
    """

    content: bytes
    shared: dict[str, Array]
    folder: str


def detach(model: ir.Model) -> Detached:
    """Take the large weights out of `model`, which stays as it is.

    Raises:
        InputError: what is left is above 2 GB, which protobuf cannot hold.
    """
    model = clone(model)
    shared: dict[str, Array] = {}
    outside: set[int] = set()
    folder = _folder(model)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < _LARGE_BYTES:
            continue
        if not (value.uses() or value.is_graph_output()):
            continue  # onnxruntime drops what nobody reads, and then misses it when it is shared
        place = _place(tensor)
        if folder and place is not None:
            home, file, offset = place
            location = os.path.relpath(os.path.join(home, file), folder)  # noqa: PTH118  hot
        else:
            if tensor.dtype.bitwidth < 8:  # numpy holds one element a byte, onnxruntime two
                continue
            shared[name] = np.ascontiguousarray(tensor.numpy())
            location, offset = "shared", 0
        value.const_value = stand_in = ir.ExternalTensor(
            location, offset, tensor.nbytes, tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()), name=name,
        )  # fmt: skip
        outside.add(id(stand_in))

    def inside(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if id(tensor) in outside or not isinstance(tensor, ir.ExternalTensor):
            return tensor
        return ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name)

    size = sum(tensor.nbytes for tensor in tensors(model) if id(tensor) not in outside)
    if size >= _PROTOBUF_BYTES:
        raise InputError(
            f"{size / 1e9:.1f} GB of weights have 4 bits or belong to subgraphs or Constant nodes",
            expected="less than 2 GB of such in memory",
            advice="save the model and use its path",
        )
    replace_tensors(model, inside)
    proto = ir.to_proto(model)
    restore_types(model, proto)
    return Detached(proto.SerializeToString(), shared, folder)


def _folder(model: ir.Model) -> str:
    """The innermost folder around all files that onnxruntime may map by itself, or "".

    It refuses files outside of the one folder that it is given.
    """
    if version() < _FOLDERS_SINCE:
        return ""
    places = (_place(tensor) for tensor in tensors(model))
    homes = {place[0] for place in places if place is not None}
    try:
        return os.path.commonpath(homes) if homes else ""
    except ValueError:  # on two drives of Windows
        return ""


def _place(tensor: ir.TensorProtocol) -> tuple[str, str, int] | None:
    """Folder, links resolved, file and offset of a tensor that lies in a file."""
    if isinstance(tensor, SpooledTensor):
        return str(tensor.path.parent), tensor.path.name, tensor.offset
    if isinstance(tensor, MappedTensor):  # whose path has no links
        return os.fspath(tensor.base_dir), os.fspath(tensor.location), tensor.offset or 0
    if isinstance(tensor, ir.ExternalTensor):
        path = Path(os.path.realpath(tensor.path))
        return str(path.parent), path.name, tensor.offset or 0
    return None
