"""Operators of ONNX Runtime's own domain, `com.microsoft`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site
from onnxslim_rx.analysis.facts.rules.elementwise import broadcast_shapes
from onnxslim_rx.analysis.facts.rules.products import product_shape
from onnxslim_rx.analysis.facts.rules.windows import RULES as WINDOWS

__all__ = ["RULES"]


def _same(site: Site) -> Sequence[Known]:
    first = site.get(0)
    return (Known(first.dtype, first.shape),)


def _turned(shape: Shape | None, turn: int) -> Shape | None:
    if not turn or shape is None or len(shape) < 2:
        return shape
    return (*shape[:-2], shape[-1], shape[-2])


def _fused_matmul(site: Site) -> Sequence[Known]:
    a, b = site.get(0), site.get(1)
    if site.attribute("transBatchA", 0) or site.attribute("transBatchB", 0):
        return (Known(a.dtype),)
    left = _turned(a.shape, site.attribute("transA", 0))
    right = _turned(b.shape, site.attribute("transB", 0))
    return (Known(a.dtype or b.dtype, product_shape(left, right)),)


def _skip_normalization(site: Site) -> Sequence[Known]:
    """The result, statistics of samples (which nobody reads), and the sum before."""
    first = site.get(0)
    same = Known(first.dtype, first.shape)
    return (same, Known(), Known(), same)


def _packed_matmul(site: Site) -> Sequence[Known]:
    first = site.get(0)
    shape = None if first.shape is None else (*first.shape[:-1], site.attribute("N"))
    return (Known(first.dtype, shape),)


def _packed_look_up(site: Site) -> Sequence[Known]:
    """Rows of a table: bytes hold several numbers each."""
    data, indices = site.get(0), site.get(1)
    dtype = site.get(2).dtype
    axis = site.attribute("gather_axis", 0)
    if data.shape is None or indices.shape is None or axis:
        return (Known(dtype),)
    in_bytes = data.dtype == ir.DataType.UINT8
    each = 8 // site.attribute("bits", 4) if in_bytes else 1
    last = data.shape[-1] * each
    return (Known(dtype, (*indices.shape, *data.shape[1:-1], last)),)


def _to_float(site: Site) -> Sequence[Known]:
    """A product of integers, scaled to the type of the scale at input 2."""
    return (Known(site.get(2).dtype, product_shape(site.get(0).shape, site.get(1).shape)),)


def _quantized_pair(site: Site) -> Sequence[Known]:
    a, b = site.get(0), site.get(3)
    return (Known(a.dtype, broadcast_shapes(a.shape, b.shape)),)


def _heads(site: Site) -> Sequence[Known] | None:
    """MultiHeadAttention with query, key and value of their own."""
    dtype, query, value = site.get(0).dtype, site.get(0).shape or (), site.get(2).shape or ()
    separate = len(query) == 3 and len(value) == 3
    return (Known(dtype, (*query[:2], value[2]) if separate else None),)


_SAME = ["BiasGelu", "FastGelu", "Gelu", "QuickGelu", "QLinearLeakyRelu", "QLinearSigmoid"]

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME, _same),
    "DynamicQuantizeMatMul": _to_float,
    "FusedConv": WINDOWS["Conv"],
    "FusedMatMul": _fused_matmul,
    "GatherBlockQuantized": _packed_look_up,
    "MatMulIntegerToFloat": _to_float,
    "MatMulNBits": _packed_matmul,
    "MultiHeadAttention": _heads,
    "QLinearAdd": _quantized_pair,
    "QLinearMul": _quantized_pair,
    "RotaryEmbedding": _same,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
}
