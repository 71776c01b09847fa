"""Keep one of several equal initializers."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import graphs, is_overridable
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import drop_initializer

__all__ = ["DeduplicateInitializers"]

_SAMPLES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeduplicateInitializers(RewritePass):
    """Let all readers of equal initializers of one graph read the first of them.

    Equal means the same type, shape and bits. Only tensors that agree in a few samples are read
    as a whole.

    Args:
        max_bytes: larger tensors are left alone; bytes, at least 0.
    """

    name: ClassVar[str] = "deduplicate-initializers"
    max_bytes: int = 1 << 30

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrite `model` in place."""
        removed, skipped = 0, []
        for graph in graphs(model):
            alike: dict[object, list[ir.Value]] = {}
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.dtype == ir.DataType.STRING:
                    continue
                if is_overridable(value) or value.is_graph_output():
                    continue  # callers tell it from others by its name
                if tensor.nbytes > self.max_bytes:
                    skipped.append(Skipped(str(value.name), f"has {tensor.nbytes} bytes"))
                    continue
                key = tensor.dtype, tuple(tensor.shape.numpy()), _sample(tensor)
                alike.setdefault(key, []).append(value)
            removed += sum(_merge(values) for values in alike.values() if len(values) > 1)
        return PassResult(model, removed > 0, removed, tuple(skipped))


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """A few elements from all over the tensor."""
    flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    return bytes(flat[:: max(1, flat.size // _SAMPLES)].tobytes())


def _merge(values: list[ir.Value]) -> int:
    """Merge those of `values` that hold the same; return how many were removed."""
    first: dict[bytes, ir.Value] = {}
    removed = 0
    for value in values:
        assert value.const_value is not None  # only such are collected
        key = hashlib.sha256(value.const_value.tobytes()).digest()
        kept = first.setdefault(key, value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            drop_initializer(value)
            removed += 1
    return removed
