"""What onnx_ir cannot hold, kept beside the model: types of inputs and outputs that are maps."""

from __future__ import annotations

import onnx
import onnx_ir

__all__ = ["keep_types", "restore_types", "take_types"]

_TYPES = "rx.types"  # key in `model.meta`: serialised types by name of the input or output


def take_types(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Take the types that onnx_ir does not know out of `proto`, and return them by name."""
    taken: dict[str, bytes] = {}
    graph = proto.graph
    for info in (*graph.input, *graph.output):
        if _is_unknown(info.type):
            taken[info.name] = info.type.SerializeToString(deterministic=True)
            info.ClearField("type")
    for index in reversed(range(len(graph.value_info))):
        if _is_unknown(graph.value_info[index].type):
            del graph.value_info[index]  # a hint, which ONNX Runtime infers as well
    return taken


def _is_unknown(proto: onnx.TypeProto) -> bool:
    kind = proto.WhichOneof("value")
    if kind in ("sequence_type", "optional_type"):
        return _is_unknown(getattr(proto, kind).elem_type)
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
