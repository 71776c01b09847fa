"""Layers: normalisation, quantisation, attention, resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.division import floor_div
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site, unknown_shape
from onnxslim_rx.analysis.facts.rules.movement import axis_within

__all__ = ["RULES"]


def _batch_normalization(site: Site) -> Sequence[Known] | None:
    if len(site.node.outputs) > 1:  # training; what they are depends on the version
        return None
    first = site.get(0)
    return (Known(first.dtype, first.shape),)


def _layer_normalization(site: Site) -> Sequence[Known]:
    """The result, then mean and deviation, which have size 1 along the axes of a sample."""
    first = site.get(0)
    statistics = ir.DataType(site.attribute("stash_type", 1))
    if first.shape is None:
        return (Known(first.dtype), Known(statistics), Known(statistics))
    axis = axis_within(site.attribute("axis", -1), len(first.shape))
    shape = (*first.shape[:axis], *[1] * (len(first.shape) - axis))
    return (Known(first.dtype, first.shape), Known(statistics, shape), Known(statistics, shape))


def _rms_normalization(site: Site) -> Sequence[Known]:
    return (Known(site.get(1).dtype, site.get(0).shape),)


def _quantize(site: Site) -> Sequence[Known]:
    stated = site.attribute("output_dtype", 0)
    if site.has(2):
        dtype = site.get(2).dtype
    else:
        dtype = ir.DataType(stated) if stated else ir.DataType.UINT8
    return (Known(dtype, site.get(0).shape),)


def _dequantize(site: Site) -> Sequence[Known]:
    stated = site.attribute("output_dtype", 0)
    dtype = ir.DataType(stated) if stated else site.get(1).dtype
    return (Known(dtype, site.get(0).shape),)


def _resize(site: Site) -> Sequence[Known] | None:
    """Where sizes are given, or scales that are whole; other scales are rounded by ONNX's rule."""
    first = site.get(0)
    if first.shape is None or site.attribute("axes") is not None or site.version < 9:
        return None
    if site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if site.has(3):
        sizes = site.contents(3)
        return None if sizes is None else (Known(first.dtype, sizes),)
    old = site.version < 11  # the region of interest came then
    if not old and site.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    scales = site.array(1 if old else 2)
    if scales is None or scales.size != len(first.shape) or not np.isfinite(scales).all():
        return None
    if (scales != np.trunc(scales)).any():
        return None
    pairs = zip(first.shape, scales.tolist(), strict=True)
    return (Known(first.dtype, tuple(size * int(scale) for size, scale in pairs)),)


def _attention(site: Site) -> Sequence[Known]:
    query, key, value = (site.get(index) for index in range(3))
    types = (query.dtype, key.dtype, value.dtype, query.dtype)
    if query.shape is None or key.shape is None or value.shape is None:
        return [Known(dtype) for dtype in types]
    q, k, v = query.shape, key.shape, value.shape
    if len(q) == 4:
        result: Shape = (*q[:3], v[3])
    else:
        heads, groups = site.attribute("q_num_heads"), site.attribute("kv_num_heads")
        q, k, v = _by_head(q, heads), _by_head(k, groups), _by_head(v, groups)
        result = (q[0], q[2], v[3] * heads)
    total, total_values = _with_past(site, 4, k[2]), _with_past(site, 5, v[2])
    shapes: list[Shape] = [
        result,
        (*k[:2], total, k[3]),
        (*v[:2], total_values, v[3]),
        (*q[:3], total),
    ]
    return [Known(dtype, shape) for dtype, shape in zip(types, shapes, strict=True)]


def _by_head(shape: Shape, heads: int) -> Shape:
    """(batch, heads, length, size of a head) of (batch, length, size of all heads)."""
    batch, length, width = shape
    return (batch, heads, length, floor_div(width, heads))


def _with_past(site: Site, index: int, length: Dim) -> Dim:
    if not site.has(index):
        return length
    shape = site.get(index).shape
    return fresh() if shape is None else shape[2] + length


def _one_hot(site: Site) -> Sequence[Known]:
    indices, dtype = site.get(0), site.get(2).dtype
    if indices.shape is None:
        return (Known(dtype),)
    axis = axis_within(site.attribute("axis", -1), len(indices.shape) + 1)
    depth = site.contents(1)
    size = depth[0] if depth else unknown_shape(1)[0]
    return (Known(dtype, (*indices.shape[:axis], size, *indices.shape[axis:])),)


RULES: dict[str, Rule] = {
    "Attention": _attention,
    "BatchNormalization": _batch_normalization,
    "DequantizeLinear": _dequantize,
    "LayerNormalization": _layer_normalization,
    "OneHot": _one_hot,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _rms_normalization,
    "Resize": _resize,
    "SimplifiedLayerNormalization": _layer_normalization,
}
