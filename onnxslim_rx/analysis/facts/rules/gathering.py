"""Operators that pick elements: Gather and its kin, Slice, TopK, NonZero and others."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts.bounds import is_natural, low
from onnxslim_rx.analysis.facts.dims import Dim, fresh
from onnxslim_rx.analysis.facts.division import ceil_div, largest, smallest
from onnxslim_rx.analysis.facts.known import Contents, Known, Rule, Site, unknown_shape
from onnxslim_rx.analysis.facts.rules.movement import axis_within

__all__ = ["RULES"]

_FAR = 2**31 - 1
"""Ends of slices from here on mean "to the end"."""


def _gather(site: Site) -> Sequence[Known]:
    data, indices = site.get(0), site.get(1)
    if data.shape is None:
        return (Known(data.dtype),)
    axis = axis_within(site.attribute("axis", 0), len(data.shape))
    if indices.shape is None:
        return (Known(data.dtype),)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    contents = None
    if data.contents is not None and len(data.shape) == 1 and len(shape) <= 1:
        positions = site.numbers(1)
        if positions is not None:
            contents = tuple(data.contents[position] for position in positions)
    return (Known(data.dtype, shape, contents),)


def _gather_elements(site: Site) -> Sequence[Known]:
    return (Known(site.get(0).dtype, site.get(1).shape),)


def _slice(site: Site) -> Sequence[Known]:
    data = site.get(0)
    if data.shape is None:
        return (Known(data.dtype),)
    rank = len(data.shape)
    if site.version < 10:
        starts, ends = site.attribute("starts"), site.attribute("ends")
        axes, steps = site.attribute("axes"), None
        has_axes, has_steps = axes is not None, False
    else:
        starts, ends, axes, steps = site.contents(1), site.contents(2), None, None
        has_axes, has_steps = site.has(3), site.has(4)
        axes = site.numbers(3) if has_axes else None
        steps = site.numbers(4) if has_steps else None
    if has_axes and axes is None:
        return (Known(data.dtype, unknown_shape(rank)),)
    if axes is None:
        count = _count(starts, site)
        if count is None:
            return (Known(data.dtype, unknown_shape(rank)),)
        axes = range(count)
    shape = list(data.shape)
    contents = data.contents
    for index, axis in enumerate(axes):
        axis = axis_within(axis, rank)
        step = 1 if not has_steps else steps[index] if steps is not None else None
        if starts is None or ends is None or step is None or step == 0:
            shape[axis] = fresh()
            contents = None
            continue
        size = shape[axis]
        shape[axis] = _sliced(size, starts[index], ends[index], step)
        contents = _picked(contents, starts[index], ends[index], step)
    return (Known(data.dtype, tuple(shape), contents),)


def _count(starts: Sequence[Dim] | None, site: Site) -> int | None:
    if starts is not None:
        return len(starts)
    shape = site.get(1).shape
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


def _picked(contents: Contents | None, start: Dim, end: Dim, step: int) -> Contents | None:
    if contents is None or not isinstance(start, int) or not isinstance(end, int):
        return None
    if step < 0 and end < -len(contents):
        return contents[start::step]
    return contents[start:end:step]


def _sliced(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements are in a slice; fresh where it is not known on which side it starts."""
    if step < 0:
        return _sliced_backwards(size, start, end, step)
    if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
        return len(range(*slice(start, end, step).indices(size)))
    first, last = _clamped(size, start), _clamped(size, end)
    if first is None or last is None:
        return fresh()
    if first == 0 and last == size:
        length = size
    elif isinstance(start, int) and start < 0 and last == size:
        length = smallest([-start, size])
    else:
        length = last - first
        if not is_natural(length):
            length = largest([length, 0])
    return ceil_div(length, step)


def _clamped(size: Dim, position: Dim) -> Dim | None:
    """A position in a slice that goes forwards, between 0 and the size; None: sign not known."""
    if isinstance(position, int) and position >= _FAR:
        return size
    if is_natural(position):
        return position if position == 0 else smallest([position, size])
    below = low(-1 - position)
    if below is not None and below >= 0:  # counts from the end
        return largest([size + position, 0])
    return None


def _sliced_backwards(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    if isinstance(start, int) and isinstance(end, int):
        if isinstance(size, int):
            return len(range(*slice(start, end, step).indices(size)))
        whole = start == -1 or start >= _FAR
        if whole and end <= -_FAR:
            return ceil_div(size, -step)
    return fresh()


def _top_k(site: Site) -> Sequence[Known]:
    data = site.get(0)
    if data.shape is None:
        return (Known(data.dtype), Known(ir.DataType.INT64))
    axis = axis_within(site.attribute("axis", -1), len(data.shape))
    count: Dim | None = site.attribute("k") if site.version < 10 else None
    if count is None:
        found = site.contents(1)
        count = found[0] if found else fresh()
    shape = (*data.shape[:axis], count, *data.shape[axis + 1 :])
    return (Known(data.dtype, shape), Known(ir.DataType.INT64, shape))


def _non_zero(site: Site) -> Sequence[Known]:
    shape = site.get(0).shape
    rank: Dim = fresh() if shape is None else len(shape)
    if rank == 0:  # a scalar counts as having one axis in some versions
        return (Known(ir.DataType.INT64, unknown_shape(2)),)
    return (Known(ir.DataType.INT64, (rank, fresh())),)


def _compress(site: Site) -> Sequence[Known]:
    data = site.get(0)
    axis = site.attribute("axis")
    if axis is None:
        return (Known(data.dtype, (fresh(),)),)
    if data.shape is None:
        return (Known(data.dtype),)
    axis = axis_within(axis, len(data.shape))
    return (Known(data.dtype, (*data.shape[:axis], fresh(), *data.shape[axis + 1 :])),)


RULES: dict[str, Rule] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Slice": _slice,
    "TopK": _top_k,
    "NonZero": _non_zero,
    "Compress": _compress,
}
