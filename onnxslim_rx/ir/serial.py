"""From the model in memory to protobufs and bytes; sizes and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.content import chunks
from onnxslim_rx.ir.files import PROTOBUF_LIMIT
from onnxslim_rx.ir.held import restore_types
from onnxslim_rx.ir.names import bodies
from onnxslim_rx.ir.spool import SpooledTensor
from onnxslim_rx.ir.walk import SOURCES, clone, replace_tensors, tensors

__all__ = [
    "EXTERNAL_ABOVE",
    "Placement",
    "digest",
    "has_external_data",
    "needs_external_data",
    "place",
    "serialize",
    "size_bytes",
    "skeleton",
    "tensor_digest",
    "to_proto",
]

EXTERNAL_ABOVE = 1024
"""Tensors above this many bytes go to the external data file where there is one."""

ALIGNMENT = 64
"""Offsets in the external data file are multiples of this (a cache line), bytes."""

Tensor = onnx_ir.TensorProtocol


def serialize(model: onnx_ir.Model) -> bytes:
    """The model as one self-contained file's bytes; the same model gives the same bytes.

    Raises:
        InputError: above 2 GB, which protobuf cannot hold.
    """
    content: bytes = to_proto(model).SerializeToString(deterministic=True)
    return content


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """The model as a protobuf with all data inside.

    Raises:
        InputError: above 2 GB, which protobuf cannot hold.
    """
    if needs_external_data(model):
        raise InputError(
            f"the model has {_data_bytes(model) / 1e9:.1f} GB of weights",
            expected="below 2 GB, all that one protobuf can hold",
            advice="use a path: save it as a file with external data",
        )
    return _with_tensors(model, _inline)


def needs_external_data(model: onnx_ir.Model) -> bool:
    """Whether the model is above 2 GB, so that a single file cannot hold it."""
    if _data_bytes(model) < PROTOBUF_LIMIT // 2:  # no graph is a gigabyte without its weights
        return False
    return bool(_data_bytes(model) + 2 * skeleton(model).ByteSize() > PROTOBUF_LIMIT)


def skeleton(model: onnx_ir.Model) -> onnx.ModelProto:
    """The model as a protobuf without the data of numeric tensors, for looking at the graph."""
    return _with_tensors(model, lambda tensor: _stub(tensor, "", 0))


def has_external_data(model: onnx_ir.Model) -> bool:
    """Whether some tensor of the model lies in an external data file, or did when it came."""
    if len(model.meta.get(SOURCES, ())) > 1:
        return True
    return any(isinstance(tensor, onnx_ir.ExternalTensor) for tensor in tensors(model))


Placement = tuple[int, Tensor]
"""Offset in the external data file, bytes, and the tensor to write there."""


def place(model: onnx_ir.Model, location: str) -> tuple[onnx.ModelProto, list[Placement]]:
    """The model as a protobuf whose big tensors refer to the file `location`, and what to write.

    A tensor that several values share is written once.
    """
    placements: list[Placement] = []
    stubs: dict[int, Tensor] = {}
    end = 0

    def refer(tensor: Tensor) -> Tensor:
        nonlocal end
        if tensor.dtype == onnx_ir.DataType.STRING or tensor.nbytes <= EXTERNAL_ABOVE:
            return _inline(tensor)
        if id(tensor) not in stubs:
            offset = -(-end // ALIGNMENT) * ALIGNMENT
            end = offset + tensor.nbytes
            placements.append((offset, tensor))
            stubs[id(tensor)] = _stub(tensor, location, offset)
        return stubs[id(tensor)]

    return _with_tensors(model, refer), placements


def size_bytes(model: onnx_ir.Model) -> int:
    """Bytes of the model's file and its external data file, if it were saved now."""
    if not (has_external_data(model) or needs_external_data(model)):
        return _inline_bytes(model)
    proto, placements = place(model, "model.onnx.data")
    end = max((offset + tensor.nbytes for offset, tensor in placements), default=0)
    return int(proto.ByteSize()) + end


def _inline_bytes(model: onnx_ir.Model) -> int:
    """Bytes of the model with all data inside, found without putting it there.

    Every message and every piece of data stands behind its length, which is as long as it needs
    to be. So the size of a model without the data of its initializers gives that with them.
    """
    spooled = {
        str(value.name): value.const_value
        for value in model.graph.initializers.values()
        if isinstance(value.const_value, SpooledTensor)
    }
    left_out = {id(tensor) for tensor in spooled.values()}
    proto = _with_tensors(model, lambda t: _empty(t) if id(t) in left_out else _inline(t))
    more = 0
    for tensor in proto.graph.initializer:
        if tensor.name in spooled:
            content = spooled[tensor.name].nbytes
            more += _growth(tensor.ByteSize(), _growth(0, content))
    return int(proto.ByteSize()) + _growth(proto.graph.ByteSize(), more)


def _growth(size: int, more: int) -> int:
    """By how much a field of `size` bytes and its length grow when it gets `more`."""
    return more + _varint_bytes(size + more) - _varint_bytes(size)


def _varint_bytes(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def _empty(tensor: Tensor) -> Tensor:
    return onnx_ir.Tensor(
        np.empty(0, tensor.dtype.numpy()),
        tensor.dtype,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def digest(model: onnx_ir.Model) -> str:
    """SHA-256 over structure and weights, as 64 hexadecimal digits.

    Models that differ only in how they store their tensors (typed fields or raw bytes, inside
    the file or in external data) have the same digest.
    """
    known: dict[int, str] = {}

    def refer(tensor: Tensor) -> Tensor:
        if tensor.dtype == onnx_ir.DataType.STRING:
            return tensor
        if id(tensor) not in known:
            known[id(tensor)] = tensor_digest(tensor)
        return _stub(tensor, known[id(tensor)], None)

    proto = _with_tensors(model, refer)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over the bytes of a tensor of any type but strings, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for chunk in chunks(tensor):
        found.update(chunk.data)
    return found.hexdigest()


def _data_bytes(model: onnx_ir.Model) -> int:
    return sum(tensor.nbytes for tensor in tensors(model))


def _inline(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return tensor
    return onnx_ir.Tensor(
        tensor.numpy(),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _stub(tensor: Tensor, location: str, offset: int | None) -> Tensor:
    if tensor.dtype == onnx_ir.DataType.STRING:  # strings have no bytes to refer to
        return tensor
    return onnx_ir.ExternalTensor(
        location,
        offset,
        None if offset is None else tensor.nbytes,
        tensor.dtype,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _with_tensors(model: onnx_ir.Model, change: Callable[[Tensor], Tensor]) -> onnx.ModelProto:
    """The model as a protobuf, each stored tensor replaced by `change` of it."""
    copy = clone(model)
    replace_tensors(copy, change)
    proto = onnx_ir.serde.serialize_model(copy)
    restore_types(model, proto)
    for entry in proto.opset_import:
        if not entry.domain:
            entry.ClearField("domain")  # which may be set, and then takes bytes
    _tidy(proto.graph)
    for function in proto.functions:
        _tidy(function)
    return proto


def _tidy(body: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Remove what onnx_ir writes twice: metadata of tensors, types of initializers."""
    for node in body.node:
        for graph in bodies(node):
            _tidy(graph)
    if isinstance(body, onnx.FunctionProto):
        return
    for tensor in body.initializer:
        entries = {entry.key: entry.value for entry in tensor.metadata_props}
        if len(entries) < len(tensor.metadata_props):
            del tensor.metadata_props[:]
            for key, value in entries.items():
                tensor.metadata_props.add(key=key, value=value)
    initializers = {tensor.name for tensor in body.initializer}
    for index in reversed(range(len(body.value_info))):
        info = body.value_info[index]
        if info.name in initializers and not (info.metadata_props or info.doc_string):
            del body.value_info[index]
