"""Operators of our own domain, `ai.onnxslim.rx`."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.division import floor_div
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site

__all__ = ["RULES"]

_FIRST_KERNEL = 2  # of ConvChain, behind X and the bias


def _product(site: Site) -> Sequence[Known]:
    x = site.get(0)
    shape = None if x.shape is None else (*x.shape[:-1], site.attribute("N"))
    return (Known(x.dtype, shape),)


def _pair(site: Site) -> Sequence[Known]:
    x, second = site.get(0), site.get(2).shape
    shape = None if x.shape is None or second is None else (*x.shape[:-1], second[-1])
    return (Known(x.dtype, shape),)


def _look_up(site: Site) -> Sequence[Known]:
    indices, dtype = site.get(1), site.get(2).dtype
    shape = None if indices.shape is None else (*indices.shape, site.attribute("columns"))
    return (Known(dtype, shape),)


def _conv(site: Site) -> Sequence[Known]:
    x, weight = site.get(0), site.get(1)
    if x.shape is None:
        return (Known(x.dtype),)
    channels = fresh() if weight.shape is None else weight.shape[0]
    rank = len(x.shape) - 2
    kernel = site.attribute("kernel_shape")
    strides = site.attribute("strides") or [1] * rank
    dilations = site.attribute("dilations") or [1] * rank
    pads = site.attribute("pads") or [0] * (2 * rank)
    sizes = [
        _slide(size, kernel[i], strides[i], pads[i] + pads[i + rank], dilations[i])
        for i, size in enumerate(x.shape[2:])
    ]
    return (Known(x.dtype, (x.shape[0], channels, *sizes)),)


def _chain(site: Site) -> Sequence[Known]:
    x, stages = site.get(0), int(site.attribute("stages"))
    last = site.get(_FIRST_KERNEL + stages - 1)
    if x.shape is None:
        return (Known(x.dtype),)
    sizes: Shape = x.shape[2:]
    kernels, strides, pads, dilations = (
        site.attribute(name) for name in ("kernel_shapes", "strides", "pads", "dilations")
    )
    skipped = 2 - len(sizes)  # one axis alone is the second
    for stage in range(stages):
        axes = range(2 * stage + skipped, 2 * stage + 2)
        # four pads a stage: top, left, bottom, right
        padding = [pads[4 * stage + a % 2] + pads[4 * stage + a % 2 + 2] for a in axes]
        sizes = tuple(
            _slide(size, kernels[a], strides[a], pad, dilations[a])
            for size, a, pad in zip(sizes, axes, padding, strict=True)
        )
    channels = fresh() if last.shape is None else last.shape[0]
    return (Known(x.dtype, (x.shape[0], channels, *sizes)),)


def _slide(size: Dim, kernel: int, stride: int, padding: int, dilation: int) -> Dim:
    room = size + padding - ((kernel - 1) * dilation + 1)
    if isinstance(room, int) and room < 0:  # the library refuses it
        return fresh()
    return floor_div(room, stride) + 1


RULES: dict[str, Rule] = {
    "QuantMatMul": _product,
    "QuantGather": _look_up,
    "QuantConv": _conv,
    "LowRankMatMul": _pair,
    "ConvChain": _chain,
}
