"""Operators that reduce along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim, product
from onnxslim_rx.analysis.facts.division import largest, smallest
from onnxslim_rx.analysis.facts.known import Contents, Known, Rule, Site, unknown_shape
from onnxslim_rx.analysis.facts.rules import numbers
from onnxslim_rx.analysis.facts.rules.movement import axis_within

__all__ = ["RULES"]


def _reduction(operate: Callable[[Contents], Dim] | None) -> Rule:
    def rule(site: Site) -> Sequence[Known]:
        first = site.get(0)
        keep = bool(site.attribute("keepdims", 1))
        axes = site.listed("axes", 1)
        if first.shape is None:
            return (Known(first.dtype),)
        rank = len(first.shape)
        if not axes:
            if axes is None and site.has(1):
                return (Known(first.dtype, unknown_shape(rank) if keep else None),)
            if site.attribute("noop_with_empty_axes", 0):
                # some of the operators still square or take logarithms: no content follows
                return (Known(first.dtype, first.shape),)
            axes = tuple(range(rank))
        gone = {axis_within(axis, rank) for axis in axes}
        contents = None
        if operate is not None and first.contents and len(gone) == rank:
            result = operate(first.contents)
            contents = (result,) if numbers.fits(first.dtype, result) else None
        return (Known(first.dtype, _left(first.shape, gone, keep), contents),)

    return rule


def _left(shape: tuple[Dim, ...], gone: set[int], keep: bool) -> tuple[Dim, ...]:
    if keep:
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def _position(site: Site) -> Sequence[Known]:
    """ArgMax and ArgMin."""
    shape = site.get(0).shape
    if shape is None:
        return (Known(ir.DataType.INT64),)
    axis = axis_within(site.attribute("axis", 0), len(shape))
    return (Known(ir.DataType.INT64, _left(shape, {axis}, bool(site.attribute("keepdims", 1)))),)


def _global_pool(site: Site) -> Sequence[Known]:
    first = site.get(0)
    if first.shape is None:
        return (Known(first.dtype),)
    return (Known(first.dtype, (*first.shape[:2], *[1] * (len(first.shape) - 2))),)


def _total(contents: Contents) -> Dim:
    result: Dim = 0
    for dim in contents:
        result = result + dim
    return result


_PLAIN = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceSumSquare",
]

RULES: dict[str, Rule] = {
    **dict.fromkeys(_PLAIN, _reduction(None)),
    "ReduceSum": _reduction(_total),
    "ReduceProd": _reduction(product),
    "ReduceMax": _reduction(largest),
    "ReduceMin": _reduction(smallest),
    "ArgMax": _position,
    "ArgMin": _position,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GlobalLpPool": _global_pool,
}
