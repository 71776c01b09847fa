"""Convolutions and pools: operators that slide a window over the input."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.division import ceil_div, floor_div
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site, unknown_shape

__all__ = ["RULES"]


def _windows(site: Site, sizes: Shape, kernel: Sequence[Dim], *, pool: bool) -> Shape:
    """How often a window fits along each spatial axis."""
    rank = len(sizes)
    strides = site.attribute("strides") or [1] * rank
    dilations = site.attribute("dilations") or [1] * rank
    pads = site.attribute("pads") or [0] * (2 * rank)
    auto = site.attribute("auto_pad", "NOTSET")
    rounds_up = bool(site.attribute("ceil_mode", 0)) and pool
    if len(kernel) != rank:
        raise ValueError("the kernel does not fit")
    result: list[Dim] = []
    for axis, size in enumerate(sizes):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            result.append(ceil_div(size, strides[axis]))
            continue
        padded = size if auto == "VALID" else size + pads[axis] + pads[axis + rank]
        room = padded - ((kernel[axis] - 1) * dilations[axis] + 1)
        if isinstance(room, int) and room < 0:  # not valid, and runtimes differ in what they do
            result.append(fresh())
            continue
        count = floor_div(room, strides[axis]) + 1
        if rounds_up and strides[axis] > 1:
            begin = 0 if auto == "VALID" else pads[axis]
            count = _rounded_up(size + begin, room, strides[axis])
        result.append(count)
    return tuple(result)


def _rounded_up(end: Dim, room: Dim, stride: int) -> Dim:
    """How many windows there are where the last may reach over the end.

    Runtimes disagree on a window that would start in the padding after `end`.
    """
    if not isinstance(room, int) or not isinstance(end, int):
        return fresh()
    count = -(-room // stride) + 1
    return count if (count - 1) * stride < end else fresh()


def _convolution(inputs: tuple[int, int], dtype: ir.DataType | None, like: int = 0) -> Rule:
    """A convolution; without a `dtype`, the result has that of the input at `like`."""

    def rule(site: Site) -> Sequence[Known]:
        data, weight = site.get(inputs[0]), site.get(inputs[1])
        kind = dtype or site.get(like).dtype
        rank = len(data.shape or weight.shape or ())
        if not rank:
            return (Known(kind),)
        batch, *sizes = data.shape[:1] + data.shape[2:] if data.shape else unknown_shape(rank - 1)
        channels = weight.shape[0] if weight.shape else fresh()
        kernel: Sequence[Dim] | None = site.attribute("kernel_shape")
        if kernel is None:
            kernel = weight.shape[2:] if weight.shape else unknown_shape(rank - 2)
        spatial = _windows(site, tuple(sizes), kernel, pool=False)
        return (Known(kind, (batch, channels, *spatial)),)

    return rule


def _transposed(site: Site) -> Sequence[Known]:
    data, weight = site.get(0), site.get(1)
    if data.shape is None or weight.shape is None:
        return (Known(data.dtype),)
    sizes = data.shape[2:]
    rank = len(sizes)
    channels = weight.shape[1] * site.attribute("group", 1)
    strides = site.attribute("strides") or [1] * rank
    given = site.attribute("output_shape")
    if given:
        return (Known(data.dtype, (data.shape[0], channels, *given[-rank:])),)
    dilations = site.attribute("dilations") or [1] * rank
    pads = site.attribute("pads") or [0] * (2 * rank)
    auto = site.attribute("auto_pad", "NOTSET")
    extra = site.attribute("output_padding") or [0] * rank
    kernel = site.attribute("kernel_shape") or weight.shape[2:]
    spans = [(kernel[axis] - 1) * dilations[axis] + 1 for axis in range(rank)]
    spatial: list[Dim] = []
    for axis, size in enumerate(sizes):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            # ONNX Runtime has fewer where the kernel does not reach from one element to the next
            reaches = isinstance(spans[axis], int) and spans[axis] >= strides[axis]
            spatial.append(size * strides[axis] if reaches and not extra[axis] else fresh())
            continue
        padding = 0 if auto == "VALID" else pads[axis] + pads[axis + rank]
        spatial.append((size - 1) * strides[axis] + extra[axis] + spans[axis] - padding)
    return (Known(data.dtype, (data.shape[0], channels, *spatial)),)


def _pool(site: Site) -> Sequence[Known]:
    data = site.get(0)
    kernel = site.attribute("kernel_shape")
    if data.shape is None:
        shape: Shape = unknown_shape(len(kernel) + 2)
    else:
        shape = (*data.shape[:2], *_windows(site, data.shape[2:], kernel, pool=True))
    return (Known(data.dtype, shape), Known(ir.DataType.INT64, shape))


RULES: dict[str, Rule] = {
    "Conv": _convolution((0, 1), None),
    "ConvInteger": _convolution((0, 1), ir.DataType.INT32),
    "QLinearConv": _convolution((0, 3), None, like=7),
    "ConvTranspose": _transposed,
    "AveragePool": _pool,
    "LpPool": _pool,
    "MaxPool": _pool,
}
