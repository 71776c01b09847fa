"""The model in memory: loading, checking, walking, saving.

No other module touches the protobufs or the files of models.
"""

from __future__ import annotations

from onnxslim_rx.ir.atomic import write_text
from onnxslim_rx.ir.kinds import Kind, ModelLike, kind_of, to_kind
from onnxslim_rx.ir.load import load
from onnxslim_rx.ir.mapped import MappedTensor
from onnxslim_rx.ir.save import save
from onnxslim_rx.ir.serial import digest, serialize, size_bytes, tensor_digest
from onnxslim_rx.ir.spool import Spool, SpooledTensor, is_large, spooled
from onnxslim_rx.ir.walk import (
    bodies,
    clone,
    constant,
    graphs,
    graphs_in,
    is_overridable,
    mark,
    marked,
    nodes,
    nodes_in,
    tensors,
)

__all__ = [
    "Kind",
    "MappedTensor",
    "ModelLike",
    "Spool",
    "SpooledTensor",
    "bodies",
    "clone",
    "constant",
    "digest",
    "graphs",
    "graphs_in",
    "is_large",
    "is_overridable",
    "kind_of",
    "load",
    "mark",
    "marked",
    "nodes",
    "nodes_in",
    "save",
    "serialize",
    "size_bytes",
    "spooled",
    "tensor_digest",
    "tensors",
    "to_kind",
    "write_text",
]
