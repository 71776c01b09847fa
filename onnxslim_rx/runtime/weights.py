"""A model in memory for onnxruntime: its graph serialised, its large weights where they are."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import MappedTensor, clone, tensors
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
        folder: of the files that hold other weights, or "".
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
        if not (folder and isinstance(tensor, MappedTensor) and _home(tensor) == folder):
            if tensor.dtype.bitwidth < 8:  # numpy holds one element a byte, onnxruntime two
                continue
            shared[name] = np.ascontiguousarray(tensor.numpy())
            value.const_value = tensor = ir.ExternalTensor(
                "shared", 0, tensor.nbytes, tensor.dtype,
                shape=ir.Shape(shared[name].shape), name=name,
            )  # fmt: skip
        outside.add(id(tensor))

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
    """The folder of external data that onnxruntime may map by itself, or ""."""
    homes = (_home(tensor) for tensor in tensors(model) if isinstance(tensor, MappedTensor))
    return next(homes, "") if version() >= _FOLDERS_SINCE else ""


def _home(tensor: MappedTensor) -> str:
    return os.fspath(tensor.base_dir)
