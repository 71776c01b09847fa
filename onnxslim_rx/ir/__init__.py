"""The model in memory: loading, checking, walking, saving.

No other module touches the protobufs or the files of models.
"""

from __future__ import annotations

from onnxslim_rx.ir.atomic import write_text
from onnxslim_rx.ir.kinds import Kind, ModelLike, kind_of, to_kind
from onnxslim_rx.ir.load import load
from onnxslim_rx.ir.mapped import MappedTensor
from onnxslim_rx.ir.save import save
from onnxslim_rx.ir.serial import digest, serialize, size_bytes
from onnxslim_rx.ir.walk import clone, constant, graphs, mark, marked, nodes, tensors

__all__ = [
    "Kind",
    "MappedTensor",
    "ModelLike",
    "clone",
    "constant",
    "digest",
    "graphs",
    "kind_of",
    "load",
    "mark",
    "marked",
    "nodes",
    "save",
    "serialize",
    "size_bytes",
    "tensors",
    "to_kind",
    "write_text",
]
