"""The kinds of models that users have, and how they come in and go out."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, TypeAlias, Union

import onnx
import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.serial import to_proto

__all__ = ["Kind", "ModelLike", "graphsurgeon", "kind_of", "to_kind"]

Kind = Literal["path", "proto", "ir", "graphsurgeon"]

# onnx_graphsurgeon.Graph is not typed, hence Any
ModelLike: TypeAlias = Union[str, "os.PathLike[str]", onnx.ModelProto, onnx_ir.Model, Any]


def kind_of(model: ModelLike) -> Kind:
    """What `model` is.

    Raises:
        InputError: nothing that can be loaded.
    """
    if isinstance(model, (str, os.PathLike)):
        return "path"
    if isinstance(model, onnx.ModelProto):
        return "proto"
    if isinstance(model, onnx_ir.Model):
        return "ir"
    if type(model).__module__.partition(".")[0] == "onnx_graphsurgeon" and hasattr(model, "nodes"):
        return "graphsurgeon"
    raise InputError(
        f"a model cannot be of type {type(model).__name__}",
        expected="a path, an onnx.ModelProto, an onnx_ir.Model or an onnx_graphsurgeon.Graph",
    )


def graphsurgeon() -> Any:
    """The module of a graph that `kind_of` found to be of onnx-graphsurgeon."""
    return sys.modules["onnx_graphsurgeon"]  # the caller made the object, so it is imported


def to_kind(model: onnx_ir.Model, kind: Kind) -> ModelLike:
    """The model as `kind`; for "path" the `onnx_ir.Model` itself.

    Raises:
        InputError: a protobuf or graphsurgeon graph was asked for and the model is above 2 GB.
    """
    if kind in ("path", "ir"):
        return model
    proto = to_proto(model)
    return proto if kind == "proto" else graphsurgeon().import_onnx(proto)
