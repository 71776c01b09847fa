"""Keep one of several equal initializers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.ir import graphs, is_overridable
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import drop_initializer

__all__ = ["DeduplicateInitializers"]

_SAMPLES = 16


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
                alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
            removed += sum(_merge(values) for values in _split(alike.values(), _sample))
        return PassResult(model, removed > 0, removed, tuple(skipped))


def _split(
    groups: Iterable[list[ir.Value]], key: Callable[[ir.TensorProtocol], bytes]
) -> list[list[ir.Value]]:
    """The groups of values that agree in `key` as well, those of one value left out."""
    found: list[list[ir.Value]] = []
    for group in groups:
        if len(group) < 2:
            continue
        same: dict[bytes, list[ir.Value]] = {}
        for value in group:
            assert value.const_value is not None  # only such are collected
            same.setdefault(key(value.const_value), []).append(value)
        found += [values for values in same.values() if len(values) > 1]
    return found


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Elements from three places, so that of a mapped file only few pages are read."""
    flat = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    if flat.size <= 3 * _SAMPLES:
        return flat.tobytes()
    middle = flat.size // 2
    parts = flat[:_SAMPLES], flat[middle : middle + _SAMPLES], flat[-_SAMPLES:]
    return b"".join(part.tobytes() for part in parts)


def _merge(values: list[ir.Value]) -> int:
    """Merge those of `values` that hold the same; return how many were removed."""
    first: dict[bytes, ir.Value] = {}
    removed = 0
    for value in values:
        assert value.const_value is not None  # only such are collected
        array = np.ascontiguousarray(value.const_value.numpy())
        key = hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
        kept = first.setdefault(key, value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            drop_initializer(value)
            removed += 1
    return removed
