"""What onnx_ir cannot hold, kept beside the model: some types of inputs and outputs."""

from __future__ import annotations

import onnx
import onnx_ir

from onnxslim_rx.ir.names import Body, bodies

__all__ = ["keep_types", "restore_types", "take_types"]

_TYPES = "rx.types"  # key in `model.meta`: serialised types by name of the input or output


def take_types(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Take the types that onnx_ir does not know out of `proto`, and return them by name.

    Those of inner values are hints, which ONNX Runtime infers as well: they are dropped.
    """
    taken: dict[str, bytes] = {}
    for info in (*proto.graph.input, *proto.graph.output):
        if _is_unknown(info.type):
            taken[info.name] = info.type.SerializeToString(deterministic=True)
            info.ClearField("type")
    for body in (proto.graph, *proto.functions):
        _drop_hints(body)
    return taken


def _drop_hints(body: Body) -> None:
    for index in reversed(range(len(body.value_info))):
        if _is_unknown(body.value_info[index].type):
            del body.value_info[index]
    for node in body.node:
        for inner in bodies(node):
            _drop_hints(inner)


def _is_unknown(proto: onnx.TypeProto) -> bool:
    """Whether the type is a map, opaque, or that of a tensor without the type of its elements."""
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return _is_unknown(getattr(proto, kind).elem_type)
    if kind in ("tensor_type", "sparse_tensor_type"):
        return not getattr(proto, kind).HasField("elem_type")
    return kind in ("map_type", "opaque_type")


def keep_types(model: onnx_ir.Model, taken: dict[str, bytes]) -> None:
    """Note on `model` what `take_types` gave."""
    if taken:
        model.meta[_TYPES] = taken


def restore_types(model: onnx_ir.Model, proto: onnx.ModelProto) -> None:
    """Put the types kept on `model` into what was serialised from it."""
    taken: dict[str, bytes] = model.meta.get(_TYPES, {})
    for info in (*proto.graph.input, *proto.graph.output):
        if info.name in taken:
            info.type.ParseFromString(taken[info.name])
