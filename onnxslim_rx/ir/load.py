"""Load a model from whatever the user has."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.kinds import ModelLike, graphsurgeon, kind_of
from onnxslim_rx.ir.walk import clone

__all__ = ["load"]


def load(model: ModelLike) -> onnx_ir.Model:
    """A new, checked model; external data stays in its files and is paged in on access.

    Raises:
        InputError: the model cannot be read or is not valid.
    """
    kind = kind_of(model)
    if isinstance(model, onnx_ir.Model):
        return clone(model)
    if isinstance(model, (str, os.PathLike)):
        return _load_path(Path(model))
    proto = graphsurgeon().export_onnx(model) if kind == "graphsurgeon" else model
    return onnx_ir.serde.deserialize_model(proto)


def _load_path(path: Path) -> onnx_ir.Model:
    try:
        loaded = onnx_ir.load(path)
    except Exception as error:
        raise InputError(f"{os.fspath(path)} is not an ONNX model: {error}") from error
    return loaded
